"""SLAYER's training beside the twin's, and its spikes beside those of Lava's simulated chip."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("lava.lib.dl")

from edge_client.backends.lava import chip
from edge_client.backends.lava.backend import LavaBackend
from edge_client.backends.torch_backend import TorchBackend
from fedcore.errors import ConfigError
from fedcore.nn.models import build, initial_weights
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, Training
from fedcore.seeds import stream
from fedcore.types import Missing

pytestmark = [pytest.mark.lava, pytest.mark.filterwarnings("ignore")]

N_STEPS, N_EXAMPLES = 12, 5
NEURON = NeuronSpec(
    name="slayer-cuba",
    decay=0.97,
    threshold=1.25,
    reset="zero",
    surrogate="exponential",
    sharpness=0.2667,
    options={"current_decay": 0.25, "scale_grad": 3.0},
)
MLP = ModelSpec(
    name="mlp",
    spiking=True,
    readout="spike_count",
    neuron=NEURON,
    init_gain=4.0,
    options={"hidden": [24]},
)


def with_neuron(spec: ModelSpec, *, options: dict[str, object], **changes: float) -> ModelSpec:
    neuron = replace(spec.neuron, options={**spec.neuron.options, **options}, **changes)
    return replace(spec, neuron=neuron)


CONV = replace(MLP, name="convnet", input_shape=(2, 7, 6), options={"channels": [4, 6]})
SPECS = {
    "dense": MLP,
    "deep, at once": with_neuron(
        replace(MLP, options={"hidden": [20, 16]}), options={"delay_shift": False}
    ),
    "without leak": with_neuron(MLP, decay=1.0, threshold=9.0, options={"current_decay": 0.0}),
    "without memory": with_neuron(MLP, threshold=0.5, options={"current_decay": 1.0}),
    "delays": with_neuron(replace(MLP, options={"hidden": [20, 16]}), options={"delay": True}),
    "series": replace(MLP, input_shape=(3, 10)),
    "conv": CONV,
    "conv, at once": with_neuron(
        replace(CONV, name="lenet", options={}), options={"delay_shift": False}
    ),
}


def weights(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Strong enough for spikes in every layer; delays up to more than an example takes."""
    factors = {"weight": 2.0, "delay": 1.5 * N_STEPS}
    return {n: factors[n.rpartition(".")[2]] * w for n, w in initial_weights(spec, 1).items()}


