"""What flows through the pipeline, from a source's record to the rows of one batch.

Event time (`updated_at`) and observation time travel inside the records: a Beam batch leaves with the end of
its window as timestamp, so Beam's own timestamps cannot be relied on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import pyarrow as pa

from schemas.ids import document_id, payload_digest

BEGINNING = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


class Kind(StrEnum):
    """What a document is. Comments are documents of their own only where a source gives them apart."""

    ISSUE = "issue"
    PULL = "pull"
    COMMENT = "comment"
    REVIEW = "review"
    REVIEW_COMMENT = "review_comment"
    COMMIT = "commit"


class Format(StrEnum):
    """The shape of a payload, which decides the function that turns it into a `Document`."""

    JIRA_ISSUE = "jira_issue"  # REST v2 (wiki markup) and v3 (ADF)
    JIRA_FLAT = "jira_flat"  # {project, issuekey, title, description}
    GITHUB_ISSUE = "github_issue"  # REST issue
    GITHUB_PULL = "github_pull"  # REST pull request
    GITHUB_COMMENT = "github_comment"  # REST issue comment or commit comment
    GITHUB_REVIEW = "github_review"  # REST pull request review
    GITHUB_REVIEW_COMMENT = "github_review_comment"  # REST review comment
    GITHUB_ARCHIVE = "github_archive"  # one issue or pull with everything inside, GraphQL names
    GITHUB_LABELLED = "github_labelled"  # {repo, created_at, label, title, body}
    GIT_COMMIT = "git_commit"  # {repo, sha, parents, author, ..., files}
    UNKNOWN = "unknown"  # no record: only dead letters have it


@dataclass(frozen=True, slots=True)
class Version:
    """Order of a document's states: newest source time, then newest observation, then the payload's digest.

    `observed_at` settles changes that did not move the source's own time (a label renamed, say); the digest
    settles two exports of one moment, so that any order of arrival ends in the same rows. Against a tombstone
    `known_at` counts: a commit that a branch lost and got back has its old date, but was seen after it was gone.
    """

    updated_at: datetime
    observed_at: datetime
    payload_digest: bytes

    def as_tuple(self) -> tuple[datetime, datetime, bytes]:
        return (self.updated_at, self.observed_at, self.payload_digest)

    @property
    def known_at(self) -> datetime:
        """The latest moment at which the document is known to have been there."""
        return max(self.updated_at, self.observed_at)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One record as its source gave it, with just enough read from it to know what it is.

    Args:
        client: whose record; part of every identity.
        source: the configured source's name; part of every identity.
        format: shape of `payload`.
        kind: what document it becomes.
        native_id: the source's immutable id (Jira numeric id, GitHub database or node id, commit sha).
        payload: JSON, UTF-8, as read.
        updated_at: when the source says it changed, UTC.
        observed_at: when the source was looked at, UTC; `BEGINNING` where an export does not say.
        locator: where a person finds it, such as `issues.jsonl.gz:17`; no content.
    """

    client: str
    source: str
    format: Format
    kind: Kind
    native_id: str
    payload: bytes
    updated_at: datetime
    observed_at: datetime = BEGINNING
    locator: str = ""

    @property
    def document_id(self) -> UUID:
        return document_id(self.client, self.source, self.kind, self.native_id)

    @property
    def version(self) -> Version:
        return Version(self.updated_at, self.observed_at, payload_digest(self.format, self.payload))


@dataclass(frozen=True, slots=True)
class Reference:
    """A document as its source knows it.

    Args:
        native_id: as in `SourceRecord`.
        key: as in `Document`; takes no part in comparisons. A source may need it to ask for the document.
    """

    kind: Kind
    native_id: str
    key: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A document is gone from its source; `updated_at` is when that became known."""

    client: str
    source: str
    kind: Kind
    native_id: str
    updated_at: datetime
    reason: str

    @property
    def document_id(self) -> UUID:
        return document_id(self.client, self.source, self.kind, self.native_id)


@dataclass(frozen=True, slots=True)
class Link:
    """A reference from a document to another by its key (`ABC-12`, `owner/repo#7`, a commit sha).

    Args:
        relation: `mentions`, `fixes`, `parent`, `commit`, or the source's own link name in snake_case.
        target_kind: `jira_issue`, `github` (issue or pull) or `commit`.
        target_key: comparable with `Document.key`.
    """

    relation: str
    target_kind: str
    target_key: str


@dataclass(frozen=True, slots=True)
class Document:
    """A record as text that keeps its meaning, before it is cut into chunks.

    Args:
        record: where it came from; carries identity and version.
        key: what people call it: `ABC-12`, `owner/repo#7`, a full commit sha.
        project: Jira project key, `owner/repo`, or repository name.
        title: summary, title or subject, one line; may be empty.
        text: Markdown: title, fields with meaning, body, comments. Nothing cut. NUL removed.
        url: where a person reads it; empty if unknown.
        attributes: JSON-able facts for filters and display (type, status, labels, files changed, ...).
        links: references found in fields and text, deduplicated.
        comments_total: comments, reviews and review comments the source says there are.
        comments_kept: of those, how many are in `text`.
        comments_dropped: reason -> count for the others (`bot`, `restricted`, `not_in_payload`, `excluded`).
        redactions: kind -> how many values were replaced by a placeholder of that kind.
    """

    record: SourceRecord
    key: str
    project: str
    title: str
    text: str
    url: str = ""
    author: str = ""
    created_at: datetime | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    comments_total: int = 0
    comments_kept: int = 0
    comments_dropped: Mapping[str, int] = field(default_factory=dict)
    redactions: Mapping[str, int] = field(default_factory=dict)


class ModelInput(Protocol):
    """What an engine is given: int32 token ids for one that runs here, a text and its count of tokens for others.

    Equal inputs of one space have equal bytes and equal vectors.
    """

    def __len__(self) -> int:
        """Tokens, special ones included."""
        ...

    def tobytes(self) -> bytes:
        """All that tells it apart."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document that fits the model.

    Args:
        ordinal: 0-based place in the document.
        text: what is embedded and searched, context title included, the prefix that a model asks for not.
        start_char: offset of the piece in `Document.text`, in characters.
        end_char: offset just after it.
        model_input: prefix and special tokens included.
    """

    ordinal: int
    text: str
    text_hash: bytes
    start_char: int
    end_char: int
    model_input: ModelInput


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document with all of its chunks.

    Args:
        tokens_seen: tokens of `Document.text`, special tokens not counted.
        tokens_truncated: of those, how many are in no chunk (0 unless truncation was asked for).
    """

    document: Document
    chunks: tuple[Chunk, ...]
    tokens_seen: int
    tokens_truncated: int

    @property
    def tokens_embedded(self) -> int:
        """Tokens given to the model, overlap, context title and special tokens included."""
        return sum(len(chunk.model_input) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """Whole documents with the vectors of all of their chunks: the unit that sinks write in one transaction.

    Args:
        documents: in the order their chunks stand in `chunks`; a document may have none.
        chunks: Arrow record batch of `schemas.spaces.chunk_schema`.
    """

    space_id: str
    documents: tuple[ChunkedDocument, ...]
    chunks: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed, kept whole so that it can be tried again.

    Args:
        stage: step that gave up: `read`, `extract`, `redact`, `chunk`, `moderate`, `embed`, `quality`, `store`.
        error_type: name of the class in `schemas.errors`.
        reason: what to know; no record text.
        record: the record; for a line that is no record, one with the line as payload.
    """

    record: SourceRecord
    stage: str
    error_type: str
    reason: str
    retriable: bool
