"""What clients run on: the backend that computes there, and the link that carries its updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedcore.errors import ConfigError
from fedcore.operations import LayerCount
from fedcore.types import Missing, check_id

__all__ = ["Agreement", "Computing", "Deployment", "Device", "LinkShape"]


@dataclass(frozen=True, kw_only=True)
class LinkShape:
    """A radio to imitate in a local cluster; the defaults leave the link as it is.

    Attributes:
        bandwidth_mbit_s: in each direction, in Mbit/s (10^6 bit); 0 for no limit.
        latency_ms: one way, in ms.
        loss: share of packets that are lost on the way, in [0, 1).
    """

    bandwidth_mbit_s: float = 0.0
    latency_ms: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bandwidth_mbit_s", "latency_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be >= 0; got {getattr(self, name)}")
        if not 0 <= self.loss < 1:
            raise ConfigError(f"loss must lie in [0, 1); got {self.loss}")

    @property
    def changes_anything(self) -> bool:
        """Whether it differs from the link as it is."""
        return self != LinkShape()


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of board, and the clients that run on one.

    Attributes:
        name: in reports.
        clients: ids of its clients.
        backend: registered backend.
        threads: CPU threads for training; 0 is the backend's choice.
        accelerator: what the backend computes on beside the CPU, by its framework's own name
            ("cuda", "CUDAExecutionProvider"); "" for the CPU alone.
        link: between its clients and the aggregator.
    """

    name: str
    clients: tuple[str, ...]
    backend: str = "torch"
    threads: int = 0
    accelerator: str = ""
    link: LinkShape = field(default_factory=LinkShape)

    def __post_init__(self) -> None:
        check_id(self.name, what="device name")
        if not self.clients:
            raise ConfigError(f"device {self.name!r} has no clients; name them in its key clients")
        if self.threads < 0:
            raise ConfigError(f"threads must be >= 0; got {self.threads}")


@dataclass(frozen=True, kw_only=True)
class Computing:
    """What a backend computes on.

    Attributes:
        providers: devices, or execution providers, by the names that its framework has for them;
            the first that can takes an operator.
        threads: of the CPU for each operator, or how their number is found.
    """

    providers: tuple[str, ...]
    threads: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the deployed form of a network does what the trained form does.

    Attributes:
        what: is compared ("spikes of hidden0", "classes").
        n_compared: how many of them.
        n_differing: of these, how many are not equal.
    """

    what: str
    n_compared: int
    n_differing: int

    @classmethod
    def counted(cls, what: str, differs: np.ndarray) -> Agreement:
        """Count, of booleans that say for each that was compared whether it differs."""
        return cls(what=what, n_compared=differs.size, n_differing=int(np.count_nonzero(differs)))


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What the deployed form of the trained network did with held-out examples.

    Attributes:
        form: what it is ("int8", "Loihi 2 simulation, fixed point").
        n_correct: examples whose class it names.
        n_examples: that it was shown.
        duration_s: wall time of its run alone.
        exact: whether it must do exactly what the trained form does; if so, anything that differs
            is an error.
        agreements: with the trained form.
        operations: of its run, per layer and example, or why they are unknown.
        versions: of the packages that ran it.
        failed: why it did not run to its end; nothing is compared then, and n_examples is 0. It is
            "" for a form that did run.
        attacked: whether it is what attacks differentiate, so that leakage figures rest on it.
    """

    form: str
    n_correct: int
    n_examples: int
    duration_s: float
    exact: bool
    agreements: tuple[Agreement, ...]
    operations: tuple[LayerCount, ...] | Missing
    versions: Mapping[str, str] = field(default_factory=dict)
    failed: str = ""
    attacked: bool = False

    @property
    def contradictions(self) -> tuple[Agreement, ...]:
        """Where it differs although it must not."""
        return tuple(a for a in self.agreements if a.n_differing) if self.exact else ()
