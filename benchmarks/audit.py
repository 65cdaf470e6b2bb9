"""A person's own module under attack: PyTorch's layers alone, trained, on MNIST's test images.

    python -m benchmarks.audit --root DATA

DATA is a folder that torchvision may write to, with MNIST in it or to be fetched into it. The
module has the structure and the trained weights of victim "conv-relu" (`benchmarks.victims`).
Settings are the attack's own; nothing was chosen on any image. Ends with one line
`RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from attacker.audit import Attack, Model
from benchmarks.data_sets import parts_of
from benchmarks.victims import trained_victim
from fedcore.nn.arrays import to_tensor, to_tensors
from testbed.audit import Truth, scores_of
from testbed.baselines import Auxiliary

__all__ = ["persons_module"]

_SCORES = ("psnr", "ssim", "reidentified", "label-accuracy")


def persons_module(root: Path, cache: Path) -> nn.Sequential:
    """As a person who has never heard of us would write it."""
    module = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
    ours = ("conv1", "conv2", "readout")
    weights = to_tensors(trained_victim("conv-relu", root=root, cache=cache)["trained"])
    for layer, name in zip((module[0], module[2], module[5]), ours, strict=True):
        layer.load_state_dict({kind: weights[f"{name}.{kind}"] for kind in ("weight", "bias")})
    return module


def main() -> None:
    """Attack the first test images one by one, and print the mean scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--attack", default="peeling")
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    module, parts = persons_module(args.root, args.cache), parts_of("mnist", args.root)
    others = Auxiliary(inputs=parts.choosing.inputs, labels=parts.choosing.labels)
    attack = Attack(args.attack, restarts=args.restarts, iterations=args.iterations)
    rows, used_s = [], 0.0
    for i in range(args.victims):
        victim = parts.victims.take(np.array([i]))
        said = module(to_tensor(victim.inputs))
        slopes = torch.autograd.grad(
            F.cross_entropy(said, to_tensor(victim.labels)), list(module.parameters())
        )
        update = {n: s for (n, _), s in zip(module.named_parameters(), slopes, strict=True)}
        started_s = time.process_time()
        answer = attack.run(update, Model.of_module(module, input_shape=(1, 28, 28)))
        used_s += time.process_time() - started_s
        truth = Truth(inputs=victim.inputs, labels=victim.labels, others=others)
        scores = {score.metric: score for score in scores_of(answer, truth)}
        rows.append(
            [scores[name].value for name in _SCORES]
            + [scores[name].baselines["mean-image"] for name in _SCORES[:2]]
        )
    names = (*_SCORES, "mean_image_psnr", "mean_image_ssim")
    means = dict(zip(names, np.mean(rows, axis=0), strict=True))
    print(
        f"RESULT attack={args.attack} victims={args.victims} "
        + " ".join(f"{name}={value:.3f}" for name, value in means.items())
        + f" lowest_psnr={min(row[0] for row in rows):.1f} cpu_s={used_s / args.victims:.2f}"
    )


if __name__ == "__main__":
    main()
