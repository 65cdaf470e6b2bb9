"""The twin against lava-dl's SLAYER itself: files of tools/make_lava_golden.py."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedcore.nn.arrays import to_tensor  # noqa: E402
from fedcore.nn.functional import gradient, loss, run  # noqa: E402
from fedcore.nn.models import READOUT, build  # noqa: E402
from fedcore.nn.neurons.slayer_cuba import SlayerCuba  # noqa: E402
from fedcore.plan import ModelSpec  # noqa: E402
from fedcore.strict import parse  # noqa: E402

FILES = sorted((Path(__file__).parent / "lava").glob("*.npz"))
pytestmark = [
    pytest.mark.torch,
    pytest.mark.parametrize("dtype", [torch.float32, torch.float64]),
    pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem),
]


class Golden:
    """A file, and the twin's network with its weights."""

    def __init__(self, path, dtype):
        with np.load(path) as file:
            found = dict(file)
        self.model = build(parse(ModelSpec, json.loads(str(found["model"])), where=path.name))
        self.slayer = json.loads(str(found["slayer"]))
        self.labels, self.loss = to_tensor(found["labels"]), float(found["loss"])
        self.inputs = to_tensor(found["inputs"]).to(dtype)
        kinds = {"weight": {}, "gradient": {}, "spikes": {}}
        for key, array in found.items():
            kind, _, name = key.partition("/")
            if kind in kinds:
                kinds[kind][name] = to_tensor(array).to(dtype)
        # In the order of the layers, which is the order of the parameters.
        self.params, self.gradient, self.spikes = (
            kinds["weight"],
            kinds["gradient"],
            kinds["spikes"],
        )


def test_every_spike_is_slayers(path, dtype):
    kept = Golden(path, dtype)
    came_about = run(kept.model, kept.params, kept.inputs)
    trains = [*list(came_about.received.values())[1:], came_about.trace]
    assert all(float(train.sum()) > 0 for train in kept.spikes.values())
    for ours, theirs in zip(trains, kept.spikes.values(), strict=True):
        assert torch.equal(ours.flatten(2), theirs.flatten(2))


def test_loss_and_every_gradient_are_slayers(path, dtype):
    kept = Golden(path, dtype)
    ours = gradient(kept.model, kept.params, kept.inputs, kept.labels)
    assert ours.keys() == kept.gradient.keys()
    assert float(loss(kept.model, kept.params, kept.inputs, kept.labels)) == pytest.approx(
        kept.loss
    )
    for name, theirs in kept.gradient.items():
        scale = float(theirs.abs().max())
        assert scale > 0
        torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=1e-6 * scale, msg=name)


def test_its_constants_are_slayers(path, dtype):
    kept = Golden(path, dtype)
    assert SlayerCuba(kept.model.spec.neuron).slayer_parameters() == pytest.approx(kept.slayer)
    assert list(kept.spikes)[-1] == READOUT
