"""What the first fully connected layer gives away, exactly; and what is refused, truly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from attacker.exact.factorise import factorise
from fedcore.codecs.base import codec_of
from fedcore.data.encodings import encode
from fedcore.errors import AttackError, ConfigError
from fedcore.plan import Choice, EncodingSpec, ModelSpec, NeuronSpec, Training
from fedcore.seeds import stream
from fedcore.tensors import schema_of
from fedcore.types import Observation

pytestmark = pytest.mark.torch

NAME = "first-layer"
SPIKING = ModelSpec(name="mlp", spiking=True)
ANN = ModelSpec(name="mlp")
RATE = EncodingSpec(name="rate", n_steps=6)


def attack(laboratory, seen, **options):
    (answer,) = laboratory.attack(NAME, [seen], iterations=1, **options)
    return answer


def events(n_examples: int, n_steps: int, *, density: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.random((n_examples, n_steps, 1, 8, 8)) < density).astype(np.float32)


@pytest.mark.parametrize("readout", ["membrane_mean", "per_step", "spike_count"])
@pytest.mark.parametrize("model", [ANN, SPIKING], ids=["ann", "snn"])
def test_a_constant_input_is_a_ratio(model: ModelSpec, readout: str, laboratory) -> None:
    encoding = EncodingSpec(n_steps=4)
    seen = laboratory.victim([3], model=replace(model, readout=readout), encoding=encoding)
    answer = attack(laboratory, seen)
    assert laboratory.psnr_db(answer) >= 100
    assert answer.losses[0] < 1e-5
    assert answer.trains is None


def test_without_a_bias_the_input_is_known_up_to_a_factor(laboratory) -> None:
    seen = laboratory.victim([3], model=SPIKING)
    free = {n: t for n, t in seen.tensors.items() if n != "hidden1.bias"}
    answer = attack(laboratory, replace(seen, tensors=free))
    assert answer.certificate["scale_known"] == 0
    truth = laboratory.images[3]
    np.testing.assert_allclose(answer.candidates[0, 0], truth / truth.max(), atol=1e-5)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_rate_coded_train_comes_back_in_order(reset: str, laboratory) -> None:
    model = replace(SPIKING, neuron=NeuronSpec(reset=reset))
    for client in range(3):
        seen = laboratory.victim([client + 20], model=model, encoding=RATE, client=client)
        answer = attack(laboratory, seen)
        truth = encode(RATE, laboratory.images[[client + 20]], stream(client, "secret"))
        assert answer.certificate["ordered"] == 1
        assert answer.certificate["consistent"] == 1
        np.testing.assert_array_equal(answer.trains[0], truth)
        np.testing.assert_allclose(answer.candidates[0], truth.mean(axis=0), atol=1e-6)
        assert laboratory.labels_are_right(answer)


def test_examples_of_a_batch_are_told_apart(laboratory) -> None:
    """Up to the order of the examples, which changes nothing for the network."""
    spec = EncodingSpec(name="events", n_steps=4)
    frames = events(2, 4)
    seen = laboratory.victim([0, 1], model=SPIKING, encoding=spec, inputs=frames)
    answer = attack(laboratory, seen)
    assert answer.certificate["ordered"] == 1
    found, truth = (
        {video.tobytes() for video in batch} for batch in (answer.candidates[0], frames)
    )
    assert found == truth


def test_the_frames_of_a_conventional_network_have_no_order(laboratory) -> None:
    seen = laboratory.victim([23], model=ANN, encoding=RATE, client=3)
    answer = attack(laboratory, seen)
    truth = encode(RATE, laboratory.images[[23]], stream(3, "secret")).astype(np.uint8)
    assert answer.certificate["ordered"] == 0
    assert answer.certificate["ambiguous"] == 0
    assert sorted(f.tobytes() for f in answer.trains[0]) == sorted(f.tobytes() for f in truth)


def test_order_tells_which_of_several_factorisations_is_true(laboratory) -> None:
    """The frames alone leave it open: another binary vector lies in their space."""
    spec = EncodingSpec(name="rate", n_steps=8)
    seen = laboratory.victim([21], model=SPIKING, encoding=spec, client=1)
    slopes, bias = seen.tensors["hidden1.weight"], seen.tensors["hidden1.bias"]
    factors = factorise(slopes, bias, n_frames=8, codec="f32", enumerate_up_to=16)
    truth = encode(spec, laboratory.images[[21]], stream(1, "secret"))
    assert len(factors.others)
    answer = attack(laboratory, seen)
    np.testing.assert_array_equal(answer.trains[0], truth)
    assert answer.certificate["ambiguous"] == 0
    orderless = laboratory.victim([21], model=ANN, encoding=spec, client=1)
    assert attack(laboratory, orderless).certificate["ambiguous"] == 1


def in_int8(seen: Observation) -> Observation:
    codec = Choice(name="int8")
    wire = codec_of(codec)
    sent = wire.encode(seen.tensors, note={})
    tensors, _ = wire.decode(sent, schema=schema_of(seen.tensors))
    return replace(seen, tensors=tensors, plan=replace(seen.plan, codec=codec))


def test_frames_that_int8_hides_foretell_their_slopes(laboratory) -> None:
    """Whether they are right is told from that, too."""
    spec = EncodingSpec(name="rate", n_steps=12)
    n_exact = 0
    for client in range(2):
        seen = laboratory.victim([client + 20], model=SPIKING, encoding=spec, client=client)
        answer = attack(laboratory, in_int8(seen))
        truth = encode(spec, laboratory.images[[client + 20]], stream(client, "secret"))
        is_exact = np.array_equal(answer.trains[0], truth)
        assert is_exact or answer.certificate["ordered"] == 0
        n_exact += is_exact
    assert n_exact >= 1  # the other misses a frame, and says so


def test_a_scaled_update_is_the_same_update(laboratory) -> None:
    seen = laboratory.victim([9], model=SPIKING, encoding=RATE)
    scaled = {name: t * np.float32(2.0**-30) for name, t in seen.tensors.items()}
    one, other = attack(laboratory, seen), attack(laboratory, replace(seen, tensors=scaled))
    np.testing.assert_array_equal(one.trains, other.trains)


def test_a_delta_of_one_step_is_a_gradient(laboratory) -> None:
    seen = laboratory.victim([9], model=SPIKING, encoding=RATE)
    training = Training(update="delta", batch_size=1, learning_rate=0.5)
    delta = {name: np.float32(-0.5) * t for name, t in seen.tensors.items()}
    other = replace(seen, kind="delta", tensors=delta, plan=replace(seen.plan, training=training))
    np.testing.assert_array_equal(attack(laboratory, seen).trains, attack(laboratory, other).trains)


@pytest.mark.parametrize(
    ("model", "encoding", "examples", "why"),
    [
        (ModelSpec(activation="sigmoid"), EncodingSpec(), [0], "not fully connected"),
        (SPIKING, EncodingSpec(), [0, 1], "mixes 2 examples"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    model: ModelSpec, encoding: EncodingSpec, examples: list[int], why: str, laboratory
) -> None:
    answer = attack(laboratory, laboratory.victim(examples, model=model, encoding=encoding))
    assert why in answer.failed
    assert np.isnan(answer.candidates).all()


def test_signed_spikes_are_refused(laboratory) -> None:
    spec = EncodingSpec(name="delta", n_steps=4)
    seen = laboratory.victim([0], model=SPIKING, encoding=spec, inputs=events(1, 4, density=0.4))
    assert "more than 0 and 1" in attack(laboratory, seen).failed


def test_a_silent_victim_keeps_its_place(laboratory) -> None:
    seen = [laboratory.victim([i], model=SPIKING, client=i) for i in range(2)]
    silent = {n: np.zeros_like(t) for n, t in seen[0].tensors.items()}
    told = []
    answers = laboratory.attack(
        NAME,
        [replace(seen[0], tensors=silent), seen[1]],
        iterations=1,
        progress=lambda *facts: told.append(facts[:2]),
    )
    assert "zero" in answers[0].failed
    assert not answers[1].failed
    assert told == [(1, 2), (2, 2)]


def test_several_local_steps_are_refused(laboratory) -> None:
    seen = laboratory.victim([0], model=SPIKING)
    training = Training(update="delta", batch_size=1, local_steps=3)
    with pytest.raises(AttackError, match="3 local steps"):
        attack(laboratory, replace(seen, kind="delta", plan=replace(seen.plan, training=training)))


def test_enumeration_has_a_limit() -> None:
    from attacker.attacks.first_layer import FirstLayer

    with pytest.raises(ConfigError, match="26"):
        FirstLayer(enumerate_up_to=27)
