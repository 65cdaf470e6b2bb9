"""Files between attacker and testbed: granted knowledge in, reconstructions out."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from fedcore.disclosure import read_knowledge, write_knowledge
from fedcore.errors import RunError
from fedcore.reconstructions import read_reconstructions, request_behind, write_reconstructions
from fedcore.seeds import stream
from fedcore.types import Knowledge, Reconstruction, Ticket

RUN = "demo-ann-0123abcd"
TICKETS = [Ticket(run_id=RUN, round=r, client_id=f"client-{c}") for r in (0, 12) for c in (0, 1)]


def same(one: object, other: object) -> bool:
    """Field by field, arrays by content and dtype; NaN equals NaN."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            floating = a.dtype.kind == "f"
            if a.dtype != b.dtype or not np.array_equal(a, b, equal_nan=floating):
                return False
        elif a != b:
            return False
    return True


@pytest.mark.parametrize("granted", [(), ("labels",), ("labels", "encoded_input"), ("auxiliary",)])
def test_knowledge_comes_back_as_it_was_granted(tmp_path: Path, granted: tuple[str, ...]) -> None:
    rng = stream(0, "knowledge")
    shared = rng.random((5, 2, 3), dtype=np.float32)
    told = {
        ticket: Knowledge(
            labels=rng.integers(0, 10, 4) if "labels" in granted else None,
            encoded_input=rng.random((3, 4, 2)) if "encoded_input" in granted else None,
            auxiliary_inputs=shared if "auxiliary" in granted else None,
            auxiliary_labels=np.arange(5) if "auxiliary" in granted else None,
        )
        for ticket in TICKETS
    }
    path = tmp_path / "knowledge" / f"{RUN}.npz"
    write_knowledge(path, told)
    got = read_knowledge(path)
    assert list(got) == TICKETS
    assert all(same(got[ticket], told[ticket]) for ticket in TICKETS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [None, b"", b"not a zip file", b"PK\x03\x04 but broken"])
def test_a_file_without_knowledge_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / f"{RUN}.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match="no granted knowledge"):
        read_knowledge(path)


def answer(ticket: Ticket, *, failed: str = "") -> Reconstruction:
    rng = stream(1, str(ticket))
    candidates = rng.random((2, 3, 1, 4, 4), dtype=np.float32)
    return Reconstruction(
        ticket=ticket,
        sha256="ab" * 32,
        attack="dlg",
        candidates=np.full_like(candidates, np.nan) if failed else candidates,
        labels=rng.integers(0, 10, (2, 3)),
        losses=np.array([np.nan, np.nan] if failed else [0.5, 0.25], dtype=np.float32),
        loss_curves=rng.random((2, 7), dtype=np.float32),
        n_iterations=70,
        duration_s=1.25,
        knowledge=("labels",),
        failed=failed,
        trains=None if failed else rng.integers(0, 2, (2, 5, 3, 1, 4, 4), dtype=np.uint8),
        certificate={} if failed else {"rank": 5, "residual": 1e-9},
    )


def test_reconstructions_come_back_as_they_were(tmp_path: Path) -> None:
    answers = [answer(ticket) for ticket in TICKETS[:3]] + [answer(TICKETS[3], failed="silent")]
    write_reconstructions(tmp_path / "attack", answers, request="what was asked")
    got = read_reconstructions(tmp_path / "attack")
    assert len(got) == len(answers)
    assert all(same(a, b) for a, b in zip(got, answers, strict=True))
    assert request_behind(tmp_path / "attack") == "what was asked"


def test_answers_count_only_when_they_are_complete(tmp_path: Path) -> None:
    assert request_behind(tmp_path) is None
    with pytest.raises(RunError, match="attack this run first"):
        read_reconstructions(tmp_path)
    write_reconstructions(tmp_path, [answer(TICKETS[0])], request="first")
    npz, table = tmp_path / "reconstructions.npz", tmp_path / "reconstructions.json"
    of_first, first = npz.read_bytes(), table.read_bytes()
    write_reconstructions(tmp_path, [answer(TICKETS[1])], request="second")
    table.write_bytes(first)  # as if killed between the two files
    assert request_behind(tmp_path) is None
    npz.write_bytes(of_first)
    assert request_behind(tmp_path) == "first"
    table.write_bytes(json.dumps({**json.loads(first), "format": 99}).encode())
    with pytest.raises(RunError, match="format 99"):
        read_reconstructions(tmp_path)


@pytest.mark.parametrize("damage", ["[]", "{}", '{"format": 1}', '{"format": 1, "arrays": 3}'])
def test_damaged_answers_are_told_in_one_line(tmp_path: Path, damage: str) -> None:
    (tmp_path / "reconstructions.npz").write_bytes(b"")
    (tmp_path / "reconstructions.json").write_text(damage)
    with pytest.raises(RunError, match="reconstructions"):
        read_reconstructions(tmp_path)
