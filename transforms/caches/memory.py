"""Vectors in this process: bounded in bytes, least recently used first out, shared by all DoFns and threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from transforms.caches.base import CacheScope, Dtype, Vector, decode, encode

ENTRY_OVERHEAD_BYTES = 512
"""Of the objects around an entry's floats, and the dictionary's slot (measured: about 430)."""

Entry = tuple[bytes, datetime]
"""As encoded, and when it expires."""


class MemoryCache:
    """Implements `base.VectorCache`; thread-safe.

    Args:
        max_bytes: of entries with all that is around them.
        ttl: how long a vector is kept after it was put.
        clock: gives the time, UTC.
    """

    def __init__(self, max_bytes: int, ttl: timedelta, dtype: Dtype, clock: Callable[[], datetime]) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._dtype = dtype
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[CacheScope, bytes], Entry] = OrderedDict()
        self._bytes = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes taken by entries now."""
        return self._bytes

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        now = self._clock()
        found: dict[bytes, bytes] = {}
        with self._lock:
            for key in keys:
                entry = self._entries.get((scope, key))
                if entry is None:
                    continue
                if entry[1] <= now:
                    self._remove((scope, key))
                else:
                    self._entries.move_to_end((scope, key))
                    found[key] = entry[0]
        return decode(scope, found, self._dtype)

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        expires_at = self._clock() + self._ttl
        entries = encode(scope, vectors, self._dtype)
        with self._lock:
            for key, values in entries.items():
                self._remove((scope, key))
                self._entries[scope, key] = (values, expires_at)
                self._bytes += len(values) + ENTRY_OVERHEAD_BYTES
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def _remove(self, key: tuple[CacheScope, bytes]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry[0]) + ENTRY_OVERHEAD_BYTES

    def close(self) -> None:
        """Nothing: others of this process go on using it."""


_lock = threading.Lock()
_shared: dict[tuple[int, timedelta, Dtype], MemoryCache] = {}


def shared_memory_cache(
    max_bytes: int, ttl: timedelta, dtype: Dtype, clock: Callable[[], datetime]
) -> MemoryCache:
    """The cache of this process for these settings; the same object for every caller."""
    with _lock:
        return _shared.setdefault((max_bytes, ttl, dtype), MemoryCache(max_bytes, ttl, dtype, clock))


def forget_shared() -> None:
    """Let go of all shared caches; also in a forked child, where a lock may be held by a thread it does not have."""
    global _lock
    _lock = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=forget_shared)
