"""What an audit of a person's own model leaves: scores against a truth, arrays, a contact sheet.

The attacker never sees a truth. Whoever has one scores the answer here, by the judge's metrics,
beside what anybody could guess.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.errors import ConfigError, RunError
from fedcore.npz import read_npz
from fedcore.plan import EncodingSpec
from fedcore.strict import to_table
from fedcore.types import LeakageScore, Missing, Reconstruction
from testbed.baselines import Auxiliary, Pool, check_disjoint
from testbed.metrics import METRICS
from testbed.report.canvas import pixels_of
from testbed.scoring import Case, baseline_guesses, score_case

__all__ = ["Truth", "as_table", "contact_sheet", "scores_of", "write_answer"]

_ARRAYS = ("candidates", "labels", "losses", "loss_curves")
_FACTS = (
    "attack",
    "chosen",
    "n_iterations",
    "duration_s",
    "knowledge",
    "labels_from",
    "certificate",
)
_SIDE = 96  # pixels of an image on the contact sheet, at least
_GAP = 6


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What was really in the batch, and other examples of its kind.

    Attributes:
        inputs: in [0, 1], float32 [batch, feature...].
        labels: int64 [batch].
        others: examples that no client trained on, with their labels: their mean is what an answer
            must beat, and among them the batch is looked for.
    """

    inputs: np.ndarray
    labels: np.ndarray
    others: Auxiliary

    @property
    def encoded_input(self) -> np.ndarray:
        """What a module receives: the inputs, in one step."""
        return self.inputs[None]

    @classmethod
    def read(cls, path: Path) -> Truth:
        """From an npz file with `inputs`, `labels`, `others` and `other_labels`.

        Raises:
            ConfigError: it is not there, damaged, or not of this form.
        """
        try:
            found = read_npz(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ConfigError(f"{path}: no archive of plain arrays ({error})") from error
        if found.keys() != {"inputs", "labels", "others", "other_labels"}:
            raise ConfigError(
                f"{path}: holds {', '.join(sorted(found)) or 'nothing'}; expected inputs, labels, "
                "others and other_labels (a score says little without what others' mean scores)"
            )
        inputs, labels = _pair(found, "inputs", "labels", where=path)
        others, other_labels = _pair(found, "others", "other_labels", where=path)
        if inputs.shape[1:] != others.shape[1:]:
            raise ConfigError(
                f"{path}: inputs of shape {inputs.shape[1:]}, others of {others.shape[1:]}"
            )
        truth = cls(
            inputs=inputs, labels=labels, others=Auxiliary(inputs=others, labels=other_labels)
        )
        try:
            check_disjoint(truth.others, [truth.inputs])
        except RunError as error:
            raise ConfigError(f"{path}: an example of inputs is also among the others") from error
        return truth

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Whether it is a truth about inputs of this shape.

        Raises:
            ConfigError: it is not.
        """
        if self.inputs.shape[1:] != input_shape:
            raise ConfigError(
                f"the truth's inputs have shape {self.inputs.shape[1:]}, the model takes "
                f"{input_shape}"
            )


def _pair(
    found: dict[str, np.ndarray], inputs: str, labels: str, *, where: Path
) -> tuple[np.ndarray, np.ndarray]:
    values, classes = found[inputs], found[labels]
    if values.dtype.kind not in "biuf" or classes.dtype.kind not in "iu" or classes.ndim != 1:
        raise ConfigError(
            f"{where}: {inputs} of {values.dtype} and {labels} of {classes.dtype} and shape "
            f"{classes.shape}; expected numbers, and one whole number for each"
        )
    if values.shape[:1] != classes.shape or not values.size:
        raise ConfigError(f"{where}: {inputs} of shape {values.shape} with {len(classes)} {labels}")
    if classes.min() < 0:
        raise ConfigError(f"{where}: {labels} hold {classes.min()}; expected classes from 0 on")
    if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
        raise ConfigError(
            f"{where}: {inputs} lie in [{values.min():.3g}, {values.max():.3g}]; expected [0, 1], "
            "before any normalisation"
        )
    return values.astype(np.float32), classes.astype(np.int64)


def scores_of(answer: Reconstruction, truth: Truth) -> tuple[LeakageScore, ...]:
    """Every metric for inputs and labels, beside the same of noise and of others' mean image.

    Args:
        answer: of an attack.
        truth: in any order of the batch; examples are assigned to each other first.

    Raises:
        RunError: an example of the batch is among the others.
    """
    check_disjoint(truth.others, [truth.inputs])
    case = Case.of(ticket=answer.ticket, sha256=answer.sha256, truth=truth, answer=answer)
    classes = np.concatenate([truth.labels, truth.others.labels])
    baselines = baseline_guesses(
        case,
        seed=0,
        encoding=EncodingSpec(),
        n_classes=int(classes.max()) + 1,
        auxiliary=truth.others,
    )
    pool = Pool.of(truth.others, [truth.inputs])
    return tuple(
        score_case(
            case,
            name,
            METRICS.get(name),
            baselines=baselines,
            pool=pool,
            labels_are_granted="labels" in answer.knowledge,
        )
        for name in METRICS.names()
    )


def as_table(answer: Reconstruction, scores: Sequence[LeakageScore] = ()) -> dict[str, Any]:
    """Plain values: what the attacker says, and how near it came."""
    table: dict[str, Any] = {name: to_table(getattr(answer, name)) for name in _FACTS}
    table |= {
        "labels": answer.labels[answer.chosen].tolist(),
        "losses": [float(loss) if np.isfinite(loss) else None for loss in answer.losses],
    }
    if scores:
        table["scores"] = {score.metric: _plain(score) for score in scores}
    return table


def _plain(score: LeakageScore) -> dict[str, Any]:
    """A score that could not be had is its reason."""
    shown = {"chosen": score.value, "best restart": score.oracle, **score.baselines}
    return {
        name: {"missing": value.why} if isinstance(value, Missing) else value
        for name, value in shown.items()
    }


def write_answer(
    answer: Reconstruction, *, into: Path, scores: Sequence[LeakageScore], truth: Truth | None
) -> list[Path]:
    """Write answer.json, candidates.npz and, for images, candidates.png.

    Returns:
        What was written.
    """
    into.mkdir(parents=True, exist_ok=True)
    written = [into / "answer.json", into / "candidates.npz"]
    written[0].write_text(json.dumps(as_table(answer, scores), indent=1, allow_nan=False) + "\n")
    np.savez_compressed(written[1], **{name: getattr(answer, name) for name in _ARRAYS})
    sheet = contact_sheet(answer, None if truth is None else truth.inputs)
    if sheet is not None:
        from matplotlib.image import imsave

        written.append(into / "candidates.png")
        imsave(written[-1], sheet)
    return written


def contact_sheet(answer: Reconstruction, truth: np.ndarray | None) -> np.ndarray | None:
    """All candidates as one picture, [height, width, 3] in [0, 1]; None where nothing is an image.

    A row per example; the truth first, where it is known, then the restarts by their own loss.
    """
    columns = [*answer.candidates[np.argsort(answer.losses)]]
    if truth is not None and truth.shape == columns[0].shape:
        columns.insert(0, truth)
    if pixels_of(columns[0][0]) is None:
        return None
    return np.concatenate([np.concatenate([*map(_tile, column)]) for column in columns], axis=1)


def _tile(image: np.ndarray) -> np.ndarray:
    """One image [channel, height, width], enlarged, with white above and to the left."""
    pixels = np.asarray(pixels_of(image))
    factor = max(1, _SIDE // min(pixels.shape[:2]))
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(large, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=1.0)
