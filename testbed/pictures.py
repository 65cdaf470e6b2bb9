"""The pictures that the page shows. They are the victims' data: handle them like the data.

The judge writes them beside the report, since nobody else can open the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.errors import RunError
from fedcore.layout import RunFolder
from fedcore.types import Ticket

__all__ = ["Picture", "read_pictures", "write_pictures"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One victim: the truth and three guesses, each in [0, 1], [batch, feature...].

    Attributes:
        chosen: the attacker's choice, in the truth's order; None where the attempt failed.
        noise: the first of the noise baseline's draws.
    """

    ticket: Ticket
    truth: np.ndarray
    chosen: np.ndarray | None
    mean_image: np.ndarray
    noise: np.ndarray


def write_pictures(run: RunFolder, run_id: str, pictures: Sequence[Picture]) -> None:
    """Write all pictures of one arm into the report's folder, readable by their owner only."""
    arrays = {
        f"{picture.ticket.round}/{picture.ticket.client_id}/{name}": np.asarray(
            image, dtype=np.float32
        )
        for picture in pictures
        for name, image in _images(picture)
    }
    path = _path(run, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.touch(mode=0o600)
    with beside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # names hold slashes
    beside.replace(path)


def read_pictures(run: RunFolder, run_id: str) -> tuple[Picture, ...]:
    """The pictures of one arm, sorted by round and client.

    Raises:
        RunError: the judge has not been here.
    """
    path = _path(run, run_id)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {tuple(name.split("/")): arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no pictures ({error}); run `leakwatt judge` first") from error
    victims = sorted({(int(round_), client) for round_, client, _ in found})
    return tuple(
        Picture(
            ticket=Ticket(run_id=run_id, round=round_, client_id=client),
            truth=found[str(round_), client, "truth"],
            chosen=found.get((str(round_), client, "chosen")),
            mean_image=found[str(round_), client, "mean_image"],
            noise=found[str(round_), client, "noise"],
        )
        for round_, client in victims
    )


def _path(run: RunFolder, run_id: str) -> Path:
    return run.report / f"pictures-{run_id}.npz"


def _images(picture: Picture) -> Iterator[tuple[str, np.ndarray]]:
    yield "truth", picture.truth
    yield "mean_image", picture.mean_image
    yield "noise", picture.noise
    if picture.chosen is not None:
        yield "chosen", picture.chosen
