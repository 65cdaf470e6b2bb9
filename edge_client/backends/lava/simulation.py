"""A Loihi 2 chip on the CPU, bit by bit: `python -m edge_client.backends.lava.simulation FOLDER`.

A process of its own that has never started gRPC, since Lava forks one for each of its parts. It
ends with the process that started it, whose end closes its standard input, and takes them along.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc import io

from edge_client.backends.lava.chip import INPUTS_FILE, NETWORK_FILE, SPIKES_FILE

__all__ = ["main", "run"]


def run(network: Path, inputs: np.ndarray) -> list[np.ndarray]:
    """Spikes of every layer, each example from rest.

    A layer is one step behind the one before it and forgets an example's end as the next one's
    beginning arrives; here its trains are moved back, so that step t is what it makes of step t of
    the inputs. Without delays the examples follow one another. What is on its way through delayed
    synapses is not forgotten, so that pauses of an example's length let it arrive.

    Args:
        network: file for netx.
        inputs: spikes, 0 or 1, [time, batch, feature...].

    Returns:
        By layer, uint8 [time, batch, neuron] or [time, batch, channel, height, width].
    """
    n_steps, n_examples = inputs.shape[:2]
    net = hdf5.Network(
        net_config=str(network),
        input_shape=inputs.shape[:1:-1],  # (width, height, channel), as all shapes of Lava's
        reset_interval=n_steps,
        reset_offset=1,
    )
    if len(net.inp.shape) == 1:
        inputs = inputs.reshape(n_steps, n_examples, -1)
    period = n_steps * (1 + _pauses(network, n_steps=n_steps))
    n_columns = n_examples * period + len(net.layers)
    data = np.zeros((*net.inp.shape, n_columns), dtype=int)
    for example, spikes in enumerate(np.moveaxis(inputs, 1, 0)):
        data[..., example * period :][..., :n_steps] = spikes.T
    source = io.source.RingBuffer(data=data)
    source.s_out.connect(net.inp)
    sinks = []
    for layer in net.layers:
        sink = io.sink.RingBuffer(shape=layer.out.shape, buffer=n_columns)
        layer.neuron.s_out.connect(sink.a_in)
        sinks.append(sink)
    try:
        # Without the tag Lava runs, and with other spikes.
        net.run(
            condition=RunSteps(num_steps=n_columns), run_cfg=Loihi2SimCfg(select_tag="fixed_pt")
        )
        heard = [np.asarray(sink.data.get()).astype(np.uint8) for sink in sinks]
    finally:
        net.stop()  # or the interpreter never ends
    return [
        spikes[..., behind : behind + n_examples * period]
        .reshape(*spikes.shape[:-1], n_examples, period)[..., :n_steps]
        .T
        for behind, spikes in enumerate(heard, start=1)
    ]


def _pauses(network: Path, *, n_steps: int) -> int:
    """After how many resets nothing moves any more: each layer waits for what was sent to it."""
    with h5py.File(network) as file:
        delays = [layer["delay"][()].max() for layer in file["layer"].values() if "delay" in layer]
    return sum(math.ceil(delay / n_steps) for delay in delays)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read(), whose lock a fork would inherit
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(folder: Path) -> None:
    """Read what lies in the folder, and leave the spikes there."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    trains = run(folder / NETWORK_FILE, np.load(folder / INPUTS_FILE))
    np.savez(folder / SPIKES_FILE, *trains)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
