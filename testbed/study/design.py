"""The study file: what is combined with what, and the cells that come of it.

A file names data sets, networks, encodings and attacks once, each under a name of its own, and
then lists grids. A grid is the product of its axes; two grids may share cells, which run once. A
combination that makes no sense stays a cell, and its result says why it was refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from attacker.attacks import ATTACKS
from fedcore.config import read_with_base
from fedcore.data.datasets import DATASETS
from fedcore.data.encodings import ENCODINGS
from fedcore.errors import ConfigError
from fedcore.nn.models import MODELS
from fedcore.plan import Choice, EncodingSpec, ModelSpec, NeuronSpec, Surrogate
from fedcore.registry import nearest
from fedcore.strict import build, digest, parse
from fedcore.types import check_id

__all__ = [
    "AttackSetting",
    "Axis",
    "Cell",
    "Coding",
    "DataSource",
    "Grid",
    "NetworkKind",
    "Stage",
    "Study",
    "Twin",
    "load_study",
]

Twin = Literal["ann", "snn"]
Stage = Literal["init", "trained"]
Axis = Literal["attack", "batch_size", "coding", "n_steps", "surrogate"]
"""What a grid's figure has along its horizontal axis."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where examples come from, and which of them a network learns.

    Attributes:
        dataset: registered data set and its options.
        folder: of its files, below a root that the command names.
        split: "published" trains on the publisher's training set and attacks the test set; "own"
            holds a third out, whole persons where they are known.
        n_seen: examples that go by until a network counts as trained.
        how_to_get: what to do where the files are not there.
    """

    dataset: Choice
    folder: str = ""
    split: Literal["published", "own"] = "published"
    n_seen: int = 15_000
    how_to_get: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A network without what the data decide.

    Attributes:
        name: registered model.
        options: its own.
        spiking_gain: factor on the initial hidden weights of the spiking twin, which would
            otherwise be silent behind its first layer; the conventional twin keeps 1.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    spiking_gain: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Coding:
    """An encoding without its number of steps."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AttackSetting:
    """An attack with its budget per victim, and what it is told.

    Attributes:
        name: registered attack.
        options: its own.
        restarts: starts per victim.
        iterations: gradient evaluations of the objective per start.
        knows: "labels" are the true ones of each batch, "auxiliary_data" held-out examples that
            are no victim's.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    restarts: int = 2
    iterations: int = 150
    knows: tuple[Literal["labels", "auxiliary_data"], ...] = ()

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.iterations < 1:
            raise ConfigError("restarts and iterations must be >= 1")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A product of axes; each key but the first three lists the values of one.

    Attributes:
        name: of its section and its figures.
        title: of its section.
        x: the axis of its figures.
        data: names of data sources.
        networks: names of network kinds.
        twins: conventional, spiking, or both.
        codings: names of encodings.
        n_steps: of the encodings.
        surrogates: of the spiking twin.
        batch_sizes: examples behind one update.
        stages: untrained, trained, or both.
        attacks: names of attack settings.
        seeds: of networks, victims and starts.
    """

    name: str
    title: str
    x: Axis = "attack"
    data: tuple[str, ...]
    networks: tuple[str, ...]
    twins: tuple[Twin, ...] = ("ann", "snn")
    codings: tuple[str, ...] = ("direct",)
    n_steps: tuple[int, ...] = (4,)
    surrogates: tuple[Surrogate, ...] = ("fast_sigmoid",)
    batch_sizes: tuple[int, ...] = (1,)
    stages: tuple[Stage, ...] = ("init", "trained")
    attacks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_id(self.name, what="grid name")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination, with everything that its result follows from but the code.

    The conventional twin has no surrogate, and under direct coding its input is the same at every
    step, so that one step says it all: such combinations fall together into one cell.

    Attributes:
        data: name of its source.
        network: name of its kind.
        surrogate: "" for the conventional twin.
        coding: name of its encoding.
        attack: name of its setting.
        n_victims: updates to attack.
    """

    data: str
    source: DataSource
    network: str
    kind: NetworkKind
    twin: Twin
    surrogate: Surrogate | Literal[""]
    coding: str
    encoding: EncodingSpec
    stage: Stage
    batch_size: int
    attack: str
    setting: AttackSetting
    seed: int
    n_victims: int

    def model(self, *, input_shape: tuple[int, ...], n_classes: int) -> ModelSpec:
        """The network for inputs of the data."""
        is_spiking = self.twin == "snn"
        return ModelSpec(
            name=self.kind.name,
            options=self.kind.options,
            spiking=is_spiking,
            input_shape=input_shape,
            n_classes=n_classes,
            init_gain=self.kind.spiking_gain if is_spiking else 1.0,
            neuron=NeuronSpec(surrogate=self.surrogate) if self.surrogate else NeuronSpec(),
        )

    def digest(self, code: str) -> str:
        """Names the cell's result; `code` is the fingerprint of the program that makes it."""
        return digest((self, code))

    @property
    def network_key(self) -> tuple[str | int, ...]:
        """Equal for cells that attack the same network."""
        return (
            self.data,
            self.network,
            self.twin,
            self.surrogate,
            self.coding,
            self.encoding.n_steps,
            self.stage,
            self.seed,
        )

    @property
    def x(self) -> dict[Axis, str]:
        """Where it stands on each axis that a figure may have."""
        return {
            "attack": self.attack,
            "batch_size": str(self.batch_size),
            "coding": self.coding,
            "n_steps": str(self.encoding.n_steps),
            "surrogate": self.surrogate,
        }


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study file, read.

    Attributes:
        name: of its folder.
        ask_first: whether it only starts once the person has agreed to its length.
        n_victims: updates per cell.
        costs: file beside this one with what a smaller study measured, for the estimate, or "".
        data: sources by name.
        networks: kinds by name.
        codings: encodings by name.
        attacks: settings by name.
        grids: what is combined.
    """

    name: str
    ask_first: bool = False
    n_victims: int = 8
    costs: str = ""
    data: Mapping[str, DataSource]
    networks: Mapping[str, NetworkKind]
    codings: Mapping[str, Coding]
    attacks: Mapping[str, AttackSetting]
    grids: tuple[Grid, ...]

    def __post_init__(self) -> None:
        check_id(self.name, what="name")
        if self.n_victims < 1:
            raise ConfigError(f"n_victims must be >= 1; got {self.n_victims}")
        for grid in self.grids:
            for axis in ("data", "networks", "codings", "attacks"):
                known = getattr(self, axis)
                for name in getattr(grid, axis):
                    if name not in known:
                        raise ConfigError(
                            f"grid {grid.name!r}: {axis} names {name!r}, which has no table "
                            f"[{axis}.{name}]{nearest(name, sorted(known))}"
                        )

    def cells_of(self, grid: Grid) -> tuple[Cell, ...]:
        """The cells of one grid, each once."""
        return _each_once(self._product(grid))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all grids, each once."""
        return _each_once(cell for grid in self.grids for cell in self._product(grid))

    def _product(self, grid: Grid) -> Iterator[Cell]:
        for (
            data,
            network,
            twin,
            coding,
            n_steps,
            surrogate,
            stage,
            batch,
            seed,
            attack,
        ) in itertools.product(
            grid.data,
            grid.networks,
            grid.twins,
            grid.codings,
            grid.n_steps,
            grid.surrogates,
            grid.stages,
            grid.batch_sizes,
            grid.seeds,
            grid.attacks,
        ):
            how = self.codings[coding]
            says_it_all = twin == "ann" and how.name == "direct"
            yield Cell(
                data=data,
                source=self.data[data],
                network=network,
                kind=self.networks[network],
                twin=twin,
                surrogate=surrogate if twin == "snn" else "",
                coding=coding,
                encoding=EncodingSpec(
                    name=how.name, n_steps=1 if says_it_all else n_steps, options=how.options
                ),
                stage=stage,
                batch_size=batch,
                attack=attack,
                setting=self.attacks[attack],
                seed=seed,
                n_victims=self.n_victims,
            )


def _each_once(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    return tuple({digest(cell): cell for cell in cells}.values())


def load_study(path: Path) -> Study:
    """Read a study file; `base` names a file beside it that it refines, as in an experiment.

    Raises:
        ConfigError: one line that names the file, the key and the nearest valid name.
    """
    study = parse(Study, read_with_base(path), where=path.name)
    for key, test in _plugins(study):
        try:
            test()
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {key}: {error}") from error
    return study


def _plugins(study: Study) -> Iterator[tuple[str, Callable[[], object]]]:
    """What must resolve before anything runs, with the key under which the file names it."""
    for name, source in study.data.items():
        yield f"data.{name}", partial(build, DATASETS, source.dataset)
    for name, kind in study.networks.items():
        yield f"networks.{name}", partial(build, MODELS, _choice(kind))
    for name, coding in study.codings.items():
        yield f"codings.{name}", partial(build, ENCODINGS, _choice(coding))
    for name, setting in study.attacks.items():
        yield f"attacks.{name}", partial(build, ATTACKS, _choice(setting))


def _choice(named: NetworkKind | Coding | AttackSetting) -> Choice:
    return Choice(name=named.name, options=named.options)
