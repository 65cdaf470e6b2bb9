"""The total of every faked board as our meters read it, and what other tools make of its rails.

Theirs is the arithmetic of their sources: Zeus 0.16 and jtop 7 take VDD_IN or POM_5V_IN as the
total; where there is neither, Zeus knows none and jtop adds every rail that is there. Run once on
these trees, Zeus 0.16.0's discovery and jetson-stats 7.2.2's power code gave these numbers (jtop
drops fractions of a mW). codecarbon 3.3 has no Jetson sensor and prices the processor by rated
watts (4 W per thread where it does not know it), with 0 W of graphics.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.joules.faked_boards import BOARDS, FakedBoard
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.registry import METERS

__all__ = ["rows"]

_WHOLE = ("VDD_IN", "POM_5V_IN")


def rows() -> Iterator[str]:
    """One line per board."""
    theirs = "Zeus, jtop, codecarbon (documented)"
    yield f"{'board':<46}{'boundary':<16}{'true':>12}{'read':>13}   {theirs}"
    for board in BOARDS:
        with tempfile.TemporaryDirectory() as folder:
            board.write(Path(folder))
            read, boundary = _read(board, folder)
        unit = "J" if board.meter == "rapl" else "W"
        yield (
            f"{board.name:<46}{boundary:<16}{board.total_w:>10.3f} {unit}{read:>11.3f} {unit}   "
            f"{_others(board)}"
        )


def _read(board: FakedBoard, root: str) -> tuple[float, str]:
    """Sum over the rails, which are of one boundary."""
    with build(METERS, Choice(name=board.meter, options={"root": root})).open() as meter:
        boundaries = {rail.boundary.value for rail in meter.info.rails}
        return sum(meter.read().values), "+".join(sorted(boundaries))


def _others(board: FakedBoard) -> str:
    rails = _powers(board.files)
    if not rails or board.boundary == "board-dc-input":
        return ""  # what they make of Thor's carrier is not documented
    whole = next((rails[name] for name in _WHOLE if name in rails), None)
    zeus = "none" if whole is None else f"{whole:.3f} W"
    if "VDD_CPU_GPU_CV" in rails:
        zeus += f", 'cpu' {rails['VDD_CPU_GPU_CV']:.3f} W is processor, graphics and accelerators"
    jtop = sum(rails.values()) if whole is None else whole
    wrong = "" if abs(jtop - board.total_w) < 0.001 * board.total_w else " (a rail twice)"
    return f"Zeus {zeus}; jtop {jtop:.3f} W{wrong}; codecarbon a rating, graphics 0 W"


def _powers(files: Mapping[str, str]) -> dict[str, float]:
    """The INA3221 rails of a tree in W."""
    found = {}
    for path, label in files.items():
        folder, _, name = path.rpartition("/")
        if name.startswith("rail_name_"):
            number = name.removeprefix("rail_name_")
            found[label] = int(files[f"{folder}/in_power{number}_input"]) * 1e-3
        elif name.startswith("in") and name.endswith("_label") and name != "in7_label":
            number = name.removeprefix("in").removesuffix("_label")
            volt, ampere = (int(files[f"{folder}/{of}{number}_input"]) for of in ("in", "curr"))
            found[label] = volt * ampere * 1e-6
    return found


if __name__ == "__main__":
    for row in rows():
        print(row)
