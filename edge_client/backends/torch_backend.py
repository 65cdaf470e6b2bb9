"""The torch backend: learning rules on the CPU, in the very code that attacks differentiate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edge_client.backends.base import CHOSEN_BY_PLAN, Fetch, no_artefacts
from fedcore.defences.base import chain
from fedcore.defences.noise import NoiseSource
from fedcore.devices import Computing, Deployment
from fedcore.energy import DIVERGED, Evaluation
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import draws, gradient, loss, predict
from fedcore.nn.learning_rules import LEARNING_RULES
from fedcore.nn.learning_rules.base import Batch
from fedcore.nn.models import build, initial_weights
from fedcore.nn.models.network import Network
from fedcore.nn.probes import count_layers
from fedcore.nn.sensitivity import BatchView
from fedcore.operations import LayerCount
from fedcore.plan import ModelSpec, RoundPlan
from fedcore.tensors import schema_of
from fedcore.types import Missing, TensorMap

__all__ = ["TorchBackend"]


class TorchBackend:
    """See `edge_client.backends.base.Backend`.

    Args:
        threads: of torch's operators; 0 takes one while the plan is reproducible (more would add
            up in another order, with other bits), else torch's own number.
        accelerator: "cuda" or "cuda:0", "cuda:1", ...; "" is the CPU.

    Raises:
        ConfigError: there is no such accelerator here.
    """

    deploys = False
    _plan: RoundPlan
    _network: Network
    _params: dict[str, Tensor]

    def __init__(self, *, threads: int = 0, accelerator: str = "") -> None:
        if accelerator:
            _compute_on(accelerator)
        self._threads = threads
        self._threads_of_torch = torch.get_num_threads()
        self._last: Network | None = None
        self._carry: tuple[str, Mapping[str, Tensor]] = ("", {})  # of a run: the rule's memory
        _warm_up()

    def load(self, plan: RoundPlan, weights: TensorMap, *, fetch: Fetch = no_artefacts) -> None:
        """See `Backend.load`; the network is built from the plan, so that nothing is fetched."""
        torch.set_num_threads(self._threads or (1 if plan.reproducible else self._threads_of_torch))
        # use_deterministic_algorithms() does the same, but first imports torch's whole compiler.
        torch.set_deterministic_debug_mode("error" if plan.reproducible else "default")
        self._plan = plan
        self._network = self._network_of(plan.model)
        expected = {n: tuple(p.shape) for n, p in self._network.named_parameters()}
        got = schema_of(weights)
        if odd := sorted(n for n in expected | got if expected.get(n) != got.get(n)):
            raise UpdateError(
                Refusal.WRONG_SHAPE,
                f"the round's weights do not fit model {plan.model.name!r} in {', '.join(odd)}",
            )
        self._params = to_tensors(weights)

    def train(
        self, inputs: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, noise: NoiseSource
    ) -> dict[str, np.ndarray]:
        """See `Backend.train`."""
        batches = [
            Batch(x, to_tensor(y), draws(self._network, x, noise))
            for x, y in zip(map(to_tensor, inputs), labels, strict=True)
        ]
        defences = chain(self._plan.defences)
        if "example_gradients" in defences.hooks:
            examples = defences.example_gradients(self._example_gradients(batches))
            update = {name: t.mean(axis=0) for name, t in examples.items()}
        else:
            update = to_arrays(self._update(batches))
        if "informed_update" not in defences.hooks:
            return update
        all_inputs = torch.cat([batch.inputs for batch in batches], dim=1)
        view = BatchView(self._network, self._params, all_inputs)
        return dict(defences.informed_update(update, view))

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> Evaluation:
        """See `Backend.evaluate`."""
        x, y = to_tensor(inputs), to_tensor(labels)
        with torch.no_grad():
            mean_loss = loss(self._network, self._params, x, y)
        hits = predict(self._network, self._params, x) == y
        return Evaluation(
            n_correct=int(hits.sum()),
            n_examples=len(labels),
            mean_loss=float(mean_loss) if mean_loss.isfinite() else DIVERGED,
        )

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...] | Missing:
        """See `Backend.count`."""
        try:
            return count_layers(self._network, self._params, to_tensor(inputs))
        except ConfigError as error:
            return Missing(why=str(error))

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        """See `Backend.profile`; what is trained is what runs."""
        return ()

    @property
    def computing(self) -> Computing:
        """See `Backend.computing`."""
        return Computing(
            providers=(str(torch.get_default_device()),),
            threads=str(self._threads or CHOSEN_BY_PLAN),
        )

    @property
    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        return {"torch": torch.__version__}

    def _update(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        training, run_id = self._plan.training, self._plan.run_id
        rule = LEARNING_RULES.get(training.rule)()
        carry = self._carry[1] if self._carry[0] == run_id else {}
        tensors, carry = rule.update(self._network, self._params, batches, training, carry)
        self._carry = (run_id, carry)
        return tensors

    def _example_gradients(self, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        """The gradient of each example's own loss, [example, shape of the weight...]."""
        if self._plan.training.update != "gradient":
            raise ConfigError(
                "defences on example gradients need training.update = 'gradient'; "
                f"the plan says {self._plan.training.update!r}"
            )
        x, y, noise = batches[0]
        alone = []
        for i in range(len(y)):
            one = slice(i, i + 1)
            own = Batch(x[:, one], y[one], None if noise is None else noise[:, one])
            alone.append(to_arrays(self._update([own])))
        return {name: np.stack([one[name] for one in alone]) for name in alone[0]}

    def _network_of(self, spec: ModelSpec) -> Network:
        """Build a network, or take that of the last round if it had the same spec."""
        if self._last is None or self._last.spec != spec:
            self._last = self._build(spec)
        return self._last

    def _build(self, spec: ModelSpec) -> Network:
        """Overridden where other code computes the same networks."""
        return build(spec)


def _compute_on(accelerator: str) -> None:
    """Let the tensors of this process come about on a graphics card."""
    there = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if not torch.cuda.is_available() or accelerator not in there:
        found = ", ".join(there) if torch.cuda.is_available() else "no card that CUDA drives"
        raise ConfigError(f"accelerator: got {accelerator!r}, this torch finds {found}")
    torch.set_default_device(accelerator)


def _warm_up() -> None:
    """Have torch set itself up now: its first passes cost a hundred times a later one.

    Otherwise that would be charged to the phases of whatever round comes first.
    """
    for spec in (ModelSpec(), ModelSpec(spiking=True)):
        network, params = build(spec), to_tensors(initial_weights(spec, 0))
        inputs = torch.zeros(1, 1, *spec.input_shape)
        gradient(network, params, inputs, torch.zeros(1, dtype=torch.int64))
