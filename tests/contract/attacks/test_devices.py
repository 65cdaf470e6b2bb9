"""Attacks compute on whatever device is asked for; here on one that torch takes for another.

No graphics card is needed: tensors of the other device hold ordinary ones, say that they lie
elsewhere, and refuse whatever a card would refuse: operations with tensors that lie on the CPU, and
becoming an array without being brought back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

from attacker.attacks import ATTACKS  # noqa: E402
from attacker.attacks.matching import LabelSource  # noqa: E402
from attacker.attacks.relaxed import SearchFor  # noqa: E402
from attacker.audit import Attack, Model  # noqa: E402
from attacker.devices import computing_on  # noqa: E402
from attacker.labels.learned import LearnedCounts  # noqa: E402
from fedcore.errors import AttackError, ConfigError  # noqa: E402
from fedcore.nn.arrays import to_array, to_tensor  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, Training  # noqa: E402
from fedcore.types import Knowledge, Observation, Reconstruction  # noqa: E402

pytestmark = pytest.mark.torch

ELSEWHERE = torch.device("meta")
"""Its name among torch's own; "cuda" cannot be named without a driver."""

_PLAIN = {torch.ops.aten._efficientzerotensor.default: torch.ops.aten.zeros.default}
"""A tensor of no memory at all cannot be held."""

_MAY_MIX = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class Distant(torch.Tensor):
    """Lies elsewhere."""

    @staticmethod
    def __new__(cls, near: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=ELSEWHERE,
        )

    def __init__(self, near: Any) -> None:
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of a tensor that outlived its device")


class OtherDevice(TorchDispatchMode):
    """Carries out what happens elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        is_distant = any(isinstance(t, Distant) for t in given)
        if is_distant and func not in _MAY_MIX:
            for near in given:
                if not isinstance(near, Distant) and near.dim():  # scalars on the CPU may
                    raise RuntimeError(f"{func}: a tensor {list(near.shape)} lies on the CPU")
        if kwargs.get("device") is not None:
            is_distant = torch.device(kwargs["device"]) == ELSEWHERE
            kwargs["device"] = "cpu"
        if is_distant and kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: its generator lies on the CPU")
        if is_distant and "gelsy" in kwargs.values():
            raise RuntimeError(f"{func}: only the CPU has this driver")
        if torch.Tag.inplace_view in func.tags:
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
        near_args, near_kwargs = tree_map_only(Distant, lambda t: t.near, (args, kwargs))
        found = _PLAIN.get(func, func)(*near_args, **near_kwargs)
        if func._schema.is_mutable and isinstance(args[0], Distant):
            return args[0]
        return tree_map_only(torch.Tensor, Distant, found) if is_distant else found


class WithValues(TorchFunctionMode):
    """torch.tensor forgets the values where the device's name is "meta"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.setdefault("device", ELSEWHERE) == ELSEWHERE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(ELSEWHERE)
        return func(*args, **kwargs)


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """As `attacker.devices.computing_on` does for a graphics card."""
    with OtherDevice(), ELSEWHERE, WithValues():
        yield


RATE = EncodingSpec(name="rate", n_steps=4)
LENET = ModelSpec(activation="sigmoid", init_gain=5.0)
NARROW = ModelSpec(name="convnet", activation="tanh", options={"channels": [1]})
DENSE = ModelSpec(name="mlp", options={"hidden": [24]})
SPIKING = replace(DENSE, spiking=True, init_gain=3.0)

SUBJECTS: dict[str, list[dict[str, Any]]] = {
    "first-layer": [{"model": DENSE}, {"model": SPIKING, "encoding": RATE}],
    "peeling": [{"model": LENET}, {"model": SPIKING, "encoding": RATE}],
    "r-gap": [{"model": LENET}, {"model": NARROW}],
    "relaxed-matching": [{"model": SPIKING, "encoding": RATE}],
    "spike-compatible": [{"model": SPIKING, "encoding": RATE}],
}


def check_both(laboratory: Any, name: str, seen: Observation, **how: Any) -> Reconstruction:
    """An attack's answer, which is the same here and elsewhere."""
    how = {"restarts": 2, "iterations": 2, **how}
    (here,) = laboratory.attack(name, [seen], **how)
    with elsewhere():
        (there,) = laboratory.attack(name, [seen], **how)
    assert not here.failed
    np.testing.assert_array_equal(there.labels, here.labels)
    np.testing.assert_allclose(there.candidates, here.candidates, atol=1e-4)
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-3)
    return here


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack(name: str, laboratory) -> None:
    for subject in SUBJECTS.get(name, [{"model": LENET}]):
        check_both(laboratory, name, laboratory.victim([3], **subject))


@pytest.mark.parametrize(
    ("name", "options"),
    [("gradinversion", {"registration": 1, "noise": 0.2}), ("peeling", {"polish": 0.5})],
)
def test_parts_that_few_ask_for(name: str, options: dict[str, Any], laboratory) -> None:
    check_both(laboratory, name, laboratory.victim([3], model=LENET), iterations=4, **options)


@pytest.mark.parametrize("encoding", ["latency", "delta", "events"])
@pytest.mark.parametrize("name", ["first-layer", "inverting-gradients", "peeling"])
def test_every_encoding(name: str, encoding: str, laboratory) -> None:
    if (name, encoding) == ("first-layer", "delta"):
        pytest.skip("differences are not binary")
    frames = np.stack([laboratory.images[[8]] > t / 4 for t in range(4)], axis=1)
    seen = laboratory.victim(
        [8],
        model=SPIKING,
        encoding=EncodingSpec(name=encoding, n_steps=4),
        inputs=None if encoding == "latency" else frames.astype("f4"),
    )
    check_both(laboratory, name, seen)


