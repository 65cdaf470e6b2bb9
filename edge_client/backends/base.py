"""What a backend must do, and the names of those there are. Listing imports no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from fedcore.defences.noise import NoiseSource
from fedcore.devices import Computing, Deployment
from fedcore.energy import Evaluation
from fedcore.errors import ConfigError, PluginError
from fedcore.operations import LayerCount
from fedcore.plan import RoundPlan
from fedcore.registry import Registry
from fedcore.types import Missing, TensorMap

__all__ = ["BACKENDS", "CHOSEN_BY_PLAN", "Backend", "Fetch", "factory_of", "no_artefacts"]

CHOSEN_BY_PLAN = "one if reproducible"
"""How a backend describes its threads where it was not told how many."""

Fetch = Callable[[str], bytes]
"""SHA-256 -> the artefact of a plan that has it; its content is checked."""


def no_artefacts(sha256: str) -> bytes:
    """A `Fetch` that has nothing.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"there is nowhere to fetch the artefact {sha256!r:.80} from")


class Backend(Protocol):
    """Computes updates and accuracies for one client.

    The same plan, weights and inputs give the same bits in every process while
    `plan.reproducible`. A factory takes `threads`: CPU threads to use, 0 for the backend's choice
    (one while `plan.reproducible`), and `accelerator`: what else it computes on, by the name that
    its framework has for it; "" for nothing but the CPU.
    """

    @property
    def deploys(self) -> bool:
        """Whether `profile` has anything to say about the loaded plan."""

    def load(self, plan: RoundPlan, weights: TensorMap, *, fetch: Fetch = no_artefacts) -> None:
        """Take over a round's model, training and global weights.

        Args:
            plan: of the round.
            weights: float32 by parameter name.
            fetch: gets what else the plan names, its graphs.

        Raises:
            ConfigError: the plan asks for something that this backend does not have.
            UpdateError: the weights do not fit the plan's model.
        """

    def train(
        self, inputs: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, noise: NoiseSource
    ) -> dict[str, np.ndarray]:
        """The round's update, after the defences' hooks on example gradients and on it.

        Args:
            inputs: encoded, float32 [time, batch, feature...], one per local step.
            labels: int64 [batch], one per local step.
            noise: what random layers draw from: the client's secret stream, or the system's.

        Returns:
            The gradient of the mean loss, or new minus old weights, as `plan.training.update`
            says; float32 by parameter name, owned by the caller.
        """

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> Evaluation:
        """Accuracy and mean loss of the loaded weights.

        Args:
            inputs: encoded, float32 [time, batch, feature...].
            labels: int64 [batch].
        """

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...] | Missing:
        """Operations of one forward run of the loaded weights, per layer and example.

        Args:
            inputs: encoded, float32 [time, batch, feature...].

        Returns:
            What really ran here, or why it cannot be counted; never 0 for the unknown.
        """

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        """Run the deployed forms of the loaded weights, as a board or a chip would run them.

        Args:
            inputs: encoded, float32 [time, batch, feature...].
            labels: int64 [batch].

        Returns:
            One per form; none where the backend has no other form than the trained one.
        """

    @property
    def computing(self) -> Computing:
        """What it computes on, for the machine card."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of what computes, by distribution."""


BACKENDS: Registry[Callable[..., Backend]] = Registry(
    "backend",
    {
        "lava": "edge_client.backends.lava.backend:LavaBackend",
        "onnx": "edge_client.backends.onnx_backend:OnnxBackend",
        "torch": "edge_client.backends.torch_backend:TorchBackend",
    },
)


def factory_of(name: str) -> Callable[..., Backend]:
    """A registered backend, see `Backend`.

    Raises:
        PluginError: no such name, or its packages are not installed here; the message says which.
    """
    BACKENDS.where(name)  # a name that there is; what it needs is another matter
    try:
        return BACKENDS.get(name)
    except PluginError as error:
        raise PluginError(
            f"{error}; pip install 'leakwatt[edge-{name}]' for its packages, or let a local "
            f"cluster use an interpreter that has them: --python {name}=PATH"
        ) from error
