"""Networks to attack: trained once on real images, kept by the digest of what they follow from.

    python -m benchmarks.victims conv-snn-t4 --root DATA

DATA is a folder that torchvision may write to, with MNIST in it or to be fetched into it.

Each is a model of ours with an encoding and three stages of its training: "init", "early" (8,000
examples) and "trained". Adam with learning rate 1e-3 and batches of 64, on the first 58,000
training images of MNIST; the last 2,000 are for choosing an attack's settings, the publisher's test
images for victims. Ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedcore.data.datasets import Examples, Split, dataset_of
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import loss, predict
from fedcore.nn.models import build, initial_weights
from fedcore.plan import Choice, EncodingSpec, ModelSpec
from fedcore.seeds import stream
from fedcore.strict import canonical_json
from fedcore.tensors import pack_weights, unpack_weights
from fedcore.types import TensorMap

__all__ = ["STAGES", "VICTIMS", "Victim", "mnist", "trained_victim"]

N_TRAINED_ON = 58_000
N_EARLY = 8_000
BATCH = 64
STAGES = ("init", "early", "trained")


@dataclass(frozen=True, kw_only=True)
class Victim:
    """What is trained.

    Attributes:
        n_seen: training examples that go by until it counts as trained.
        seed: of weights, order and draws.
    """

    model: ModelSpec
    encoding: EncodingSpec
    n_seen: int
    seed: int = 0


_IMAGE = (1, 28, 28)

VICTIMS: dict[str, Victim] = {
    "conv-relu": Victim(
        model=ModelSpec(name="convnet", input_shape=_IMAGE),
        encoding=EncodingSpec(),
        n_seen=145_000,
    ),
    **{
        f"conv-snn-t{n_steps}": Victim(
            model=ModelSpec(name="convnet", input_shape=_IMAGE, spiking=True, init_gain=2.5),
            encoding=EncodingSpec(n_steps=n_steps),
            n_seen=n_seen,
        )
        for n_steps, n_seen in ((4, 116_000), (8, 75_000))
    },
    **{
        f"mlp-snn-t{n_steps}": Victim(
            model=ModelSpec(name="mlp", input_shape=_IMAGE, spiking=True),
            encoding=EncodingSpec(name="rate", n_steps=n_steps),
            n_seen=n_seen,
        )
        for n_steps, n_seen in ((8, 87_000), (16, 70_000))
    },
}


def trained_victim(name: str, *, root: Path, cache: Path) -> dict[str, TensorMap]:
    """The weights of a victim by stage; trained now unless they lie in `cache`."""
    victim = VICTIMS[name]
    key = hashlib.sha256(canonical_json((victim, N_TRAINED_ON, N_EARLY, BATCH))).hexdigest()[:16]
    files = {stage: cache / f"{name}-{key}-{stage}.safetensors" for stage in STAGES}
    if not all(file.exists() for file in files.values()):
        cache.mkdir(parents=True, exist_ok=True)
        examples = mnist(root, split="train")
        for stage, weights in _train(victim, examples.take(np.arange(N_TRAINED_ON))):
            files[stage].write_bytes(pack_weights(weights))
    return {stage: unpack_weights(file.read_bytes()) for stage, file in files.items()}


def mnist(root: Path, *, split: Split) -> Examples:
    """The data set, fetched where it is not there."""
    return dataset_of(Choice(name="mnist", options={"download": True})).load(root, split=split)


def accuracy(victim: Victim, weights: TensorMap, examples: Examples) -> float:
    """Share of examples whose class the network names."""
    network, params = build(victim.model), to_tensors(weights)
    n_right = 0
    for index in np.array_split(np.arange(len(examples)), max(1, len(examples) // 500)):
        inputs = encode(victim.encoding, examples.inputs[index], stream(1, "accuracy", index[0]))
        said = predict(network, params, to_tensor(inputs))
        n_right += int((said == to_tensor(examples.labels[index])).sum())
    return n_right / len(examples)


def _train(victim: Victim, examples: Examples) -> Iterator[tuple[str, TensorMap]]:
    """The stages, as training reaches them."""
    weights = initial_weights(victim.model, victim.seed)
    yield "init", weights
    network, params = build(victim.model), to_tensors(weights)
    for tensor in params.values():
        tensor.requires_grad_()
    adam = torch.optim.Adam(params.values(), lr=1e-3)
    n_seen = 0
    for inputs, labels in _batches(victim, examples):
        if n_seen < N_EARLY <= n_seen + len(labels):
            yield "early", to_arrays(params)
        if n_seen >= victim.n_seen:
            yield "trained", to_arrays(params)
            return
        adam.zero_grad()
        loss(network, params, inputs, labels).backward()  # type: ignore[no-untyped-call]
        adam.step()
        n_seen += len(labels)


def _batches(victim: Victim, examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch in random order."""
    epoch = 0
    while True:
        order = stream(victim.seed, "order", epoch).permutation(len(examples))
        for start in range(0, len(order), BATCH):
            index = order[start : start + BATCH]
            draw = stream(victim.seed, "encode", epoch, start)
            inputs = encode(victim.encoding, examples.inputs[index], draw)
            yield to_tensor(inputs), to_tensor(examples.labels[index])
        epoch += 1


def main() -> None:
    """Train, and print the accuracy of every stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", choices=sorted(VICTIMS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    stages = trained_victim(args.victim, root=args.root, cache=args.cache)
    test = mnist(args.root, split="test")
    said = {s: accuracy(VICTIMS[args.victim], weights, test) for s, weights in stages.items()}
    print(f"RESULT victim={args.victim} " + " ".join(f"{s}={a:.4f}" for s, a in said.items()))


if __name__ == "__main__":
    main()
