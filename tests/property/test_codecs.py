"""Laws of the codecs, with slow but obvious oracles; hostile bytes end in an UpdateError."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.codecs.base import CODECS, codec_of
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.tensors import pack, schema_of, unpack

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
small = st.floats(-65504, 65504, width=32)
every_codec = pytest.mark.parametrize("name", CODECS.names())


def tensors(elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, shapes, elements=elements)


def round_trip(values: np.ndarray, choice: Choice) -> np.ndarray:
    codec = codec_of(choice)
    blob = codec.encode({"w": values}, note={})
    return codec.decode(blob, schema={"w": values.shape})[0]["w"]


@every_codec
@given(values=tensors(small))
def test_error_stays_within_the_bound(name: str, values: np.ndarray) -> None:
    got = round_trip(values, Choice(name=name)).astype(np.float64)
    error = np.max(np.abs(got - values), initial=0.0)
    assert error <= codec_of(Choice(name=name)).error_bound(values)


@given(bits=hnp.arrays(np.uint32, shapes))
def test_f32_carries_every_bit_pattern(bits: np.ndarray) -> None:
    got = round_trip(bits.view(np.float32), Choice(name="f32"))
    np.testing.assert_array_equal(got.view(np.uint32), bits)


@given(upper=st.integers(0, 0xFFFF), lower=st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]))
def test_bf16_rounds_to_the_nearest_of_its_neighbours_and_ties_to_even(
    upper: int, lower: int
) -> None:
    """Oracle: the two patterns around the value, compared in float64."""
    value = np.array([upper << 16 | lower], dtype=np.uint32).view(np.float32)
    patterns = np.array([upper, upper + 1], dtype=np.uint32)
    neighbours = (patterns << 16).view(np.float32)
    if not np.isfinite(neighbours).all():
        return  # the last step before infinity has its own test
    candidates = neighbours.astype(np.float64)
    distances = np.abs(candidates - value.astype(np.float64))
    even = int(patterns[1] % 2 == 0)
    expected = candidates[even if distances[0] == distances[1] else int(np.argmin(distances))]
    assert round_trip(value, Choice(name="bf16"))[0] == expected


def test_int8_errs_by_half_a_step_and_rounds_ties_to_even() -> None:
    values = np.float32([127, 0.5, 1.5, 2.5, -0.5, -1.5])
    got = round_trip(values, Choice(name="int8"))
    assert got.tolist() == [127, 0, 2, 2, 0, -2]
    assert 0.5 <= codec_of(Choice(name="int8")).error_bound(values) < 0.51


@pytest.mark.parametrize(
    ("name", "largest", "beyond"),
    [
        ("f16", 65504.0, 65520.0),
        ("bf16", float.fromhex("0x1.FEp127"), float.fromhex("0x1.FFp127")),
        ("int4", 3.4e38, float("inf")),
        ("int8", 3.4e38, float("inf")),
    ],
)
def test_what_cannot_be_carried_is_an_error_and_not_an_infinity(
    name: str, largest: float, beyond: float
) -> None:
    edge = np.array([0.0, largest, -largest], dtype=np.float32)
    assert np.isfinite(round_trip(edge, Choice(name=name))).all()
    for bad in (beyond, -beyond, np.inf, np.nan):
        with pytest.raises(UpdateError, match="fc: 1 values") as caught:
            codec_of(Choice(name=name)).encode({"fc": np.float32([1, bad])}, note={})
        assert caught.value.refusal is Refusal.NOT_FINITE


@pytest.mark.parametrize("name", ["f32", "sparse"])
def test_exact_codecs_leave_nan_and_infinity_to_admission(name: str) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0, 1], dtype=np.float32)
    np.testing.assert_array_equal(round_trip(values, Choice(name=name)), values)


@given(values=tensors(small), fraction=st.floats(0.01, 1))
def test_sparse_sends_the_largest_and_nothing_else(values: np.ndarray, fraction: float) -> None:
    got = round_trip(values, Choice(name="sparse", options={"fraction": fraction}))
    kept = got != 0
    np.testing.assert_array_equal(got[kept], values[kept])
    limit = max(1, round(fraction * values.size))
    assert kept.sum() == min(limit, np.count_nonzero(values))
    if kept.any() and not kept.all():
        assert np.abs(values[~kept]).max() <= np.abs(values[kept]).min()


def test_sparse_pays_for_what_it_sends() -> None:
    few = np.zeros((100, 100), dtype=np.float32)
    few[::10, ::10] = 1
    blob = codec_of(Choice(name="sparse")).encode({"w": few}, note={})
    assert len(blob) - 8 - int.from_bytes(blob[:8], "little") == 8 * np.count_nonzero(few)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_sparse_refuses_an_impossible_fraction(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction must lie in"):
        codec_of(Choice(name="sparse", options={"fraction": fraction}))


@pytest.mark.parametrize(
    ("index", "refusal"),
    [
        ([0, 0], Refusal.WRONG_SHAPE),  # one place twice
        ([5, 2], Refusal.WRONG_SHAPE),  # not ascending
        ([0, 6], Refusal.WRONG_SHAPE),  # one past the end
        ([0, 2**32 - 1], Refusal.WRONG_SHAPE),
        ([0], Refusal.WRONG_SHAPE),  # fewer places than values
        ([0, 1, 2], Refusal.WRONG_SHAPE),
    ],
)
def test_sparse_refuses_hostile_places(index: list[int], refusal: Refusal) -> None:
    parts = {"w": np.float32([1, 2]), "w:index": np.array(index, dtype=np.uint32)}
    with pytest.raises(UpdateError) as caught:
        codec_of(Choice(name="sparse")).decode(
            pack(parts, note={"codec": "sparse"}), schema={"w": (2, 3)}
        )
    assert caught.value.refusal is refusal


def test_sparse_refuses_more_values_than_the_tensor_has() -> None:
    parts = {"w": np.ones(7, np.float32), "w:index": np.arange(7, dtype=np.uint32)}
    with pytest.raises(UpdateError) as caught:
        codec_of(Choice(name="sparse")).decode(
            pack(parts, note={"codec": "sparse"}), schema={"w": (2, 3)}
        )
    assert caught.value.refusal is Refusal.WRONG_SHAPE


def test_int4_rounds_to_its_fifteen_levels_and_packs_two_to_a_byte() -> None:
    values = np.float32([7, 0.5, 1.5, -2.5, -7])
    assert round_trip(values, Choice(name="int4")).tolist() == [7, 0, 2, -2, -7]
    codec = codec_of(Choice(name="int4"))
    assert codec.payload_bytes({"w": (5,), "b": (4,)}) == 3 + 4 + 2 + 4


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, -np.inf, np.nan])
def test_int8_and_int4_refuse_a_hostile_scale(scale: float) -> None:
    for name, steps in (("int8", np.ones(3, np.int8)), ("int4", np.ones(2, np.uint8))):
        parts = {"w": steps, "w:scale": np.array(scale, dtype=np.float32)}
        with pytest.raises(UpdateError, match="w:scale") as caught:
            codec_of(Choice(name=name)).decode(
                pack(parts, note={"codec": name}), schema={"w": (3,)}
            )
        assert caught.value.refusal is Refusal.NOT_FINITE


def test_int8_hands_an_overflowing_product_to_admission() -> None:
    parts = {"w": np.int8([-128]), "w:scale": np.array(3e38, dtype=np.float32)}
    got, _ = codec_of(Choice(name="int8")).decode(
        pack(parts, note={"codec": "int8"}), schema={"w": (1,)}
    )
    assert got["w"][0] == -np.inf


# --- bytes that nobody's encoder made -----------------------------------------------------------

SCHEMA = {"a": (4,), "b": (2, 3)}


def raw(header: Any, body: bytes = b"", *, claim: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claim is None else claim).to_bytes(8, "little") + text + body


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


META = {"__metadata__": {"leakwatt": '{"codec":"f32"}'}}
A, B = entry([4], 0, 16), entry([2, 3], 16, 40)
FORTY = bytes(40)


def test_the_hand_made_header_is_a_good_one() -> None:
    got, _ = codec_of(Choice(name="f32")).decode(
        raw({**META, "a": A, "b": B}, FORTY), schema=SCHEMA
    )
    assert schema_of(got) == SCHEMA


HOSTILE = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "zeros": bytes(64),
    "header larger than the blob": raw({**META, "a": A, "b": B}, FORTY, claim=10**6),
    "header of 2^63 bytes": raw({**META, "a": A, "b": B}, FORTY, claim=2**63),
    "header cut": raw({**META, "a": A, "b": B}, FORTY, claim=20),
    "not JSON": raw(b"\x80\x04\x95pickle", FORTY),
    "not UTF-8": raw(b'{"\xff": 1}', FORTY),
    "a list": raw([META], FORTY),
    "deep nesting": raw(b"[" * 50_000, FORTY),
    "no note": raw({"a": A, "b": B}, FORTY),
    "note is no JSON": raw({"__metadata__": {"leakwatt": "{"}, "a": A, "b": B}, FORTY),
    "note is a list": raw({"__metadata__": {"leakwatt": "[]"}, "a": A, "b": B}, FORTY),
    "note is a number": raw({"__metadata__": {"leakwatt": 5}, "a": A, "b": B}, FORTY),
    "overlapping offsets": raw({**META, "a": A, "b": entry([2, 3], 8, 32)}, FORTY),
    "a hole": raw({**META, "a": A, "b": entry([2, 3], 20, 44)}, bytes(44)),
    "bytes at the end": raw({**META, "a": A, "b": B}, bytes(48)),
    "bytes missing": raw({**META, "a": A, "b": B}, bytes(39)),
    "offsets beyond": raw({**META, "a": A, "b": entry([2, 3], 16, 2**60)}, FORTY),
    "offsets backwards": raw({**META, "a": A, "b": entry([2, 3], 40, 16)}, FORTY),
    "negative offset": raw({**META, "a": entry([4], -16, 0), "b": B}, FORTY),
    "huge shape": raw({**META, "a": A, "b": entry([2**62, 4], 16, 40)}, FORTY),
    "negative shape": raw({**META, "a": A, "b": entry([-2, -3], 16, 40)}, FORTY),
    "shape of no size": raw({**META, "a": A, "b": entry([0, 2**63], 16, 16)}, bytes(16)),
    "seventy axes": raw({**META, "a": A, "b": entry([1] * 69 + [6], 16, 40)}, FORTY),
    "unknown dtype": raw({**META, "a": A, "b": entry([2, 3], 16, 40, "OBJECT")}, FORTY),
    "bfloat16 proper": raw({**META, "a": A, "b": entry([2, 6], 16, 40, "BF16")}, FORTY),
    "float64": raw({**META, "a": A, "b": entry([3], 16, 40, "F64")}, FORTY),
    "a name of 500 kB": raw({**META, "a": A, "b" * 500_000: B}, FORTY),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers_are_refused_in_one_line(kind: str) -> None:
    with pytest.raises(UpdateError) as caught:
        codec_of(Choice(name="f32")).decode(HOSTILE[kind], schema=SCHEMA)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@every_codec
@given(data=st.data())
def test_flipped_and_cut_bytes_raise_nothing_but_update_errors(name: str, data: Any) -> None:
    rng = stream(0, "fuzz")
    sent = {n: rng.normal(size=s).astype(np.float32) for n, s in SCHEMA.items()}
    codec = codec_of(Choice(name=name))
    blob = bytearray(codec.encode(sent, note={"kind": "gradient"}))
    places = st.integers(0, len(blob) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(places)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(blob)), places))
    try:
        got, _ = codec.decode(bytes(blob[:cut]), schema=SCHEMA)
    except UpdateError:
        return
    assert schema_of(got) == SCHEMA  # what passes has the plan's names and shapes


@every_codec
@given(blob=st.binary(max_size=200))
def test_noise_is_refused(name: str, blob: bytes) -> None:
    with pytest.raises(UpdateError):
        codec_of(Choice(name=name)).decode(blob, schema=SCHEMA)


@given(
    note=st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9), st.floats(0, 1)),
        max_size=4,
    )
)
def test_the_note_travels_unchanged(note: dict[str, Any]) -> None:
    _, got = unpack(codec_of(Choice(name="f32")).encode({"w": np.zeros(1)}, note=note))
    assert got == {**note, "codec": "f32"}
