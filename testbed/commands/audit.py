"""attack UPDATE --model: one saved update of a person's own model."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcore.command_line import key_value
from fedcore.errors import ConfigError
from fedcore.plan import EncodingSpec, ModelSpec
from fedcore.registry import nearest
from fedcore.strict import parse
from fedcore.toml import read_toml
from fedcore.types import Knowledge, LeakageScore, Missing, Reconstruction

if TYPE_CHECKING:
    from attacker.audit import Model, Sent

__all__ = ["add_arguments", "audit", "is_audit"]

_ONLY_HERE = (
    *("model", "weights", "input_shape", "mean", "std", "kind", "examples", "batch_size"),
    *("local_steps", "learning_rate", "labels", "truth", "out", "seed"),
)
_SHOWN = ("psnr", "ssim", "label-accuracy", "reidentified")
_TELL_EVERY_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What an audit takes beside the options of every attack."""
    own = parser.add_argument_group(
        "a person's own model",
        "RUN is then a saved update (.safetensors or .npz). See docs/auditing.md.",
    )
    own.add_argument(
        "--model",
        metavar="FILE.py:NAME",
        help="a torch module, or a function that makes one; the file is run, so take one that you "
        "trust. Or FILE.toml with [model] and [encoding] as in an experiment",
    )
    own.add_argument("--weights", type=Path, help="that the server had sent; else the module's")
    own.add_argument("--input-shape", type=_sizes, metavar="C,H,W", help="of one example")
    own.add_argument("--mean", type=_numbers, help="that clients take off inputs, by channel")
    own.add_argument("--std", type=_numbers, help="by which they divide then, by channel")
    own.add_argument("--eval", action="store_true", help="call the module's eval() first")
    own.add_argument(
        "--kind",
        choices=("gradient", "delta", "weights"),
        help="what the update is: a gradient, new minus old weights, or new weights (gradient)",
    )
    own.add_argument("--examples", type=int, help="behind the update (1)")
    own.add_argument("--batch-size", type=int, help="of one local step (all examples)")
    own.add_argument("--local-steps", type=int, help="of SGD behind the update (1)")
    own.add_argument("--learning-rate", type=float, help="of these steps")
    own.add_argument("--labels", type=_sizes, metavar="N,N", help="tell the attacker the labels")
    own.add_argument("--seed", type=int, help="of the starts (0)")
    own.add_argument(
        "--truth",
        type=Path,
        help="npz with inputs, labels, others, other_labels: scores the answer afterwards",
    )
    own.add_argument("--out", type=Path, help="folder for the answer (audit)")


def is_audit(args: argparse.Namespace) -> bool:
    """Whether an update was named rather than a run.

    Raises:
        ConfigError: half of it was.
    """
    if args.model is not None:
        return True
    given = [name for name in _ONLY_HERE if getattr(args, name) is not None]
    if Path(args.run).suffix in (".safetensors", ".npz"):
        raise ConfigError(f"{args.run} is an update: say --model FILE.py:NAME, too")
    if given or args.eval:
        option = "--" + (given[0] if given else "eval").replace("_", "-")
        raise ConfigError(f"{option} is for an update of your own model: say --model, too")
    return False


def audit(args: argparse.Namespace) -> None:
    """Attack the update, score it where a truth is given, write and tell."""
    from attacker.audit import Attack
    from testbed.audit import Truth, as_table, scores_of, write_answer

    update = Path(args.run)
    note = _note_beside(update)
    model = _model(args, note)
    attack = Attack(
        args.attack or "inverting-gradients",
        **_given(args, restarts="restarts", iterations="iterations", seed="seed"),
        **_options(args.option),
    )
    truth = None if args.truth is None else Truth.read(args.truth)
    if truth is not None:
        truth.check_shape(model.spec.input_shape)
    knowledge = Knowledge(labels=None if args.labels is None else np.array(args.labels))
    with _told(is_quiet=args.json) as tell:
        answer = attack.run(
            _sent(args, update, note), model, knowledge, device=args.device, progress=tell
        )
    scores = () if truth is None else scores_of(answer, truth)
    written = write_answer(answer, into=args.out or Path("audit"), scores=scores, truth=truth)
    if args.json:
        sys.stdout.write(json.dumps(as_table(answer, scores), indent=2) + "\n")
    else:
        sys.stdout.write(_text(answer, scores, written))


