"""GitHub payloads -> Document. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from extractors.github_ids import number_of, repository_of
from extractors.references import find_references
from extractors.text import markdown
from extractors.text.boilerplate import is_bot, normalize
from schemas.documents import Document, Kind, Link, SourceRecord
from schemas.errors import InvalidPayload
from schemas.payloads import (
    ArchiveItem,
    GitHubComment,
    GitHubIssue,
    GitHubUser,
    LabelledIssue,
    parse_json,
    validate,
)

HUNK_LINES = 8  # of a diff hunk: the commented line is the last, those before it are context


def issue_to_document(record: SourceRecord, *, repository: str | None) -> Document:
    """An issue or pull request of the REST API; its comments are other records, here only counted.

    Args:
        repository: `owner/repo` for payloads that do not say.
    Raises:
        InvalidPayload: it belongs to no repository or has no number.
    """
    value = _parsed(record)
    issue = validate(GitHubIssue, value)
    project, number = _place(value, repository)
    elsewhere = issue.comments + issue.review_comments
    merged = issue.merged_at or _merged_at(value)
    facts = {
        "State": "merged" if merged else issue.state,
        "Reason": issue.state_reason,
        "Labels": ", ".join(issue.labels),
        "Milestone": issue.milestone,
    }
    attributes = {
        "type": str(record.kind),
        "state": facts["State"],
        "state_reason": issue.state_reason,
        "draft": issue.draft is True,
        "labels": list(issue.labels),
        "milestone": issue.milestone,
        "assignees": list(issue.assignees),
        "closed_at": _iso(issue.closed_at),
        "merged_at": _iso(merged),
        "base": issue.base.ref if issue.base else "",
        "head": issue.head.ref if issue.head else "",
    }
    title = _one_line(issue.title)
    return _document(
        record,
        key=f"{project}#{number}",
        project=project,
        title=title,
        parts=[_headline(title), _markdown(issue.body), _facts(facts)],
        url=issue.html_url,
        author=_login(issue.user),
        created_at=issue.created_at,
        attributes=attributes,
        total=elsewhere,
        dropped=Counter({"not_in_payload": elsewhere}),
    )


def comment_to_document(
    record: SourceRecord, *, comments: bool, bots: Sequence[str], repository: str | None
) -> Document:
    """A comment, review or review comment of the REST API, linked to what it was said about.

    One that is dropped (a bot's, an empty one) gives a document without text.

    Args:
        comments: False drops it as `excluded`.
        bots: globs of account names whose comments are dropped.
        repository: `owner/repo` for payloads that do not say.
    Raises:
        InvalidPayload: what it was said about is not to be found out.
    """
    value = _parsed(record)
    comment = validate(GitHubComment, value)
    on_commit = record.native_id.startswith("commit:")
    if on_commit:
        project = repository_of(value, repository)
        if not project:
            raise InvalidPayload("html_url", "the address of a comment, or `repository` in the configuration")
        target = f"{project}@{comment.commit_id[:12]}"
        parent = Link("parent", "commit", comment.commit_id)
    else:
        project, number = _place(value, repository)
        target = f"{project}#{number}"
        parent = Link("parent", "github", target)
    word = _WORDS[record.kind]
    title = f"{word} on {target}"
    body = _markdown(comment.body)
    by_bot = comment.user is not None and is_bot(comment.user.login, comment.user.type, bots)
    reason = "bot" if by_bot else "excluded" if not comments else "" if body else "empty"
    parts = [] if reason else [_headline(title), *_context(comment), body]
    line = comment.line if comment.line is not None else comment.original_line
    return _document(
        record,
        key=f"{target} ({word.lower()} {comment.id})",
        project=project,
        title=title,
        parts=parts,
        url=comment.html_url,
        author=_login(comment.user),
        created_at=comment.created_at or comment.submitted_at,
        attributes={
            "type": str(record.kind),
            "state": comment.state,
            "path": comment.path,
            "line": line if isinstance(line, int) else None,
            "in_reply_to": comment.in_reply_to_id,
        },
        links=(parent,),
        total=1,
        kept=0 if reason else 1,
        dropped=Counter({reason: 1} if reason else {}),
    )


def archive_item_to_document(record: SourceRecord, *, comments: bool, bots: Sequence[str]) -> Document:
    """An issue or pull request with its comments, reviews and review comments inside (GraphQL names).

    Args:
        comments: False leaves them out and counts them as `excluded`.
        bots: globs of account names whose comments are dropped.
    Raises:
        InvalidPayload: it has no repository or no number.
    """
    item = validate(ArchiveItem, _parsed(record))
    if not item.repo or not item.number:
        raise InvalidPayload("repo, number", "the repository and number of the issue")
    sections: list[tuple[str, str, str, datetime | None, str]] = [
        ("Comment", comment.author, comment.body, comment.created_at, "") for comment in item.comments
    ]
    for review in item.reviews:
        sections.append(("Review", review.author, review.body, review.created_at, ""))
        sections += [
            (
                "Review comment",
                comment.author or review.author,
                comment.body,
                comment.created_at,
                comment.path,
            )
            for comment in review.comments
        ]
    kept, dropped = [], Counter[str]()
    for word, author, body, created_at, path in sections:
        text = _markdown(body)
        reason = "bot" if is_bot(author, "", bots) else "" if comments else "excluded"
        if reason or not text:
            dropped[reason or "empty"] += 1
            continue
        day = f", {created_at:%Y-%m-%d}" if created_at else ""
        place = f" on `{path}`" if path else ""
        kept.append(f"## {word} by {author or 'ghost'}{place}{day}\n\n{text}")
    title = _one_line(item.title)
    state = item.state.lower()
    return _document(
        record,
        key=f"{item.repo}#{item.number}",
        project=item.repo,
        title=title,
        parts=[
            _headline(title),
            _markdown(item.body),
            _facts({"State": state, "Labels": ", ".join(item.labels)}),
            *kept,
        ],
        url=item.url,
        author=item.author,
        created_at=item.created_at,
        attributes={
            "type": str(record.kind),
            "state": state,
            "labels": list(item.labels),
            "assignees": list(item.assignees),
            "closed_at": _iso(item.closed_at),
            "merged_at": _iso(item.merged_at),
            "base": item.base_ref_name,
            "head": item.head_ref_name,
        },
        total=len(sections),
        kept=len(kept),
        dropped=dropped,
    )


def labelled_issue_to_document(record: SourceRecord) -> Document:
    """An issue of a labelled data set, which has no number: its key is the repository and its own digest.

    Raises:
        InvalidPayload: it has another shape.
    """
    issue = validate(LabelledIssue, _parsed(record))
    title = _one_line(issue.title)
    return _document(
        record,
        key=f"{issue.repo} ({record.native_id[:12]})",
        project=issue.repo,
        title=title,
        parts=[_headline(title), _markdown(issue.body), _facts({"Labels": issue.label})],
        created_at=issue.created_at,
        attributes={"type": "issue", "labels": [issue.label] if issue.label else []},
    )


_WORDS = {
    Kind.COMMENT: "Comment",
    Kind.REVIEW: "Review",
    Kind.REVIEW_COMMENT: "Review comment",
}


def _document(
    record: SourceRecord,
    *,
    key: str,
    project: str,
    title: str,
    parts: Sequence[str],
    url: str = "",
    author: str = "",
    created_at: datetime | None = None,
    attributes: Mapping[str, Any],
    links: tuple[Link, ...] = (),
    total: int = 0,
    kept: int = 0,
    dropped: Counter[str] | None = None,
) -> Document:
    text = normalize("\n\n".join(part for part in parts if part))
    known = {key.lower(), *(link.target_key.lower() for link in links)}
    found = (link for link in find_references(text, project) if link.target_key.lower() not in known)
    return Document(
        record=record,
        key=key,
        project=project,
        title=title,
        text=text,
        url=url,
        author=author,
        created_at=created_at,
        attributes={name: value for name, value in attributes.items() if value},
        links=tuple(dict.fromkeys((*links, *found))),
        comments_total=total,
        comments_kept=kept,
        comments_dropped={reason: count for reason, count in (dropped or Counter()).items() if count},
    )


def _parsed(record: SourceRecord) -> Any:
    try:
        return parse_json(record.payload)
    except ValueError:
        raise InvalidPayload("(record)", "JSON") from None


def _place(value: Any, repository: str | None) -> tuple[str, int]:
    """(`owner/repo`, number) of what a REST object is or belongs to."""
    if not isinstance(value, Mapping):
        raise InvalidPayload("(record)", "a JSON object")
    project, number = repository_of(value, repository), number_of(value)
    if not project:
        raise InvalidPayload("url", "the repository's address, or `repository` in the configuration")
    if not number:
        raise InvalidPayload("number", "the number of an issue or pull request")
    return project, number


def _merged_at(value: Any) -> datetime | None:
    """Where the issue shape of a pull request says so."""
    inside = value.get("pull_request")
    return validate(GitHubIssue, inside).merged_at if isinstance(inside, Mapping) else None


def _context(comment: GitHubComment) -> list[str]:
    """The file, and the last lines of the diff, that a review comment is about."""
    parts = [f"On `{comment.path}`:"] if comment.path else []
    if comment.diff_hunk:
        lines = comment.diff_hunk.splitlines()[-HUNK_LINES:]
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", comment.diff_hunk)), default=0))
        parts.append("\n".join([f"{fence}diff", *lines, fence]))
    return parts


def _markdown(text: str) -> str:
    return markdown.to_text(text).strip()


def _headline(title: str) -> str:
    return f"# {title}" if title else ""


def _one_line(text: str) -> str:
    return " ".join(normalize(text).split())


def _facts(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in facts.items() if value)


def _login(user: GitHubUser | None) -> str:
    return user.login if user else ""


def _iso(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""
