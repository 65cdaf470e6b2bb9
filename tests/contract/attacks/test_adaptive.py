"""What was done to an update is read off it, and an attack that adapts gets more out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.adaptive import adaptation_to, noise_of  # noqa: E402
from attacker.objectives import cosine_distance  # noqa: E402
from fedcore.codecs.base import codec_of  # noqa: E402
from fedcore.defences.base import chain  # noqa: E402
from fedcore.nn.arrays import to_tensors  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.tensors import schema_of  # noqa: E402
from fedcore.types import Observation  # noqa: E402

pytestmark = pytest.mark.torch

RELU = ModelSpec(name="convnet")
MODELS = {
    "relu": (RELU, EncodingSpec()),
    "sigmoid": (ModelSpec(activation="sigmoid", init_gain=5.0), EncodingSpec()),
    "snn": (ModelSpec(name="convnet", spiking=True, init_gain=3.0), EncodingSpec(n_steps=4)),
    "mlp-snn": (
        ModelSpec(name="mlp", spiking=True, init_gain=3.0),
        EncodingSpec(name="rate", n_steps=4),
    ),
}
VICTIMS = range(100, 103)


def defended(
    seen: Observation, name: str = "", *, codec: str = "f32", noise: float = 0.0, **options: Any
) -> Observation:
    """The update behind a defence and a codec; `noise` is in lengths of the gradient."""
    values = np.concatenate([t.reshape(-1) for t in seen.tensors.values()]).astype(np.float64)
    if noise:
        options["std"] = noise * float(np.linalg.norm(values)) / np.sqrt(values.size)
    steps = chain([Choice(name=name, options=options)] if name else [])
    sent = steps.update(seen.tensors, stream(int(values.size), seen.ticket.client_id))
    carrier = codec_of(Choice(name=codec))
    got, _ = carrier.decode(carrier.encode(sent, note={}), schema=schema_of(sent))
    return replace(seen, tensors=got)


@pytest.mark.parametrize("kind", MODELS)
def test_what_was_done_is_read_off_the_update(kind: str, laboratory) -> None:
    model, encoding = MODELS[kind]
    for examples in ([100], [101, 102, 103]):
        seen = laboratory.victim(examples, model=model, encoding=encoding)

        def adaptation(name: str = "", seen: Observation = seen, **how: Any) -> Any:
            update = defended(seen, name, **how).tensors
            return adaptation_to(update, model=model, n_inputs=seen.n_examples)

        for codec in ("f32", "f16", "bf16", "sparse"):
            assert not adaptation(codec=codec).certificate
        assert not adaptation("clip", max_norm=0.01).certificate
        for fraction in (0.05, 0.1):
            assert adaptation("topk", fraction=fraction).reading == "cut"
        for scale in ("mean", "unit"):
            assert adaptation("sign", scale=scale).reading == "signs"
        assert adaptation(codec="int4").noise > 0.1 > adaptation(codec="int8").noise
        assert adaptation("gaussian", noise=1.0).prior > adaptation("gaussian", noise=0.1).prior
        biases = tuple(n for n in seen.tensors if n.endswith(".bias"))
        withheld = adaptation("withhold", names=["*.bias"])
        assert withheld.ignored == biases
        assert withheld.reading == "plain"


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_noise_is_measured_without_knowing_the_gradient(
    kind: str, noise: float, laboratory
) -> None:
    model, encoding = MODELS[kind]
    seen = [
        laboratory.victim([i, i + 4], model=model, encoding=encoding, client=i) for i in VICTIMS
    ]
    assert max(noise_of(o.tensors, model=model) for o in seen) < 1e-4
    found = [noise_of(defended(o, "gaussian", noise=noise).tensors, model=model) for o in seen]
    assert np.mean(found) == pytest.approx(noise, rel=0.3)
    longer = {n: 1e-6 * t for n, t in defended(seen[0], "gaussian", noise=noise).tensors.items()}
    assert noise_of(longer, model=model) == pytest.approx(found[0], rel=1e-3)


def test_a_neuron_behind_the_readout_hides_the_noise_sum(laboratory) -> None:
    model = replace(MODELS["snn"][0], readout="spike_count")
    seen = laboratory.victim([100], model=model, encoding=EncodingSpec(n_steps=4))
    assert noise_of(defended(seen, "gaussian", noise=1.0).tensors, model=model) == 0


def test_the_true_gradient_fits_what_was_cut_from_it_and_no_prior_is_left_out(laboratory) -> None:
    seen = laboratory.victim([100], model=RELU)
    cut = defended(seen, "topk", fraction=0.1)
    adaptation = adaptation_to(cut.tensors, model=RELU, n_inputs=1)
    truth, observed = to_tensors(seen.tensors), to_tensors(cut.tensors)
    flat = torch.ones(1, 1, 8, 8)

    def plain(found: Any, target: Any, candidate: Any, *, n_spatial: int) -> Any:
        return cosine_distance(found, target)

    adapted = adaptation.objective(plain, n_spatial=2)
    assert float(cosine_distance(truth, observed)) > 0.01
    assert float(adapted(truth, observed, flat)) == pytest.approx(0, abs=1e-5)
    shorter = {name: 0.1 * t for name, t in truth.items()}
    assert float(adapted(shorter, observed, flat)) == pytest.approx(0, abs=1e-5)
    other = to_tensors(laboratory.victim([101], model=RELU, client=1).tensors)
    assert float(adapted(other, observed, flat)) > 0.1
    rough = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = defended(seen, "gaussian", noise=1.0)
    prior = adaptation_to(noisy.tensors, model=RELU, n_inputs=1)
    paid = prior.objective(plain, n_spatial=2)(truth, to_tensors(noisy.tensors), rough)
    free = plain(truth, to_tensors(noisy.tensors), rough, n_spatial=2)
    assert float(paid - free) == pytest.approx(prior.prior * 2 / 3, rel=0.2)


def test_an_undefended_update_is_attacked_as_ever(laboratory) -> None:
    seen = [laboratory.victim([i], model=RELU, client=i) for i in VICTIMS]
    one, other = (
        laboratory.attack("inverting-gradients", seen, iterations=5, adaptive=adaptive)
        for adaptive in (True, False)
    )
    for adaptive, plain in zip(one, other, strict=True):
        np.testing.assert_array_equal(adaptive.candidates, plain.candidates)
        assert not adaptive.certificate


@pytest.mark.parametrize(
    ("name", "how", "gain_db"),
    [("topk", {"fraction": 0.1}, 8), ("sign", {}, 6)],
)
def test_adapting_beats_a_defence_that_beat_the_plain_attack(
    name: str, how: dict[str, Any], gain_db: float, laboratory
) -> None:
    seen = [defended(laboratory.victim([i], model=RELU, client=i), name, **how) for i in VICTIMS]
    reached = {}
    for adaptive in (True, False):
        answers = laboratory.attack("inverting-gradients", seen, iterations=80, adaptive=adaptive)
        reached[adaptive] = np.mean([laboratory.psnr_db(answer) for answer in answers])
        assert all(bool(answer.certificate) == adaptive for answer in answers)
    assert reached[True] >= reached[False] + gain_db


def test_a_random_bottleneck_is_skipped(laboratory) -> None:
    spec = chain([Choice(name="precode", options={"size": 32})]).model(RELU)
    seen = [laboratory.victim([i], model=spec, client=i) for i in VICTIMS]
    reached = {}
    for adaptive in (True, False):
        answers = laboratory.attack("inverting-gradients", seen, iterations=60, adaptive=adaptive)
        reached[adaptive] = np.mean([laboratory.psnr_db(answer) for answer in answers])
    assert reached[True] >= reached[False] + 10
    adaptation = adaptation_to(seen[0].tensors, model=spec, n_inputs=1)
    kept = [name for name in seen[0].tensors if name not in adaptation.ignored]
    assert kept == list(laboratory.victim([0], model=RELU).tensors)[:-2]


def test_dlg_adapts_too(laboratory) -> None:
    seen = [
        defended(laboratory.victim([i], model=MODELS["sigmoid"][0], client=i), "topk", fraction=0.3)
        for i in VICTIMS
    ]
    adaptive, plain = (
        np.mean([laboratory.psnr_db(a) for a in answers])
        for answers in (
            laboratory.attack("idlg", seen, iterations=80, adaptive=adaptive)
            for adaptive in (True, False)
        )
    )
    assert adaptive > plain + 2


def test_differently_defended_updates_are_attacked_in_one_call(laboratory) -> None:
    seen = [laboratory.victim([i], model=RELU, client=i) for i in VICTIMS]
    mixed = [seen[0], defended(seen[1], "sign"), defended(seen[2], "topk")]
    together = laboratory.attack("inverting-gradients", mixed, iterations=5)
    for observation, answer in zip(mixed, together, strict=True):
        (alone,) = laboratory.attack("inverting-gradients", [observation], iterations=5)
        np.testing.assert_allclose(answer.candidates, alone.candidates, atol=1e-5)
        assert answer.certificate == alone.certificate
