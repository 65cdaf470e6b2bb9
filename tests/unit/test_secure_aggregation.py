"""Masks that cancel, and what is left when they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.cohort import PairSecrets
from fedcore.defences.secure_aggregation import SecureAggregation
from fedcore.errors import ConfigError, RunError
from fedcore.seeds import ClientSecret, stream
from fedcore.types import TensorMap

CLIENTS = ["client-0", "client-1", "client-2", "client-10"]
MASTER = ClientSecret(bytes(range(32)))


def pairs(client_id: str) -> PairSecrets:
    return PairSecrets.deal(client_id, CLIENTS, master=MASTER)


def updates(scale: float = 0.2) -> list[dict[str, np.ndarray]]:
    rng = stream(0, "secure aggregation")
    shapes = {"w": (30, 20), "b": (30,)}
    return [
        {n: rng.normal(scale=scale, size=s).astype(np.float32) for n, s in shapes.items()}
        for _ in CLIENTS
    ]


def hide(defence: SecureAggregation, sent: list[dict[str, np.ndarray]]) -> list[TensorMap]:
    return [
        defence.hidden(tensors, pairs(client_id).of_round("run", 3))
        for client_id, tensors in zip(CLIENTS, sent, strict=True)
    ]


def test_the_masks_of_all_clients_add_up_to_nothing() -> None:
    total = np.zeros(1000, np.uint32)
    for client_id in CLIENTS:
        total += pairs(client_id).of_round("run", 0).mask("w", 1000)
    assert not total.any()


def test_a_mask_is_uniform_and_of_its_round_and_tensor_only() -> None:
    cohort = pairs("client-0").of_round("run", 0)
    mask = cohort.mask("w", 1 << 16)
    bytes_seen = np.bincount(mask.view(np.uint8), minlength=256)
    assert abs(bytes_seen - 1024).max() < 6 * 32  # six standard deviations of a fair draw
    others = [
        cohort.mask("b", 1 << 16),
        pairs("client-0").of_round("run", 1).mask("w", 1 << 16),
        pairs("client-0").of_round("other", 0).mask("w", 1 << 16),
        pairs("client-1").of_round("run", 0).mask("w", 1 << 16),
    ]
    assert all((mask == other).mean() < 1e-3 for other in others)
    np.testing.assert_array_equal(cohort.mask("w", 1 << 16), mask)


@pytest.mark.parametrize("sign", [1, -1], ids=["deltas", "gradients"])
def test_the_aggregate_is_the_mean_and_nothing_else_can_be_read(sign: int) -> None:
    """Strategies see gradients with their sign turned."""
    defence, sent = SecureAggregation(), updates()
    hidden = hide(defence, sent)
    for tensors in hidden:
        for values in tensors.values():
            assert values.min() >= 0
            assert values.max() < 1 << 24
            np.testing.assert_array_equal(values, np.rint(values))
    for name in sent[0]:
        flat = (
            np.stack([t[name].ravel() for t in sent]),
            np.stack([t[name].ravel() for t in hidden]),
        )
        assert abs(np.corrcoef(flat[0][0], flat[1][0])[0, 1]) < 0.3
    changes = iter([{n: sign * t for n, t in tensors.items()} for tensors in hidden])
    aggregated = list(defence.aggregate(changes))
    assert len(aggregated) == len(CLIENTS)
    for name in sent[0]:
        mean = sign * np.mean([t[name] for t in sent], axis=0, dtype=np.float64)
        for tensors in aggregated:
            np.testing.assert_allclose(tensors[name], mean, atol=1.0 / (1 << 19))


def test_values_beyond_the_range_are_cut() -> None:
    defence, sent = SecureAggregation(largest=0.1), updates(scale=5.0)
    (mean, *_) = defence.aggregate(iter(hide(defence, sent)))
    cut = np.mean([np.clip(t["w"], -0.1, 0.1) for t in sent], axis=0)
    np.testing.assert_allclose(mean["w"], cut, atol=1e-6)


def test_a_missing_client_is_told_and_no_number_comes_of_it() -> None:
    defence = SecureAggregation()
    with pytest.raises(RunError, match="3 updates do not cancel"):
        list(defence.aggregate(iter(hide(defence, updates())[1:])))


def test_more_clients_than_the_ring_holds_are_refused() -> None:
    defence = SecureAggregation(bits=23)
    assert defence.max_clients == 2
    with pytest.raises(RunError, match="at most 2"):
        list(defence.aggregate(iter(hide(defence, updates(1e-9)))))


@pytest.mark.parametrize("options", [{"largest": 0.0}, {"bits": 24}, {"bits": 1}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} must"):
        SecureAggregation(**options)  # type: ignore[arg-type]


def test_pair_secrets_survive_their_file_and_are_their_owners_alone(tmp_path: Path) -> None:
    dealt = pairs("client-1")
    dealt.write(tmp_path / "peers")
    assert (tmp_path / "peers").stat().st_mode & 0o777 == 0o600
    assert PairSecrets.read(tmp_path / "peers", own_id="client-1") == dealt
    assert MASTER.key.hex() not in (tmp_path / "peers").read_text()
    (tmp_path / "peers").write_text("[]")
    with pytest.raises(ConfigError, match=r"no secrets shared.* copy it again"):
        PairSecrets.read(tmp_path / "peers", own_id="client-1")