def batch(spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    spikes = rng.random((N_STEPS, N_EXAMPLES, *spec.input_shape)) < 0.3
    return spikes.astype(np.float32), rng.integers(0, 10, N_EXAMPLES)


def plan(spec: ModelSpec, **training: object) -> RoundPlan:
    return RoundPlan(
        run_id="demo",
        round=0,
        experiment_digest="0" * 64,
        model=spec,
        weights="0" * 64,
        encoding=EncodingSpec(name="rate", n_steps=N_STEPS),
        training=Training(**training),
    )


def loaded(spec: ModelSpec, **training: object) -> LavaBackend:
    backend = LavaBackend(threads=1)
    backend.load(plan(spec, **training), weights(spec))
    return backend


@pytest.mark.parametrize("update", ["gradient", "delta"])
@pytest.mark.parametrize("name", SPECS)
def test_updates_are_the_twins(name: str, update: str) -> None:
    spec, (inputs, labels) = SPECS[name], batch(SPECS[name])
    # Steps so long that a float32 weight holds them.
    training = {
        "update": update,
        "local_steps": 2 if update == "delta" else 1,
        "learning_rate": 10.0,
    }
    twin = TorchBackend(threads=1)
    twin.load(plan(spec, **training), weights(spec))
    steps = [inputs] * training["local_steps"], [labels] * training["local_steps"]
    found = loaded(spec, **training).train(*steps, noise=stream(0))
    for tensor, expected in zip(
        found.values(), twin.train(*steps, noise=stream(0)).values(), strict=True
    ):
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", SPECS)
def test_the_chip_fires_where_slayer_does(name: str) -> None:
    spec, (inputs, labels) = SPECS[name], batch(SPECS[name])
    backend = loaded(spec)
    deployment, twin = backend.profile(inputs, labels)
    assert twin.exact
    assert not twin.contradictions
    assert [a.n_compared for a in twin.agreements[1:]] == [w.size for w in weights(spec).values()]
    assert not deployment.failed
    assert deployment.exact
    assert not deployment.contradictions
    counts = backend.count(inputs)
    assert [a.what for a in deployment.agreements] == [f"spikes of {c.name}" for c in counts]
    late = int(spec.neuron.options.get("delay_shift", True))
    for number, (agreement, count) in enumerate(
        zip(deployment.agreements, counts, strict=True), start=1
    ):
        compared = count.neurons * N_EXAMPLES * (N_STEPS - number * late)
        assert agreement.n_compared == compared
        assert 0 < count.spikes * N_EXAMPLES < compared
    assert deployment.n_correct == backend.evaluate(inputs, labels).n_correct
    assert deployment.n_examples == N_EXAMPLES
    for chip_count, count in zip(deployment.operations, counts, strict=True):
        assert chip_count.dense == count.dense
        assert chip_count.neurons == count.neurons
        # A chip goes on while the last spikes are under way, and has no synapse of weight 0.
        assert chip_count.spikes >= count.spikes
    if not late:
        assert [c.spikes for c in deployment.operations] == [c.spikes for c in counts]


def test_a_wrong_weight_on_the_chip_is_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, (inputs, labels) = loaded(MLP), batch(MLP)
    inputs[0, :, 0, 0, 0] = 1
    export = backend._network.export

    def export_wrong(params):
        wrong = {name: tensor.clone() for name, tensor in params.items()}
        wrong["hidden1.weight"][3, 0] += 2
        return export(wrong)

    monkeypatch.setattr(backend._network, "export", export_wrong)
    deployment, _ = backend.profile(inputs, labels)
    assert "spikes of hidden1" in [a.what for a in deployment.contradictions]
    assert all(0 < a.n_differing < a.n_compared for a in deployment.contradictions)


def test_a_twin_that_learns_otherwise_is_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, (inputs, labels) = loaded(MLP), batch(MLP)
    other = replace(MLP, neuron=replace(MLP.neuron, sharpness=1.1 * MLP.neuron.sharpness))
    monkeypatch.setattr("edge_client.backends.lava.backend.build", lambda _: build(other))
    _, twin = backend.profile(inputs, labels)
    assert [a.what for a in twin.contradictions] == [
        "gradient of hidden1.weight",
        "gradient of readout.weight",
    ]


def simulation_of(parent: psutil.Process, *, n_processes: int) -> list[psutil.Process]:
    """The simulation that a process started, and its forks, as soon as there are so many."""
    while True:
        found = [p for p in parent.children(recursive=True) if "lava.simulation" in line_of(p)]
        if len(found) >= n_processes:
            return found
        time.sleep(0.05)


def line_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize("n_processes", [1, 4])
def test_a_killed_simulation_is_said_and_leaves_nothing(
    n_processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed while it starts, and while its forks run."""
    backend, (inputs, labels) = loaded(MLP), batch(MLP)
    found = []

    def kill() -> None:
        found.extend(simulation_of(psutil.Process(), n_processes=n_processes))
        found[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    deployment, _ = backend.profile(np.repeat(inputs, 200, axis=1), np.repeat(labels, 200))
    killer.join()
    assert deployment.failed == "Lava's simulation was killed by signal 9"
    assert deployment.operations == Missing(why=deployment.failed)
    assert "no simulation of the chip" in caplog.text
    assert not still_there(found)
    assert backend.train([inputs], [labels], noise=stream(0)).keys() == weights(MLP).keys()


def exported() -> bytes:
    backend = loaded(MLP)
    backend.count(batch(MLP)[0])
    return backend._network.export(backend._params).hdf5


def test_a_simulation_that_takes_too_long_is_killed() -> None:
    network, (inputs, _) = exported(), batch(MLP)
    begun = time.monotonic()
    found = chip.simulate(network, inputs, timeout_s=1.0)
    assert found == Missing(why="Lava's simulation did not end within 1 s")
    assert time.monotonic() - begun < 5


def test_a_simulation_ends_with_its_client(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(exported())
    code = (
        "import sys, pathlib, numpy; from edge_client.backends.lava.chip import simulate; "
        "simulate(pathlib.Path(sys.argv[1]).read_bytes(), numpy.zeros((99, 999, 1, 8, 8)))"
    )
    client = subprocess.Popen([sys.executable, "-c", code, tmp_path / "net"])
    simulation = simulation_of(psutil.Process(client.pid), n_processes=4)
    client.kill()
    client.wait()
    assert not still_there(simulation)


def test_without_room_there_is_no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    found = chip.simulate(b"", batch(MLP)[0])
    assert "simulation could not be run: [Errno" in found.why


@pytest.mark.parametrize("fault", ["analogue", "nothing", "file"])
def test_why_there_is_no_simulation(fault: str) -> None:
    backend, (inputs, labels) = loaded(MLP), batch(MLP)
    if fault == "file":
        found = chip.simulate(b"no network", inputs)
        assert "simulation ended with code 1: OSError" in found.why
        return
    if fault == "nothing":
        at = weights(MLP)
        at["readout.weight"] *= 1e-6
        backend.load(plan(MLP), at)
    deployment, _ = backend.profile(inputs / 2 if fault == "analogue" else inputs, labels)
    expected = {"analogue": "inputs are spikes", "nothing": "every weight of readout"}[fault]
    assert expected in deployment.failed


def test_what_slayer_does_not_have_is_refused() -> None:
    """By name: tests/unit/test_lava_limits.py."""
    with pytest.raises(ConfigError, match="backend 'lava': model 'mlp' has neuron 'lif'"):
        LavaBackend().load(plan(replace(MLP, neuron=NeuronSpec())), {})
    with pytest.raises(ConfigError, match="CPU only"):
        LavaBackend(accelerator="cuda")
