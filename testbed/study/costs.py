"""How long cells will take, told from what others took."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import ConfigError
from fedcore.strict import canonical_json, parse
from testbed.study.design import Cell
from testbed.study.results import Outcome

__all__ = ["Cost", "Estimate", "costs_of", "estimate", "read_costs", "write_costs"]

_TRAINING = "training"  # in the place of an attack


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds on one thread, of work of one kind.

    Attributes:
        attack: name of the setting, or "training".
        work: what they grow with: examples times steps of time, and for an attack times starts and
            iterations.
    """

    data: str
    network: str
    twin: str
    attack: str
    work: float
    cpu_s: float

    @property
    def kinds(self) -> tuple[tuple[str, ...], ...]:
        """From what it resembles most to what it resembles least."""
        return (
            (self.data, self.network, self.twin, self.attack),
            (self.data, self.attack),
            (self.twin, self.attack),
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """CPU seconds that cells will take.

    Attributes:
        cpu_s: of the work that resembles some that was measured.
        n_unknown: pieces of work that do not; `cpu_s` is without them.
    """

    cpu_s: float
    n_unknown: int


def costs_of(results: Iterable[tuple[Cell, Outcome]]) -> Iterator[Cost]:
    """What finished cells and their networks took, each network once."""
    trained = set()
    for cell, outcome in results:
        if outcome.state == "done":
            yield _attack(cell, cpu_s=outcome.cpu_s)
            if cell.stage == "trained" and cell.network_key not in trained:
                trained.add(cell.network_key)
                yield _training(cell, cpu_s=outcome.training_s)


def estimate(
    cells: Sequence[Cell],
    measured: Iterable[Cost],
    *,
    trained: Collection[tuple[str | int, ...]] = (),
) -> Estimate:
    """What cells will take, a network that several share counted once.

    Args:
        cells: that have no result yet.
        measured: what others took.
        trained: `Cell.network_key` of networks that are there.
    """
    work: dict[tuple[str, ...], float] = {}
    spent_s: dict[tuple[str, ...], float] = {}
    for cost in measured:
        for kind in cost.kinds:
            work[kind] = work.get(kind, 0) + cost.work
            spent_s[kind] = spent_s.get(kind, 0) + cost.cpu_s
    networks = {
        cell.network_key: cell
        for cell in cells
        if cell.stage == "trained" and cell.network_key not in trained
    }
    wanted = [_attack(cell) for cell in cells] + [_training(cell) for cell in networks.values()]
    total_s, n_unknown = 0.0, 0
    for cost in wanted:
        similar = [kind for kind in cost.kinds if kind in work]
        if similar:
            total_s += cost.work * spent_s[similar[0]] / work[similar[0]]
        else:
            n_unknown += 1
    return Estimate(cpu_s=total_s, n_unknown=n_unknown)


def write_costs(path: Path, costs: Iterable[Cost]) -> None:
    """Write what was measured, kind by kind, for a larger study's estimate."""
    sums: dict[tuple[str, ...], Cost] = {}
    for cost in costs:
        before = sums.get(cost.kinds[0])
        sums[cost.kinds[0]] = cost if before is None else _sum(before, cost)
    path.write_bytes(b"[\n" + b",\n".join(canonical_json(c) for c in sums.values()) + b"\n]\n")


def read_costs(path: Path) -> list[Cost]:
    """Read `write_costs` back.

    Raises:
        ConfigError: there is no such file, or it is not one.
    """
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no measured costs ({error})") from error
    return [parse(Cost, row, where=path.name) for row in table]


def _attack(cell: Cell, *, cpu_s: float = 0.0) -> Cost:
    setting = cell.setting
    n_examples = cell.n_victims * cell.batch_size
    work = n_examples * cell.encoding.n_steps * setting.restarts * setting.iterations
    return _cost(cell, cell.attack, work=work, cpu_s=cpu_s)


def _training(cell: Cell, *, cpu_s: float = 0.0) -> Cost:
    return _cost(cell, _TRAINING, work=cell.source.n_seen * cell.encoding.n_steps, cpu_s=cpu_s)


def _cost(cell: Cell, attack: str, *, work: float, cpu_s: float) -> Cost:
    return Cost(
        data=cell.data,
        network=cell.network,
        twin=cell.twin,
        attack=attack,
        work=float(work),
        cpu_s=cpu_s,
    )


def _sum(first: Cost, second: Cost) -> Cost:
    return Cost(
        data=first.data,
        network=first.network,
        twin=first.twin,
        attack=first.attack,
        work=first.work + second.work,
        cpu_s=first.cpu_s + second.cpu_s,
    )
