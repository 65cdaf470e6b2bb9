"""Which examples a client trains on: laws of the draw."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_client.client import choose_batches
from fedcore.plan import Training
from fedcore.seeds import ClientSecret


def draw(n_examples: int, batch_size: int, local_steps: int, *, round: int = 0) -> list[np.ndarray]:
    return choose_batches(
        n_examples,
        training=Training(update="delta", batch_size=batch_size, local_steps=local_steps),
        rng=ClientSecret(bytes(32)).stream("batch", "run", round),
    )


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_every_step_gets_a_full_batch_of_distinct_examples(
    n_examples: int, batch_size: int, local_steps: int
) -> None:
    batches = draw(n_examples, batch_size, local_steps)
    assert len(batches) == local_steps
    for batch in batches:
        assert len(batch) == min(batch_size, n_examples)
        assert len(set(batch)) == len(batch)
        assert min(batch) >= 0
        assert max(batch) < n_examples


@given(st.integers(1, 40), st.integers(1, 12))
def test_no_example_comes_twice_within_an_epoch(n_examples: int, batch_size: int) -> None:
    steps_per_epoch = n_examples // min(batch_size, n_examples)
    seen = np.concatenate(draw(n_examples, batch_size, steps_per_epoch))
    assert len(set(seen)) == len(seen)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_the_same_stream_draws_the_same_examples(
    n_examples: int, batch_size: int, local_steps: int
) -> None:
    first, again = (draw(n_examples, batch_size, local_steps) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_over_many_rounds_every_example_has_its_turn() -> None:
    seen = {int(i) for round in range(200) for i in draw(10, 2, 1, round=round)[0]}
    assert seen == set(range(10))
