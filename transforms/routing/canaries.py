"""Proof that endpoints serve one embedding space: sentences whose vectors must come out as the space began with them.

Names and dimensions say little: another model of the same size, one that its provider changed in silence, or a
gateway that leaves a prefix out all give vectors that look right and find nothing.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import psycopg

from schemas.errors import CanaryMismatch
from schemas.ids import digest
from transforms.embedders.base import Vectors
from transforms.providers.base import Purpose

SENTENCES = (
    "The pipeline resumes after the last page that was stored.",
    "def retry(attempts: int) -> None: raise TimeoutError('no answer')",
    "Der Zähler läuft über, sobald zwei Prozesse zugleich schreiben.",
    "NullPointerException in SessionFactory.java:118 after upgrade to 4.2",
)
TOKENS = 61
"""Of all sentences, as counted here."""

LOWEST_COSINE = 0.999
"""Between an endpoint's vector and the known one; providers are not deterministic to the last bit."""


def load_canaries(connection: psycopg.Connection, space_id: str, purpose: Purpose) -> Vectors | None:
    """Known vectors of `SENTENCES`, float32, (sentences, dimensions); None where the space has none yet."""
    rows = connection.execute(
        "SELECT sentence, embedding FROM space_canaries WHERE space_id = %s AND purpose = %s",
        [space_id, purpose],
    ).fetchall()
    known: dict[str, list[float]] = dict(rows)
    if not all(sentence in known for sentence in SENTENCES):
        return None
    return np.array([known[sentence] for sentence in SENTENCES], np.float32)


def keep_canaries(
    connection: psycopg.Connection, space_id: str, purpose: Purpose, vectors: Vectors, integration: str
) -> None:
    """What a space begins with, in one transaction; what is known of it already stays."""
    rows = [
        (space_id, purpose, sentence, vector.tolist(), integration)
        for sentence, vector in zip(SENTENCES, vectors, strict=True)
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO space_canaries (space_id, purpose, sentence, embedding, integration)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            rows,
        )


def proven_at(
    connection: psycopg.Connection, space_id: str, purpose: Purpose, endpoint: bytes
) -> datetime | None:
    """When an endpoint last gave the canaries of a space.

    Args:
        endpoint: digest of its configuration, and of who shares the proof.
    """
    found = connection.execute(
        "SELECT proven_at FROM endpoint_proofs WHERE space_id = %s AND purpose = %s AND endpoint = %s",
        [space_id, purpose, endpoint],
    ).fetchone()
    return None if found is None else found[0]


def lock_proof(connection: psycopg.Connection, space_id: str, purpose: Purpose, endpoint: bytes) -> bool:
    """Whether this connection alone may have a proof made now, until `unlock_proof`; does not wait."""
    found = connection.execute(
        "SELECT pg_try_advisory_lock(%s)", [_lock_key(space_id, purpose, endpoint)]
    ).fetchone()
    return found == (True,)


def unlock_proof(connection: psycopg.Connection, space_id: str, purpose: Purpose, endpoint: bytes) -> None:
    """After `lock_proof`."""
    connection.execute("SELECT pg_advisory_unlock(%s)", [_lock_key(space_id, purpose, endpoint)])


def _lock_key(space_id: str, purpose: Purpose, endpoint: bytes) -> int:
    key = digest(b"proof", space_id.encode(), purpose.encode(), endpoint)
    return int.from_bytes(key[:8], "big", signed=True)


def keep_proof(
    connection: psycopg.Connection,
    space_id: str,
    purpose: Purpose,
    endpoint: bytes,
    now: datetime,
    holds_since: datetime,
) -> None:
    """An endpoint gave the canaries of a space; proofs from before `holds_since` are forgotten."""
    connection.execute(
        "DELETE FROM endpoint_proofs WHERE space_id = %s AND purpose = %s AND proven_at < %s",
        [space_id, purpose, holds_since],
    )
    connection.execute(
        "INSERT INTO endpoint_proofs (space_id, purpose, endpoint, proven_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (space_id, purpose, endpoint) DO UPDATE SET proven_at = EXCLUDED.proven_at",
        [space_id, purpose, endpoint, now],
    )


def compare(known: Vectors, given: Vectors, integration: str) -> None:
    """Let an endpoint pass whose vectors are the known ones.

    Args:
        known: float32, (sentences, dimensions).
        given: as `known`, by the endpoint.
    Raises:
        CanaryMismatch: they differ; the line says by how much.
    """
    if known.shape != given.shape:
        raise CanaryMismatch(
            f"{integration}: canaries have the shape {given.shape}, the space's {known.shape}"
        )
    wide = known.astype(np.float64), given.astype(np.float64)
    lengths = np.linalg.norm(wide[0], axis=1) * np.linalg.norm(wide[1], axis=1)
    lowest = float(((wide[0] * wide[1]).sum(axis=1) / np.maximum(lengths, 1e-30)).min())
    if lowest < LOWEST_COSINE:
        raise CanaryMismatch(
            f"{integration} does not give the vectors of this space: lowest cosine of known sentences {lowest:.4f},"
            f" at least {LOWEST_COSINE} expected: it is not used; see its model, weights and dimensions"
        )
