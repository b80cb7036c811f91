"""What the Gemini API and Vertex AI have in common: how errors read (https://google.aip.dev/193), tasks, pages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from schemas.errors import AccessRefused, BadAnswer, NotAllowed, PipelineError
from transforms.providers.answers import listed, members, names
from transforms.providers.base import Purpose
from transforms.providers.exchange import JsonClient

MAX_PAGES = 20
PREFIX_TOKENS = 16
"""What `prefixed` adds, rounded up."""
TASKS: dict[Purpose, str] = {"document": "RETRIEVAL_DOCUMENT", "query": "RETRIEVAL_QUERY"}

_PREFIXES: dict[Purpose, str] = {"document": "title: none | text: ", "query": "task: search result | query: "}


def takes_prefix(model: str) -> bool:
    """Whether a model is told what a text is for by words before it: gemini-embedding-2 does not look at task types.

    https://ai.google.dev/gemini-api/docs/embeddings#gemini-embedding-2
    """
    return model.startswith("gemini-embedding-2")


def prefixed(text: str, purpose: Purpose) -> str:
    """A text with the words that say what it is for."""
    return _PREFIXES[purpose] + text


def meaning(status: int, body: Any) -> type[PipelineError] | None:
    """A 400 may be about the key, or about an account without billing or in another country."""
    if status != 400 or not isinstance(body, dict):
        return None
    error = members(body, "error")
    if any(reason.startswith("API_KEY_") for reason in names(error, "details", "reason")):
        return AccessRefused
    return NotAllowed if error.get("status") == "FAILED_PRECONDITION" else None


def wait_s(body: Any) -> float | None:
    """Seconds that `google.rpc.RetryInfo` asks to wait, such as "34.07s"."""
    for delay in names(members(body, "error"), "details", "retryDelay") if isinstance(body, dict) else ():
        try:
            seconds = float(delay.removesuffix("s"))
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def pages(client: JsonClient, place: str, path: str, array: str) -> Iterator[dict[str, Any]]:
    """The objects of an array that comes in pages.

    Raises:
        BadAnswer: there is no end to them.
    """
    params = {"pageSize": "100"}
    for _ in range(MAX_PAGES):
        answer = client.get(path, params)
        yield from (item for item in listed(answer.body, array) if isinstance(item, dict))
        token = answer.body.get("nextPageToken")
        if not isinstance(token, str) or not token:
            return
        params = {**params, "pageToken": token}
    raise BadAnswer(f"{place} lists models without an end")
