"""What was found, in plain sentences computed from the numbers. Nothing is claimed beyond them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.types import Missing
from testbed.costs import best_energy
from testbed.economy import Contest, contests, front
from testbed.findings import Findings, Summary
from testbed.metrics import METRICS
from testbed.report.comparison import Comparison, most_spent, unequal_conditions
from testbed.report.words import energy_text, estimate_text, share_text
from testbed.results import ArmResults

__all__ = ["Sentence", "beats_both_baselines", "sentences", "verdict"]


@dataclass(frozen=True)
class Sentence:
    """One finding.

    Attributes:
        text: complete, with its numbers.
        subject: the arm that it is about, or "".
    """

    text: str
    subject: str = ""


def sentences(
    arms: Sequence[ArmResults],
    comparisons: Sequence[Comparison],
    *,
    machines: Sequence[str] = (),
) -> Mapping[str, list[Sentence]]:
    """The findings by heading, most important first; a heading without findings is left out.

    Args:
        arms: of the run.
        comparisons: of pairs of them.
        machines: what speaks against comparing their energies; see `testbed.fairness`.
    """
    said = {
        "Leakage": [_leak(arm) for arm in arms],
        "The arms compared": [
            *(Sentence(_difference(comparison)) for comparison in comparisons),
            *(Sentence(text) for text in _on_the_claim(arms, comparisons)),
            *(Sentence(text) for text in _fairness(arms)),
        ],
        "Accuracy and energy": [
            *(_accuracy_and_energy(arm) for arm in arms),
            *(Sentence(text) for text in _trade_off(arms)),
        ],
        "Whether the energies may be compared": [Sentence(text) for text in machines],
        "How far this reaches": [Sentence(text) for text in _caveats(arms)],
    }
    return {heading: found for heading, found in said.items() if found}


def beats_both_baselines(summary: Summary) -> bool:
    """Whether the whole interval of the difference to *each* baseline lies on the better side."""
    is_high = METRICS.get(summary.metric).higher_is_better
    return all(
        not isinstance(difference, Missing)
        and (difference.is_above_zero if is_high else difference.is_below_zero)
        for difference in summary.differences.values()
    )


def verdict(findings: Findings) -> str:
    """Which of PSNR and SSIM put the attack above both baselines, in words."""
    found = [m for m in ("psnr", "ssim") if not isinstance(findings.summary(m).mean, Missing)]
    above = [m for m in found if beats_both_baselines(findings.summary(m))]
    if not found:
        return "nothing could be scored"
    names = " and ".join(findings.labels[m] for m in above)
    if len(above) == len(found):
        return f"above both baselines in {names}: these updates leak their inputs to this attack"
    if above:
        return f"above both baselines in {names} only: a leak that not every metric sees"
    return (
        "not above both baselines beyond chance: no leak to this attack is shown, "
        "nor that another attack would fail"
    )


def _leak(arm: ArmResults) -> Sentence:
    findings = arm.findings
    if isinstance(findings, Missing):
        return Sentence(f"not judged ({findings.why}).", arm.arm.name)
    psnr = findings.summary("psnr")
    if isinstance(psnr.mean, Missing):
        return Sentence(f"no victim could be scored ({psnr.mean.why}).", arm.arm.name)
    text = (
        f"{verdict(findings)}. "
        f"PSNR is {estimate_text(psnr.mean, digits=1, unit='dB')} over {psnr.n} victims, beside "
        f"{estimate_text(psnr.baselines['mean-image'], digits=1)} for the mean image and "
        f"{estimate_text(psnr.baselines['noise'], digits=1)} for noise"
    )
    if not isinstance(psnr.success, Missing):
        text += (
            f"; {psnr.success.n_yes} of {psnr.success.n} victims scored above both, "
            f"{share_text(psnr.success)}"
        )
    if psnr.n_missing:
        text += f"; {psnr.n_missing} attempts gave nothing to score and stay in the tables"
    return Sentence(text + ".", arm.arm.name)


def _difference(comparison: Comparison) -> str:
    metric = METRICS.get(comparison.metric)
    pair = f"{comparison.first} and {comparison.second}"
    if isinstance(comparison.difference, Missing):
        return f"{metric.label} of {pair} cannot be compared: {comparison.difference.why}."
    how = (
        f"paired over {comparison.difference.n} victims with the same examples"
        if comparison.is_paired
        else "unpaired, since the arms' victims are different examples"
    )
    size = estimate_text(comparison.difference, digits=metric.digits, unit=metric.unit)
    if comparison.difference.is_above_zero or comparison.difference.is_below_zero:
        more = comparison.difference.is_above_zero
        winner, loser = (
            (comparison.first, comparison.second) if more else (comparison.second, comparison.first)
        )
        return (
            f"{metric.label} is higher in {winner} than in {loser}: "
            f"{comparison.first} minus {comparison.second} is {size} ({how})."
        )
    return f"No difference in {metric.label} can be told between {pair}: {size} ({how})."


def _on_the_claim(arms: Sequence[ArmResults], comparisons: Sequence[Comparison]) -> list[str]:
    """The comparison of arXiv 2511.21181, where a run has a conventional and a spiking arm."""
    spiking = {arm.arm.name: arm.arm.model.spiking for arm in arms}
    said = []
    for comparison in comparisons:
        kinds = spiking[comparison.first], spiking[comparison.second]
        difference = comparison.difference
        if comparison.metric != "psnr" or kinds[0] == kinds[1] or isinstance(difference, Missing):
            continue
        less = difference.is_above_zero if kinds[1] else difference.is_below_zero
        more = difference.is_below_zero if kinds[1] else difference.is_above_zero
        outcome = "is not decided by these numbers"
        if less:
            outcome = "agrees with these numbers"
        elif more:
            outcome = "disagrees with these numbers"
        said.append(
            "The claim that spiking networks leak less through their gradients (Aksu et al., arXiv "
            f"2511.21181) {outcome}, for this attack, this budget and this model. A stronger "
            "attack can change it: what an attack does not find is not proven private."
        )
    return said


def _fairness(arms: Sequence[ArmResults]) -> list[str]:
    judged = [arm for arm in arms if isinstance(arm.findings, Findings)]
    if len(judged) < 2:
        return []
    if unequal := unequal_conditions(judged):
        return [f"The arms were not attacked alike: they differ in {'; '.join(unequal)}."]
    first = judged[0]
    restarts, iterations = most_spent(first, "restarts"), most_spent(first, "n_iterations")
    attack = first.findings.attack if isinstance(first.findings, Findings) else ""
    said = (
        f"All arms were attacked alike, as checked on every attempt: {attack}, batch size "
        f"{first.arm.training.batch_size}, {restarts} restarts of {iterations} iterations, "
        "the same knowledge"
    )
    planned = first.arm.attack
    if (attack, restarts, iterations) == (planned.name, planned.restarts, planned.iterations):
        return [f"{said}, as the experiment fixed it before the run."]
    return [
        f"{said}. The experiment had fixed {planned.name} with {planned.restarts} restarts of "
        f"{planned.iterations} iterations before the run."
    ]


def _accuracy_and_energy(arm: ArmResults) -> Sentence:
    if arm.accuracies:
        last, chance = arm.accuracies[-1].share, 1 / arm.arm.model.n_classes
        is_better = not isinstance(last, Missing) and last.low > chance
        text = (
            f"ends at an accuracy of {share_text(last)}, "
            f"{'above' if is_better else 'not clearly above'} the {100 * chance:.0f} % of chance"
        )
    else:
        text = "accuracy was not evaluated"
    energy = best_energy(list(arm.costs.values()))
    if isinstance(energy, Missing):
        return Sentence(f"{text}; no energy per client-round ({energy.why}).", arm.arm.name)
    return Sentence(f"{text}, for {energy_text(energy)} per client-round.", arm.arm.name)


def _trade_off(arms: Sequence[ArmResults]) -> list[str]:
    """Each pair on the three axes, then who is left when nobody is better on all of them."""
    if len(arms) < 2:
        return []
    said = [_contest(contest) for contest in contests(arms)]
    left = front(arms)
    if len(left) == len(arms):
        return [*said, "No arm is shown to be better than another on one axis and worse on none."]
    return [*said, f"Not beaten by any other arm, as far as this attack sees: {', '.join(left)}."]


def _contest(contest: Contest) -> str:
    words = []
    for axis, verdict in contest.verdicts.items():
        if isinstance(verdict, Missing):
            words.append(f"{axis} is not compared ({verdict.why})")
        elif verdict == "no difference":
            words.append(f"no difference in {axis} (the intervals overlap)")
        else:
            words.append(f"{verdict} {axis}")
    return f"{contest.first} beside {contest.second}: {'; '.join(words)}."


def _caveats(arms: Sequence[ArmResults]) -> list[str]:
    """What the intervals do not cover; said once where it is the same for every arm."""
    caveats: dict[str, list[str]] = {}
    for arm in arms:
        if isinstance(arm.findings, Findings):
            caveats.setdefault(arm.findings.caveat, []).append(arm.arm.name)
    return [f"In {' and '.join(names)}, {caveat}." for caveat, names in caveats.items()]
