"""Redact documents after they were extracted and before anything is hashed, cached, embedded or stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.metrics import Metrics

from schemas.documents import DeadLetter, Document
from transforms.redaction import REDACTOR_VERSION, found_in_any, redact_text, redact_value, strings_in

REDACTED = "headrace.redacted"
"""Namespace of the counters of values replaced, by kind."""


def redaction_settings() -> dict[str, Any]:
    """What decides how a text is redacted; JSON-able."""
    return {"version": REDACTOR_VERSION}


def redact_document(document: Document) -> Document:
    """A document without secrets and personal data; a text that has none stays the same, and so does its hash.

    Keys, projects and links stay: they are what documents are found by. A title that stands in the text is counted
    there alone; a comment's is that of what it is about.
    """
    text, found = redact_text(document.text)
    about = (document.title, document.author, document.url)
    if not found_in_any((*about, *strings_in(document.attributes))):
        return replace(document, text=text, redactions=dict(sorted(found.items()))) if found else document
    title, in_title = redact_text(document.title)
    author, in_author = redact_text(document.author)
    url, in_url = redact_text(document.url)
    attributes, in_attributes = redact_value(document.attributes)
    found = found + in_author + in_url + in_attributes
    if document.title not in document.text:
        found += in_title
    if not found and not in_title:
        return document
    return replace(
        document,
        text=text,
        title=title,
        author=author,
        url=url,
        attributes=attributes,
        redactions=dict(sorted(found.items())),
    )


def redact_letter(letter: DeadLetter) -> DeadLetter:
    """A dead letter whose payload can still be tried again: strings inside JSON are redacted, its form stays.

    What is no JSON is redacted as text, bytes that are no UTF-8 included; what cannot be redacted is left out.
    """
    try:
        payload = redact_payload(letter.record.payload)
    except Exception:  # a defect, which put the letter here in the first place
        payload = b""
    return replace(letter, record=replace(letter.record, payload=payload))


def redact_payload(payload: bytes) -> bytes:
    """As `redact_letter`."""
    try:
        value, found = redact_value(orjson.loads(payload))
        return orjson.dumps(value) if found else payload
    except (ValueError, TypeError, RecursionError):
        text, found = redact_text(payload.decode("utf-8", "surrogateescape"))
        return text.encode("utf-8", "surrogateescape") if found else payload


class RedactDocuments(beam.PTransform):  # type: ignore[misc]
    """`PCollection[Document]` -> `documents`, redacted where that is `wanted`, and `dead_letters`."""

    def __init__(self, wanted: bool) -> None:
        super().__init__()
        self._wanted = wanted

    def expand(self, documents: beam.PCollection[Document]) -> Any:
        return documents | "Replace" >> beam.ParDo(_RedactFn(self._wanted)).with_outputs(
            "dead_letters", main="documents"
        )


class _RedactFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def process(self, document: Document) -> Iterator[Any]:
        if not self._wanted:
            yield document
            return
        try:
            redacted = redact_document(document)
            for kind, values in redacted.redactions.items():
                Metrics.counter(REDACTED, kind).inc(values)
            yield redacted
        except Exception as error:  # what cannot be redacted does not pass, and the others go on
            name = type(error).__name__
            reason = f"unexpected {name} while redacting: a defect of headrace"
            yield beam.pvalue.TaggedOutput(
                "dead_letters", DeadLetter(document.record, "redact", name, reason, retriable=False)
            )
