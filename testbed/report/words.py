"""Numbers and plugins as a reader wants to see them."""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.plan import Choice
from fedcore.types import Missing, ThreatModel
from testbed.costs import MeanEnergy
from testbed.economy import Price
from testbed.results import ArmResults
from testbed.statistics import Estimate, Share

__all__ = [
    "DASH",
    "aligned",
    "bytes_text",
    "choices_text",
    "energy_text",
    "estimate_text",
    "final_accuracy",
    "known_from",
    "number_text",
    "price_text",
    "seconds_text",
    "sentence_case",
    "share_text",
    "threat_text",
    "threat_words",
]

DASH = "\N{EN DASH}"
"""Stands where a value is missing; the page's list of missing values says why."""

_LETTERS = {
    "C": "the attacker sees what crosses the wire and knows how the clients train",
    "D": "the attacker sees what crosses the wire, knows how the clients train, and has data of "
    "the same distribution",
    "E": "the attacker sees what crosses the wire, knows how the clients train, and was told "
    "things about each victim's batch",
}
_CAPABILITIES = {
    "labels": ("the true labels of each victim's batch, sorted", "the sealed truth"),
    "step_order": ("the local step of each of a victim's examples", "the sealed truth"),
    "encoded_input": ("the spikes that each victim's batch was encoded as", "the sealed truth"),
    "batch_statistics": (
        "mean and variance of what each normalising layer receives of each victim's batch",
        "the sealed truth",
    ),
    "defence_settings": ("names and settings of the clients' defences", "the plan"),
    "auxiliary_data": (
        "examples of the same distribution, disjoint from every victim",
        "the auxiliary set",
    ),
    "n_examples": ("the number of examples behind an update", "the update"),
    "surrogate": ("the surrogate of neurons that spike", "the plan"),
}
"""What each capability is, and where the attacker has it from."""


def number_text(value: float | Missing, *, digits: int) -> str:
    """A number with so many decimals, or a dash."""
    return DASH if isinstance(value, Missing) else f"{value:.{digits}f}"


def estimate_text(estimate: Estimate | Missing, *, digits: int, unit: str = "") -> str:
    """`18.32 ± 1.20 dB`; a single value and equal ones have no interval and say so."""
    if isinstance(estimate, Missing):
        return DASH
    unit = f" {unit}" if unit else ""
    if isinstance(estimate.half_width, Missing):
        spread = "no spread, " if estimate.n > 1 else ""
        return f"{estimate.value:.{digits}f}{unit} (no interval: {spread}n = {estimate.n})"
    return f"{estimate.value:.{digits}f} ± {estimate.half_width:.{digits}f}{unit}"


def sentence_case(text: str) -> str:
    """The text with a capital first letter; names inside keep theirs."""
    return text[:1].upper() + text[1:]


def share_text(share: Share | Missing) -> str:
    """`93.1 % (91.0 to 94.8)`."""
    if isinstance(share, Missing):
        return DASH
    value, low, high = (100 * x for x in (share.n_yes / share.n, share.low, share.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def final_accuracy(arm: ArmResults) -> str:
    """`93.1 %`: of the last evaluated weights."""
    return share_text(arm.accuracies[-1].share).split(" (")[0] if arm.accuracies else DASH


def energy_text(energy: MeanEnergy | Missing) -> str:
    """`0.31 J (0.12 to 0.68) MODELLED`; what is modelled never goes without the word."""
    return DASH if isinstance(energy, Missing) else _joules(energy, energy.marks)


def aligned(
    corner: str, heads: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]
) -> list[str]:
    """A table for a terminal: labels in the first column, a rule below the heads."""
    rows = [(corner, heads), *lines]
    first = max(len(label) for label, _ in rows)
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(heads))]
    text = [
        f"{label:<{first}}  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        for label, cells in rows
    ]
    text.insert(1, "-" * (first + sum(widths) + 2 * len(widths)))
    return [line.rstrip() for line in text]


def price_text(price: Price | Missing) -> str:
    """`0.31 J (0.12 to 0.68) MODELLED`, of which the unit stands beside it."""
    return DASH if isinstance(price, Missing) else _joules(price, price.flags)


def seconds_text(value: float | Missing) -> str:
    """A duration in the unit that suits it."""
    if isinstance(value, Missing):
        return DASH
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def bytes_text(value: float) -> str:
    """A size in bytes, kB or MB (powers of ten)."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} bytes"


def choices_text(choices: tuple[Choice, ...]) -> str:
    """`clip (max_norm = 1.0), topk (share = 0.1)`, or "none"."""
    return ", ".join(_choice_text(choice) for choice in choices) or "none"


def threat_words(threat: ThreatModel) -> tuple[str, list[str], list[str]]:
    """What the letter means; what was granted, and from where; what was not."""
    known = [_CAPABILITIES[name] for name in threat.grants]
    granted = [f"{what} (from {whence})" for what, whence in known]
    refused = [what for name, (what, _) in _CAPABILITIES.items() if name not in threat.grants]
    return _LETTERS[threat.letter], granted, refused


def known_from(threat: ThreatModel) -> dict[str, str]:
    """Where the attacker has each granted capability from, by the capability's name."""
    return {name: _CAPABILITIES[name][1] for name in threat.grants}


def threat_text(threat: ThreatModel) -> str:
    """The letter and its meaning; below it what is known, from where, and what is not."""
    known = ", ".join(f"{name} from {whence}" for name, whence in known_from(threat).items())
    unknown = ", ".join(name for name in _CAPABILITIES if name not in threat.grants)
    return (
        f"threat model {threat.letter}: {_LETTERS[threat.letter]}\n"
        f"  known: {known or 'nothing more'}\n"
        f"  not known: {unknown or 'nothing'}"
    )


def _joules(energy: MeanEnergy | Price, marks: tuple[str, ...]) -> str:
    marks = (energy.kind.upper() if energy.kind == "modelled" else energy.kind, *marks)
    digits = 2 if energy.kind == "modelled" else 3
    value, low, high = (f"{x:.{digits}g}" for x in (energy.value_j, energy.low_j, energy.high_j))
    return f"{value} J ({low} to {high}) {', '.join(marks)}"


def _choice_text(choice: Choice) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in choice.options.items())
    return f"{choice.name} ({options})" if options else choice.name
