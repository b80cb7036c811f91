"""An entry is the vector that was put under its scope and key, or it is a miss."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from transforms.caches.base import (
    RETRY_AFTER_S,
    CacheScope,
    Dtype,
    Guarded,
    NoCache,
    Vector,
    decode,
    encode,
    input_key,
)

DIMENSIONS = 8
SCOPE = CacheScope("acme", "0123456789abcdef", DIMENSIONS)
KEY, OTHER = b"k" * 16, b"o" * 16

dtypes = st.sampled_from(("float32", "float16"))
raw_vectors = arrays.arrays(np.float32, DIMENSIONS, elements=st.floats(-1, 1, width=32))


def unit(vector: Vector) -> Vector:
    norm = np.linalg.norm(vector.astype(np.float64))
    assume(norm > 1e-3)
    return (vector / norm).astype(np.float32)


def cosine(a: Vector, b: Vector) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@given(raw_vectors)
def test_float32_comes_back_bit_for_bit(vector: Vector) -> None:
    vector = unit(vector)
    np.testing.assert_array_equal(
        decode(SCOPE, encode(SCOPE, {KEY: vector}, "float32"), "float32")[KEY], vector
    )


@given(raw_vectors)
def test_float16_keeps_the_direction(vector: Vector) -> None:
    vector = unit(vector)
    found = decode(SCOPE, encode(SCOPE, {KEY: vector}, "float16"), "float16")[KEY]
    assert found.dtype == np.float32
    assert cosine(found, vector) >= 0.99999


def test_float16_keeps_the_direction_in_384_dimensions_at_half_the_bytes() -> None:
    scope = replace(SCOPE, dimensions=384)
    vectors = np.random.default_rng(7).normal(size=(500, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given_vectors = {n.to_bytes(16, "big"): vector for n, vector in enumerate(vectors)}
    halves, wholes = encode(scope, given_vectors, "float16"), encode(scope, given_vectors, "float32")
    found = decode(scope, halves, "float16")
    assert min(cosine(found[key], vector) for key, vector in given_vectors.items()) >= 0.999999
    assert len(halves[bytes(16)]) == 384 * 2 + 4
    assert len(wholes[bytes(16)]) == 384 * 4 + 4


@given(st.floats(1e-9, 1e9), raw_vectors)
def test_float16_leaves_out_what_it_cannot_hold_rather_than_bend_it(scale: float, vector: Vector) -> None:
    scaled = (unit(vector) * np.float32(scale)).astype(np.float32)
    for found in decode(SCOPE, encode(SCOPE, {KEY: scaled}, "float16"), "float16").values():
        assert cosine(found, scaled) >= 0.99999


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_not_finite_zero_or_of_another_length_is_not_kept(bad: float, dtype: Dtype) -> None:
    good = np.ones(DIMENSIONS, np.float32)
    broken = good.copy()
    broken[3] = bad
    vectors = {KEY: good, OTHER: broken, b"z" * 16: np.zeros_like(good), b"s" * 16: good[:-1]}
    assert encode(SCOPE, vectors, dtype).keys() == {KEY}


@given(raw_vectors, dtypes, st.data())
def test_a_damaged_entry_is_a_miss(vector: Vector, dtype: Dtype, data: st.DataObject) -> None:
    entry = encode(SCOPE, {KEY: unit(vector)}, dtype)[KEY]
    start = data.draw(st.integers(0, len(entry) - 1))
    burst = data.draw(st.binary(min_size=1, max_size=4).filter(any))
    damaged = bytearray(entry)
    for place, byte in enumerate(burst[: len(entry) - start], start):
        damaged[place] ^= byte
    assume(bytes(damaged) != entry)
    assert decode(SCOPE, {KEY: bytes(damaged)}, dtype) == {}
    assert decode(SCOPE, {KEY: entry[:start]}, dtype) == {}
    assert decode(SCOPE, {KEY: entry + burst}, dtype) == {}


@given(st.binary(max_size=100), dtypes)
def test_bytes_of_any_kind_give_finite_vectors_or_none(entry: bytes, dtype: Dtype) -> None:
    for vector in decode(SCOPE, {KEY: entry}, dtype).values():
        assert vector.shape == (DIMENSIONS,)
        assert np.isfinite(vector).all()


@pytest.mark.parametrize(
    "other",
    [
        replace(SCOPE, client="globex"),
        replace(SCOPE, space_id="fedcba9876543210"),
        replace(SCOPE, dimensions=DIMENSIONS // 2),
        replace(SCOPE, dimensions=DIMENSIONS * 2),
    ],
)
def test_an_entry_that_strayed_into_another_scope_is_a_miss(other: CacheScope) -> None:
    entries = encode(SCOPE, {KEY: np.ones(DIMENSIONS, np.float32)}, "float32")
    assert decode(SCOPE, entries, "float32").keys() == {KEY}
    assert decode(other, entries, "float32") == {}
    assert decode(other, entries, "float16") == {}
    assert decode(SCOPE, {OTHER: entries[KEY]}, "float32") == {}


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1), st.lists(st.integers(0, 2**31 - 1), min_size=1))
def test_inputs_have_one_key_exactly_when_their_token_ids_are_equal(a: list[int], b: list[int]) -> None:
    assert (input_key(np.array(a, np.int32)) == input_key(np.array(b, np.int32))) == (a == b)
    assert input_key(np.array(a, np.int32)) == input_key(np.array(a + b, np.int32)[: len(a)])


class Broken(NoCache):
    calls = 0

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        self.calls += 1
        raise ConnectionError("nobody home\nsecond line")

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        self.get_many(scope, [])

    def close(self) -> None:
        raise ConnectionError("nobody home")


def test_a_broken_cache_is_logged_once_and_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    inner = Broken()
    cache = Guarded(inner, "redis", lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            assert cache.get_many(SCOPE, [KEY]) == {}
            cache.put_many(SCOPE, {KEY: np.ones(DIMENSIONS, np.float32)})
        assert inner.calls == 1
        now[0] += RETRY_AFTER_S
        cache.get_many(SCOPE, [KEY])
        assert inner.calls == 2
        cache.close()
    assert caplog.messages == ["embedding cache (redis) is bypassed: ConnectionError: nobody home"]


def test_a_cache_that_comes_back_is_used_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    inner = Broken()
    cache = Guarded(inner, "redis", lambda: now[0])
    cache.get_many(SCOPE, [KEY])
    caplog.clear()
    vector = np.ones(DIMENSIONS, np.float32)
    monkeypatch.setattr(inner, "get_many", lambda scope, keys: dict.fromkeys(keys, vector))
    assert cache.get_many(SCOPE, [KEY]) == {}
    now[0] += RETRY_AFTER_S
    with caplog.at_level(logging.INFO):
        assert cache.get_many(SCOPE, [KEY]).keys() == {KEY}
        assert cache.get_many(SCOPE, [KEY, OTHER]).keys() == {KEY, OTHER}
    assert caplog.messages == ["embedding cache (redis) answers again"]
