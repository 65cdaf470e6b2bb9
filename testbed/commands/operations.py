"""operations: what an experiment's networks do for one example, and what tables make of it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.commands.options import add_json

if TYPE_CHECKING:
    from fedcore.config import Arm, Experiment
    from fedcore.operations import LayerCount

__all__ = ["add_parsers"]

_N_EXAMPLES = 16


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    operations = commands.add_parser(
        "operations",
        help="count what an experiment's networks do, and price it by published tables",
    )
    operations.add_argument("file", type=Path, help="experiment file, or the name of a shipped one")
    add_json(operations)
    operations.set_defaults(execute=_operations)


def _operations(args: argparse.Namespace) -> None:
    """Forward runs of the first weights on the first examples; a run counts its last weights."""
    from fedcore.operations import training_counts
    from fedcore.strict import to_table
    from hardware.operations import operation_tables, price, price_lines
    from testbed.experiment import load_checked
    from testbed.folders import find_experiment

    experiment = load_checked(find_experiment(args.file))
    found = {arm.name: _counted(experiment, arm) for arm in experiment.arms}
    if args.json:
        told = {
            name: {
                what: {
                    "layers": counts,
                    "modelled": {table.title: price(counts, table) for table in operation_tables()},
                }
                for what, counts in (("forward", layers), ("training", training_counts(layers)))
            }
            for name, layers in found.items()
        }
        sys.stdout.write(json.dumps(to_table(told), indent=2) + "\n")
        return
    for name, layers in found.items():
        sys.stdout.write(
            f"{name}: one example, first weights, mean of {_N_EXAMPLES}\n"
            f"{'layer':<16}{'AC':>14}{'MAC':>14}{'dense':>14}{'updates':>10}{'spikes':>12}\n"
        )
        for layer in layers:
            sys.stdout.write(
                f"{layer.name:<16}{layer.acs:>14,.1f}{layer.macs:>14,.1f}{layer.dense:>14,.0f}"
                f"{layer.updates:>10,}{layer.spikes:>12,.1f}\n"
            )
        for what, counts in (("forward", layers), ("training", training_counts(layers))):
            sys.stdout.write(f"\n{what}\n")
            for line in price_lines(counts):
                sys.stdout.write(f"  {line}\n")
        sys.stdout.write("\n")


def _counted(experiment: Experiment, arm: Arm) -> tuple[LayerCount, ...]:
    import numpy as np

    from fedcore.data.datasets import DATASETS
    from fedcore.data.encodings import encode
    from fedcore.nn.arrays import to_tensor, to_tensors
    from fedcore.nn.models import build as build_model
    from fedcore.nn.models import initial_weights
    from fedcore.nn.probes import count_layers
    from fedcore.seeds import stream
    from fedcore.strict import build

    data = experiment.data
    root = Path(data.root) if data.root else None
    examples = build(DATASETS, data.dataset).load(root, split="test")
    some = np.asarray(examples.inputs[:_N_EXAMPLES])
    inputs = encode(arm.encoding, some, stream(experiment.seed, "count"))
    weights = to_tensors(initial_weights(arm.model, experiment.seed))
    return count_layers(build_model(arm.model), weights, to_tensor(inputs))
