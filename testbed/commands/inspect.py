"""plugins, doctor: what there is to choose from, and what this machine can measure."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from testbed.commands.options import add_json

__all__ = ["add_parsers"]

_REGISTRIES = {
    "dataset": "fedcore.data.datasets:DATASETS",
    "partition": "fedcore.data.partition:PARTITIONS",
    "encoding": "fedcore.data.encodings:ENCODINGS",
    "neuron": "fedcore.nn.neurons:NEURONS",
    "model": "fedcore.nn.models:MODELS",
    "learning rule": "fedcore.nn.learning_rules:LEARNING_RULES",
    "backend": "edge_client.backends.base:BACKENDS",
    "defence": "fedcore.defences.base:DEFENCES",
    "codec": "fedcore.codecs.base:CODECS",
    "meter": "hardware.registry:METERS",
    "strategy": "aggregator.strategies.base:STRATEGIES",
    "attack": "attacker.attacks:ATTACKS",
    "metric": "testbed.metrics:METRICS",
}


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    plugins = commands.add_parser("plugins", help="what an experiment file can name")
    plugins.add_argument(
        "kind",
        nargs="?",
        type=lambda kind: kind.replace("-", " "),  # learning-rule, as in its entry-point group
        choices=sorted(_REGISTRIES),
        help="only this kind",
    )
    add_json(plugins)
    plugins.set_defaults(execute=_plugins)
    doctor = commands.add_parser(
        "doctor", help="what this machine can measure, and how to get more"
    )
    add_json(doctor)
    doctor.set_defaults(execute=_doctor)


def _plugins(args: argparse.Namespace) -> None:
    found: dict[str, dict[str, str]] = {}
    for kind in [args.kind] if args.kind else _REGISTRIES:
        module, _, name = _REGISTRIES[kind].partition(":")
        registry = getattr(importlib.import_module(module), name)
        found[kind] = {plugin: registry.where(plugin) for plugin in registry.names()}
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for kind, plugins in found.items():
        sys.stdout.write(f"{kind}\n")
        for plugin, where in plugins.items():
            sys.stdout.write(f"  {plugin:<22}{where}\n")


def _doctor(args: argparse.Namespace) -> int:
    from hardware.doctor import main

    return main(["--json"] if args.json else [])
