"""Improved deep leakage from gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacker.attacks.dlg import DeepLeakage
from attacker.attacks.matching import LabelSource

__all__ = ["ImprovedDeepLeakage"]


@dataclass(frozen=True, kw_only=True)
class ImprovedDeepLeakage(DeepLeakage):
    """iDLG of Zhao et al. 2020 (arXiv 2001.02610): the label comes first, then DLG for the input.

    Attributes:
        labels: by the rule at batch 1; a larger batch's by an estimator, unless they are granted.
    """

    name: ClassVar[str] = "idlg"

    labels: LabelSource = "auto"
