"""A Jira issue becomes one document: what it is about first, everything readable kept, the rest counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extractors.jira import flat_issue_to_document, issue_to_document
from schemas.documents import BEGINNING, Document, Format, Kind, Link, SourceRecord
from schemas.errors import InvalidPayload


def record(payload: Any, record_format: Format = Format.JIRA_ISSUE) -> SourceRecord:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return SourceRecord("acme", "jira", record_format, Kind.ISSUE, "1", raw, BEGINNING)


def document(
    fields: dict[str, Any],
    *,
    comments: bool = True,
    custom_fields: dict[str, str] | None = None,
    site_url: str | None = None,
    **issue: Any,
) -> Document:
    return issue_to_document(
        record({"id": "1", "key": "MILL-7", "fields": fields, **issue}),
        comments=comments,
        bots=("*-bot",),
        custom_fields=custom_fields or {},
        site_url=site_url,
    )


def adf(*texts: str) -> dict[str, Any]:
    paragraphs = [{"type": "paragraph", "content": [{"type": "text", "text": text}]} for text in texts]
    return {"type": "doc", "version": 1, "content": paragraphs}


def said(body: Any, author: str = "ines", **more: Any) -> dict[str, Any]:
    return {
        "body": body,
        "author": {"displayName": author},
        "created": "2025-03-04T10:00:00.000+0000",
        **more,
    }


def test_the_text_is_summary_description_facts_environment_and_comments_in_this_order() -> None:
    text = document(
        {
            "summary": "Pump stalls",
            "description": "It *stalls* at noon.",
            "issuetype": {"name": "Bug"},
            "status": {"name": "Open"},
            "priority": None,
            "labels": ["pump"],
            "fixVersions": [{"name": "2.3.0"}, {"name": "2.4.0"}],
            "environment": "Oslo",
            "comment": {"total": 1, "comments": [said("Confirmed.")]},
        }
    ).text
    assert text == (
        "# Pump stalls\n\n"
        "It **stalls** at noon.\n\n"
        "Type: Bug; Status: Open; Labels: pump; Fix versions: 2.3.0, 2.4.0\n\n"
        "## Environment\n\nOslo\n\n"
        "## Comment by ines, 2025-03-04\n\nConfirmed."
    )


def test_a_field_may_be_wiki_markup_or_adf() -> None:
    both = {"summary": "S", "comment": {"comments": [said(adf("from v3")), said("from {{v2}}")]}}
    text = document({**both, "description": adf("one", "two")}).text
    assert "one\n\ntwo" in text
    assert "from v3" in text
    assert "from `v2`" in text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"summary": None, "description": None, "comment": None},
        {"summary": "", "description": "", "comment": {"comments": [{}]}},
        {"summary": 7, "description": [], "labels": "one", "issuelinks": [None, {}], "comment": {"comments": [None]}},
        {"summary": "S", "status": "Open", "assignee": "x", "subtasks": {}, "parent": [], "created": "soon"},
        {"comment": {"comments": [{"body": "b", "author": None, "created": None}], "total": "many"}},
    ],
)  # fmt: skip
def test_missing_and_misshapen_fields_are_no_failure(fields: dict[str, Any]) -> None:
    assert document(fields).key == "MILL-7"


def test_every_comment_is_kept_or_counted_with_its_reason() -> None:
    comments = [
        said("kept"),
        said("Build passed", author="build-bot"),
        said("secret", visibility={"type": "role", "value": "Administrators"}),
        said("internal", jsdPublic=False),
        said("public", jsdPublic=True),
        said("  "),
    ]
    found = document({"comment": {"comments": comments, "total": 9}})
    assert (found.comments_total, found.comments_kept) == (9, 2)
    assert found.comments_dropped == {"bot": 1, "restricted": 2, "empty": 1, "not_in_payload": 3}
    for absent in ("Build passed", "secret", "internal"):
        assert absent not in found.text
    without = document({"comment": {"comments": comments, "total": 9}}, comments=False)
    assert without.comments_dropped == {"bot": 1, "restricted": 2, "excluded": 3, "not_in_payload": 3}
    assert without.comments_kept == 0
    assert "kept" not in without.text


def test_a_robot_is_told_by_its_account_too() -> None:
    comment = said("Build passed", author="Continuous Integration")
    comment["author"]["name"] = "ci-bot"
    assert document({"comment": {"comments": [comment]}}).comments_dropped == {"bot": 1}
    comment["author"] = {"displayName": "Statuspage", "accountType": "app"}
    assert document({"comment": {"comments": [comment]}}).comments_dropped == {"bot": 1}


def test_custom_fields_with_text_stand_under_their_label() -> None:
    fields = {
        "customfield_1": "Given a *pump*",
        "customfield_2": adf("When it runs"),
        "customfield_3": [{"value": "North"}, {"value": "South"}],
        "customfield_4": None,
        "customfield_5": {"unknown": {}},
        "customfield_9": "not asked for",
    }
    labels = {f"customfield_{n}": f"Field {n}" for n in range(1, 7)}
    text = document(fields, custom_fields=labels).text
    assert (
        text == "## Field 1\n\nGiven a **pump**\n\n## Field 2\n\nWhen it runs\n\n## Field 3\n\nNorth, South"
    )


def test_links_come_from_fields_and_from_text_but_never_to_itself() -> None:
    duplicate = {"name": "Duplicate", "inward": "is duplicated by", "outward": "duplicates"}
    found = document(
        {
            "summary": "Like MILL-7 and MILL-9",
            "issuelinks": [
                {"type": duplicate, "inwardIssue": {"key": "MILL-8"}},
                {"type": duplicate, "outwardIssue": {"key": "MILL-6"}},
                {"type": duplicate, "outwardIssue": {"key": "X" * 5000}},
            ],
            "parent": {"key": "MILL-1"},
            "subtasks": [{"key": "MILL-11"}],
            "epic": {"key": "MILL-2"},
        }
    )
    assert set(found.links) == {
        Link("is_duplicated_by", "jira_issue", "MILL-8"),
        Link("duplicates", "jira_issue", "MILL-6"),
        Link("parent", "jira_issue", "MILL-1"),
        Link("subtask", "jira_issue", "MILL-11"),
        Link("epic", "jira_issue", "MILL-2"),
        Link("mentions", "jira_issue", "MILL-9"),
    }


@pytest.mark.parametrize(
    ("site_url", "own", "expected"),
    [
        (None, "https://jira.example/rest/api/2/issue/1", "https://jira.example/browse/MILL-7"),
        (None, "https://example.com/jira/rest/agile/1.0/issue/1", "https://example.com/jira/browse/MILL-7"),
        (
            "https://shown.example/",
            "https://api.example/rest/api/3/issue/1",
            "https://shown.example/browse/MILL-7",
        ),
        (None, None, ""),
        (None, "javascript:alert(1)/rest/", ""),
    ],
)
def test_the_address_is_the_site_s_or_the_issue_s_own(
    site_url: str | None, own: str | None, expected: str
) -> None:
    assert document({}, site_url=site_url, self=own).url == expected


def test_nothing_that_postgres_refuses_comes_through() -> None:
    user = {"displayName": "in\0es"}
    found = document(
        {"summary": "a\0b", "description": "c\0d", "labels": ["e\0f"], "reporter": user, "creator": user}
    )
    assert "\0" not in found.text + found.title + found.author + str(found.attributes)
    assert "\\x00" not in repr(found.attributes)


def test_a_lone_surrogate_in_a_payload_can_be_stored() -> None:
    raw = rb'{"id": "1", "key": "MILL-7", "fields": {"summary": "a\ud83d b", "labels": ["c\udc00"]}}'
    found = issue_to_document(record(raw), comments=True, bots=(), custom_fields={}, site_url=None)
    json.dumps([found.text, found.title, found.attributes], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (b"{", r"\(record\)"),
        (b"[]", r"\(record\)"),
        (b'{"fields": {}}', "key"),
        (b'{"key": "A-1", "fields": []}', "fields"),
    ],
)
def test_what_is_no_issue_says_where(payload: bytes, path: str) -> None:
    with pytest.raises(InvalidPayload, match=f"^{path}: expected"):
        issue_to_document(record(payload), comments=True, bots=(), custom_fields={}, site_url=None)


def test_a_flat_issue_loses_the_quotes_of_its_table() -> None:
    flat = {
        "project": "mesos",
        "issuekey": "MESOS-3",
        "title": " T ",
        "description": '"See MESOS-4."',
        "storypoint": "2",
    }
    found = flat_issue_to_document(record(flat, Format.JIRA_FLAT))
    assert (found.key, found.project, found.title) == ("MESOS-3", "MESOS", "T")
    assert found.text == "# T\n\nSee MESOS-4."
    assert found.links == (Link("mentions", "jira_issue", "MESOS-4"),)
    with pytest.raises(InvalidPayload, match="issuekey"):
        flat_issue_to_document(record({"issuekey": None}, Format.JIRA_FLAT))
