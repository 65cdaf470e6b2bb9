"""Images are brought over their targets by the one translation that fits best."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from attacker.registration import registered  # noqa: E402

pytestmark = pytest.mark.torch


def noise(*shape: int):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("space", [(9, 7), (11,)])
def test_every_example_finds_its_own_way_back(space: tuple[int, ...]) -> None:
    targets = noise(2, 3, 4, *space)  # [row, example, channel, space...]
    axes = tuple(range(2, 2 + len(space)))
    images = targets.clone()
    for row, example, steps in [(0, 0, 2), (0, 2, -1), (1, 1, 1)]:
        moved = targets[row, example].roll((steps,) * len(space), [a - 1 for a in axes])
        images[row, example] = moved
    found = registered(images, targets, example_axis=1, reach=2)
    torch.testing.assert_close(found, targets)


def test_nothing_moves_farther_than_it_may() -> None:
    targets = noise(1, 1, 1, 8, 8)
    near, far = (targets.roll(steps, -1) for steps in (1, 3))
    torch.testing.assert_close(registered(near, targets, example_axis=1, reach=1), targets)
    found = registered(far, targets, example_axis=1, reach=2)
    assert (found - targets).square().sum() > 0.1
    assert any(
        torch.equal(found, far.roll((down, right), (-2, -1)))
        for down in range(-2, 3)
        for right in range(-2, 3)
    )


def test_the_steps_of_a_train_move_together() -> None:
    targets = noise(1, 3, 2, 1, 8, 8)  # [row, time, example, channel, space...]
    images = targets.clone()
    images[0, 0, 0] = images[0, 0, 0].roll(1, -1)  # one step of three says otherwise
    torch.testing.assert_close(registered(images, targets, example_axis=2, reach=1), images)


@pytest.mark.parametrize("shape", [(2, 3, 16), (2, 3, 1, 8, 8)])
def test_plain_features_and_equal_translations_stay(shape: tuple[int, ...]) -> None:
    images = noise(*shape) if len(shape) == 3 else torch.full(shape, 0.5)
    assert torch.equal(registered(images, noise(*shape), example_axis=1, reach=1), images)