def _sizes(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, as in 1,28,28")
    return tuple(map(int, numbers))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, as in 0.5,0.5") from None


def _options(given: Sequence[str]) -> dict[str, Any]:
    try:
        return dict([key_value(option) for option in given])
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--option: {error}") from error


def _given(args: argparse.Namespace, **names: str) -> dict[str, Any]:
    """What the command line says, by the names of what takes it."""
    found = {name: getattr(args, argument) for name, argument in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _note_beside(update: Path) -> dict[str, Any]:
    """What a tap wrote about an update (`testbed.flower_tap`); nothing where it did not."""
    try:
        note = json.loads(update.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _sent(args: argparse.Namespace, update: Path, note: dict[str, Any]) -> Sent:
    from attacker.audit import Sent

    told: dict[str, Any] = {key: note[key] for key in ("kind", "n_examples") if key in note}
    told |= _given(
        args,
        kind="kind",
        n_examples="examples",
        batch_size="batch_size",
        local_steps="local_steps",
        learning_rate="learning_rate",
    )
    return Sent(update, **told)


def _model(args: argparse.Namespace, note: dict[str, Any]) -> Model:
    from attacker.audit import Model

    weights = args.weights
    if weights is None and "weights" in note:
        weights = Path(args.run).parent / note["weights"]
    path, _, name = args.model.partition(":")
    if path.endswith(".toml"):
        if weights is None:
            raise ConfigError(f"--weights: a model of {path} has none of its own")
        table = read_toml(Path(path), where=path)
        return Model.of_spec(
            parse(ModelSpec, table.get("model", {}), where=f"{path}: model"),
            encoding=parse(EncodingSpec, table.get("encoding", {}), where=f"{path}: encoding"),
            weights=weights,
        )
    if args.input_shape is None:
        raise ConfigError("--input-shape: of one example, as in 1,28,28, is needed for a module")
    module = _module(Path(path), name)
    if args.eval:
        module.eval()
    return Model.of_module(
        module, input_shape=args.input_shape, weights=weights, mean=args.mean, std=args.std
    )


def _module(path: Path, name: str) -> Any:
    """The torch module that a person's file defines; the file is run."""
    from torch import nn

    from attacker.audit.inspection import first_line

    if path.suffix != ".py" or not name:
        raise ConfigError(f"--model: got {path}:{name}, expected FILE.py:NAME or FILE.toml")
    if not path.is_file():
        raise ConfigError(f"--model: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--model: {path} cannot be imported")
    file = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # its neighbours can be imported, as in a script
    try:
        spec.loader.exec_module(file)
        found = getattr(file, name, None)
        if callable(found) and not isinstance(found, nn.Module):
            found = found()
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        raise ConfigError(f"--model: {path}: {first_line(error)}") from error
    if found is None:
        raise ConfigError(f"--model: {path} has no {name!r}{nearest(name, sorted(vars(file)))}")
    if not isinstance(found, nn.Module):
        raise ConfigError(f"--model: {name} gives {type(found).__name__}, expected a torch module")
    return found


@contextlib.contextmanager
def _told(*, is_quiet: bool) -> Iterator[Any]:
    """A line on a terminal that says how far an attack is."""
    is_shown = sys.stderr.isatty() and not is_quiet
    told_s = 0.0

    def tell(done: int, total: int, losses: np.ndarray) -> None:
        nonlocal told_s
        if is_shown and time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            sys.stderr.write(f"\r{done} of {total}, own loss {np.min(losses):.3g}  ")

    yield tell
    if is_shown and told_s:
        sys.stderr.write("\n")


def _text(answer: Reconstruction, scores: Sequence[LeakageScore], written: Sequence[Path]) -> str:
    """What a person reads."""
    own = ", ".join(f"{loss:.3g}" for loss in np.sort(answer.losses))
    labels = " ".join(map(str, answer.labels[answer.chosen]))
    lines = [
        f"{answer.attack}: {_counted(answer.candidates.shape[1], 'example')}, "
        f"{_counted(len(answer.losses), 'restart')}, "
        f"{answer.n_iterations} iterations, {answer.duration_s:.1f} s",
        f"labels       {labels} ({answer.labels_from or 'not said'})",
        f"own loss     {own}",
        *(f"{name:<12} {value:.3g}" for name, value in answer.certificate.items()),
    ]
    lines += _scored(scores)
    lines += [f"written      {', '.join(map(str, written))}"]
    return "".join(f"{line}\n" for line in lines)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _scored(scores: Sequence[LeakageScore]) -> Iterator[str]:
    """The scores that say most, each beside what anybody could guess."""
    from testbed.metrics import METRICS

    why = {score.value.why for score in scores if isinstance(score.value, Missing)}
    if scores and len(why) == 1 and all(isinstance(s.value, Missing) for s in scores):
        yield f"no scores    {why.pop()}"
    elif scores:
        yield f"{'':<28}{'chosen':>10}{'best':>10}{'mean image':>12}{'noise':>10}"
    for score in scores:
        metric = METRICS.get(score.metric)
        if score.metric not in _SHOWN or isinstance(score.value, Missing):
            continue
        shown = (score.value, score.oracle, *map(score.baselines.get, ("mean-image", "noise")))
        cells = [
            f"{value:.{metric.digits}f}" if isinstance(value, float) else "-" for value in shown
        ]
        label = f"{metric.label}{f' [{metric.unit}]' if metric.unit else ''}"
        yield f"{label:<28}{cells[0]:>10}{cells[1]:>10}{cells[2]:>12}{cells[3]:>10}"
