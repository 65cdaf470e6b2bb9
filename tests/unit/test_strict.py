"""Tables become dataclasses, or one line says why not."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from fedcore.errors import ConfigError
from fedcore.plan import RoundPlan
from fedcore.strict import canonical_json, digest, parse, to_table


@dataclass(frozen=True, kw_only=True)
class Inner:
    shape: tuple[int, ...] = (1, 2)
    kind: Literal["left", "right"] = "left"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = True
    note: str | None = None
    inner: Inner = field(default_factory=Inner)
    pair: tuple[str, int] = ("a", 1)


def test_a_table_becomes_the_dataclass_and_back() -> None:
    table = {
        "name": "x",
        "rate": 2,
        "note": None,
        "inner": {"shape": [3], "kind": "right"},
        "pair": ["b", 2],
    }
    made = parse(Outer, table, where="f")
    assert made == Outer(name="x", rate=2.0, inner=Inner(shape=(3,), kind="right"), pair=("b", 2))
    assert parse(Outer, to_table(made), where="f") == made


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "x", "ratee": 1}, "f: unknown key 'ratee'; did you mean 'rate'?"),
        ({}, "f: key 'name' is missing"),
        ({"name": 3}, "f: name: got int 3, expected str"),
        ({"name": "x", "on": 1}, "f: on: got int 1, expected bool"),
        ({"name": "x", "rate": True}, "f: rate: got bool True, expected float"),
        ({"name": "x", "rate": float("nan")}, "f: rate: got nan, expected a finite number"),
        (
            {"name": "x", "inner": {"kind": "lef"}},
            "f: inner: kind: got 'lef', expected one of left, right; did you mean 'left'?",
        ),
        (
            {"name": "x", "inner": {"shape": [1, "2"]}},
            "f: inner: shape[1]: got str '2', expected int",
        ),
        ({"name": "x", "inner": 4}, "f: inner: got int 4, expected Inner table"),
        ({"name": "x", "pair": ["a"]}, "f: pair: got 1 values, expected 2"),
    ],
)
def test_a_fault_is_one_line_with_the_key(table: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, table, where="f")
    assert str(caught.value) == message
    assert "\n" not in message


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert canonical_json({"b": 1, "a": (1, 2)}) == b'{"a":[1,2],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_a_plan_survives_its_json() -> None:
    import json

    from fedcore.plan import EncodingSpec, ModelSpec, Training

    plan = RoundPlan(
        run_id="r",
        round=3,
        experiment_digest="d",
        model=ModelSpec(spiking=True, options={"hidden": [4]}),
        weights="w",
        encoding=EncodingSpec(n_steps=4),
        training=Training(),
    )
    assert parse(RoundPlan, json.loads(canonical_json(plan)), where="plan") == plan
