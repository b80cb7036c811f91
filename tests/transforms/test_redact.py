"""A document leaves the step without secrets in any of its fields; what cannot be redacted does not leave it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import orjson
import pytest

from schemas.documents import DeadLetter, Document, Format, Kind, SourceRecord
from transforms import redact
from transforms.redact import redact_document, redact_letter
from transforms.redaction import redact_text

EMAIL = "grace.hopper@navy.example"
RECORD = SourceRecord("acme", "s", Format.JIRA_FLAT, Kind.ISSUE, "1", b"{}", datetime(2026, 1, 1, tzinfo=UTC))
PLAIN = Document(RECORD, "MILL-1", "MILL", "Gates", "# Gates\n\nThey jam.")


def letter(payload: bytes) -> DeadLetter:
    return DeadLetter(replace(RECORD, payload=payload), "embed", "E", "why", retriable=True)


def payload_of(payload: bytes) -> bytes:
    return redact_letter(letter(payload)).record.payload


@pytest.mark.parametrize(
    "fields",
    [
        {"text": f"ask {EMAIL}"},
        {"title": f"ask {EMAIL}"},  # of a comment, whose text does not repeat it
        {"author": EMAIL},
        {"url": f"https://weir.example/people?mail={EMAIL}"},
        {"attributes": {"labels": ["gate", EMAIL]}},
        {"attributes": {"trailers": {EMAIL: 1}}},
    ],
    ids=lambda fields: str(next(iter(fields))),
)
def test_a_value_in_any_one_field_is_replaced_and_counted(fields: dict[str, Any]) -> None:
    redacted = redact_document(replace(PLAIN, **fields))
    assert EMAIL not in repr(redacted)
    assert "[EMAIL]" in repr(redacted)
    assert redacted.redactions == {"EMAIL": 1}


def test_a_title_that_stands_in_the_text_is_counted_once() -> None:
    redacted = redact_document(replace(PLAIN, title=f"ask {EMAIL}", text=f"# ask {EMAIL}\n\n{EMAIL}"))
    assert redacted.redactions == {"EMAIL": 2}


def test_a_document_without_anything_is_the_same_object() -> None:
    assert redact_document(PLAIN) is PLAIN


def test_a_letter_keeps_its_form_and_loses_its_values() -> None:
    value = {"id": "7", "fields": {"summary": f"ask {EMAIL}", EMAIL: [EMAIL]}}
    assert orjson.loads(payload_of(orjson.dumps(value))) == {
        "id": "7",
        "fields": {"summary": "ask [EMAIL]", "[EMAIL]": ["[EMAIL]"]},
    }


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        (f'{{"torn": "{EMAIL}\n'.encode(), b'{"torn": "[EMAIL]\n'),
        (b"\xff\xfe " + EMAIL.encode(), b"\xff\xfe [EMAIL]"),
        (f'"ask {EMAIL}"'.encode(), b'"ask [EMAIL]"'),
        (b"[" * 5000 + EMAIL.encode(), b"[" * 5000 + b"[EMAIL]"),
        (b'{"plain":   1}', b'{"plain":   1}'),
        (b"", b""),
    ],
    ids=["torn", "no UTF-8", "a string", "deep", "nothing to find", "empty"],
)
def test_a_letter_of_any_bytes_loses_its_values(payload: bytes, wanted: bytes) -> None:
    assert payload_of(payload) == wanted


def test_what_cannot_be_redacted_does_not_pass_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_one(text: str) -> Any:
        if EMAIL in text:
            raise IndexError(text)
        return genuine(text)

    genuine = redact_text
    monkeypatch.setattr(redact, "redact_text", fail_on_one)
    step = redact._RedactFn(wanted=True)
    outputs = [out for text in ("one", EMAIL, "two") for out in step.process(replace(PLAIN, text=text))]
    assert [one.text for one in outputs if isinstance(one, Document)] == ["one", "two"]
    (refused,) = [one.value for one in outputs if isinstance(one, beam.pvalue.TaggedOutput)]
    assert (refused.stage, refused.error_type, refused.retriable) == ("redact", "IndexError", False)
    assert EMAIL not in refused.reason


def test_a_letter_that_cannot_be_redacted_is_kept_without_its_payload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(value: object) -> Any:
        raise IndexError

    monkeypatch.setattr(redact, "redact_value", fail)
    assert payload_of(orjson.dumps({"mail": EMAIL})) == b""
