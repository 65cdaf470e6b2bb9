"""The file in which granted knowledge travels: written by `testbed.disclose`, read by the attacker.

One npz per run, without pickles. Keys: "victims" (names `<round>/<client>` of all that are in it),
`<round>/<client>/labels`, `.../step_order`, `.../encoded_input` and
`.../batch_statistics/<layer>.<mean or variance>` where granted, and for all victims together
"auxiliary_inputs" and "auxiliary_labels".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedcore.errors import ConfigError, RunError
from fedcore.npz import read_npz
from fedcore.types import Knowledge, TensorMap, Ticket

__all__ = ["read_knowledge", "write_knowledge"]

_OWN = ("labels", "step_order", "encoded_input")
_STATISTICS = "batch_statistics"
_SHARED = ("auxiliary_inputs", "auxiliary_labels")


def write_knowledge(path: Path, knowledge: Mapping[Ticket, Knowledge]) -> None:
    """Write what is granted about the victims of one run; a reader sees all of it or no file.

    Args:
        path: see `RunFolder.knowledge_file`.
        knowledge: by victim; auxiliary examples are taken from the first, and are the same for all.
    """
    arrays = {"victims": np.array([_name(ticket) for ticket in knowledge], dtype=np.str_)}
    for ticket, told in knowledge.items():
        arrays |= {f"{_name(ticket)}/{key}": getattr(told, key) for key in _OWN}
        for key, values in (told.batch_statistics or {}).items():
            arrays[f"{_name(ticket)}/{_STATISTICS}/{key}"] = values
    for told in list(knowledge.values())[:1]:
        arrays |= {key: getattr(told, key) for key in _SHARED}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        granted = {key: array for key, array in arrays.items() if array is not None}
        np.savez_compressed(file, **granted)  # type: ignore[arg-type]  # names hold slashes
    beside.replace(path)


def read_knowledge(path: Path) -> dict[Ticket, Knowledge]:
    """Read the granted knowledge about the victims of one run, by victim.

    Raises:
        RunError: no such file, or not ours.
    """
    try:
        arrays = read_npz(path.read_bytes())
        names = [str(name) for name in arrays.pop("victims")]
        return {
            _ticket(path.stem, name): Knowledge(
                **{key: arrays.get(f"{name}/{key}") for key in _OWN},
                batch_statistics=_within(f"{name}/{_STATISTICS}/", arrays),
                **{key: arrays.get(key) for key in _SHARED},
            )
            for name in names
        }
    except (OSError, ValueError, KeyError, ConfigError) as error:
        raise RunError(
            f"{path}: no granted knowledge ({error}); `leakwatt disclose` writes it"
        ) from error


def _within(folder: str, arrays: TensorMap) -> TensorMap | None:
    """What lies in a folder, by its name there; None where there is nothing."""
    found = {k.removeprefix(folder): a for k, a in arrays.items() if k.startswith(folder)}
    return found or None


def _name(ticket: Ticket) -> str:
    return f"{ticket.round}/{ticket.client_id}"


def _ticket(run_id: str, name: str) -> Ticket:
    round_, _, client_id = name.partition("/")
    return Ticket(run_id=run_id, round=int(round_), client_id=client_id)
