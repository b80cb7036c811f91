"""Which repository, which number, which database row: GitHub's identities, read out of payloads.

The REST API gives an issue's database id as `id`, GraphQL gives a node id that encodes the same number. A pull
request has two rows in GitHub, an issue and a pull: listed as an issue its `id` is the issue's, so `node_id`,
which is the pull's in both shapes, decides. Payloads from before 2018 have no node ids: there a pull is known
by `owner/repo#number`, the one thing both shapes share, and a rename of the repository makes it a new document.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

_URL = re.compile(
    r"https?://[^/]+/(?:api/v3/)?(?:repos/)?(?P<repository>[\w.-]{1,100}/[\w.-]{1,100})"
    r"(?:/(?:issues|pull|pulls)/(?P<number>\d{1,18})(?=[/?#]|$)|/|$)",
    re.ASCII,
)
_REPOSITORY = re.compile(r"[\w.-]{1,100}/[\w.-]{1,100}", re.ASCII)
_MODERN_NODE = re.compile(r"[A-Z]+_(.+)")
_LEGACY_NODE = re.compile(rb"\d+:[A-Za-z]+?(\d+)")
_MSGPACK_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


def split_url(url: Any) -> tuple[str, int]:
    """(`owner/repo`, number) of an API or web address; "" and 0 for what is not in it."""
    match = _URL.match(url) if isinstance(url, str) else None
    return (match["repository"], int(match["number"] or 0)) if match else ("", 0)


def repository_of(payload: Mapping[str, Any], fallback: str | None) -> str:
    """`owner/repo` that a REST object belongs to, `fallback` (or "") when it does not say."""
    base = payload.get("base")
    repository = base.get("repo") if isinstance(base, Mapping) else None
    full_name = repository.get("full_name") if isinstance(repository, Mapping) else None
    if isinstance(full_name, str) and _REPOSITORY.fullmatch(full_name):
        return full_name
    for key in ("repository_url", "issue_url", "pull_request_url", "html_url", "url"):
        name, _ = split_url(payload.get(key))
        if name:
            return name
    return fallback or ""


def number_of(payload: Mapping[str, Any]) -> int:
    """Number of the issue or pull a REST object is or belongs to, 0 when it does not say."""
    number = payload.get("number")
    if isinstance(number, int) and number > 0:
        return number
    for key in ("issue_url", "pull_request_url", "html_url", "url"):
        _, found = split_url(payload.get(key))
        if found:
            return found
    return 0


def database_id(node_id: Any) -> str:
    """The database id inside a GraphQL node id, "" when it has another form (GitHub calls them opaque)."""
    if not isinstance(node_id, str) or len(node_id) > 200:
        return ""
    modern = _MODERN_NODE.fullmatch(node_id)
    packed = modern[1] if modern else node_id
    try:
        raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
    except (binascii.Error, ValueError):
        return ""
    if modern:
        return _last_packed(raw)
    legacy = _LEGACY_NODE.fullmatch(raw)
    return legacy[1].decode() if legacy else ""


def _last_packed(raw: bytes) -> str:
    """Last of a MessagePack array of unsigned integers: (version, repository, row)."""
    if not raw or raw[0] & 0xF0 != 0x90:
        return ""
    place, last = 1, -1
    for _ in range(raw[0] & 0x0F):
        width = _MSGPACK_UINT_BYTES.get(raw[place], 0) if place < len(raw) else 0
        if place >= len(raw) or (not width and raw[place] > 0x7F) or place + width >= len(raw):
            return ""
        last = int.from_bytes(raw[place + 1 : place + 1 + width], "big") if width else raw[place]
        place += 1 + width
    return str(last) if place == len(raw) and last > 0 else ""


def pull_native_id(payload: Mapping[str, Any], fallback_repository: str | None) -> str:
    """Native id of a pull request in either REST shape, "" when it has nothing to be known by."""
    node_id = payload.get("node_id")
    if node_id:
        return database_id(node_id) or str(node_id).replace("\0", "")[:200]
    repository, number = repository_of(payload, fallback_repository), number_of(payload)
    return f"{repository.lower()}#{number}" if repository and number else ""
