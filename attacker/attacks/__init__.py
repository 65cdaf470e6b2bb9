"""Attacks by name. Listing them imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedcore.registry import Registry

if TYPE_CHECKING:
    from attacker.attacks.base import Attack

__all__ = ["ATTACKS"]

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "deep-prior": "attacker.attacks.deep_prior:DeepPrior",
        "dlg": "attacker.attacks.dlg:DeepLeakage",
        "first-layer": "attacker.attacks.first_layer:FirstLayer",
        "gi-nas": "attacker.attacks.gi_nas:StructureSearch",
        "gion": "attacker.attacks.gion:OverParameterised",
        "grnn": "attacker.attacks.grnn:GenerativeRegression",
        "gradinversion": "attacker.attacks.grad_inversion:GradInversion",
        "idlg": "attacker.attacks.idlg:ImprovedDeepLeakage",
        "inverting-gradients": "attacker.attacks.inverting_gradients:InvertingGradients",
        "peeling": "attacker.attacks.peeling:Peeling",
        "r-gap": "attacker.attacks.r_gap:RGap",
        "relaxed-matching": "attacker.attacks.relaxed:RelaxedMatching",
        "spike-compatible": "attacker.attacks.spike_compatible:SpikeCompatible",
    },
)
"""Each is a frozen dataclass; its fields are the attack's options."""
