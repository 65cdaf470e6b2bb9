"""Networks to attack: trained once on real images, kept by the digest of what they follow from.

    python -m benchmarks.victims conv-snn-t4 --root DATA

DATA is as for `benchmarks.data_sets`.

Each is a model of ours with an encoding and three stages of its training: "init", "early" (8,000
examples) and "trained". Adam with learning rate 1e-3 and batches of 64. Sets of a few hundred
examples go by many times, and their networks are as good as that allows. Ends with one line
`RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.data_sets import FACE_SIDE, N_EVENT_FRAMES, DataSet, parts_of
from fedcore.defences.precode import Precode
from fedcore.plan import EncodingSpec, ModelSpec
from fedcore.strict import canonical_json
from fedcore.tensors import pack_weights, unpack_weights
from fedcore.types import TensorMap
from testbed.training import accuracy, train

__all__ = ["STAGES", "VICTIMS", "Victim", "trained_victim"]

N_EARLY = 8_000
STAGES = ("init", "early", "trained")


@dataclass(frozen=True, kw_only=True)
class Victim:
    """What is trained.

    Attributes:
        data: that it learns.
        n_seen: training examples that go by until it counts as trained.
        seed: of weights, order and draws.
    """

    model: ModelSpec
    encoding: EncodingSpec
    n_seen: int
    data: DataSet = "mnist"
    seed: int = 0


_IMAGE, _COLOUR, _FACE = (1, 28, 28), (3, 32, 32), (1, FACE_SIDE, FACE_SIDE)
_FRAMES, _SERIES = (2, 34, 34), (9, 128)

_ONCE, _FOUR, _EIGHT = (EncodingSpec(n_steps=n) for n in (1, 4, 8))
_RATE_8, _RATE_16 = (EncodingSpec(name="rate", n_steps=n) for n in (8, 16))
_EVENTS = EncodingSpec(name="events", n_steps=N_EVENT_FRAMES)


def _conv_relu(shape: tuple[int, ...], *, n_classes: int = 10) -> ModelSpec:
    return ModelSpec(name="convnet", input_shape=shape, n_classes=n_classes)


def _conv_snn(shape: tuple[int, ...], *, n_classes: int = 10) -> ModelSpec:
    """Its gain keeps spikes from dying out on the way."""
    return replace(_conv_relu(shape, n_classes=n_classes), spiking=True, init_gain=2.5)


def _mlp_snn(shape: tuple[int, ...], *, n_classes: int = 10) -> ModelSpec:
    return ModelSpec(name="mlp", input_shape=shape, n_classes=n_classes, spiking=True)


def _victims(
    data: DataSet, kinds: dict[str, tuple[ModelSpec, EncodingSpec, int]], *, prefix: str = ""
) -> dict[str, Victim]:
    """By name, from model, encoding and number of examples seen."""
    return {
        f"{prefix}{kind}": Victim(data=data, model=model, encoding=encoding, n_seen=n_seen)
        for kind, (model, encoding, n_seen) in kinds.items()
    }


VICTIMS: dict[str, Victim] = {
    **_victims(
        "mnist",
        {
            "conv-relu": (_conv_relu(_IMAGE), _ONCE, 145_000),
            "conv-relu-norm": (
                replace(_conv_relu(_IMAGE), options={"normalisation": "batch-train"}),
                _ONCE,
                145_000,
            ),
            "conv-relu-precode": (Precode().model(_conv_relu(_IMAGE)), _ONCE, 58_000),
            "conv-snn-t4": (_conv_snn(_IMAGE), _FOUR, 116_000),
            "conv-snn-t8": (_conv_snn(_IMAGE), _EIGHT, 75_000),
            "conv-snn-rate-t8": (_conv_snn(_IMAGE), _RATE_8, 40_000),
            "mlp-snn-t8": (_mlp_snn(_IMAGE), _RATE_8, 87_000),
            "mlp-snn-t16": (_mlp_snn(_IMAGE), _RATE_16, 70_000),
        },
    ),
    **_victims(
        "fashion-mnist",
        {
            "conv-relu": (_conv_relu(_IMAGE), _ONCE, 145_000),
            "conv-snn-t4": (_conv_snn(_IMAGE), _FOUR, 116_000),
            "conv-snn-t8": (_conv_snn(_IMAGE), _EIGHT, 75_000),
            "mlp-snn-t8": (_mlp_snn(_IMAGE), _RATE_8, 87_000),
        },
        prefix="fashion-",
    ),
    **_victims(
        "cifar10-sample",
        {
            "conv-relu": (_conv_relu(_COLOUR), _ONCE, 14_500),
            "conv-snn-t4": (_conv_snn(_COLOUR), _FOUR, 14_500),
            "mlp-snn-t8": (_mlp_snn(_COLOUR), _RATE_8, 14_500),
        },
        prefix="cifar-",
    ),
    **_victims(
        "faces",
        {
            "conv-relu": (_conv_relu(_FACE, n_classes=40), _ONCE, 14_000),
            "conv-snn-t4": (_conv_snn(_FACE, n_classes=40), _FOUR, 14_000),
            "mlp-snn-t8": (_mlp_snn(_FACE, n_classes=40), _RATE_8, 14_000),
        },
        prefix="faces-",
    ),
    **_victims(
        "nmnist",
        {
            "conv-relu": (_conv_relu(_FRAMES), _EVENTS, 9_000),
            "conv-snn": (_conv_snn(_FRAMES), _EVENTS, 9_000),
            "mlp-snn": (_mlp_snn(_FRAMES), _EVENTS, 9_000),
        },
        prefix="nmnist-",
    ),
    **_victims(
        "uci-har",
        {
            "mlp-relu": (replace(_mlp_snn(_SERIES, n_classes=6), spiking=False), _ONCE, 20_000),
            "mlp-snn-t4": (_mlp_snn(_SERIES, n_classes=6), _FOUR, 20_000),
        },
        prefix="har-",
    ),
}


def trained_victim(name: str, *, root: Path, cache: Path, seed: int = 0) -> dict[str, TensorMap]:
    """The weights of a victim by stage; trained now unless they lie in `cache`."""
    victim = replace(VICTIMS[name], seed=seed)
    key = hashlib.sha256(canonical_json((victim, N_EARLY))).hexdigest()[:16]
    files = {stage: cache / f"{name}-{key}-{stage}.safetensors" for stage in STAGES}
    if not all(file.exists() for file in files.values()):
        cache.mkdir(parents=True, exist_ok=True)
        reached = train(
            victim.model,
            victim.encoding,
            parts_of(victim.data, root).train,
            n_seen=(0, N_EARLY, victim.n_seen),
            seed=victim.seed,
        )
        for stage, weights in zip(STAGES, reached, strict=True):
            files[stage].write_bytes(pack_weights(weights))
    return {stage: unpack_weights(file.read_bytes()) for stage, file in files.items()}


def main() -> None:
    """Train, and print the accuracy of every stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", choices=sorted(VICTIMS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    stages = trained_victim(args.victim, root=args.root, cache=args.cache, seed=args.seed)
    test = parts_of(VICTIMS[args.victim].data, args.root).victims
    victim = VICTIMS[args.victim]
    said = {s: accuracy(victim.model, victim.encoding, w, test) for s, w in stages.items()}
    print(
        f"RESULT victim={args.victim} seed={args.seed} "
        + " ".join(f"{s}={a:.4f}" for s, a in said.items())
    )


if __name__ == "__main__":
    main()
