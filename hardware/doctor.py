"""What this machine can measure: per meter, what it would measure or the exact fix.

`leakwatt doctor` and `python -m hardware.doctor` show it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from fedcore.errors import FedcoreError, PluginError
from fedcore.strict import to_table
from hardware.meters.auto import open_sensor
from hardware.meters.base import MeterInfo, NoSensorError, Rail, Sensor
from hardware.modelled import energy_models, load_energy_model
from hardware.registry import METERS, sensors

__all__ = ["Finding", "as_text", "diagnose", "main"]

_NO_HARDWARE = ("combined", "csv-replay")
_WIDTH = 100
_INDENT = 23


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known about one way to get joules here.

    Attributes:
        meter: registered name, or "model".
        is_usable: whether it gives values here, now; None where it was not tried.
        is_measured: False for the model, whose values are estimates.
        says: what its values mean, or why there are none.
        fix: what to do about it, or "".
    """

    meter: str
    is_usable: bool | None
    is_measured: bool
    says: str
    fix: str = ""


def diagnose(root: Path = Path("/")) -> list[Finding]:
    """Try every sensor with one reading, then name what has to be told where it is, and the model.

    Args:
        root: where the file system of the machine begins.
    """
    return [*(_examine(name, root) for name in sensors()), *_addressed(), _model()]


def as_text(findings: Sequence[Finding]) -> str:
    """The findings for people."""
    return "\n".join(_paragraphs(findings))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; 0 when something measures here, 1 when all that is left is the model."""
    parser = argparse.ArgumentParser(prog="leakwatt doctor", description="What can be measured.")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where /sys and /proc lie")
    args = parser.parse_args(argv)
    findings = diagnose(args.root)
    text = json.dumps(to_table(findings), indent=2) if args.json else as_text(findings)
    sys.stdout.write(f"{text}\n")
    return 0 if any(f.is_usable and f.is_measured for f in findings) else 1


def _examine(name: str, root: Path) -> Finding:
    try:
        with open_sensor(name, root=str(root)) as meter:
            says = _measures(meter.info)
        return Finding(meter=name, is_usable=True, is_measured=True, says=says)
    except NoSensorError as error:
        return Finding(
            meter=name, is_usable=False, is_measured=True, says=error.what, fix=error.fix
        )
    except FedcoreError as error:
        return Finding(meter=name, is_usable=False, is_measured=True, says=str(error))


def _measures(info: MeterInfo) -> str:
    return "; ".join([*map(_measured_by, info.rails), *info.notes])


def _measured_by(rail: Rail) -> str:
    unit = "J" if rail.kind == "counter" else "W"
    offset = f" and {rail.offset_error_w:.2g} W" if rail.offset_error_w else ""
    return (
        f"{rail.kind} of {rail.name} ({rail.boundary.value}, steps of {rail.resolution:.3g} {unit}"
        f", within {100 * rail.gain_error:g} %{offset})"
    )


def _addressed() -> Iterator[Finding]:
    """Meters outside the machine: nobody can look for them, but somebody can name them."""
    for name in sorted({*METERS.names()} - {*_NO_HARDWARE}):
        try:
            meter = METERS.get(name)
        except PluginError:
            continue  # a third party's sensor without its package was told above
        needed = [f.name for f in fields(meter) if f.default is MISSING is f.default_factory]
        if needed and not issubclass(meter, Sensor):
            yield Finding(
                meter=name,
                is_usable=None,
                is_measured=True,
                says=(inspect.getdoc(meter) or "").splitlines()[0],
                fix=f"leakwatt meter --meter {name} "
                + " ".join(f"--option {option}=..." for option in needed),
            )


def _model() -> Finding:
    model = load_energy_model("generic-x86-thread")
    others = ", ".join(name for name in energy_models() if name != model.name)
    return Finding(
        meter="model",
        is_usable=True,
        is_measured=False,
        says=f"{model.label}: {model.busy_core_w:g} W per busy core "
        f"({model.low_w:g} to {model.high_w:g} W); an estimate, shown as modelled everywhere",
        fix=f"name the hardware with energy_model = one of {others}",
    )


def _paragraphs(findings: Sequence[Finding]) -> Iterator[str]:
    measuring = [finding.meter for finding in findings if finding.is_usable and finding.is_measured]
    if measuring:
        yield f"Energy is measured here by: {', '.join(measuring)}."
    else:
        yield (
            "No sensor can be read here: energy is modelled from CPU time, and marked so. "
            "To measure, run on hardware with a sensor, or follow a fix below."
        )
    for finding in findings:
        state = {True: "yes", False: "no", None: "name it"}[finding.is_usable]
        state = state if finding.is_measured else "modelled"
        said = textwrap.wrap(
            f"{finding.meter:<12} {state:<9} {finding.says}",
            _WIDTH,
            subsequent_indent=" " * _INDENT,
            break_on_hyphens=False,
            break_long_words=False,
        )
        yield "\n" + "\n".join(said)
        if finding.fix:
            yield f"{'':<{_INDENT}}-> {finding.fix}"


if __name__ == "__main__":
    sys.exit(main())
