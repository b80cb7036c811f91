"""A cache stays within its limit, drops what was used least recently, and is never in anyone's way."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import numpy as np
import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.config import Cache
from schemas.errors import BadConfig
from transforms.caches import postgres
from transforms.caches.base import CacheScope, NoCache, Vector
from transforms.caches.memory import MemoryCache
from transforms.caches.opening import open_cache
from transforms.caches.postgres import PostgresCache, prune
from transforms.caches.redis import connect
from transforms.postgres import Store

SCOPE = CacheScope("acme", "0123456789abcdef", 384)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(days=30)
URL = "HEADRACE_TEST_REDIS"


def vectors(*numbers: int) -> dict[bytes, Vector]:
    made = np.random.default_rng(1).normal(size=(max(numbers) + 1, 384)).astype(np.float32)
    return {number.to_bytes(16, "big"): made[number] for number in numbers}


def rows(connection: psycopg.Connection) -> list[int]:
    found = connection.execute("SELECT key FROM embedding_cache ORDER BY key").fetchall()
    return [int.from_bytes(key, "big") for (key,) in found]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=60), st.integers(0, 5))
@example(uses=[(True, 1), (True, 2), (False, 1), (True, 3)], room=2)
def test_memory_holds_what_was_used_last_and_no_more_bytes_than_it_may(
    uses: list[tuple[bool, int]], room: int
) -> None:
    entry_bytes = 384 * 4 + 4 + 512
    cache = MemoryCache(room * entry_bytes, TTL, "float32", lambda: NOW)
    recent: list[int] = []
    for is_put, number in uses:
        if is_put:
            cache.put_many(SCOPE, vectors(number))
        elif number not in recent:
            assert cache.get_many(SCOPE, list(vectors(number))) == {}
            continue
        else:
            assert cache.get_many(SCOPE, list(vectors(number)))
        recent = [*(n for n in recent if n != number), number][-room:] if room else []
        assert cache.stored_bytes == len(recent) * entry_bytes
    assert {int.from_bytes(key, "big") for key in cache.get_many(SCOPE, list(vectors(*range(7))))} == set(
        recent
    )


def test_an_entry_in_memory_takes_no_more_than_it_is_counted_for() -> None:
    import tracemalloc

    cache = MemoryCache(2**30, TTL, "float32", lambda: NOW)
    given_vectors = vectors(*range(2000))
    tracemalloc.start()
    cache.put_many(SCOPE, given_vectors)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    keys_bytes = sum(map(sys.getsizeof, given_vectors))
    assert 0.6 * cache.stored_bytes < grown + keys_bytes <= cache.stored_bytes


def test_a_table_row_is_counted_for_about_what_it_takes(database: Store) -> None:
    cache = PostgresCache(database, 2**30, TTL, "float32", lambda: NOW)
    cache.put_many(SCOPE, vectors(*range(3000)))
    cache.close()
    with database.connect() as connection:
        row = connection.execute(
            "SELECT pg_total_relation_size('embedding_cache')::float8 / sum(size_bytes) FROM embedding_cache"
        ).fetchone()
    assert row
    assert 0.7 < row[0] < 1.4


def test_the_table_shrinks_to_its_limit_least_recently_used_first(database: Store) -> None:
    now = [NOW]
    row_bytes = 384 * 4 + 4 + 256
    cache = PostgresCache(database, 10 * row_bytes, TTL, "float32", lambda: now[0])
    for day in range(14):
        now[0] = NOW + timedelta(days=day)
        cache.put_many(SCOPE, vectors(day))
        cache.get_many(SCOPE, list(vectors(0)))  # used again and again: it stays
    cache.close()
    with database.connect() as connection:
        assert rows(connection) == [0, *range(5, 14)]


def test_expired_rows_are_deleted_in_bounded_statements(
    connection: psycopg.Connection, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PostgresCache(database, 2**30, TTL, "float32", lambda: NOW)
    cache.put_many(SCOPE, vectors(*range(25)))
    cache.close()
    monkeypatch.setattr(postgres, "DELETE_ROWS", 10)
    monkeypatch.setattr(postgres, "MAX_DELETES", 2)
    assert prune(connection, NOW + TTL - timedelta(seconds=1), 2**30) == 0
    assert prune(connection, NOW + TTL, 2**30) == 20
    assert prune(connection, NOW + TTL, 2**30) == 5
    assert rows(connection) == []


def test_rows_that_another_worker_holds_are_passed_over(database: Store) -> None:
    cache = PostgresCache(database, 1, TTL, "float32", lambda: NOW + timedelta(days=2))
    old = PostgresCache(database, 2**30, TTL, "float32", lambda: NOW)
    old.put_many(SCOPE, vectors(1, 2, 3))
    old.close()
    with database.connect() as holder, holder.transaction():
        held = (1).to_bytes(16, "big")
        holder.execute("SELECT 1 FROM embedding_cache WHERE key = %s FOR UPDATE", [held])
        assert len(cache.get_many(SCOPE, list(vectors(1, 2, 3)))) == 3
        cache.put_many(SCOPE, vectors(4))
        with database.connect() as connection:
            assert rows(connection) == [1]
    cache.close()


def test_a_table_that_is_gone_is_bypassed_with_one_line(
    database: Store, connection: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.execute("DROP TABLE embedding_cache")
    cache = open_cache(Cache(kind="postgres"), database, lambda: NOW)
    for _ in range(3):
        assert cache.get_many(SCOPE, list(vectors(1))) == {}
        cache.put_many(SCOPE, vectors(1))
    cache.close()
    (line,) = caplog.messages
    assert line.startswith("embedding cache (postgres) is bypassed: UndefinedTable: ")


def test_a_server_that_died_is_bypassed_with_one_line(
    database: Store, caplog: pytest.LogCaptureFixture
) -> None:
    gone = replace(database, dsn="host=127.0.0.1 port=1 dbname=nobody connect_timeout=2")
    cache = open_cache(Cache(kind="postgres"), gone, lambda: NOW)
    for _ in range(3):
        assert cache.get_many(SCOPE, list(vectors(1))) == {}
        cache.put_many(SCOPE, vectors(1))
    cache.close()
    assert len(caplog.messages) == 1


def test_a_redis_that_does_not_answer_is_bypassed_with_one_line_without_its_password(
    database: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(URL, "redis://:hunter2@127.0.0.1:1/0")
    cache = open_cache(Cache(kind="redis", url=f"env:{URL}"), database, lambda: NOW)
    for _ in range(3):
        assert cache.get_many(SCOPE, list(vectors(1))) == {}
        cache.put_many(SCOPE, vectors(1))
    cache.close()
    (line,) = caplog.messages
    assert line.startswith("embedding cache (redis) is bypassed: ConnectionError: ")
    assert "hunter2" not in line


def test_a_redis_that_refuses_the_password_is_bypassed(
    redis_url: str, database: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(URL, redis_url.replace("s3cret", "hunter2"))
    cache = open_cache(Cache(kind="redis", url=f"env:{URL}"), database, lambda: NOW)
    assert cache.get_many(SCOPE, list(vectors(1))) == {}
    cache.close()
    (line,) = caplog.messages
    assert "is bypassed: AuthenticationError" in line
    assert "hunter2" not in line


def test_the_configured_redis_serves(redis_url: str, database: Store, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(redis_url + "\n", encoding="utf-8")
    settings = Cache(kind="redis", url=f"file:{tmp_path / 'url'}", dtype="float16", ttl_days=1)
    cache = open_cache(settings, database, lambda: NOW)
    cache.put_many(SCOPE, vectors(77))
    assert cache.get_many(SCOPE, list(vectors(77, 78))).keys() == vectors(77).keys()
    cache.close()


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_vectors_are_kept_as_many_days_as_configured(kind: str, database: Store) -> None:
    now = NOW
    cache = open_cache(Cache.model_validate({"kind": kind, "ttl_days": 2}), database, lambda: now)
    cache.put_many(SCOPE, vectors(1))
    for passed, found in ((timedelta(days=2, seconds=-1), 1), (timedelta(days=2), 0)):
        now = NOW + passed
        assert len(cache.get_many(SCOPE, list(vectors(1)))) == found
    cache.close()


def test_redis_keeps_vectors_as_many_days_as_configured(
    redis_url: str, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL, redis_url)
    cache = open_cache(Cache(kind="redis", url=f"env:{URL}", ttl_days=2), database, lambda: NOW)
    cache.put_many(replace(SCOPE, client="two-days"), vectors(1))
    cache.close()
    with connect(redis_url) as client:
        lives = [cast(int, client.ttl(name)) for name in client.scan_iter("*two-days*")]
    assert [round(life / 86_400, 2) for life in lives] == [2.0]


@pytest.mark.parametrize("url", ["http://:hunter2@host/", "hunter2", "redis://h:port/hunter2"])
def test_a_url_that_is_none_of_redis_stops_before_anything_is_done(
    url: str, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL, url)
    with pytest.raises(BadConfig, match=r"cache\.url") as caught:
        open_cache(Cache(kind="redis", url=f"env:{URL}"), database, lambda: NOW)
    assert "hunter2" not in str(caught.value)


def test_without_the_package_redis_the_extra_is_named(
    database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL, "redis://localhost")
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "transforms.caches.redis", raising=False)
    with pytest.raises(BadConfig, match=r"headrace\[redis\]"):
        open_cache(Cache(kind="redis", url=f"env:{URL}"), database, lambda: NOW)


def test_memory_is_one_cache_for_all_of_a_process_and_none_is_none(database: Store) -> None:
    first, second = (open_cache(Cache(), database, lambda: NOW) for _ in range(2))
    first.put_many(SCOPE, vectors(1))
    first.close()
    assert second.get_many(SCOPE, list(vectors(1))).keys() == vectors(1).keys()
    nothing = open_cache(Cache(kind="none"), database, lambda: NOW)
    nothing.put_many(SCOPE, vectors(1))
    assert isinstance(nothing, NoCache)
    assert nothing.get_many(SCOPE, list(vectors(1))) == {}
