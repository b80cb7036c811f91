"""Any record ends as a document or as a dead letter with its reason, and real exports have no surprises left."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import apache_beam as beam
import orjson
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to

from extractors import read
from extractors.exports import ExportFiles
from extractors.read import ExtractDocuments, build_extractor, extraction_settings, to_document
from schemas.documents import BEGINNING, Document, Format, Kind, SourceRecord
from schemas.errors import RecordError, TornExport
from schemas.ids import settings_digest
from schemas.sources import ExportSource, GitSource

DEMO = Path(__file__).parent.parent / "data" / "demo"


def export(*paths: Path, **options: object) -> ExportSource:
    return ExportSource.model_validate(
        {"type": "export", "name": "demo", "paths": tuple(map(str, paths)), **options}
    )


def record(payload: bytes, record_format: Format = Format.JIRA_ISSUE, native_id: str = "1") -> SourceRecord:
    return SourceRecord("acme", "demo", record_format, Kind.ISSUE, native_id, payload, BEGINNING)


def demo_documents() -> list[Document]:
    source = export(*sorted(DEMO.glob("*.jsonl")), custom_fields={"customfield_10042": "Acceptance criteria"})
    extractor = build_extractor(source, "acme", Path(), print)
    records = [record for page in extractor.pages(None) for record in page.records]
    return [to_document(record, source) for record in records]


def test_the_demo_is_read_whole() -> None:
    documents = demo_documents()
    assert len(documents) == 23
    assert Counter(document.record.kind for document in documents) == {
        Kind.ISSUE: 15, Kind.PULL: 3, Kind.COMMENT: 3, Kind.REVIEW: 1, Kind.REVIEW_COMMENT: 1
    }  # fmt: skip
    assert all(document.url.startswith("https://") and document.title for document in documents)
    dropped = sum((Counter(document.comments_dropped) for document in documents), Counter[str]())
    assert dropped == {"bot": 4, "restricted": 1, "empty": 1, "not_in_payload": 4}


def test_the_demo_s_issues_pulls_and_comments_refer_to_each_other() -> None:
    documents = {document.key: document for document in demo_documents()}
    keys = set(documents)
    targets = {link.target_key for document in documents.values() for link in document.links}
    assert {
        "MILL-101",
        "MILL-104",
        "DAM-9",
        "millpond/sluice#42",
        "millpond/sluice#38",
        "millpond/weir#5",
    } <= targets & keys
    assert "Given a station" in documents["MILL-107"].text
    assert "passphrase" not in documents["MILL-113"].text


def test_settings_that_change_a_document_change_the_digest() -> None:
    path = Path("x.jsonl")
    variants = [
        export(path),
        export(path, comments=False),
        export(path, bots=["x"]),
        export(path, custom_fields={"customfield_1": "One"}),
        export(path, site_url="https://jira.example"),
        export(path, repository="acme/sluice"),
    ]
    digests = {settings_digest(json.loads(json.dumps(extraction_settings(source)))) for source in variants}
    assert len(digests) == len(variants)
    assert extraction_settings(export(path)) == extraction_settings(export(Path("y.jsonl"), client="other"))


def test_settings_that_change_what_a_commit_holds_have_it_read_again() -> None:
    source = GitSource(name="code", type="git", path=Path("x"))
    changes: list[dict[str, object]] = [
        {}, {"files": False}, {"cherry_picks": False}, {"web_url": "https://mill.example/a/b"}
    ]  # fmt: skip
    digests = {settings_digest(extraction_settings(source.model_copy(update=change))) for change in changes}
    assert len(digests) == len(changes)
    assert extraction_settings(source) == extraction_settings(source.model_copy(update={"refs": ("main",)}))


def test_bad_records_become_dead_letters_and_the_others_documents() -> None:
    good = record(b'{"id": "1", "key": "A-1", "fields": {"summary": "Pump"}}')
    bad = [
        record(b'{"id": "2", "fields": {}}', native_id="2"),
        record(b"not json", native_id="3"),
        record(b"{}", Format.UNKNOWN, "4"),
        record(b"{}", Format.GIT_COMMIT, "5"),
    ]
    with Pipeline(runner="FnApiRunner") as pipeline:
        out = pipeline | beam.Create([good, *bad]) | "Extract" >> ExtractDocuments(export(Path("x.jsonl")))
        keys = out.documents | "Keys" >> beam.Map(lambda document: (document.key, document.text))
        reasons = out.dead_letters | "Reasons" >> beam.Map(
            lambda letter: (letter.record.native_id, letter.stage, letter.error_type, letter.retriable)
        )
        assert_that(keys, equal_to([("A-1", "# Pump")]), label="documents")
        expected = [(each.native_id, "extract", "InvalidPayload", False) for each in bad]
        assert_that(reasons, equal_to(expected), label="dead letters")


def test_a_defect_met_by_one_record_stops_nothing_and_quotes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: SourceRecord, source: ExportSource) -> Document:
        raise ValueError(record.payload.decode())

    monkeypatch.setattr(read, "to_document", fail)
    (output,) = read._ExtractFn(export(Path("x"))).process(record(b"private words"))
    assert isinstance(output, beam.pvalue.TaggedOutput)
    letter = output.value
    assert (letter.error_type, letter.stage) == ("ValueError", "extract")
    assert "private" not in letter.reason
    assert "in fail, line" in letter.reason


def test_the_step_travels_between_workers() -> None:
    step = pickle.loads(pickle.dumps(ExtractDocuments(export(Path("x.jsonl"), custom_fields={"a": "b"}))))
    assert step._source.custom_fields == {"a": "b"}


REAL = [
    "jira/jira_v2_tidev.jsonl.gz", "jira/jira_v2_tidev_sample.jsonl", "jira/jira_v3_adf_issues.jsonl",
    "jira/adf_documents.jsonl", "jira/jira_webhooks.jsonl", "jira/jira_agile_api_devlake.jsonl",
    "jira/jira_wiki_storypoint_issues.jsonl.gz", "github/gharchive_2015-01-01_one_hour.jsonl.gz",
    "github/issues_prs_with_comments.jsonl.gz", "github/rest_issue_update_stream.jsonl.gz",
    "github/rest_issues_hub4j.jsonl.gz", "github/rest_full_set_ants.jsonl.gz",
    "github/webhook_payloads_octokit.jsonl.gz", "github/issues_labelled_nlbse24.jsonl.gz",
    "git/commits_appcelerator__titanium_mobile_windows.jsonl.gz", "git/commits_encode__httpx.jsonl.gz",
    "git/commits_odd_git.jsonl", "git/commits_pallets__flask.jsonl.gz", "git/commits_pgvector__pgvector.jsonl.gz",
    "git/commits_psycopg__psycopg.jsonl.gz", "git/commits_tidev__titanium-cli.jsonl.gz",
]  # fmt: skip


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_line_of_a_real_export_becomes_a_document_or_is_accounted_for(
    name: str, shared_data: Path
) -> None:
    source = export(shared_data / name)
    expected_dead = 20 if name == "jira/adf_documents.jsonl" else 0  # bare documents, no issues
    dead = 0
    for page in ExportFiles(source, "acme").pages(None):
        dead += len(page.dead_letters)
        for each in page.records:
            try:
                document = to_document(each, source)
            except RecordError as error:
                pytest.fail(f"{each.locator}: {error}")
            check_storable(document)
    assert dead == expected_dead


def check_storable(document: Document) -> None:
    """What Postgres asks of a row, and what the counts promise."""
    document.text.encode()
    stored = orjson.dumps(
        [document.title, document.author, document.url, document.key, dict(document.attributes)]
    )
    assert "\0" not in document.text
    assert rb"\u0000" not in stored
    assert document.key
    assert len(document.key) < 400
    assert "\n" not in document.title
    assert document.comments_total == document.comments_kept + sum(document.comments_dropped.values())
    assert all(link.target_key and link.target_key != document.key for link in document.links)
    assert len(set(document.links)) == len(document.links)


@pytest.mark.shared_data
def test_a_torn_listing_is_refused(shared_data: Path) -> None:
    for path in sorted((shared_data / "github" / "malformed").iterdir()):
        with pytest.raises(TornExport, match="line"):
            next(build_extractor(export(path), "acme", Path(), print).pages(None))


@pytest.mark.shared_data
def test_a_pull_listed_as_an_issue_is_the_same_document_as_the_pull(shared_data: Path) -> None:
    for name in (
        "rest_full_set_ants.jsonl.gz",
        "rest_issue_update_stream.jsonl.gz",
        "rest_issues_hub4j.jsonl.gz",
    ):
        source = export(shared_data / "github" / name)
        identities: dict[str, set[str]] = {}
        for page in ExportFiles(source, "acme").pages(None):
            for each in page.records:
                if each.kind is Kind.PULL:
                    identities.setdefault(to_document(each, source).key, set()).add(each.native_id)
        assert all(len(native_ids) == 1 for native_ids in identities.values())
