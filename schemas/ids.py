"""Identities and digests, the same on any worker and in any run.

All digests are BLAKE2b with 16 bytes (RFC 7693): wide enough that chance collisions do not happen
(2^64 records for even odds), half the size of a SHA-256 in every row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

DIGEST_BYTES = 16


def digest(*parts: bytes) -> bytes:
    """Digest of `parts`, each prefixed by its length, so that ("ab", "c") and ("a", "bc") differ."""
    h = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()


def document_id(client: str, source: str, kind: str, native_id: str) -> UUID:
    """Identity of a document: who owns it, where it lives, what it is, and its immutable id there.

    Keys, numbers and titles change (a moved Jira issue gets another key), so they take no part.

    Returns:
        A version 8 UUID (RFC 9562 5.8: bits of our own making).
    """
    raw = digest(client.encode(), source.encode(), kind.encode(), native_id.encode())
    return UUID(bytes=raw[:6] + bytes([raw[6] & 0x0F | 0x80, raw[7], raw[8] & 0x3F | 0x80]) + raw[9:])


def text_hash(text: str) -> bytes:
    """Digest of a text as it is embedded; lone surrogates are allowed."""
    return digest(text.encode("utf-8", "surrogatepass"))


def payload_digest(record_format: str, payload: bytes) -> bytes:
    """Digest of a record exactly as its source gave it; decides "unchanged" before any parsing."""
    return digest(record_format.encode(), payload)


def settings_digest(settings: Mapping[str, Any]) -> bytes:
    """Digest of JSON-able settings, independent of key order."""
    return digest(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS))


def fingerprint(payload: bytes, processing: bytes) -> bytes:
    """What decides "unchanged": the payload's digest and the digest of everything done to it.

    Args:
        payload: from `payload_digest`.
        processing: from `settings_digest` over the versions and options of extractor, chunker and space.
    """
    return digest(payload, processing)
