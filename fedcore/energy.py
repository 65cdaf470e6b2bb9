"""What a phase cost: measured joules with their provenance, or modelled ones, never mixed."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Literal

from fedcore.conditions import Conditions
from fedcore.devices import Deployment
from fedcore.errors import MeterError
from fedcore.operations import LayerCount
from fedcore.types import Missing, Ticket

__all__ = [
    "DIVERGED",
    "Baseline",
    "Boundary",
    "EnergyReading",
    "Evaluation",
    "IdlePower",
    "ModelledEnergy",
    "NetEnergy",
    "Phase",
    "PhaseRecord",
    "PhaseReport",
    "Surroundings",
    "WindowRecord",
    "net_energy",
]


DIVERGED = Missing(why="the loss is not finite: the model has diverged")
"""In the place of a loss."""


class Phase(enum.Enum):
    """The parts of a client's round, in order.

    Profiling runs the network's deployed form, where the backend has one; sealing is the
    testbed's own, for its judge.
    """

    IDLE = "idle"
    RECEIVE = "receive"
    EVALUATE = "evaluate"
    PROFILE = "profile"
    ENCODE = "encode"
    TRAIN = "train"
    DEFEND = "defend"
    SEAL = "seal"
    SUBMIT = "submit"


class Boundary(enum.Enum):
    """Where the meter cuts the board off from the world; readings of two boundaries never add."""

    CPU_PACKAGE = "cpu-package"
    GPU_BOARD = "gpu-board"
    RAILS_SUM = "rails-sum"
    MODULE_INPUT = "module-input"
    BOARD_DC_INPUT = "board-dc-input"
    WALL_AC = "wall-ac"


@dataclass(frozen=True, kw_only=True)
class EnergyReading:
    """A measured energy.

    Attributes:
        energy_j: in the window, in J.
        uncertainty_j: half-width of the 95 % interval (k = 2), in J.
        duration_s: of the window.
        rail: what was measured ("package-0", "VDD_IN", ...).
        boundary: what lies inside the measurement.
        method: "counter" (difference of an energy counter) or "integrated" (power samples).
        coverage: share of the window that samples cover, in [0, 1].
        n_samples: samples inside the window, edges included.
        longest_gap_s: between neighbouring samples.
        flags: what a reader must know ("wrapped", "shared(4)", "gap", ...).
        meter: registered name and version of the source.
    """

    energy_j: float
    uncertainty_j: float
    duration_s: float
    rail: str
    boundary: Boundary
    method: Literal["counter", "integrated"]
    coverage: float
    n_samples: int
    longest_gap_s: float
    meter: str
    flags: tuple[str, ...] = ()

    def plus(self, other: EnergyReading) -> EnergyReading:
        """The energy of two disjoint windows of the same meter and rail.

        Raises:
            MeterError: boundary, rail or meter differ.
        """
        mine = (self.boundary, self.rail, self.meter)
        if mine != (other.boundary, other.rail, other.meter):
            raise MeterError(
                f"cannot add {other.boundary.value} {other.rail} ({other.meter}) "
                f"to {self.boundary.value} {self.rail} ({self.meter})"
            )
        duration_s = self.duration_s + other.duration_s
        covered_s = self.coverage * self.duration_s + other.coverage * other.duration_s
        return EnergyReading(
            energy_j=self.energy_j + other.energy_j,
            # Added linearly: gain errors of one meter are the same in both windows.
            uncertainty_j=self.uncertainty_j + other.uncertainty_j,
            duration_s=duration_s,
            rail=self.rail,
            boundary=self.boundary,
            method=self.method,
            coverage=covered_s / duration_s if duration_s else 0.0,
            n_samples=self.n_samples + other.n_samples,
            longest_gap_s=max(self.longest_gap_s, other.longest_gap_s),
            meter=self.meter,
            flags=tuple(sorted({*self.flags, *other.flags})),
        )


@dataclass(frozen=True, kw_only=True)
class IdlePower:
    """What one rail drew on average while nothing was to be done.

    Attributes:
        power_w: in W.
        uncertainty_w: half-width of the 95 % interval (k = 2), in W.
        rail: as in `EnergyReading`, and so are `boundary` and `meter`.
    """

    power_w: float
    uncertainty_w: float
    rail: str
    boundary: Boundary
    meter: str


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The idle power of every rail, measured for a while before or after the work.

    Attributes:
        start_mono_ns: begin on the client's monotonic clock, in ns.
        duration_s: how long it was measured.
        rails: one per rail of the meter, or why there is none.
    """

    start_mono_ns: int
    duration_s: float
    rails: tuple[IdlePower, ...] | Missing

    def of(self, reading: EnergyReading) -> IdlePower:
        """The idle power of a reading's rail.

        Raises:
            MeterError: there is none of that rail, boundary and meter.
        """
        if isinstance(self.rails, Missing):
            raise MeterError(f"no idle power of {reading.rail}: {self.rails.why}")
        wanted = (reading.rail, reading.boundary, reading.meter)
        for idle in self.rails:
            if (idle.rail, idle.boundary, idle.meter) == wanted:
                return idle
        raise MeterError(
            f"no idle power of {reading.boundary.value} {reading.rail} ({reading.meter})"
        )


