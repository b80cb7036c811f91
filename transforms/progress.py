"""Live counters of this process, for a progress bar while a local pipeline runs.

Beam's metrics can be read only after a bounded pipeline has ended. On a cluster the counters stay in the workers
and are simply not looked at; nothing but the display depends on them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Work done so far: documents with a final outcome, chunks and tokens embedded.

    Args:
        engine_s: seconds the engine was at work.
        wait_s: of them, seconds the steps around it could do nothing but wait.
        chunk_s: seconds of tokenizing and cutting, most of them while the engine is at work.
    """

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    engine_s: float = 0.0
    wait_s: float = 0.0
    chunk_s: float = 0.0

    def since(self, earlier: Counts) -> Counts:
        """What happened between two readings."""
        return Counts(
            self.documents - earlier.documents,
            self.chunks - earlier.chunks,
            self.tokens - earlier.tokens,
            self.engine_s - earlier.engine_s,
            self.wait_s - earlier.wait_s,
            self.chunk_s - earlier.chunk_s,
        )


_lock = threading.Lock()
_counts = Counts()


def add(
    documents: int = 0,
    chunks: int = 0,
    tokens: int = 0,
    engine_s: float = 0.0,
    wait_s: float = 0.0,
    chunk_s: float = 0.0,
) -> None:
    """Add to the counters."""
    global _counts
    with _lock:
        _counts = Counts(
            _counts.documents + documents,
            _counts.chunks + chunks,
            _counts.tokens + tokens,
            _counts.engine_s + engine_s,
            _counts.wait_s + wait_s,
            _counts.chunk_s + chunk_s,
        )


def current() -> Counts:
    """The counters now; subtract an earlier reading to get what happened since."""
    return _counts
