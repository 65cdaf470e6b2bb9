"""The Lava backend: SLAYER trains as torch does, and the exported network runs on a chip's twin."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch

from edge_client.backends.lava.chip import simulate
from edge_client.backends.lava.network import SlayerNetwork
from edge_client.backends.torch_backend import TorchBackend
from fedcore.devices import Agreement, Deployment
from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_array, to_arrays, to_tensor
from fedcore.nn.functional import gradient, run, trace
from fedcore.nn.models import READOUT, build
from fedcore.operations import LayerCount
from fedcore.plan import ModelSpec
from fedcore.types import Missing
from hardware.opcount import LayerTable, count_layer

__all__ = ["LavaBackend"]

log = logging.getLogger(__name__)

_FORM = "Loihi 2 simulation, fixed point"
_TWIN = "twin in plain torch, which attacks differentiate"
_TOLERANCE = 1e-4  # of a gradient's largest entry


class LavaBackend(TorchBackend):
    """See `edge_client.backends.base.Backend`: the torch backend with SLAYER's blocks.

    Args:
        threads: of torch's operators, see `TorchBackend`.
        accelerator: none; SLAYER's CUDA kernels were never held against anything here.

    Raises:
        ConfigError: an accelerator is asked for.
    """

    deploys = True
    _network: SlayerNetwork

    def __init__(self, *, threads: int = 0, accelerator: str = "") -> None:
        if accelerator:
            raise ConfigError(
                f"accelerator: got {accelerator!r}, backend 'lava' computes on the CPU only"
            )
        super().__init__(threads=threads)

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...] | Missing:
        """See `Backend.count`; of the weights as they are trained."""
        received, sent = self._trains(inputs)
        return _operations(self._network.tables(to_arrays(self._params)), received, sent)

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        """See `Backend.profile`: a chip and the attacker's twin do exactly what SLAYER does."""
        return self._on_chip(inputs, labels), self._by_the_twin(inputs, labels)

    def _on_chip(self, inputs: np.ndarray, labels: np.ndarray) -> Deployment:
        _, trained = self._trains(inputs)
        exported = self._network.export(self._params)
        begin_s = time.perf_counter()
        chip = exported.obstacle or simulate(exported.hdf5, inputs)
        duration_s = time.perf_counter() - begin_s
        if isinstance(chip, Missing):
            log.error("no simulation of the chip", extra={"why": chip.why})
            return _failed(chip.why, duration_s=duration_s)
        lags = [n * self._network.steps_per_layer for n in range(1, len(chip) + 1)]
        said = chip[-1][: len(inputs) - lags[-1]].sum(axis=0)
        return Deployment(
            form=_FORM,
            n_correct=int(np.sum(said.argmax(axis=1) == labels)),
            n_examples=len(labels),
            duration_s=duration_s,
            exact=True,
            agreements=tuple(
                _compared(layer.name, spikes[lag:], on_chip[: len(inputs) - lag])
                for layer, spikes, on_chip, lag in zip(
                    exported.layers, trained, chip, lags, strict=True
                )
            ),
            operations=_operations(exported.layers, [inputs, *chip[:-1]], chip),
            versions=_lava_versions(),
        )

    def _by_the_twin(self, inputs: np.ndarray, labels: np.ndarray) -> Deployment:
        """What leakage figures of this client rest on: the network that attacks differentiate."""
        twin, x, y = build(self._plan.model), to_tensor(inputs), to_tensor(labels)
        begin_s = time.perf_counter()
        slopes = to_arrays(gradient(twin, self._params, x, y))
        spikes = to_array(trace(twin, self._params, x))
        duration_s = time.perf_counter() - begin_s
        expected = to_arrays(gradient(self._network, self._params, x, y))
        return Deployment(
            form=_TWIN,
            n_correct=int(np.sum(spikes.sum(axis=0).argmax(axis=1) == labels)),
            n_examples=len(labels),
            duration_s=duration_s,
            exact=True,
            agreements=(
                _compared(READOUT, to_array(trace(self._network, self._params, x)), spikes),
                *(_alike(n, slopes[n], expected[n]) for n in self._params),
            ),
            operations=Missing(why="the twin is the attacker's; no device runs it"),
            versions={"torch": torch.__version__},
            attacked=True,
        )

    @property
    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        return {**super().versions, **_lava_versions()}

    def _trains(self, inputs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What every layer receives and sends, [time, batch, neuron...]."""
        with torch.no_grad():
            found = run(self._network, self._params, to_tensor(inputs))
        received = list(to_arrays(found.received).values())
        return received, [*received[1:], to_array(found.trace)]

    def _build(self, spec: ModelSpec) -> SlayerNetwork:
        return SlayerNetwork(spec)


def _compared(layer: str, spikes: np.ndarray, on_chip: np.ndarray) -> Agreement:
    return Agreement.counted(f"spikes of {layer}", spikes.reshape(on_chip.shape) != on_chip)


def _alike(name: str, slopes: np.ndarray, expected: np.ndarray) -> Agreement:
    """Gradients, whose sums may be rounded in another order."""
    far = np.abs(slopes - expected) > _TOLERANCE * np.abs(expected).max()
    return Agreement.counted(f"gradient of {name}", far)


def _operations(
    layers: Sequence[LayerTable], received: Sequence[np.ndarray], sent: Sequence[np.ndarray]
) -> tuple[LayerCount, ...]:
    return tuple(
        count_layer(layer, x, spikes=float(spikes.sum(dtype=np.float64)) / x.shape[1])
        for layer, x, spikes in zip(layers, received, sent, strict=True)
    )


def _failed(why: str, *, duration_s: float) -> Deployment:
    return Deployment(
        form=_FORM,
        n_correct=0,
        n_examples=0,
        duration_s=duration_s,
        exact=True,
        agreements=(),
        operations=Missing(why=why),
        versions=_lava_versions(),
        failed=why,
    )


def _lava_versions() -> dict[str, str]:
    return {name: version(name) for name in ("lava-dl", "lava-nc")}
