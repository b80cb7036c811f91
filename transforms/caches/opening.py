"""Which cache the configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from schemas.config import Cache
from schemas.errors import BadConfig
from schemas.sections import resolve_secret
from transforms.caches.base import Guarded, NoCache, VectorCache
from transforms.caches.memory import shared_memory_cache
from transforms.caches.postgres import PostgresCache
from transforms.postgres import Store


def open_cache(settings: Cache, store: Store, clock: Callable[[], datetime]) -> VectorCache:
    """The configured cache; one that lies outside this process never fails a run, it is bypassed.

    Args:
        store: whose database holds the table of `kind = "postgres"`.
        clock: gives the time, UTC.
    Raises:
        BadConfig: `cache.url` leads nowhere or is no Redis URL, or the package `redis` is not installed.
    """
    ttl, max_bytes = timedelta(days=settings.ttl_days), settings.max_mib * 2**20
    match settings.kind:
        case "none":
            return NoCache()
        case "memory":
            return shared_memory_cache(max_bytes, ttl, settings.dtype, clock)
        case "postgres":
            return Guarded(PostgresCache(store, max_bytes, ttl, settings.dtype, clock), settings.kind)
        case "redis":
            return Guarded(_redis_cache(settings, ttl), settings.kind)


def _redis_cache(settings: Cache, ttl: timedelta) -> VectorCache:
    try:
        from transforms.caches.redis import RedisCache, connect
    except ImportError:
        raise BadConfig(
            'cache.kind: "redis" needs the package redis: pip install "headrace[redis]", or choose another kind'
        ) from None
    return RedisCache(connect(resolve_secret(settings.url or "", "cache.url")), ttl, settings.dtype)
