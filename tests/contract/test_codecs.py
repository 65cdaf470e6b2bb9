"""What every registered codec promises, whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.codecs.base import CODECS, codec_of
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.tensors import pack, schema_of, unpack

pytestmark = pytest.mark.parametrize("name", CODECS.names())

NOTE = {"kind": "gradient", "n_examples": 8, "plan_digest": "ab" * 32}


def update(seed: int = 0) -> dict[str, np.ndarray]:
    rng = stream(seed, "codec test")
    shapes = {"fc.weight": (10, 7), "fc.bias": (10,), "conv": (3, 2, 5, 5), "gain": (), "no": (0,)}
    return {n: np.asarray(rng.normal(0, 0.1, s), dtype=np.float32) for n, s in shapes.items()}


def header_bytes(blob: bytes) -> int:
    return 8 + int.from_bytes(blob[:8], "little")


def test_round_trip_stays_within_the_stated_error(name: str) -> None:
    codec, sent = codec_of(Choice(name=name)), update()
    got, note = codec.decode(codec.encode(sent, note=NOTE), schema=schema_of(sent))
    assert list(got) == list(sent)
    assert note == {**NOTE, "codec": name}
    for key, values in sent.items():
        assert isinstance(got[key], np.ndarray)
        assert got[key].dtype == np.float32
        assert got[key].shape == values.shape
        error = np.max(np.abs(got[key] - values), initial=0.0)
        assert error <= codec.error_bound(values)


def test_size_is_as_promised(name: str) -> None:
    codec, sent = codec_of(Choice(name=name)), update()
    promised = codec.payload_bytes(schema_of(sent))
    if promised is None:
        pytest.skip("the size depends on the values")
    blob = codec.encode(sent, note=NOTE)
    assert len(blob) - header_bytes(blob) == promised


def test_equal_arguments_give_equal_bytes(name: str) -> None:
    codec = codec_of(Choice(name=name))
    assert codec.encode(update(), note=NOTE) == codec.encode(update(), note=NOTE)
    assert codec.encode(update(), note=NOTE) != codec.encode(update(1), note=NOTE)


def test_encoding_again_what_was_decoded_loses_nothing_more(name: str) -> None:
    codec, sent = codec_of(Choice(name=name)), update()
    once, _ = codec.decode(codec.encode(sent, note=NOTE), schema=schema_of(sent))
    twice, _ = codec.decode(codec.encode(once, note=NOTE), schema=schema_of(sent))
    for key, values in once.items():
        np.testing.assert_array_equal(twice[key], values)


def test_layout_in_memory_does_not_matter(name: str) -> None:
    codec = codec_of(Choice(name=name))
    straight = {"w": update()["fc.weight"]}
    strided = {"w": np.asfortranarray(straight["w"])}
    assert codec.encode(straight, note=NOTE) == codec.encode(strided, note=NOTE)


def test_arguments_are_left_alone(name: str) -> None:
    codec, sent = codec_of(Choice(name=name)), update()
    for tensor in sent.values():
        tensor.flags.writeable = False
    codec.encode(sent, note=NOTE)


def test_a_separator_in_a_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a:b"):
        codec_of(Choice(name=name)).encode({"a:b": np.zeros(1, np.float32)}, note=NOTE)


def refused(name: str, blob: bytes, *, schema: dict[str, tuple[int, ...]]) -> Refusal:
    with pytest.raises(UpdateError) as caught:
        codec_of(Choice(name=name)).decode(blob, schema=schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value.refusal


def test_another_codecs_blob_is_refused(name: str) -> None:
    sent = update()
    for other in set(CODECS.names()) - {name}:
        blob = codec_of(Choice(name=other)).encode(sent, note=NOTE)
        assert refused(name, blob, schema=schema_of(sent)) is Refusal.WRONG_CODEC
    blob = pack(sent, note={"codec": ["f32"] * 1000})
    assert refused(name, blob, schema=schema_of(sent)) is Refusal.WRONG_CODEC


def test_names_must_be_the_schemas(name: str) -> None:
    sent = update()
    blob = codec_of(Choice(name=name)).encode(sent, note=NOTE)
    schema = schema_of(sent)
    fewer = {k: s for k, s in schema.items() if k != "conv"}
    assert refused(name, blob, schema=fewer) is Refusal.EXTRA_TENSOR
    more = {**schema, "fc2.bias": (1,)}
    assert refused(name, blob, schema=more) is Refusal.MISSING_TENSOR
    parts, note = unpack(blob)
    for part in parts:
        rest = {k: v for k, v in parts.items() if k != part}
        assert refused(name, pack(rest, note=note), schema=schema) is Refusal.MISSING_TENSOR


def test_shapes_are_never_broadcast(name: str) -> None:
    sent = {"w": update()["fc.weight"]}
    parts, note = unpack(codec_of(Choice(name=name)).encode(sent, note=NOTE))
    for key, part in parts.items():
        flat = part.reshape(-1)
        shapes = ((), (1,), (1, *part.shape), (*part.shape, 1), (0,), (*part.shape[::-1], 2))
        for shape in set(shapes) - {part.shape}:
            blob = pack({**parts, key: np.resize(flat, shape)}, note=note)
            assert refused(name, blob, schema={"w": (10, 7)}) is Refusal.WRONG_SHAPE, (key, shape)


def test_every_part_has_one_dtype(name: str) -> None:
    sent = {"w": update()["fc.weight"]}
    parts, note = unpack(codec_of(Choice(name=name)).encode(sent, note=NOTE))
    for key, part in parts.items():
        for dtype in (np.float64, np.float32, np.float16, np.int8, np.uint16, np.uint32, np.bool_):
            if dtype != part.dtype:
                blob = pack({**parts, key: np.ones(part.shape, dtype)}, note=note)
                assert refused(name, blob, schema={"w": (10, 7)}) is Refusal.WRONG_DTYPE


def test_unknown_options_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"codec '{name}': unknown key 'colour'"):
        codec_of(Choice(name=name, options={"colour": 1}))
