"""What a run owes its clients' devices: models they can train, and graphs for those of ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from fedcore.config import Arm, Experiment
from fedcore.defences.base import chain
from fedcore.devices import Device
from fedcore.errors import ConfigError
from fedcore.graphs import GraphKind, training_kind
from fedcore.layout import RunFolder
from fedcore.plan import ModelSpec
from fedcore.types import Missing

__all__ = ["check_devices", "missing_int8", "write_graphs"]

Refusal = Callable[[ModelSpec, Arm], "str | None"]
"""Of a model as the arm's defences have it, and of the arm itself."""


def check_devices(experiment: Experiment, arm: Arm) -> None:
    """Every device of an arm's clients can train its model on its inputs.

    Raises:
        ConfigError: one cannot; the message names it and what is in the way.
    """
    model = chain(arm.defences).model(arm.model)
    for device in _devices(experiment, arm):
        refusal = _REFUSALS.get(device.backend)
        if refusal and (reason := refusal(model, arm)):
            raise ConfigError(
                f"device {device.name!r} (backend {device.backend!r}) cannot take part: {reason}; "
                "change the arm, or leave its clients out of the arm's key clients"
            )


def write_graphs(
    experiment: Experiment, arm: Arm, run: RunFolder
) -> dict[GraphKind, str | Missing]:
    """Export what the arm's clients run on ONNX, beside the weights.

    Returns:
        Digests by kind, or why there is no int8 graph, which no client needs to take part; nothing
        where no client of the arm runs graphs.

    Raises:
        ConfigError: a package is missing here, or the model cannot be exported.
    """
    if not _runs_graphs(experiment, arm):
        return {}
    trains_with = training_kind(arm.training)
    graphs: dict[GraphKind, bytes | Missing] = {
        trains_with: _graph(trains_with, arm),
        "inference": _graph("inference", arm),
        "int8": missing_int8(experiment, arm) or _graph("int8", arm),
    }
    found: dict[GraphKind, str | Missing] = {}
    for kind, graph in graphs.items():
        if isinstance(graph, Missing):
            found[kind] = graph
        else:
            found[kind] = sha256 = hashlib.sha256(graph).hexdigest()
            (run.artefacts / sha256).write_bytes(graph)
    return found


def missing_int8(experiment: Experiment, arm: Arm) -> Missing | None:
    """Why the arm's clients on ONNX run no int8 form; None if they do, or if there are none."""
    try:
        if _runs_graphs(experiment, arm):
            _graph("int8", arm)
    except ConfigError as error:
        return Missing(why=str(error))
    return None


def _runs_graphs(experiment: Experiment, arm: Arm) -> bool:
    return any(device.backend == "onnx" for device in _devices(experiment, arm))


def _graph(kind: GraphKind, arm: Arm) -> bytes:
    """Of the model as the arm's defences have it."""
    from fedcore.nn.export import export

    model = chain(arm.defences).model(arm.model)
    return export(kind, model, n_steps=arm.encoding.n_steps)


def _devices(experiment: Experiment, arm: Arm) -> list[Device]:
    """Those with a client in the arm."""
    clients = experiment.clients_of(arm)
    return [d for d in experiment.devices if not set(clients).isdisjoint(d.clients)]


def _onnx_refusal(model: ModelSpec, arm: Arm) -> str | None:
    try:
        from fedcore.nn.export import refusal
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"devices of backend 'onnx' need graphs, and to make them the package {error.name!r}, "
            "which is not installed here; pip install 'leakwatt[export-onnx]'"
        ) from error
    return refusal(model, arm.training, arm.defences, n_steps=arm.encoding.n_steps)


def _lava_refusal(model: ModelSpec, arm: Arm) -> str | None:
    from edge_client.backends.lava.limits import input_refusal, refusal

    return refusal(model) or input_refusal(arm.encoding)


_REFUSALS: dict[str, Refusal] = {"lava": _lava_refusal, "onnx": _onnx_refusal}
