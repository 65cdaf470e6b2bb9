"""What one round prescribes to a client: frozen, typed, named by the digest of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fedcore.errors import ConfigError

__all__ = [
    "Choice",
    "EncodingSpec",
    "ModelSpec",
    "NeuronSpec",
    "RoundPlan",
    "Training",
]

Surrogate = Literal["fast_sigmoid", "arctan", "triangle", "rectangle", "sigmoid", "exponential"]
Readout = Literal["membrane_mean", "per_step", "spike_count"]

_MAX_STEPS = 100_000  # far above any encoding's need; more would only fill the memory


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plugin by its registered name, with its options (checked by the plugin itself)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NeuronSpec:
    """A spiking neuron: v[t] = decay * v[t-1] + current[t]; it fires where v >= threshold.

    Attributes:
        name: registered neuron.
        decay: of the membrane per step, in (0, 1].
        threshold: in units of the membrane.
        reset: "subtract" takes the threshold off after a spike, "zero" sets the membrane to 0.
        detach_reset: whether gradients ignore the reset.
        surrogate: shape of the spike's pseudo-derivative.
        sharpness: its slope k; larger is closer to the true step.
        options: the neuron's own.
    """

    name: str = "lif"
    decay: float = 0.9
    threshold: float = 1.0
    reset: Literal["subtract", "zero"] = "subtract"
    detach_reset: bool = True
    surrogate: Surrogate = "fast_sigmoid"
    sharpness: float = 25.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(0 < self.decay <= 1, f"decay must lie in (0, 1]; got {self.decay}")
        _require(self.threshold > 0, f"threshold must be > 0; got {self.threshold}")
        _require(self.sharpness > 0, f"sharpness must be > 0; got {self.sharpness}")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network as data. `spiking` switches between the twins; parameter shapes do not change.

    Attributes:
        name: registered model ("mlp", "lenet", "convnet", "vgg-small").
        spiking: neurons of `neuron` instead of `activation`.
        input_shape: of one example without time, e.g. (1, 8, 8).
        n_classes: number of outputs.
        activation: of the conventional twin.
        neuron: of the spiking twin.
        readout: how the last layer's trace over time becomes logits.
        init_gain: factor on the default initial weights of hidden layers.
        options: the model's own (e.g. {"hidden": [256]}).
    """

    name: str = "lenet"
    spiking: bool = False
    input_shape: tuple[int, ...] = (1, 8, 8)
    n_classes: int = 10
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    neuron: NeuronSpec = field(default_factory=NeuronSpec)
    readout: Readout = "membrane_mean"
    init_gain: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.n_classes >= 2, f"n_classes must be >= 2; got {self.n_classes}")
        _require(
            bool(self.input_shape) and all(n > 0 for n in self.input_shape),
            f"input_shape must be positive sizes; got {self.input_shape}",
        )
        _require(self.init_gain > 0, f"init_gain must be > 0; got {self.init_gain}")


@dataclass(frozen=True, kw_only=True)
class EncodingSpec:
    """How an example becomes a train over time, [time, batch, feature...]."""

    name: str = "direct"
    n_steps: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(
            1 <= self.n_steps <= _MAX_STEPS,
            f"n_steps must lie in [1, {_MAX_STEPS}]; got {self.n_steps}",
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a client does with its batch.

    Attributes:
        rule: registered learning rule.
        update: "gradient" sends the gradient of one batch (FedSGD), "delta" the change of the
            weights after `local_steps` of SGD (FedAvg).
        batch_size: examples per local step.
        local_steps: SGD steps; 1 for "gradient".
        learning_rate: of local SGD; unused for "gradient".
        proximal_mu: FedProx's pull to the global weights (Li et al. 2020, Eq. 2); 0 = off.
    """

    rule: str = "backprop"
    update: Literal["gradient", "delta"] = "gradient"
    batch_size: int = 8
    local_steps: int = 1
    learning_rate: float = 0.1
    proximal_mu: float = 0.0

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, f"batch_size must be >= 1; got {self.batch_size}")
        _require(self.local_steps >= 1, f"local_steps must be >= 1; got {self.local_steps}")
        _require(
            self.update == "delta" or self.local_steps == 1,
            "local_steps must be 1 when update is 'gradient'",
        )
        _require(self.learning_rate > 0, f"learning_rate must be > 0; got {self.learning_rate}")
        _require(self.proximal_mu >= 0, f"proximal_mu must be >= 0; got {self.proximal_mu}")


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """Everything a client needs for one round. Its digest names it on every record.

    Attributes:
        run_id: one arm of one experiment.
        round: from 0; the last plan of a run only evaluates.
        experiment_digest: of the resolved experiment.
        weights: SHA-256 of the artefact with the global weights (safetensors).
        train: whether an update is asked for; False for the closing evaluation.
        evaluate: whether the accuracy of `weights` on the held-out shard is asked for.
        max_examples: largest weight that admission accepts.
        deadline_s: seconds after the start when the round may close by quorum.
        reproducible: defence noise comes from the client's secret, like its other draws; otherwise
            from the system's generator.
        graphs: SHA-256 of the ONNX graphs of this model by `fedcore.graphs.GraphKind`, for backends
            that run them; empty where nobody needs them.
    """

    run_id: str
    round: int
    experiment_digest: str
    model: ModelSpec
    weights: str
    encoding: EncodingSpec
    training: Training
    defences: tuple[Choice, ...] = ()
    codec: Choice = field(default_factory=lambda: Choice(name="f32"))
    train: bool = True
    evaluate: bool = False
    max_examples: int = 1_000_000
    deadline_s: float = 120.0
    reproducible: bool = True
    graphs: Mapping[str, str] = field(default_factory=dict)
