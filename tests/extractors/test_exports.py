"""Export files are read to the last record, refused when torn, and read on from any cursor."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors import exports
from extractors.base import Page
from extractors.exports import ExportFiles
from schemas.documents import BEGINNING, Format
from schemas.errors import MissingFile, TornExport
from schemas.sources import ExportSource


def jira(number: int, **fields: Any) -> dict[str, Any]:
    updated = {"updated": "2025-03-04T10:00:00.000+0100"}
    return {
        "id": str(number),
        "key": f"MILL-{number}",
        "fields": {"summary": f"Issue {number}"} | updated | fields,
    }


def lines(values: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def source(*paths: Path | str) -> ExportFiles:
    settings = ExportSource(type="export", name="demo", paths=tuple(map(str, paths)))
    return ExportFiles(settings, "acme")


def ids(pages: Iterable[Page]) -> list[str]:
    return [record.native_id for page in pages for record in page.records]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE_RECORDS", 3)


def test_a_line_is_a_record_with_its_exact_bytes(tmp_path: Path) -> None:
    path = tmp_path / "issues.jsonl"
    line = b'{"key": "MILL-7",  "id": "20107", "fields": {"updated": "2025-03-04T10:00:00.000+0100"}}'
    path.write_bytes(line + b"\r\n")
    (page,) = source(path).pages(None)
    (record,) = page.records
    assert (record.payload, record.native_id, record.format) == (line, "20107", Format.JIRA_ISSUE)
    assert record.updated_at == datetime(2025, 3, 4, 9, tzinfo=UTC)
    assert (record.client, record.source, record.locator) == ("acme", "demo", "issues.jsonl:1")
    assert page.cursor is None


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "zipped.jsonl").write_bytes(gzip.compress(lines([jira(1)])))
    (tmp_path / "plain.jsonl.gz").write_bytes(lines([jira(2)]))
    assert ids(source(tmp_path / "*").pages(None)) == ["2", "1"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([jira(1), jira(2)], indent=2),
        json.dumps({"startAt": 0, "total": 2, "issues": [jira(1), jira(2)]}, indent=2),
        json.dumps({"startAt": 0, "total": 2, "issues": [jira(1), jira(2)]}),
        "\n\n" + json.dumps(jira(1)) + "\n\n" + json.dumps(jira(2)),
        "\ufeff" + json.dumps(jira(1)) + "\n" + json.dumps(jira(2)) + "\n",
        "\ufeff" + json.dumps([jira(1), jira(2)]),
    ],
    ids=[
        "array",
        "search answer over lines",
        "search answer on a line",
        "blank lines",
        "mark",
        "mark, array",
    ],
)
def test_issues_are_found_however_they_are_wrapped(content: str, tmp_path: Path) -> None:
    path = tmp_path / "issues.json"
    path.write_text(content, encoding="utf-8")
    assert ids(source(path).pages(None)) == ["1", "2"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", gzip.compress(b"", mtime=0)])
def test_an_empty_export_has_no_records(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    (page,) = source(path).pages(None)
    assert (page.read, page.cursor) == (0, None)


def test_a_bad_line_is_a_dead_letter_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "issues.jsonl"
    path.write_bytes(b"not json\n" + lines([jira(1), [1, 2], {"neither": "nor"}]) + b'{"id": "3", "fie')
    (page,) = source(path).pages(None)
    assert ids([page]) == ["1"]
    assert [(each.record.locator, each.stage, each.error_type) for each in page.dead_letters] == [
        (f"issues.jsonl:{line}", "read", "InvalidPayload") for line in (1, 3, 4, 5)
    ]
    assert page.dead_letters[0].record.payload == b"not json"
    assert "known format" in page.dead_letters[2].reason
    assert page.read == 5


def test_lone_surrogates_do_not_spoil_a_line(tmp_path: Path) -> None:
    path = tmp_path / "issues.jsonl"
    path.write_bytes(rb'{"id": "1", "key": "A-1", "fields": {"summary": "broken \ud83d here"}}')
    assert ids(source(path).pages(None)) == ["1"]


def test_a_line_over_the_limit_is_a_dead_letter_with_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MAX_LINE_BYTES", 100_000)
    path = tmp_path / "bomb.jsonl"
    path.write_bytes(gzip.compress(lines([jira(1), jira(2, description="0" * 5_000_000), jira(3)])))
    (page,) = source(path).pages(None)
    assert ids([page]) == ["1", "3"]
    (letter,) = page.dead_letters
    assert len(letter.record.payload) == exports.KEPT_OF_LONG_LINE_BYTES
    assert "at most 100,000 bytes" in letter.reason


def test_nesting_without_end_is_a_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    deep = b'{"record":' * 900 + b"1" + b"}" * 900
    path.write_bytes(lines([jira(1)]) + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n" + deep)
    (page,) = source(path).pages(None)
    assert (ids([page]), len(page.dead_letters)) == (["1"], 2)


TORN = [
    ("[\n" + json.dumps(jira(1)) + ",\n  {\n", "line 4"),
    ("[\n" + json.dumps(jira(1)) + '\n,\n  "message": "API rate limit exceeded"\n]\n', "line 4"),
    ('[\n  "message": "API rate limit exceeded"\n]', "line 2"),
    ('["message"]', "no JSON object"),
    ("<html>Service unavailable</html>\n" * 3, "no JSON object"),
    ("id,key\n1,MILL-1\n" * 1000, "no JSON object"),
    ('{"message": "API rate limit exceeded", "documentation_url": "https://docs.example"}', "error answer"),
    ('{\n  "errorMessages": ["You are not logged in"],\n  "errors": {}\n}', "error answer"),
]


@pytest.mark.parametrize(("content", "said"), TORN, ids=range(len(TORN)))
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_is_no_export_is_refused_before_anything_of_it_is_read(
    content: str, said: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "issues.json"
    path.write_bytes(compress(content.encode()))
    with pytest.raises(TornExport, match=said) as caught:
        list(source(path).pages(None))
    assert str(path) in str(caught.value)


def test_a_torn_gzip_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "issues.jsonl.gz"
    path.write_bytes(gzip.compress(lines(jira(n, noise=f"{n**9:x}") for n in range(1, 5000)))[:-4000])
    with pytest.raises(TornExport, match=r"issues\.jsonl\.gz: line \d+: the gzip stream is torn"):
        list(source(path).pages(None))


def test_a_path_without_a_file_is_said_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "issues.jsonl").write_bytes(lines([jira(1)]))
    for missing in ("gone.jsonl", "*.json"):
        with pytest.raises(MissingFile, match=r"no such file: correct `paths` of source demo"):
            next(source(tmp_path / "issues.jsonl", tmp_path / missing).pages(None))
    with pytest.raises(MissingFile, match="is a folder"):
        next(source(tmp_path).pages(None))


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_bytes(lines([jira(1)]))
    assert ids(source(tmp_path / "a[1].jsonl", tmp_path / "*.jsonl").pages(None)) == ["1"]


@pytest.fixture
def mixed(tmp_path: Path, small_pages: None) -> ExportFiles:
    (tmp_path / "a.jsonl").write_bytes(lines([jira(n) for n in range(1, 8)]))
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(lines([jira(n) for n in range(8, 13)])))
    (tmp_path / "c.json").write_text(json.dumps([jira(n) for n in range(13, 18)], indent=1), encoding="utf-8")
    search = {"issues": [jira(n) for n in range(18, 23)]}
    (tmp_path / "d.jsonl").write_bytes(lines([search, jira(23)]))
    return source(tmp_path / "*")


EVERY = [str(n) for n in range(1, 24)]


def test_reading_on_from_any_page_gives_just_what_followed_it(mixed: ExportFiles) -> None:
    pages = list(mixed.pages(None))
    assert ids(pages) == EVERY
    assert all(page.read == 3 for page in pages[:-1])
    for count, page in enumerate(pages[:-1], start=1):
        cursor = json.loads(json.dumps(page.cursor))
        assert ids(pages[:count]) + ids(mixed.pages(cursor)) == EVERY
    assert pages[-1].cursor is None


def test_a_cursor_of_another_kind_of_source_starts_anew(mixed: ExportFiles) -> None:
    assert ids(mixed.pages({"tips": {"HEAD": "0" * 40}})) == EVERY


def test_a_file_that_changed_is_read_from_its_beginning(mixed: ExportFiles, tmp_path: Path) -> None:
    pages = list(mixed.pages(None))
    (tmp_path / "a.jsonl").write_bytes(lines([jira(n) for n in (101, 102)]))
    assert ids(mixed.pages(pages[0].cursor))[:3] == ["101", "102", "8"]
    (tmp_path / "a.jsonl").unlink()
    assert ids(mixed.pages(pages[0].cursor))[:1] == ["8"]


def test_the_estimate_is_what_is_still_to_come(mixed: ExportFiles) -> None:
    lines_in_all = 7 + 5 + 5 + 2  # a search answer is one line
    assert mixed.estimate(None) == lines_in_all
    first = next(mixed.pages(None))
    assert mixed.estimate(first.cursor) == pytest.approx(lines_in_all - first.read, abs=1)


def test_the_estimate_of_a_large_file_comes_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "ESTIMATE_BYTES", 2**18)
    monkeypatch.setattr(exports, "_ESTIMATE_PIECE_BYTES", 2**16)
    for compress in (bytes, gzip.compress):
        path = tmp_path / "large.jsonl"
        path.write_bytes(compress(lines(jira(n, noise=f"{n**9:x}") for n in range(1, 20_000))))
        assert source(path).estimate(None) == pytest.approx(20_000, rel=0.1)


def test_a_page_ends_at_its_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE_BYTES", 1000)
    path = tmp_path / "issues.jsonl"
    path.write_bytes(lines(jira(n, description="x" * 600) for n in range(6)))
    assert [page.read for page in source(path).pages(None)] == [2, 2, 2, 0]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
KEYS = st.sampled_from([
    "id", "key", "fields", "updated", "issuekey", "record", "kind", "stream", "op", "snapshot_at", "repo", "payload",
    "event", "type", "webhookEvent", "timestamp", "issue", "comment", "comments", "pull_request", "review", "action",
    "changes", "new_issue", "commits", "sha", "commit", "author", "message", "parents", "files", "createdAt",
    "number", "title", "body", "user", "head", "base", "node_id", "label", "issues", "items", "issue_url",
    "html_url", "url",
])  # fmt: skip
VALUES = st.recursive(
    SCALARS | st.sampled_from(["https://github.com/o/r/pull/3", "PushEvent", "push", "deleted", "a" * 40]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=12,
)


@settings(max_examples=100, deadline=timedelta(seconds=2))
@given(values=st.lists(st.dictionaries(KEYS, VALUES, max_size=6), max_size=3))
def test_whatever_a_line_holds_every_one_is_accounted_for(
    values: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.jsonl"
    path.write_bytes(lines([jira(1), *values]))
    (page,) = source(path).pages(None)
    holders = [value.get("issues", value.get("items")) for value in values]
    assert page.read >= 1 + sum(not isinstance(holder, list) for holder in holders)
    for record in page.records:
        assert record.native_id
        assert "\0" not in record.native_id
        assert record.updated_at >= BEGINNING
        assert json.loads(record.payload)
