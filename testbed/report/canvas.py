"""Drawing for paper and for a page with two themes: one matplotlib figure, three outputs.

The palette is Okabe and Ito's, safe for colour-blind readers; arms differ by marker and dash, too.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcore.energy import Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "N_LOOKS",
    "PAPER",
    "PHASE_COLOURS",
    "Drawing",
    "Look",
    "draw",
    "look_of",
    "picture_uri",
    "pixels_of",
    "watermark",
]

INK, MUTED, GRID, PAPER = "#1b1f24", "#5b6470", "#dfe3e8", "#fffffe"
"""Each stands for a CSS variable in the page's own copy of a figure."""

_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}


@dataclass(frozen=True)
class Look:
    """How one arm is drawn in every figure."""

    colour: str
    marker: str
    dash: str


_LOOKS = (
    Look("#0072b2", "o", "-"),
    Look("#d55e00", "s", "--"),
    Look("#009e73", "^", "-."),
    Look("#b8619a", "D", ":"),
    Look("#8a6d00", "v", "-"),
    Look("#56b4e9", "P", "--"),
)

N_LOOKS = len(_LOOKS)
"""That can be told apart in one figure."""

PHASE_COLOURS: Mapping[Phase, str] = {
    Phase.IDLE: "#b9c0c9",
    Phase.RECEIVE: "#56b4e8",
    Phase.EVALUATE: "#e69f00",
    Phase.PROFILE: "#8f7f2a",
    Phase.ENCODE: "#cc79a7",
    Phase.TRAIN: "#0072b1",
    Phase.DEFEND: "#d55e01",
    Phase.SUBMIT: "#009e72",
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished figure.

    Attributes:
        title: of the figure.
        alt: what it shows, for who cannot see it.
        svg: to be placed into the page; follows its theme.
        files: names of the files beside the page.
    """

    title: str
    alt: str
    svg: str
    files: tuple[str, ...]


def look_of(position: int) -> Look:
    """The look of the arm at a position of the experiment."""
    return _LOOKS[position % len(_LOOKS)]


def draw(
    name: str,
    plot: Callable[[Axes], Any],
    *,
    title: str,
    alt: str,
    into: Path,
    note: str = "",
    size_inch: tuple[float, float] = (4.5, 3.0),
) -> Drawing:
    """Draw one figure and write it as SVG and PNG.

    Args:
        name: of the files.
        plot: draws onto the given axes.
        title: shown above the figure.
        alt: a sentence with what the figure shows.
        into: the figures' folder.
        note: a line below the axes: what bars and bands stand for.
        size_inch: of the paper; small, so that letters stay readable on a phone.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size_inch, layout="constrained")
        plot(figure.add_subplot())
        if note:
            figure.supxlabel(note, x=0.99, ha="right", fontsize=7.5, color=MUTED)
        into.mkdir(parents=True, exist_ok=True)
        svg = _svg(figure)
        (into / f"{name}.svg").write_text(svg)
        figure.savefig(into / f"{name}.png", dpi=200)
    return Drawing(
        title=title,
        alt=alt,
        svg=_for_page(svg, alt=alt),
        files=(f"{into.name}/{name}.svg", f"{into.name}/{name}.png"),
    )


def watermark(axes: Axes, text: str) -> None:
    """Large pale letters across the data."""
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=30,
        color=MUTED,
        alpha=0.16,
        rotation=18,
        zorder=6,
        weight="bold",
    )


def pixels_of(image: np.ndarray | None) -> np.ndarray | None:
    """One example [channel, height, width] in [0, 1] as colours [height, width, 3].

    One channel is grey, three are red, green, blue, and two (events of both signs) are orange and
    blue. Returns None for anything that is no image.
    """
    if image is None or image.ndim != 3 or image.shape[0] not in (1, 2, 3):
        return None
    if image.shape[0] == 2:
        pixels = np.tensordot(image, _EVENT_COLOURS, axes=(0, 0))
    else:
        pixels = np.broadcast_to(np.moveaxis(image, 0, -1), (*image.shape[1:], 3))
    return np.ascontiguousarray(np.clip(pixels, 0, 1), dtype=np.float64)


def picture_uri(image: np.ndarray) -> str | None:
    """The same as a PNG data URI."""
    from matplotlib.image import imsave

    pixels = pixels_of(image)
    if pixels is None:
        return None
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


_EVENT_COLOURS = np.array([[0.9, 0.6, 0.0], [0.0, 0.45, 0.7]])

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "leakwatt",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.8,
}


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "Leakwatt"})
    return file.getvalue()


def _for_page(svg: str, *, alt: str) -> str:
    """The drawing alone, in the page's fonts and colours, as wide as its column."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = body.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    body = re.sub(r"""font: ([^;"]*?px) [^;"]*""", r"font: \1 system-ui, sans-serif", body)
    for colour, variable in _THEMED.items():
        body = body.replace(colour, variable)
    return body
