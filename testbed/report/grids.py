"""Original, reconstruction, mean image, noise: every victim, sorted by round and client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedcore.types import Missing, Ticket
from testbed.metrics import METRICS
from testbed.pictures import Picture
from testbed.report.canvas import Drawing, draw, picture_uri, pixels_of
from testbed.results import ArmResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Grid", "GridRow"]

_COLUMNS = ("original", "reconstruction", "mean image", "noise")
_SCORES = ("psnr", "ssim")
_MAX_ROWS = 64  # of the figure file, which would outgrow what can be drawn; the page has all


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One example of one victim.

    Attributes:
        client: whose; "" on a batch's further examples.
        images: column -> PNG data URI, or None where there is no image.
        score: of the whole batch.
        failed: why there is no reconstruction, or "".
    """

    client: str
    images: dict[str, str | None]
    score: str
    failed: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All victims of one arm.

    Attributes:
        rounds: the rows by round.
        drawing: the same as a figure file, or its first rows; None where nothing is an image.
    """

    arm: str
    rounds: dict[int, list[GridRow]]
    drawing: Drawing | None

    @classmethod
    def of(cls, arm: ArmResults, pictures: Sequence[Picture], *, into: Path) -> Grid:
        """Lay out the judge's pictures of one arm."""
        rounds: dict[int, list[GridRow]] = {}
        for picture in pictures:
            rounds.setdefault(picture.ticket.round, []).extend(_rows(arm, picture))
        return cls(arm=arm.arm.name, rounds=rounds, drawing=_drawing(arm, pictures, into=into))


def _rows(arm: ArmResults, picture: Picture) -> Iterator[GridRow]:
    score, failed = _score_of(arm, picture.ticket)
    for i, images in enumerate(_examples(picture)):
        yield GridRow(
            client=picture.ticket.client_id if i == 0 else "",
            images={
                column: None if image is None else picture_uri(image)
                for column, image in zip(_COLUMNS, images, strict=True)
            },
            score=score if i == 0 else "",
            failed=failed if i == 0 else "",
        )


def _examples(picture: Picture) -> Iterator[tuple[np.ndarray | None, ...]]:
    """The four images of each example of a batch, in the order of the columns."""
    for i in range(len(picture.truth)):
        chosen = None if picture.chosen is None else picture.chosen[i]
        yield picture.truth[i], chosen, picture.mean_image[i], picture.noise[i]


def _score_of(arm: ArmResults, ticket: Ticket) -> tuple[str, str]:
    if isinstance(arm.findings, Missing):
        return "", arm.findings.why
    attempt = next(a for a in arm.findings.attempts if a.ticket == ticket)
    if attempt.failed:
        return "", attempt.failed
    found = []
    for name in _SCORES:
        metric = METRICS.get(name)
        score = next(s for s in arm.findings.scores if (s.ticket, s.metric) == (ticket, name))
        if not isinstance(score.value, Missing):
            value = f"{score.value:.{metric.digits}f}"
            found.append(f"{value} {metric.unit}" if metric.unit else f"{metric.label} {value}")
    return " · ".join(found), ""


def _drawing(arm: ArmResults, pictures: Sequence[Picture], *, into: Path) -> Drawing | None:
    """One figure with a row per example; a missing reconstruction stays an empty place."""
    rows = [images for picture in pictures for images in _examples(picture)]
    n_examples, rows = len(rows), rows[:_MAX_ROWS]
    if not rows or pixels_of(rows[0][0]) is None:
        return None
    names = [
        f"r{picture.ticket.round} {picture.ticket.client_id}"
        for picture in pictures
        for _ in picture.truth
    ][:_MAX_ROWS]

    def plot(axes: Axes) -> None:
        for y, images in enumerate(rows):
            for x, image in enumerate(images):
                pixels = None if image is None else pixels_of(image)
                if pixels is not None:
                    box = (x - 0.46, x + 0.46, y + 0.46, y - 0.46)
                    axes.imshow(pixels, extent=box, interpolation="nearest")
        axes.set_xlim(-0.5, len(_COLUMNS) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(_COLUMNS)), _COLUMNS)
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    return draw(
        f"grid-{arm.arm.name}",
        plot,
        title=f"Reconstructions, {arm.arm.name}",
        alt=f"Original, reconstruction, mean image and noise of {len(rows)} examples.",
        into=into,
        note=f"the first {len(rows)} of {n_examples} examples" if len(rows) < n_examples else "",
        size_inch=(4.4, 0.6 + 0.75 * len(rows)),
    )
