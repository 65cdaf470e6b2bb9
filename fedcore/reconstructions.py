"""The folder in which an attack leaves its answers: written by the attacker, read by the judge.

    reconstructions.npz     <round>/<client>/{candidates,labels,losses,loss_curves[,trains]}
    reconstructions.json    everything else, what was asked for, and the SHA-256 of the npz

The JSON is written last: answers count once it is there and names the npz beside it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.errors import ConfigError, RunError, StorageError
from fedcore.strict import canonical_json
from fedcore.types import Reconstruction, Ticket

__all__ = ["read_reconstructions", "request_behind", "write_reconstructions"]

_FORMAT = 1
_ARRAYS = ("candidates", "labels", "losses", "loss_curves")
_FACTS = (
    "sha256",
    "attack",
    "n_iterations",
    "duration_s",
    "knowledge",
    "labels_from",
    "failed",
    "certificate",
)


def write_reconstructions(folder: Path, answers: Sequence[Reconstruction], *, request: str) -> None:
    """Write the answers of one arm, replacing others.

    Args:
        folder: see `RunFolder.attack`.
        answers: one per victim.
        request: digest of what was asked for (attack, options, budget, victims), so that a later
            start can tell whether these answers are still the ones wanted.

    Raises:
        StorageError: the disk did not take them.
    """
    npz = io.BytesIO()
    arrays = {f"{_name(a.ticket)}/{key}": getattr(a, key) for a in answers for key in _ARRAYS}
    arrays |= {f"{_name(a.ticket)}/trains": a.trains for a in answers if a.trains is not None}
    np.savez_compressed(npz, **arrays)
    table = {
        "format": _FORMAT,
        "request": request,
        "arrays": hashlib.sha256(npz.getbuffer()).hexdigest(),
        "victims": [
            {"ticket": answer.ticket, **{key: getattr(answer, key) for key in _FACTS}}
            for answer in answers
        ],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(folder / "reconstructions.npz", npz.getvalue())
        _write_whole(folder / "reconstructions.json", canonical_json(table) + b"\n")
    except OSError as error:
        raise StorageError.of(folder, error, then="start the same attack again") from error


def read_reconstructions(folder: Path) -> tuple[Reconstruction, ...]:
    """Read all answers of one arm, in the order in which they were written.

    Raises:
        RunError: there are none, they are incomplete, or another version wrote them.
    """
    table = _read_table(folder)
    try:
        blob = (folder / "reconstructions.npz").read_bytes()
    except OSError as error:
        raise _unreadable(folder, error) from error
    try:
        if hashlib.sha256(blob).hexdigest() != table["arrays"]:
            raise RunError(f"{folder}: reconstructions.npz is not the one that its JSON names")
        with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
            return tuple(_answer(victim, arrays) for victim in table["victims"])
    except (KeyError, TypeError, ConfigError) as error:
        raise _unreadable(folder, error) from error


def request_behind(folder: Path) -> str | None:
    """The digest of what was asked for; None where no complete answers are."""
    try:
        read_reconstructions(folder)
        return str(_read_table(folder)["request"])
    except RunError:
        return None


def _read_table(folder: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads((folder / "reconstructions.json").read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    written_as = table.get("format") if isinstance(table, dict) else None
    if written_as != _FORMAT:
        raise RunError(
            f"{folder}: reconstructions of format {written_as}, this version of leakwatt "
            f"reads {_FORMAT}; use the version that wrote them"
        )
    return table


def _answer(facts: dict[str, Any], arrays: Any) -> Reconstruction:
    ticket = Ticket(**facts["ticket"])
    trains = f"{_name(ticket)}/trains"
    return Reconstruction(
        ticket=ticket,
        **{key: arrays[f"{_name(ticket)}/{key}"] for key in _ARRAYS},
        **{key: facts[key] for key in _FACTS if key != "knowledge"},
        knowledge=tuple(facts["knowledge"]),
        trains=arrays.get(trains),
    )


def _unreadable(folder: Path, error: Exception) -> RunError:
    return RunError(f"{folder}: no reconstructions ({error}); attack this run first")


def _write_whole(path: Path, data: bytes) -> None:
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_bytes(data)
    beside.replace(path)


def _name(ticket: Ticket) -> str:
    return f"{ticket.round}/{ticket.client_id}"
