"""What external logs say of the arms' windows, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.types import Missing
from testbed.costs import MeasuredEnergy, mean_of_measured, widest
from testbed.external import ExternalLog
from testbed.report.words import energy_text
from testbed.results import ArmResults

__all__ = ["ExternalRow", "external_rows"]


@dataclass(frozen=True, kw_only=True)
class ExternalRow:
    """Mean joules of one kind of window of one client.

    Attributes:
        source: the log, its boundary, and how it was brought onto the client's clock.
        window: name of a phase, or "round" for all of them but waiting.
        n: windows that the log covers, of how many.
    """

    arm: str
    client: str
    source: str
    window: str
    n: str
    energy: str


def external_rows(logs: Sequence[ExternalLog], arms: Sequence[ArmResults]) -> list[ExternalRow]:
    """One row per log, arm and window, the windows in the order of a round."""
    rows = []
    for log in logs:
        for arm in arms:
            own = [window for window in log.windows if window.ticket.run_id == arm.run_id]
            for name in dict.fromkeys(window.name for window in own):
                energies = [
                    w.reading if isinstance(w.reading, Missing) else widest([w.reading])
                    for w in own
                    if w.name == name
                ]
                n = sum(isinstance(energy, MeasuredEnergy) for energy in energies)
                rows.append(
                    ExternalRow(
                        arm=arm.arm.name,
                        client=log.client_id,
                        source=f"{log.log}, {log.boundary.value}, {_placed(log)}",
                        window=name,
                        n=f"{n} of {len(energies)}",
                        energy=energy_text(mean_of_measured(energies)),
                    )
                )
    return rows


def _placed(log: ExternalLog) -> str:
    if isinstance(log.correlation, Missing):
        return f"placed by hand, ± {log.begin_error_s:.2g} s"
    return f"placed by the work, ± {log.begin_error_s:.2g} s, correlation {log.correlation:.2f}"