@dataclass(frozen=True, kw_only=True)
class NetEnergy:
    """What the work itself cost: gross minus idle. Both are shown, with their uncertainties.

    Attributes:
        gross: the reading.
        energy_j: net, in J; it may be negative within its uncertainty.
        uncertainty_j: half-width of its 95 % interval (k = 2), in J.
        idle_w: power taken off, in W.
    """

    gross: EnergyReading
    energy_j: float
    uncertainty_j: float
    idle_w: float


def net_energy(reading: EnergyReading, *, before: Baseline, after: Baseline) -> NetEnergy:
    """Take the mean of two idle powers off a reading, for the covered part of its window.

    The uncertainty is the root of squares of three: the reading's, that of the mean idle power
    (whose halves share the meter's errors, so they add linearly), and half of what the idle power
    drifted between the two. Errors of scale that the idle power shares with the reading cancel in
    part; the root of squares does not use that.

    Raises:
        MeterError: a baseline has no idle power of the reading's rail.
    """
    first, last = before.of(reading), after.of(reading)
    idle_w = (first.power_w + last.power_w) / 2
    covered_s = reading.coverage * reading.duration_s
    return NetEnergy(
        gross=reading,
        energy_j=reading.energy_j - idle_w * covered_s,
        uncertainty_j=math.hypot(
            reading.uncertainty_j,
            (first.uncertainty_w + last.uncertainty_w) / 2 * covered_s,
            abs(first.power_w - last.power_w) / 2 * covered_s,
        ),
        idle_w=idle_w,
    )


@dataclass(frozen=True, kw_only=True)
class ModelledEnergy:
    """An estimate from a model, not a measurement; marked wherever it is shown.

    Attributes:
        energy_j: central value in J.
        low_j: lower end of the model's interval.
        high_j: upper end.
        model: name of the energy model's table.
        inputs: what went in, for people ("1.82 CPU-s").
    """

    energy_j: float
    low_j: float
    high_j: float
    model: str
    inputs: str

    def plus(self, other: ModelledEnergy) -> ModelledEnergy:
        """The sum of two windows under the same model; intervals add, being fully correlated.

        Raises:
            MeterError: the models differ.
        """
        if self.model != other.model:
            raise MeterError(f"cannot add model {other.model!r} to model {self.model!r}")
        return ModelledEnergy(
            energy_j=self.energy_j + other.energy_j,
            low_j=self.low_j + other.low_j,
            high_j=self.high_j + other.high_j,
            model=self.model,
            inputs=f"{self.inputs} + {other.inputs}",
        )


@dataclass(frozen=True, kw_only=True)
class WindowRecord:
    """What happened in a window, as in `PhaseRecord`.

    Attributes:
        name: whatever its owner called it.
    """

    name: str
    start_mono_ns: int
    duration_s: float
    cpu_s: float
    measured: tuple[EnergyReading, ...] | Missing
    modelled: ModelledEnergy | Missing

    def as_phase(self) -> PhaseRecord:
        """The same for a window that bears the name of a phase.

        Raises:
            ValueError: it does not.
        """
        return PhaseRecord(
            phase=Phase(self.name),
            start_mono_ns=self.start_mono_ns,
            duration_s=self.duration_s,
            cpu_s=self.cpu_s,
            measured=self.measured,
            modelled=self.modelled,
        )


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """One phase of one client's round.

    Attributes:
        phase: which.
        start_mono_ns: begin on the client's monotonic clock, in ns.
        duration_s: wall time.
        cpu_s: CPU time of the client process and of its children that have ended.
        measured: one reading per rail of the meter, or why there is none.
        modelled: the estimate beside it, or why there is none.
    """

    phase: Phase
    start_mono_ns: int
    duration_s: float
    cpu_s: float
    measured: tuple[EnergyReading, ...] | Missing
    modelled: ModelledEnergy | Missing


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy of the round's incoming weights on the client's held-out examples.

    Attributes:
        mean_loss: in nats; Missing where it is not finite, because the model has diverged.
    """

    n_correct: int
    n_examples: int
    mean_loss: float | Missing


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What else to know about one client's round.

    Attributes:
        start: when its plan came.
        end: when it was reported.
        baselines: idle powers measured since the last report: before the first round, and after
            the last one.
        operations: of one example's forward run with the round's incoming weights, by layer;
            counted in rounds that only evaluate, None in others.
        deployments: what the deployed forms of the network did, where the backend has any and the
            plan asks for an evaluation.
        windows: around the phases, never added to them: a "round" from the plan's arrival until
            its answer was acknowledged, and a "run" from the last report to this one, which
            follow each other and add up to the run, waiting included.
    """

    start: Conditions
    end: Conditions
    baselines: tuple[Baseline, ...] = ()
    operations: tuple[LayerCount, ...] | Missing | None = None
    deployments: tuple[Deployment, ...] = ()
    windows: tuple[WindowRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """What a client says about its round after the acknowledgement; sending it twice is harmless.

    Attributes:
        ticket: whose round.
        attempt: of the client's take at this round, from 0.
        phases: in order of begin.
        evaluation: when the plan asked for it.
        clock_offset_s: aggregator's wall clock minus the client's, in s.
        clock_uncertainty_s: half the best round trip.
        machine_card: digest of the card sent in the handshake.
        surroundings: of the machine; None where the client does not look.
    """

    ticket: Ticket
    attempt: int
    phases: tuple[PhaseRecord, ...]
    evaluation: Evaluation | None
    clock_offset_s: float
    clock_uncertainty_s: float
    machine_card: str
    surroundings: Surroundings | None = None
