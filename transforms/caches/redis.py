"""Vectors in Redis (or Valkey), for many workers. How much it keeps is the server's `maxmemory` and policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from schemas.errors import BadConfig
from transforms.caches.base import CacheScope, Dtype, Vector, decode, encode

TIMEOUT_S = 2.0
"""To connect, and for an answer; beyond it, computing the vectors again is cheaper than waiting for them."""

KEYS_AT_ONCE = 512
"""Of one MGET; a server does nothing else while it answers one."""


def connect(url: str) -> Redis:
    """A client for `url`; connects when it is first used.

    Raises:
        BadConfig: `url` is none of Redis; it may hold a password and is not repeated.
    """
    try:
        return Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),
            decode_responses=False,
        )
    except ValueError:
        raise BadConfig(
            "cache.url: what it refers to is no Redis URL: expected redis://user:password@host:6379/0, rediss://..."
            " or unix://..."
        ) from None


class RedisCache:
    """Implements `base.VectorCache`.

    Args:
        ttl: how long a vector is kept after it was put, by the server's clock.
    """

    def __init__(self, client: Redis, ttl: timedelta, dtype: Dtype) -> None:
        self._client = client
        self._ttl = ttl
        self._dtype = dtype

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        with self._client.pipeline(transaction=False) as pipeline:
            for start in range(0, len(keys), KEYS_AT_ONCE):
                pipeline.mget([_name(scope, key) for key in keys[start : start + KEYS_AT_ONCE]])
            answers = cast(list[list[bytes | None]], pipeline.execute())
        values = [value for answer in answers for value in answer]
        entries = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        return decode(scope, entries, self._dtype)

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for key, entry in encode(scope, vectors, self._dtype).items():
                pipeline.set(_name(scope, key), entry, ex=self._ttl)
            pipeline.execute()

    def close(self) -> None:
        self._client.close()


def _name(scope: CacheScope, key: bytes) -> str:
    """Space first and key last are of fixed length, so a client's name may hold colons."""
    return f"headrace:{scope.space_id}:{scope.client}:{key.hex()}"
