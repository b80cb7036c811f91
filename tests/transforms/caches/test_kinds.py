"""Every kind of cache keeps the same promises, on real servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import redis

from transforms.caches.base import CacheScope, Dtype, Vector, VectorCache
from transforms.caches.memory import MemoryCache
from transforms.caches.postgres import PostgresCache
from transforms.caches.redis import RedisCache, connect
from transforms.postgres import Store

SCOPE = CacheScope("acme", "0123456789abcdef", 8)
START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(days=30)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Kind:
    """One kind: makes a cache, damages what is stored."""

    make: Callable[[Dtype], VectorCache]
    damage: Callable[[Callable[[bytes], bytes]], None]
    clock: Clock


def _memory(clock: Clock) -> Iterator[Kind]:
    caches: dict[Dtype, MemoryCache] = {}

    def make(dtype: Dtype) -> MemoryCache:
        return caches.setdefault(dtype, MemoryCache(2**20, TTL, dtype, clock))

    def damage(change: Callable[[bytes], bytes]) -> None:
        for cache in caches.values():
            for place, (entry, expires_at) in cache._entries.items():
                cache._entries[place] = (change(entry), expires_at)

    yield Kind(make, damage, clock)


def _postgres(clock: Clock, database: Store) -> Iterator[Kind]:
    caches: list[PostgresCache] = []

    def make(dtype: Dtype) -> PostgresCache:
        caches.append(PostgresCache(database, 2**20, TTL, dtype, clock))
        return caches[-1]

    def damage(change: Callable[[bytes], bytes]) -> None:
        with database.connect() as connection:
            for key, entry in connection.execute("SELECT key, vector FROM embedding_cache").fetchall():
                connection.execute(
                    "UPDATE embedding_cache SET vector = %s WHERE key = %s", [change(bytes(entry)), key]
                )

    yield Kind(make, damage, clock)
    for cache in caches:
        cache.close()


def _redis(clock: Clock, url: str) -> Iterator[Kind]:
    client = connect(url)
    client.flushdb()

    def damage(change: Callable[[bytes], bytes]) -> None:
        for name in client.scan_iter():
            value = client.get(name)
            assert isinstance(value, bytes)
            client.set(name, change(value), keepttl=True)

    yield Kind(lambda dtype: RedisCache(client, TTL, dtype), damage, clock)
    client.close()


@pytest.fixture(params=["memory", "postgres", "redis"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    clock = Clock()
    match request.param:
        case "memory":
            yield from _memory(clock)
        case "postgres":
            yield from _postgres(clock, request.getfixturevalue("database"))
        case _:
            yield from _redis(clock, request.getfixturevalue("redis_url"))


def some(n: int, first: int = 0) -> dict[bytes, Vector]:
    """`n` unit vectors that differ, by key."""
    raw = np.random.default_rng(first).normal(size=(n, 8))
    unit = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return {(first + row).to_bytes(16, "big"): vector for row, vector in enumerate(unit)}


def same(a: dict[bytes, Vector], b: dict[bytes, Vector], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(np.abs(a[key] - b[key]).max() <= tolerance for key in a)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_what_was_put_is_found_and_nothing_else(kind: Kind, dtype: Dtype, tolerance: float) -> None:
    vectors = some(1500)
    kind.make(dtype).put_many(SCOPE, vectors)
    cache = kind.make(dtype)
    unknown = list(some(20, first=9000))
    assert same(cache.get_many(SCOPE, [*unknown, *reversed(vectors)]), vectors, tolerance)
    assert cache.get_many(SCOPE, []) == {}
    assert cache.get_many(SCOPE, unknown) == {}
    cache.put_many(SCOPE, {})


def test_the_owner_of_a_connection_that_was_closed_gets_another(kind: Kind) -> None:
    cache = kind.make("float32")
    cache.put_many(SCOPE, some(3))
    cache.close()
    assert same(cache.get_many(SCOPE, list(some(3))), some(3))


@pytest.mark.parametrize(
    "other",
    [
        replace(SCOPE, client="globex"),
        replace(SCOPE, space_id="f" * 16),
        replace(SCOPE, dimensions=4),
        replace(SCOPE, dimensions=16),
    ],
)
def test_no_vector_leaves_its_client_or_its_space(kind: Kind, other: CacheScope) -> None:
    cache = kind.make("float32")
    vectors = some(5)
    cache.put_many(SCOPE, vectors)
    assert cache.get_many(other, list(vectors)) == {}
    cache.put_many(other, some(5))  # of the wrong length for two of them: left out
    assert same(cache.get_many(SCOPE, list(vectors)), vectors)


def test_the_last_vector_put_under_a_key_is_found(kind: Kind) -> None:
    cache = kind.make("float32")
    (key,), other = some(1), next(iter(some(1, first=5).values()))
    cache.put_many(SCOPE, some(1))
    cache.put_many(SCOPE, {key: other})
    assert same(cache.get_many(SCOPE, [key]), {key: other})


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda entry: bytes([entry[0] ^ 1]) + entry[1:],
    "cut": lambda entry: entry[:-1],
    "emptied": lambda entry: b"",
    "not finite": lambda entry: b"\xff" * len(entry),
    "too long": lambda entry: entry + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_a_miss_until_it_is_put_again(
    kind: Kind, damage: Callable[[bytes], bytes]
) -> None:
    cache = kind.make("float32")
    vectors = some(4)
    cache.put_many(SCOPE, vectors)
    kind.damage(damage)
    assert cache.get_many(SCOPE, list(vectors)) == {}
    cache.put_many(SCOPE, vectors)
    assert same(cache.get_many(SCOPE, list(vectors)), vectors)


def test_a_vector_is_forgotten_at_the_end_of_its_time_and_not_before(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    cache = kind.make("float32")
    vectors = some(4)
    cache.put_many(SCOPE, vectors)
    if isinstance(cache, RedisCache):  # its server keeps the time
        client: redis.Redis = connect(request.getfixturevalue("redis_url"))
        lives: list[Any] = [client.ttl(name) for name in client.scan_iter()]
        client.close()
        assert len(lives) == 4
        assert all(TTL.total_seconds() - 60 < life <= TTL.total_seconds() for life in lives)
        return
    kind.clock.now += TTL - timedelta(seconds=1)
    assert same(cache.get_many(SCOPE, list(vectors)), vectors)
    kind.clock.now += timedelta(seconds=1)  # being used does not prolong it
    assert cache.get_many(SCOPE, list(vectors)) == {}
    cache.put_many(SCOPE, vectors)
    assert same(cache.get_many(SCOPE, list(vectors)), vectors)


def test_many_that_read_and_write_at_once_see_only_right_vectors(kind: Kind) -> None:
    vectors = some(300)
    keys = list(vectors)
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            cache = kind.make("float32")
            for turn in range(8):
                chosen = keys[first + turn :: 3] + keys[: first + turn : 3]
                cache.put_many(SCOPE, {key: vectors[key] for key in chosen})
                found = cache.get_many(SCOPE, keys)
                assert same(found, {key: vectors[key] for key in found})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert same(kind.make("float32").get_many(SCOPE, keys), vectors)
