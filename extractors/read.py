"""From configured sources to documents: which reader, which function for which format, and the Beam step."""

from __future__ import annotations

import io
import pickle
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from extractors import github, jira
from extractors.base import Extractor, OnWait, Page
from extractors.commits import commit_to_document
from extractors.exports import ExportFiles
from schemas.documents import DeadLetter, Document, Format, SourceRecord
from schemas.errors import InvalidPayload, RecordError
from schemas.sources import ExportSource, GitHubSource, GitSource, JiraSource, Source, SourceSettings

EXTRACTOR_VERSION = 1
"""Raised whenever the same record gives another document, so that unchanged records are extracted again."""

DOCUMENTS = "documents"
DEAD_LETTERS = "dead_letters"


def build_extractor(source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
    """The reader of a configured source.

    Args:
        client: owner of the documents where `source` names none.
        data_dir: where mirrors of repositories are kept, and what is known of their commits.
        on_wait: told before a source waits for a rate limit, and while it fetches a repository.
    Raises:
        SetupError: the source is not there.
    """
    owner = source.client or client
    match source:
        case GitSource():
            from extractors.git import GitRepository

            return GitRepository(source, owner, data_dir, on_wait)
        case ExportSource():
            return ExportFiles(source, owner)
        case GitHubSource():
            from extractors.github_live import GitHubRepositories

            return GitHubRepositories(source, owner, on_wait, now=lambda: datetime.now(UTC), sleep=time.sleep)
        case JiraSource():
            from extractors.jira_site import JiraSite

            return JiraSite(source, owner, on_wait, now=lambda: datetime.now(UTC), sleep=time.sleep)


def extraction_settings(source: SourceSettings) -> dict[str, Any]:
    """Everything but the record itself that decides what `to_document` gives; JSON-able."""
    settings: dict[str, Any] = {
        "version": EXTRACTOR_VERSION,
        "comments": source.comments,
        "bots": list(source.bots),
    }
    if isinstance(source, ExportSource | JiraSource):
        settings["custom_fields"] = dict(source.custom_fields)
        settings["site_url"] = source.site_url
    if isinstance(source, ExportSource):
        settings["repository"] = source.repository
    if isinstance(source, JiraSource):
        settings["restricted_comments"] = source.restricted_comments
    if isinstance(source, GitSource):  # what its records hold: another cursor, so that all are read again
        settings["files"] = source.files
        settings["cherry_picks"] = source.cherry_picks
        settings["web_url"] = source.web_url
    return settings


def to_document(record: SourceRecord, source: SourceSettings) -> Document:
    """The document in a record. Pure.

    Raises:
        RecordError: the payload is not what its format promises.
    """
    repository = source.repository if isinstance(source, ExportSource) else None
    jira_settings = source if isinstance(source, ExportSource | JiraSource) else None
    match record.format:
        case Format.JIRA_ISSUE:
            return jira.issue_to_document(
                record,
                comments=source.comments,
                bots=source.bots,
                custom_fields=jira_settings.custom_fields if jira_settings else {},
                site_url=jira_settings.site_url if jira_settings else None,
                restricted_comments=isinstance(source, JiraSource) and source.restricted_comments,
            )
        case Format.JIRA_FLAT:
            return jira.flat_issue_to_document(record)
        case Format.GITHUB_ISSUE | Format.GITHUB_PULL:
            return github.issue_to_document(record, repository=repository)
        case Format.GITHUB_COMMENT | Format.GITHUB_REVIEW | Format.GITHUB_REVIEW_COMMENT:
            return github.comment_to_document(
                record, comments=source.comments, bots=source.bots, repository=repository
            )
        case Format.GITHUB_ARCHIVE:
            return github.archive_item_to_document(record, comments=source.comments, bots=source.bots)
        case Format.GITHUB_LABELLED:
            return github.labelled_issue_to_document(record)
        case Format.GIT_COMMIT:
            return commit_to_document(record)
        case Format.UNKNOWN:
            raise InvalidPayload("(record)", "a known format")


def spool_pages(pages: Iterable[Page], spool: IO[bytes]) -> None:
    """Write the pages of a slice for `ReadPages`.

    Elements given to `beam.Create` are pickled into the graph and compressed, several times over: nine tenths
    of the time of a run in which nothing changed.
    """
    for page in pages:
        pickle.dump(page, spool, pickle.HIGHEST_PROTOCOL)
    spool.flush()


class ReadPages(beam.PTransform):  # type: ignore[misc]
    """Pages that the driver spooled to files, which workers can open. Several files are spread over the workers."""

    def __init__(self, spools: Sequence[Path | str]) -> None:
        super().__init__()
        self._paths = [str(path) for path in spools]

    def expand(self, start: beam.Pipeline) -> beam.PCollection[Page]:
        paths = start | beam.Create(self._paths, reshuffle=len(self._paths) > 1)
        return paths | "Load" >> beam.FlatMap(_spooled_pages)


def _spooled_pages(path: str) -> Iterator[Page]:
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        spool = io.BufferedReader(file)  # a bucket's has no peek
        while spool.peek(1):
            yield pickle.load(spool)  # noqa: S301 - the driver of this run wrote it, readable by its user alone


class _ExtractFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, source: SourceSettings) -> None:
        self._source = source

    def process(self, record: SourceRecord) -> Iterable[Document | beam.pvalue.TaggedOutput]:
        try:
            yield to_document(record, self._source)
        except RecordError as error:
            yield _dead_letter(record, error, str(error), error.retriable)
        except Exception as error:  # whatever one record provokes, the others go on
            yield _dead_letter(record, error, _where(error), False)


def _dead_letter(
    record: SourceRecord, error: Exception, reason: str, retriable: bool
) -> beam.pvalue.TaggedOutput:
    letter = DeadLetter(record, "extract", type(error).__name__, reason, retriable)
    return beam.pvalue.TaggedOutput(DEAD_LETTERS, letter)


def _where(error: Exception) -> str:
    """The line of code that failed; the error's own message may quote the record."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} in {frame.name}, line {frame.lineno}: a defect of headrace"


class ExtractDocuments(beam.PTransform):  # type: ignore[misc]
    """Records -> their documents (`.documents`), and those that have none (`.dead_letters`)."""

    def __init__(self, source: SourceSettings) -> None:
        super().__init__()
        self._source = source

    def expand(self, records: beam.PCollection[SourceRecord]) -> beam.pvalue.DoOutputsTuple:
        return records | "ToDocument" >> beam.ParDo(_ExtractFn(self._source)).with_outputs(
            DEAD_LETTERS, main=DOCUMENTS
        )
