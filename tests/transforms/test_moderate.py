"""What is found of a document's chunks decides whether it passes, and why it does not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pytest

from schemas.documents import Chunk, ChunkedDocument, Document, Format, Kind, SourceRecord
from schemas.errors import ProviderUnavailable
from schemas.moderation import Moderation
from transforms.moderate import verdict_on
from transforms.moderation import Finding
from transforms.providers.moderation import Verdict

RECORD = SourceRecord("acme", "s", Format.JIRA_FLAT, Kind.ISSUE, "1", b"{}", datetime(2026, 1, 1, tzinfo=UTC))
FINE = Verdict(False)
FLAGGED = Verdict(True, ("hate", "violence"))
FAILED = ProviderUnavailable("judge: 503")


def said_of(*findings: Finding, on_failure: Literal["refuse", "pass"]) -> tuple[str, str] | None:
    chunks = tuple(Chunk(n, "x", b"", 0, 1, np.zeros(3, np.int32)) for n in range(len(findings)))
    document = ChunkedDocument(Document(RECORD, "A-1", "A", "x", "x"), chunks, 3, 0)
    letter = verdict_on(document, findings, Moderation(integration="judge", on_failure=on_failure))
    return None if letter is None else (letter.error_type, letter.reason)


@pytest.mark.parametrize("on_failure", ["refuse", "pass"])
@pytest.mark.parametrize(
    ("findings", "chunk"),
    [([FLAGGED], 0), ([FINE, FINE, FLAGGED], 2), ([FAILED, FLAGGED], 1), ([FLAGGED, FAILED], 0)],
)
def test_a_flag_on_any_chunk_refuses_the_document_whatever_became_of_the_others(
    findings: list[Finding], chunk: int, on_failure: Literal["refuse", "pass"]
) -> None:
    wanted = ("Flagged", f"chunk {chunk}: omni-moderation-latest flags it: hate, violence")
    assert said_of(*findings, on_failure=on_failure) == wanted


def test_what_one_chunk_could_not_be_judged_for_follows_the_policy() -> None:
    assert said_of(FINE, FAILED, on_failure="pass") is None
    assert said_of(FINE, FAILED, on_failure="refuse") == (
        "NotModerated",
        "nobody could judge it: judge: 503",
    )


def test_a_document_that_nothing_is_found_of_passes() -> None:
    assert said_of(FINE, FINE, on_failure="refuse") is None
    assert said_of(on_failure="refuse") is None
