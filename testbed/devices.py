"""What a run owes its clients' devices: models they can train, and graphs for those of ONNX."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

from fedcore.config import Arm, Experiment
from fedcore.defences.base import chain
from fedcore.devices import Device
from fedcore.errors import ConfigError
from fedcore.graphs import GraphKind, training_kind
from fedcore.layout import RunFolder
from fedcore.plan import ModelSpec

__all__ = ["check_devices", "write_graphs"]

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


def write_graphs(experiment: Experiment, arm: Arm, run: RunFolder) -> dict[GraphKind, str]:
    """Export what the arm's clients run on ONNX, beside the weights.

    Returns:
        Digests by kind; none where no client of the arm needs graphs.

    Raises:
        ConfigError: a package is missing here, or the model cannot be exported.
    """
    if not any(device.backend == "onnx" for device in _devices(experiment, arm)):
        return {}
    from fedcore.nn.export import (
        export_inference,
        export_int8,
        export_local_step,
        export_training,
    )

    model, n_steps = chain(arm.defences).model(arm.model), arm.encoding.n_steps
    exports = {"training": export_training, "local_step": export_local_step}
    kind = training_kind(arm.training)
    graphs: dict[GraphKind, bytes] = {
        kind: exports[kind](model, n_steps=n_steps),
        "inference": export_inference(model, n_steps=n_steps),
    }
    with contextlib.suppress(ConfigError):  # some neurons have no int8 form; nothing else needs it
        graphs["int8"] = export_int8(model, n_steps=n_steps)
    digests: dict[GraphKind, str] = {}
    for name, blob in graphs.items():
        digests[name] = hashlib.sha256(blob).hexdigest()
        (run.artefacts / digests[name]).write_bytes(blob)
    return digests


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
    return refusal(model, arm.training, arm.defences)


def _lava_refusal(model: ModelSpec, arm: Arm) -> str | None:
    from edge_client.backends.lava.limits import input_refusal, refusal

    return refusal(model) or input_refusal(arm.encoding)


_REFUSALS: dict[str, Refusal] = {"lava": _lava_refusal, "onnx": _onnx_refusal}
