"""What came of a cell, and the folder in which a study keeps it.

    <folder>/lock                    names the process that runs the study, and is held by it
    <folder>/study.json              the study and the program that ran it last
    <folder>/cells/<digest>.json     one finished cell, written whole or not at all
    <folder>/networks/<digest>.*     trained weights, and what training them cost

A cell's digest names its settings and the program, so that a result is found again only where
nothing that it follows from has changed.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from fedcore.errors import ConfigError, RunError, StorageError
from fedcore.strict import canonical_json, parse
from fedcore.types import LeakageScore, Missing
from testbed.findings import Attempt, Summary, summarise
from testbed.locks import hold
from testbed.metrics import METRICS
from testbed.study.design import Cell, Study

__all__ = ["NOT_RUN", "Outcome", "Picture", "StudyFolder", "TrainedNetwork"]

_NOT_DONE = Missing(why="the cell has no scores")
_AGAIN = "start the same study again"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One example beside what was made of it, PNG data URIs.

    Attributes:
        truth: the example.
        guess: the attacker's choice; "" where there is none.
    """

    truth: str
    guess: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one cell.

    Attributes:
        state: "done"; "refused" where the combination makes no sense to network, encoding or
            attack; "missing" where the data are not there; "broken" where the program has a
            fault; "open" where it has not run yet.
        why: it has no scores.
        accuracy: of the network, on held-out examples.
        training_s: CPU seconds that its network took, which other cells may share.
        n_pool: examples among which victims are looked for.
        cpu_s: of updates, attack and scores, without training.
        attempts: the victims as the attack left them.
        scores: by victim and metric.
        pictures: of the first examples.
    """

    state: Literal["done", "refused", "missing", "broken", "open"]
    why: str = ""
    accuracy: float | Missing = _NOT_DONE
    training_s: float = 0.0
    n_pool: int = 0
    cpu_s: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    scores: tuple[LeakageScore, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @functools.cached_property
    def summaries(self) -> dict[str, Summary]:
        """The scores over all victims, by metric."""
        by_metric: dict[str, list[LeakageScore]] = {}
        for score in self.scores:
            by_metric.setdefault(score.metric, []).append(score)
        return {
            name: summarise(scores, metric=METRICS.get(name), name=name, of_round=None)
            for name, scores in by_metric.items()
        }

    @property
    def is_final(self) -> bool:
        """Whether running the cell again could only give the same."""
        return self.state in ("done", "refused")


NOT_RUN = Outcome(state="open", why="not run yet")


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """Weights and what is known of them.

    Attributes:
        weights: the artefact, see `fedcore.tensors.pack_weights`.
        accuracy: on held-out examples.
        cpu_s: of training and evaluating.
    """

    weights: bytes
    accuracy: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    study: Study
    code: str


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study."""

    root: Path

    @property
    def page(self) -> Path:
        """The page."""
        return self.root / "index.html"

    def hold(self) -> IO[str]:
        """Keep every other process out as long as the returned file is open.

        Raises:
            RunError: another process runs a study here.
            StorageError: the folder cannot be written.
        """
        try:
            return hold(self.root / "lock")
        except OSError as error:
            raise StorageError.of(self.root, error, then=_AGAIN) from error

    def begin(self, study: Study, code: str) -> None:
        """Say what is run here.

        Raises:
            StorageError: the disk did not take it.
        """
        self._write("study.json", canonical_json(_Manifest(study=study, code=code)) + b"\n")

    def read(self) -> tuple[Study, str]:
        """The study that ran here last, and the program that ran it.

        Raises:
            RunError: none did.
        """
        if not (self.root / "study.json").exists():
            raise RunError(
                f"{self.root}: no study has run here; run it first (without --draw-only), or name "
                "its folder by --out"
            )
        with self._reading("study.json"):
            manifest = parse(_Manifest, self._table("study.json"), where="study.json")
        return manifest.study, manifest.code

    def outcome(self, cell: Cell, code: str) -> Outcome:
        """What came of a cell; `NOT_RUN` where nothing did yet.

        Raises:
            RunError: the file is damaged.
        """
        name = f"cells/{cell.digest(code)}.json"
        if not (self.root / name).exists():
            return NOT_RUN
        with self._reading(name):
            return parse(Outcome, self._table(name)["outcome"], where="outcome")

    def keep(self, cell: Cell, code: str, outcome: Outcome) -> None:
        """Write what came of a cell.

        Raises:
            StorageError: the disk did not take it.
        """
        table = {"cell": cell, "code": code, "outcome": outcome}
        self._write(f"cells/{cell.digest(code)}.json", canonical_json(table) + b"\n")

    def network(self, digest: str) -> TrainedNetwork | None:
        """A trained network, or None where it has to be trained."""
        try:
            facts = self._table(f"networks/{digest}.json")
            weights = (self.root / f"networks/{digest}.safetensors").read_bytes()
            return TrainedNetwork(weights=weights, **facts)
        except (OSError, ValueError, TypeError):
            return None

    def keep_network(self, digest: str, network: TrainedNetwork) -> None:
        """Write a trained network, its facts last.

        Raises:
            StorageError: the disk did not take it.
        """
        facts = {"accuracy": network.accuracy, "cpu_s": network.cpu_s}
        self._write(f"networks/{digest}.safetensors", network.weights)
        self._write(f"networks/{digest}.json", canonical_json(facts) + b"\n")

    def _table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = json.loads((self.root / name).read_bytes())
        return table

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn what is wrong with a file into one line.

        Raises:
            RunError: it cannot be read, or is damaged.
        """
        path = self.root / name
        try:
            yield
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror})") from error
        except (ConfigError, ValueError, TypeError, LookupError) as error:
            raise RunError(
                f"{path}: damaged ({type(error).__name__}: {error}); delete it and {_AGAIN}: only "
                "what is not there runs"
            ) from error

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        beside = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError as error:
            raise StorageError.of(path, error, then=_AGAIN) from error
