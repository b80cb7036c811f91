"""What a detector gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Finding(NamedTuple):
    """A value to be replaced, at `start` to `end` of a text, in characters."""

    kind: str
    start: int
    end: int


Detector = Callable[[str], Iterator[Finding]]
"""Linear in the text, whatever is in it; findings may overlap."""

KINDS = (
    "PRIVATE_KEY",
    "AWS_KEY",
    "AZURE_KEY",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "ATLASSIAN_TOKEN",
    "SLACK_TOKEN",
    "STRIPE_KEY",
    "JWT",
    "API_KEY",
    "PASSWORD",
    "CARD",
    "SSN",
    "SIN",
    "EMAIL",
    "PHONE",
    "IP",
)
"""All there are; of findings that overlap, the kind that stands first names the whole."""

PLACEHOLDERS = frozenset(f"[{kind}]" for kind in KINDS)
"""What stands in a text for a value."""
