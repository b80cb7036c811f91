"""The contract of a cache of vectors, what an entry looks like, and the guard that no broken cache gets past."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from schemas.documents import ModelInput
from schemas.ids import digest

Vector = npt.NDArray[np.float32]
Dtype = Literal["float32", "float16"]

LOWEST_COSINE = 0.99999
"""Of a vector as it is kept to the vector as it was computed; what would fall below is not kept."""

CHECKSUM_BYTES = 4
RETRY_AFTER_S = 60.0
"""A cache that failed is left alone this long."""

_STORED: dict[Dtype, np.dtype[np.floating]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheScope:
    """Whose vectors, and of which space; entries of two scopes never meet.

    Args:
        client: a hit would tell one client that another has the same text, so each has entries of its own.
        space_id: of the `EmbeddingSpace`.
        dimensions: of a vector.
    """

    client: str
    space_id: str
    dimensions: int


class VectorCache(Protocol):
    """Keeps vectors by the digest of the model input they were computed from."""

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Vectors of those `keys` that are known, float32, (dimensions,), all finite."""
        ...

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        """Keep `vectors` by key; what cannot be kept well enough is left out."""
        ...

    def close(self) -> None:
        """Give connections back; the next call makes new ones."""
        ...


def input_key(model_input: ModelInput) -> bytes:
    """Key of a model input, 16 bytes: with the space, the input is all that decides the vector.

    Prefixes and cuts are in it, so that equal keys mean equal inputs, which a digest of the chunk's text would not.
    """
    return digest(model_input.tobytes())


def encode(scope: CacheScope, vectors: Mapping[bytes, Vector], dtype: Dtype) -> dict[bytes, bytes]:
    """Entries to keep: raw little-endian floats, then a CRC-32 over scope, key, dtype and floats.

    A vector of the wrong length, not finite, or too coarse after rounding (`LOWEST_COSINE`) has no entry.
    """
    fitting = {key: vector for key, vector in vectors.items() if vector.shape == (scope.dimensions,)}
    if not fitting:
        return {}
    exact = np.stack(list(fitting.values())).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        stored = exact.astype(_STORED[dtype])
        rounded = stored.astype(np.float64)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
        cosines = np.einsum("nd,nd->n", exact, rounded) / norms
    good = np.isfinite(rounded).all(axis=1) & (cosines >= LOWEST_COSINE)
    return {
        key: _sealed(scope, key, dtype, values.tobytes())
        for key, values, keep in zip(fitting, stored, good, strict=True)
        if keep
    }


def decode(scope: CacheScope, entries: Mapping[bytes, bytes], dtype: Dtype) -> dict[bytes, Vector]:
    """The vectors of `entries`; a damaged entry, or one of another scope, key or `dtype`, is left out: a miss."""
    length = scope.dimensions * _STORED[dtype].itemsize
    found: dict[bytes, Vector] = {}
    for key, entry in entries.items():
        values = entry[:length]
        if len(entry) != length + CHECKSUM_BYTES or _sealed(scope, key, dtype, values) != entry:
            continue
        vector = np.frombuffer(values, _STORED[dtype]).astype(np.float32)
        if np.isfinite(vector).all():
            found[key] = vector
    return found


def _sealed(scope: CacheScope, key: bytes, dtype: Dtype, values: bytes) -> bytes:
    # The dtype too: the float32 of so many dimensions are as long as the float16 of twice as many.
    client = scope.client.encode("utf-8", "surrogatepass")
    owner = digest(client, scope.space_id.encode(), key, dtype.encode())
    return values + zlib.crc32(values, zlib.crc32(owner)).to_bytes(CHECKSUM_BYTES, "little")


class NoCache:
    """Knows nothing and keeps nothing."""

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        return {}

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        return None

    def close(self) -> None:
        return None


class Guarded:
    """A cache that never fails a run: when `inner` does, that is logged in one line and it is bypassed for a while.

    Args:
        name: for the log line.
        monotonic_s: clock in seconds.
    """

    def __init__(
        self, inner: VectorCache, name: str, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._name = name
        self._monotonic_s = monotonic_s
        self._broken = False
        self._retry_at_s = 0.0

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        found: dict[bytes, Vector] = {}
        if keys:
            self._guard(lambda: found.update(self._inner.get_many(scope, keys)))
        return found

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        if vectors:
            self._guard(lambda: self._inner.put_many(scope, vectors))

    def close(self) -> None:
        try:
            self._inner.close()
        except Exception as error:  # whatever a client library raises
            _log.debug("embedding cache (%s) did not close: %s", self._name, error)

    def _guard(self, work: Callable[[], None]) -> None:
        if self._broken and self._monotonic_s() < self._retry_at_s:
            return
        try:
            work()
        except Exception as error:  # whatever a client library raises
            if not self._broken:
                said = (str(error).strip().splitlines() or ["no reason given"])[0]
                _log.warning(
                    "embedding cache (%s) is bypassed: %s: %s", self._name, type(error).__name__, said
                )
            self._broken = True
            self._retry_at_s = self._monotonic_s() + RETRY_AFTER_S
        else:
            if self._broken:
                _log.info("embedding cache (%s) answers again", self._name)
            self._broken = False
