"""Which wheels fit a board, from what the board says of itself; `wheels.toml` holds the facts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import ConfigError
from fedcore.strict import parse
from fedcore.toml import read_toml

__all__ = ["Matrix", "Platform", "Probe", "Wheel", "Wish", "load_matrix", "pins"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `probe.sh` found on a board; "" is what it did not find.

    Attributes:
        model: of the board.
        machine: `uname -m`.
        bits: of its programs: a 64-bit kernel may run a 32-bit system.
        libc: name and version, e.g. "glibc 2.36".
        os: ID and VERSION_ID, e.g. "debian 12".
        l4t: NVIDIA's release, e.g. "36".
        python: version of the interpreter that was asked for.
        venv: "yes" if it can make virtual environments with pip inside.
        systemd: "yes" if that runs the board.
        groups: of its users, by name.
    """

    model: str = ""
    machine: str = ""
    bits: str = ""
    libc: str = ""
    os: str = ""
    l4t: str = ""
    python: str = ""
    venv: str = ""
    systemd: str = ""
    groups: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Probe:
        """From lines KEY=VALUE; anything else (a login's greeting) is passed over.

        Raises:
            ConfigError: a line is missing, so the script did not run to its end.
        """
        values = {
            key: value.strip()
            for key, equals, value in (line.partition("=") for line in text.splitlines())
            if equals and key in cls.__dataclass_fields__
        }
        if missing := sorted(cls.__dataclass_fields__.keys() - values):
            raise ConfigError(f"the board did not say its {', '.join(missing)}: {text[-200:]!r}")
        groups = tuple(values.pop("groups").split())
        return cls(groups=groups, **values)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the boards file wants on a board.

    Attributes:
        extra: of Leakwatt.
        index: a further package index that pip will ask; "" for none.
        torch: a wheel of the user's own that takes the place of the pinned torch; "" for none.
        python: interpreter of the user's own; "" for the system's.
    """

    extra: str
    index: str = ""
    torch: str = ""
    python: str = ""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel and what it asks for; `only_for` is an extra, "" for every client."""

    package: str
    version: str
    pythons: tuple[str, ...]
    glibc: str = "0"
    only_for: str = ""

    @property
    def pin(self) -> str:
        """As in a constraints file."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A kind of board; see `wheels.toml`."""

    name: str
    python: str
    glibc: str
    model: str = ""
    os: str = ""
    l4t: tuple[str, ...] = ()
    cuda: str = ""
    advice: str = ""

    def is_that_of(self, probe: Probe) -> bool:
        """Whether all of its conditions hold."""
        return (
            probe.model.startswith(self.model)
            and (not self.os or probe.os == self.os)
            and (not self.l4t or probe.l4t in self.l4t)
        )


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All of `wheels.toml`."""

    machines: tuple[str, ...]
    wheels: tuple[Wheel, ...]
    platforms: tuple[Platform, ...]

    def platform(self, probe: Probe) -> Platform:
        """What a board is; one that the file does not know goes by its own name."""
        for platform in self.platforms:
            if platform.is_that_of(probe):
                return platform
        return Platform(
            name=probe.os or "unknown system",
            python=probe.python,
            glibc=probe.libc.removeprefix("glibc "),
        )


@functools.cache
def load_matrix() -> Matrix:
    """Read `wheels.toml`."""
    file = Path(__file__).with_name("wheels.toml")
    return parse(Matrix, read_toml(file, where=file.name), where=file.name)


def pins(probe: Probe, wish: Wish) -> list[str]:
    """The lines of a constraints file for one board.

    Raises:
        ConfigError: the board cannot be served; one line with its name, the reason and the cure.
    """
    matrix = load_matrix()
    platform = matrix.platform(probe)
    for reason in _refusals(matrix, platform, probe, wish):
        name = " on ".join(filter(None, [platform.name, probe.model]))
        raise ConfigError("; ".join(filter(None, [f"{name}: {reason}", platform.advice])))
    return [wheel.pin for wheel in _chosen(matrix, probe, wish).values()]


def _refusals(matrix: Matrix, platform: Platform, probe: Probe, wish: Wish) -> Iterator[str]:
    """Every reason against, the plainest first; a later one may rest on those before it."""
    if not probe.systemd:
        yield (
            "systemd does not run it, and nothing else would start the client again; in a "
            "container use docs/containers.md, elsewhere start leakwatt-client by hand"
        )
    if probe.machine not in matrix.machines or probe.bits != "64":
        yield (
            f"a {probe.bits}-bit system on {probe.machine}, for which numpy has no wheel; install "
            f"a 64-bit system ({' or '.join(matrix.machines)})"
        )
    if not probe.libc.startswith("glibc "):
        yield f"its C library is {probe.libc or 'not glibc'}, which the wheels are not for"
    offered = sorted({p for wheel in matrix.wheels for p in wheel.pythons}, key=_version)
    if _minor(probe.python) not in offered:
        yield (
            f"Python {probe.python or 'is missing'}, but Leakwatt has wheels for "
            f"{offered[0]} to {offered[-1]}; install one of them there and name it as `python`"
        )
    if probe.venv != "yes" and wish.python:
        yield f"{wish.python} lacks venv or ensurepip; name a `python` that has both"
    chosen = _chosen(matrix, probe, wish)
    for wheel in _wanted(matrix, wish):
        if wheel.package not in chosen:
            yield _what_lacks(matrix, wheel.package, probe)
    usual_torch = wish.extra == "edge-torch" and not (wish.index or wish.torch)
    if usual_torch and probe.machine == "aarch64" and platform.cuda != "13":
        yield (
            "the usual index's torch for 64-bit Arm brings several GB of CUDA 13, which is of "
            "no use there; name an index with CPU builds as `index`, or take edge-onnx"
        )


def _wanted(matrix: Matrix, wish: Wish) -> Iterator[Wheel]:
    brought = {"torch"} if wish.torch else set()
    if wish.extra == "edge-lava":
        brought.add("numpy")  # lava-dl needs an older one
    for wheel in matrix.wheels:
        if wheel.only_for in ("", wish.extra) and wheel.package not in brought:
            yield wheel


def _chosen(matrix: Matrix, probe: Probe, wish: Wish) -> dict[str, Wheel]:
    chosen: dict[str, Wheel] = {}
    for wheel in _wanted(matrix, wish):
        if _fits(wheel, probe):
            chosen.setdefault(wheel.package, wheel)
    return chosen


def _fits(wheel: Wheel, probe: Probe) -> bool:
    has = _version(probe.libc.removeprefix("glibc "))
    return _minor(probe.python) in wheel.pythons and has >= _version(wheel.glibc)


def _what_lacks(matrix: Matrix, package: str, probe: Probe) -> str:
    asked = " or ".join(
        f"{wheel.pin} (Python {', '.join(wheel.pythons)}; glibc {wheel.glibc})"
        for wheel in matrix.wheels
        if wheel.package == package
    )
    return f"Python {probe.python} and {probe.libc} fit none of {asked}; name another `python`"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _version(text: str) -> tuple[int, ...]:
    """Numbers to compare; () for what is none, which is below all."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()
