"""Layer peeling reaches what only a working attack reaches, and refuses for true reasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedcore.errors import ConfigError  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402

pytestmark = pytest.mark.torch

RELU = ModelSpec(name="convnet", activation="relu", options={"channels": [32]})
DEEPER = ModelSpec(name="convnet", activation="relu")
SPIKING = ModelSpec(name="convnet", spiking=True, init_gain=3.0, options={"channels": [64]})
FOUR_STEPS = EncodingSpec(n_steps=4)


def mean_image_db(laboratory, examples: range) -> float:
    mean = laboratory.images[500:].mean(axis=0)
    errors = [np.mean((mean - laboratory.images[i]) ** 2) for i in examples]
    return float(np.mean(-10 * np.log10(errors)))


def test_a_rectified_network_gives_its_input_away(laboratory) -> None:
    seen = [laboratory.victim([i], model=RELU, client=i) for i in range(100, 104)]
    for answer in laboratory.attack("peeling", seen, restarts=2, iterations=200):
        assert laboratory.psnr_db(answer) >= 30
        assert laboratory.labels_are_right(answer)
        assert answer.certificate["rank_excess"] < 1e-5


def test_two_strided_layers_are_peeled_from_smooth_to_sharp(laboratory) -> None:
    """Where the prior lets go in one step, and not in stages, 13 dB are reached."""
    seen = [laboratory.victim([i], model=DEEPER, client=i) for i in range(100, 104)]
    answers = laboratory.attack("peeling", seen, restarts=2, iterations=200)
    assert np.mean([laboratory.psnr_db(answer) for answer in answers]) >= 17


def test_gradients_of_convolutions_say_what_few_features_do_not(laboratory) -> None:
    """128 features, about half of them silent, for 64 pixels."""
    narrow = replace(RELU, options={"channels": [8]})
    seen = [laboratory.victim([i], model=narrow, client=i) for i in range(100, 104)]
    alone, polished = (
        np.mean([laboratory.psnr_db(answer) for answer in answers])
        for answers in (
            laboratory.attack("peeling", seen, iterations=200, polish=polish)
            for polish in (0.0, 0.5)
        )
    )
    assert polished >= alone + 12


def test_a_spiking_network_says_far_more_than_the_mean_image(laboratory) -> None:
    examples = range(100, 104)
    seen = [laboratory.victim([i], model=SPIKING, encoding=FOUR_STEPS, client=i) for i in examples]
    answers = laboratory.attack("peeling", seen, restarts=2, iterations=150)
    reached = np.mean([laboratory.psnr_db(answer) for answer in answers])
    assert reached >= mean_image_db(laboratory, examples) + 3
    for answer in answers:
        assert laboratory.labels_are_right(answer)
        assert answer.certificate["misfit"] < 0.01


@pytest.mark.parametrize("model", [RELU, SPIKING], ids=["ann", "snn"])
def test_a_batch_is_as_open_as_its_examples_alone(model: ModelSpec, laboratory) -> None:
    options = {"model": model, "encoding": FOUR_STEPS if model.spiking else EncodingSpec()}
    alone = [laboratory.victim([i], client=i, **options) for i in range(100, 104)]
    batch = laboratory.victim([100, 101, 102, 103], client=9, **options)
    answers = laboratory.attack("peeling", [*alone, batch], restarts=2, iterations=150)
    assert answers[-1].certificate["unmixed"] == 1
    assert answers[-1].certificate["negative_mass"] < 1e-8
    assert laboratory.labels_are_right(answers[-1])
    errors = [10 ** (-laboratory.psnr_db(answer) / 10) for answer in answers[:-1]]
    assert laboratory.psnr_db(answers[-1]) >= -10 * np.log10(np.mean(errors)) - 3


def test_granted_labels_give_the_order(laboratory) -> None:
    examples = [100, 101, 102]
    seen = laboratory.victim(examples, model=RELU)
    known = [Knowledge(labels=laboratory.labels[examples])]
    (answer,) = laboratory.attack("peeling", [seen], known=known, restarts=2, iterations=200)
    for guess, i in zip(answer.candidates[0], examples, strict=True):
        assert np.mean((guess - laboratory.images[i]) ** 2) < 1e-3


def test_dense_features_stay_mixed_and_it_says_so(laboratory) -> None:
    seen = laboratory.victim([100, 101], model=ModelSpec(activation="sigmoid", init_gain=5.0))
    (answer,) = laboratory.attack("peeling", [seen], iterations=5)
    assert answer.certificate["unmixed"] == 0


@pytest.mark.parametrize("readout", ["per_step", "spike_count"])
def test_readouts_that_are_no_sum_are_refused(readout: str, laboratory) -> None:
    model = replace(SPIKING, readout=readout)
    seen = laboratory.victim([1], model=model, encoding=FOUR_STEPS)
    (answer,) = laboratory.attack("peeling", [seen], iterations=2)
    assert readout in answer.failed


def test_a_withheld_bias_is_refused(laboratory) -> None:
    seen = laboratory.victim([1], model=RELU)
    tensors = {**seen.tensors, "readout.bias": np.zeros(10, np.float32)}
    (answer,) = laboratory.attack("peeling", [replace(seen, tensors=tensors)], iterations=2)
    assert "bias" in answer.failed


def test_the_best_restart_of_every_example_comes_first(laboratory) -> None:
    seen = laboratory.victim([100, 101], model=RELU)
    (answer,) = laboratory.attack("peeling", [seen], restarts=3, iterations=40)
    assert answer.chosen == 0
    assert (np.diff(answer.losses) >= 0).all()


def test_impossible_options_are_refused(laboratory) -> None:
    for options in (
        {"jitter": -1.0},
        {"sharpness": 0.0},
        {"total_variation": -1.0},
        {"polish": 1.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(options))):
            laboratory.attack("peeling", [], iterations=1, **options)
