"""What Postgres refuses in text and JSON: NUL characters and lone surrogates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def storable_text(text: str) -> str:
    """`text` without NUL; lone surrogates become U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def storable_json(value: Mapping[str, Any]) -> str:
    """`value` as JSON that a `jsonb` column takes."""
    try:
        encoded = orjson.dumps(value)
    except TypeError:
        encoded = orjson.dumps(_cleaned(value))
    if b"\\u0000" in encoded:
        encoded = orjson.dumps(_cleaned(value))
    return encoded.decode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, Mapping):
        return {storable_text(str(name)): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value