@pytest.mark.parametrize(
    "source", sorted({*get_args(LabelSource)} - {"auto", "auxiliary", "joint", "rule"})
)
def test_every_source_of_labels(source: str, laboratory) -> None:
    examples, own = [3, 1, 4], slice(100, 140)
    told = Knowledge(
        labels=laboratory.labels[examples],
        auxiliary_inputs=laboratory.images[own],
        auxiliary_labels=laboratory.labels[own],
    )
    seen = laboratory.victim(examples, model=DENSE)
    answer = check_both(laboratory, "inverting-gradients", seen, known=[told], labels=source)
    assert answer.labels_from == source


def test_an_estimator_that_learns() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(8, np.full(4, 0.25), size=32)
    evidence = counts + rng.normal(size=counts.shape)
    here = LearnedCounts.from_clients(evidence, counts).counts(evidence, n_examples=8)
    with elsewhere():
        there = LearnedCounts.from_clients(evidence, counts).counts(evidence, n_examples=8)
    np.testing.assert_allclose(there, here, atol=1e-3)


@pytest.mark.parametrize("search_for", get_args(SearchFor))
def test_every_relaxation(search_for: str, laboratory) -> None:
    seen = laboratory.victim([3], model=SPIKING, encoding=RATE)
    check_both(laboratory, "relaxed-matching", seen, search_for=search_for)


@pytest.mark.parametrize(
    "defend", [lambda t: t * (np.abs(t) > np.quantile(np.abs(t), 0.9)), np.sign, np.float16]
)
def test_adapting_to_defences(defend: Any, laboratory) -> None:
    seen = laboratory.victim([3], model=DENSE)
    tensors = {name: defend(t).astype(np.float32) for name, t in seen.tensors.items()}
    check_both(laboratory, "inverting-gradients", replace(seen, tensors=tensors))


def test_statistics_of_the_batch(laboratory) -> None:
    model = ModelSpec(name="convnet", options={"normalisation": "batch-train"})
    seen = laboratory.victim([3, 1], model=model)
    names = [n.removesuffix(".weight") for n in seen.tensors if n.endswith("_norm.weight")]
    n_channels = {n: len(seen.tensors[f"{n}.weight"]) for n in names}
    statistics = {f"{n}.mean": np.zeros(k, np.float32) for n, k in n_channels.items()}
    statistics |= {f"{n}.variance": np.ones(k, np.float32) for n, k in n_channels.items()}
    told = Knowledge(labels=laboratory.labels[[3, 1]], batch_statistics=statistics)
    answer = check_both(laboratory, "gradinversion", seen, known=[told], labels="granted")
    assert answer.knowledge == ("labels", "batch_statistics")


def test_several_local_steps(laboratory) -> None:
    seen = laboratory.victim([3], model=DENSE)
    training = Training(update="delta", batch_size=1, local_steps=2)
    plan = replace(seen.plan, training=training)
    told = Knowledge(labels=laboratory.labels[[3, 3]])
    steps = replace(seen, kind="delta", n_examples=2, plan=plan)
    check_both(laboratory, "inverting-gradients", steps, known=[told])


def test_a_batch_is_separated(laboratory) -> None:
    check_both(laboratory, "peeling", laboratory.victim([3, 1], model=LENET))


def test_a_module_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers and what normalises its inputs come along."""
    monkeypatch.setattr("attacker.audit.attack.computing_on", lambda device: elsewhere())
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 4),
    ).eval()
    inputs, labels = torch.rand(1, 1, 6, 6), torch.tensor([2])
    loss = torch.nn.functional.cross_entropy(module((inputs - 0.5) / 0.25), labels)
    slopes = torch.autograd.grad(loss, list(module.parameters()))
    update = dict(zip(dict(module.named_parameters()), slopes, strict=True))
    model = Model.of_module(module, input_shape=(1, 6, 6), mean=[0.5], std=[0.25])
    for name in ("inverting-gradients", "peeling"):
        answer = Attack(name, restarts=1, iterations=2).run(update, model, device="cuda")
        assert answer.labels.tolist() == [[2]]


def test_what_lies_on_the_cpu_is_refused_elsewhere() -> None:
    """So that the tests above can fail."""
    with elsewhere():
        there = torch.zeros(2)
        with pytest.raises(RuntimeError, match="lies on the CPU"):
            there + torch.zeros(2, device="cpu")
        with pytest.raises(RuntimeError, match="lies on the CPU"):
            there[torch.from_numpy(np.zeros(1, int))]
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="driver"):
            torch.linalg.lstsq(torch.ones(2, 2), torch.ones(2, 1), driver="gelsy")
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert to_array(to_tensor(np.ones(2)) + there).tolist() == [1, 1]


def test_a_device_that_is_not_there_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ConfigError, match=r"got 'cuda:70', .* here: cpu"), computing_on("cuda:70"):
        pytest.fail("it was taken")


def test_tensors_come_about_on_the_card_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked: list[object] = []
    monkeypatch.setattr(
        torch, "device", lambda name: asked.append(name) or contextlib.nullcontext()
    )
    with computing_on("cuda:1"):
        assert asked == ["cuda:1"]
        assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(AttackError, match="fewer restarts"), computing_on("cuda"):
        raise torch.cuda.OutOfMemoryError
