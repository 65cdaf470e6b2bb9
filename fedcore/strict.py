"""Tables to frozen dataclasses and back: unknown keys are errors, a digest names the result.

One mechanism serves the experiment file, plugin options, plans on the wire and stored records.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.registry import Registry, nearest

__all__ = ["build", "canonical_json", "digest", "parse", "to_table"]

C = TypeVar("C")

_PLAIN = frozenset({str, int, float, bool, type(None)})


def parse(cls: type[C], table: Mapping[str, Any], *, where: str) -> C:
    """Build a frozen dataclass from a table of plain values.

    Args:
        cls: the dataclass; its annotations say what each key may hold.
        table: as read from TOML or JSON.
        where: prefix of every message, e.g. "quickstart.toml" or "quickstart.toml: training".

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value the class refuses; the
            message names file, key, what came, what was expected and the nearest valid name.
    """
    if not isinstance(table, Mapping):
        raise _wrong(f"{cls.__name__} table", table, where)
    hints = _type_hints(cls)  # type: ignore[arg-type]  # a class is hashable
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, sorted(known))}")
        values[key] = _convert(hints[key], value, where=f"{where}: {key}")
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def build(registry: Registry[type[C]], choice: Choice) -> C:
    """The plugin behind a choice: a frozen dataclass whose fields are its options.

    Raises:
        PluginError: no plugin of that name, or a package that it needs is not installed.
        ConfigError: an option is unknown, of a wrong type or refused.
    """
    where = f"{registry.kind} {choice.name!r}"
    return parse(registry.get(choice.name), choice.options, where=where)


def to_table(value: Any) -> Any:
    """The plain value (dict, list, str, int, float, bool, None) that `parse` reads back."""
    if type(value) in _PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_table(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {key: to_table(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_table(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value


def canonical_json(value: Any) -> bytes:
    """Sorted, compact, ASCII JSON: equal values give equal bytes. NaN and infinity are refused."""
    return json.dumps(
        to_table(value), sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


@functools.cache
def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, int) and value.bit_length() > 63:  # TOML promises no more either
        raise ConfigError(
            f"{where}: got a whole number of {value.bit_length()} bits, expected 63 at most"
        )
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise _not_one_of([str(a) for a in args], value, where)
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where=where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value, where=where)
    if origin is tuple:
        return _convert_tuple(args, value, where=where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong("a table", value, where)
        return {k: _convert(args[1], v, where=f"{where}.{k}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            raise _not_one_of([str(member.value) for member in hint], value, where) from None
    return _convert_scalar(hint, value, where=where)


def _convert_scalar(hint: type, value: Any, *, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(hint.__name__, value, where)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: got {value}, expected a finite number")
    return value


def _convert_union(args: tuple[Any, ...], value: Any, *, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [a for a in args if a is not type(None)]
    error: ConfigError | None = None
    for choice in choices:
        try:
            return _convert(choice, value, where=where)
        except ConfigError as wrong:
            error = error or wrong
    raise error or _wrong("another type", value, where)


def _convert_tuple(args: tuple[Any, ...], value: Any, *, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong("a list", value, where)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where}: got {len(value)} values, expected {len(args)}")
    return tuple(
        _convert(a, v, where=f"{where}[{i}]")
        for i, (a, v) in enumerate(zip(args, value, strict=True))
    )


def _wrong(expected: str, value: Any, where: str) -> ConfigError:
    return ConfigError(f"{where}: got {type(value).__name__} {value!r:.80}, expected {expected}")


def _not_one_of(names: list[str], value: Any, where: str) -> ConfigError:
    expected = f"expected one of {', '.join(names)}{nearest(str(value), names)}"
    return ConfigError(f"{where}: got {value!r:.80}, {expected}")
