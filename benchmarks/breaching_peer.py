"""breaching's attacks on our victims, run by an interpreter that has `pip install breaching`.

    BREACHING/bin/python -m benchmarks.breaching_peer CASES.npz

CASES.npz holds the weights ("weights/<name>"), images [victim, channel, height, width], labels
[victim], and "probe" [channel, height, width], at which breaching's objective is evaluated. Imports
nothing of Leakwatt. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

warnings.filterwarnings("ignore")

import breaching  # noqa: E402


class Net(torch.nn.Module):
    """Convolutions with 5x5 kernels, each with an activation and perhaps pooling; then a readout.

    Args:
        shape: of an image.
        n_classes: of the readout.
        layers: channels and stride of each convolution.
        activation: behind each.
        pool: behind that, the mean of 2x2 blocks.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        *,
        layers: tuple[tuple[int, int], ...],
        activation: Callable[[torch.Tensor], torch.Tensor],
        pool: bool,
    ) -> None:
        super().__init__()
        n_inputs, height, width = shape
        self._convolutions = [f"conv{number + 1}" for number in range(len(layers))]
        for name, (channels, stride) in zip(self._convolutions, layers, strict=True):
            conv = torch.nn.Conv2d(n_inputs, channels, 5, stride=stride, padding=2)
            self.add_module(name, conv)
            n_inputs, height, width = channels, -(-height // stride), -(-width // stride)
            if pool:
                height, width = height // 2, width // 2
        self.readout = torch.nn.Linear(n_inputs * height * width, n_classes)
        self._activation = activation
        self._pool = torch.nn.AvgPool2d(2) if pool else torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [batch, channel, height, width] to logits [batch, class]."""
        for name in self._convolutions:
            x = self._pool(self._activation(self.get_submodule(name)(x)))
        return self.readout(x.flatten(1))


NETS: dict[str, Any] = {
    "lenet": {
        "layers": ((12, 2), (12, 2), (12, 1)),
        "activation": torch.sigmoid,
        "pool": False,
    },
    "conv-pool": {"layers": ((16, 1), (32, 1)), "activation": torch.relu, "pool": True},
}
"""Those of `benchmarks.attacks`, with the same names of parameters."""


class Metadata(SimpleNamespace):
    """breaching asks for its fields by attribute and by key."""

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)


def main() -> None:
    """Attack every victim, one after the other, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--attack", default="invertinggradients")
    parser.add_argument("--net", choices=NETS, required=True)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--total-variation", type=float, help="weight, instead of its own; or 0")
    args = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(args.cases) as cases:
        images, labels = torch.from_numpy(cases["images"]), torch.from_numpy(cases["labels"])
        probe = torch.from_numpy(cases["probe"])[None]
        weights = {
            name.removeprefix("weights/"): torch.from_numpy(cases[name])
            for name in cases.files
            if name.startswith("weights/")
        }
    n_classes = len(weights["readout.bias"])
    model = Net(tuple(images.shape[1:]), n_classes, **NETS[args.net]).eval()
    model.load_state_dict(weights)
    attacker = _attacker(model, args)
    started_s = time.process_time()
    rebuilt = [
        _attack(attacker, model, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))
    ]
    cpu_s = time.process_time() - started_s
    errors = [float((r - x).square().mean()) for r, x in zip(rebuilt, images, strict=True)]
    probed = _cosine(model, probe, images[:1], labels[:1])
    print(
        json.dumps(
            {
                "cpu_s": cpu_s,
                "victim_iterations": len(images) * args.iterations,
                "mse": errors,
                "cosine_at_probe": probed,
                "version": breaching.__version__ if hasattr(breaching, "__version__") else "0.1.2",
            }
        )
    )


def _attacker(model: torch.nn.Module, args: argparse.Namespace) -> Any:
    settings = breaching.get_attack_config(args.attack)
    settings.optim.max_iterations = args.iterations
    settings.optim.callback = args.iterations
    if args.total_variation == 0:
        settings.regularization = {}
    elif args.total_variation is not None:
        settings.regularization.total_variation.scale = args.total_variation
    loss = torch.nn.CrossEntropyLoss()
    setup = {"dtype": torch.float32, "device": torch.device("cpu")}
    return breaching.attacks.prepare_attack(model, loss, settings, setup)


def _attack(
    attacker: Any, model: torch.nn.Module, image: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    metadata = Metadata(
        modality="vision", task="classification", shape=tuple(image.shape[1:]), classes=10
    )
    payload = {"parameters": list(model.parameters()), "buffers": [], "metadata": metadata}
    shared = {
        "gradients": _gradient(model, image, label),
        "buffers": None,
        "metadata": {
            "num_data_points": 1,
            "labels": None if "Joint" in type(attacker).__name__ else label,
            "local_hyperparams": None,
        },
    }
    answer, _ = attacker.reconstruct([payload], [shared], {}, dryrun=False)
    found: torch.Tensor = answer["data"].detach()[0]
    return found


def _gradient(
    model: torch.nn.Module, image: torch.Tensor, label: torch.Tensor
) -> list[torch.Tensor]:
    loss = torch.nn.functional.cross_entropy(model(image), label)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def _cosine(
    model: torch.nn.Module, probe: torch.Tensor, image: torch.Tensor, label: torch.Tensor
) -> float:
    """The objective of breaching, between the gradients at the probe and at the image."""
    from breaching.attacks.auxiliaries.objectives import CosineSimilarity

    objective = CosineSimilarity()
    found, observed = _gradient(model, probe, label), _gradient(model, image, label)
    return float(objective.gradient_based_loss(found, observed))


if __name__ == "__main__":
    sys.exit(main())
