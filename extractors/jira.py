"""Jira payloads -> Document. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from extractors.references import find_references
from extractors.text import adf, wiki
from extractors.text.boilerplate import is_bot, normalize
from schemas.documents import Document, Link, SourceRecord
from schemas.errors import InvalidPayload
from schemas.payloads import (
    JiraComment,
    JiraComments,
    JiraFields,
    JiraFlatIssue,
    JiraIssue,
    JiraUser,
    parse_json,
    validate,
)


def issue_to_document(
    record: SourceRecord,
    *,
    comments: bool,
    bots: Sequence[str],
    custom_fields: Mapping[str, str],
    site_url: str | None,
    restricted_comments: bool = False,
) -> Document:
    """An issue of REST v2 (wiki markup), v3 (ADF) or the Agile API, with its inline comments.

    The short fields stand after the description: a model with a small window shall see what the issue is about.

    Args:
        comments: False leaves them out and counts them as `excluded`.
        bots: globs of account names whose comments are dropped.
        custom_fields: field id -> heading, for fields with text.
        site_url: base of links; None takes it from the issue's `self`.
        restricted_comments: True keeps those that not everyone who sees the issue may see.
    Raises:
        InvalidPayload: it has no key, or a field has another shape than Jira gives it.
    """
    value = _parsed(record)
    issue = validate(JiraIssue, value)
    if not issue.key:
        raise InvalidPayload("key", "the issue's key, such as ABC-12")
    fields = issue.fields
    title = _one_line(fields.summary)
    kept, total, dropped = _comments(fields.comment or JiraComments(), comments, bots, restricted_comments)
    parts = [f"# {title}" if title else "", _markdown(fields.description), _facts(fields)]
    parts.append(_section("Environment", _markdown(fields.environment)))
    for field_id, label in custom_fields.items():
        parts.append(_section(label, _markdown(value["fields"].get(field_id))))
    parts += kept
    text = normalize("\n\n".join(part for part in parts if part))
    return Document(
        record=record,
        key=issue.key,
        project=(fields.project.key if fields.project else "") or issue.key.rpartition("-")[0],
        title=title,
        text=text,
        url=_url(issue, site_url),
        author=_shown(fields.reporter or fields.creator),
        created_at=fields.created,
        attributes=_attributes(fields),
        links=_links(issue, text),
        comments_total=total,
        comments_kept=len(kept),
        comments_dropped=dropped,
    )


def flat_issue_to_document(record: SourceRecord) -> Document:
    """An issue of a flat table: key, title, description in wiki markup, story points.

    Raises:
        InvalidPayload: it has no key.
    """
    issue = validate(JiraFlatIssue, _parsed(record))
    if not issue.issuekey:
        raise InvalidPayload("issuekey", "the issue's key, such as ABC-12")
    title = _one_line(issue.title)
    description = issue.description.strip()
    if len(description) > 1 and description[0] == description[-1] == '"':
        description = description[1:-1]  # a quote of the table it was cut out of
    parts = [f"# {title}" if title else "", _markdown(description)]
    text = normalize("\n\n".join(part for part in parts if part))
    return Document(
        record=record,
        key=issue.issuekey,
        project=issue.issuekey.rpartition("-")[0],
        title=title,
        text=text,
        attributes={"story_points": issue.storypoint} if isinstance(issue.storypoint, str) else {},
        links=tuple(link for link in find_references(text) if link.target_key != issue.issuekey),
    )


def _parsed(record: SourceRecord) -> Any:
    try:
        return parse_json(record.payload)
    except ValueError:
        raise InvalidPayload("(record)", "JSON") from None


def _one_line(text: str) -> str:
    return " ".join(normalize(text).split())


def _markdown(value: Any) -> str:
    """Text of a field: wiki markup, an ADF document, an option (`{"value": ...}`), a number, or several of them."""
    if isinstance(value, str):
        return wiki.to_markdown(value).strip()
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        if "type" in value and ("content" in value or "text" in value):
            return adf.to_markdown(value).strip()
        shown = value.get("value") or value.get("name") or value.get("displayName")
        return shown.strip() if isinstance(shown, str) else ""
    if isinstance(value, list):
        return ", ".join(filter(None, (_markdown(item) for item in value if not isinstance(item, list))))
    return ""


def _section(heading: str, text: str) -> str:
    return f"## {heading}\n\n{text}" if text else ""


def _facts(fields: JiraFields) -> str:
    facts = {
        "Type": fields.issuetype,
        "Status": fields.status,
        "Priority": fields.priority,
        "Resolution": fields.resolution,
        "Labels": ", ".join(fields.labels),
        "Components": ", ".join(fields.components),
        "Fix versions": ", ".join(fields.fix_versions),
        "Affects versions": ", ".join(fields.versions),
    }
    return "; ".join(f"{name}: {value}" for name, value in facts.items() if value)


def _attributes(fields: JiraFields) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "type": fields.issuetype,
        "status": fields.status,
        "priority": fields.priority,
        "resolution": fields.resolution,
        "resolved_at": fields.resolutiondate.isoformat() if fields.resolutiondate else "",
        "labels": list(fields.labels),
        "components": list(fields.components),
        "fix_versions": list(fields.fix_versions),
        "versions": list(fields.versions),
        "assignee": _shown(fields.assignee),
        "reporter": _shown(fields.reporter),
    }
    return {name: value for name, value in attributes.items() if value}


def _shown(user: JiraUser | None) -> str:
    return user.shown if user else ""


def _comments(
    inline: JiraComments, wanted: bool, bots: Sequence[str], restricted: bool
) -> tuple[list[str], int, dict[str, int]]:
    """Texts of the comments kept, how many Jira says there are, and reason -> count of the others."""
    total = max(inline.total, len(inline.comments))
    dropped = Counter({"not_in_payload": total - len(inline.comments)})
    kept = []
    for comment in inline.comments:
        reason = _reason_to_drop(comment, wanted, bots, restricted)
        body = "" if reason else _markdown(comment.body)
        if body:
            day = f", {comment.created:%Y-%m-%d}" if comment.created else ""
            kept.append(_section(f"Comment by {_shown(comment.author) or 'unknown'}{day}", body))
        else:
            dropped[reason or "empty"] += 1
    return kept, total, {reason: count for reason, count in dropped.items() if count}


def _reason_to_drop(comment: JiraComment, wanted: bool, bots: Sequence[str], restricted: bool) -> str:
    """Restricted ones (to a role, or internal to a service desk) first: they are not for every reader of an index."""
    if not restricted and (comment.visibility or comment.jsd_public is False):
        return "restricted"
    author = comment.author
    if author and (author.account_type == "app" or any(is_bot(name, "", bots) for name in author.names)):
        return "bot"
    return "" if wanted else "excluded"


def _links(issue: JiraIssue, text: str) -> tuple[Link, ...]:
    fields = issue.fields
    named = [("parent", fields.parent), ("epic", fields.epic)]
    named += [("subtask", subtask) for subtask in fields.subtasks]
    for link in fields.issuelinks:
        kind = link.type
        named.append((_relation(kind.inward or kind.name) if kind else "relates_to", link.inward_issue))
        named.append((_relation(kind.outward or kind.name) if kind else "relates_to", link.outward_issue))
    links = [Link(relation, "jira_issue", other.key) for relation, other in named if other and other.key]
    links += find_references(text)
    return tuple(dict.fromkeys(link for link in links if link.target_key != issue.key))


def _relation(name: str) -> str:
    """`is duplicated by` -> `is_duplicated_by`."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")[:50] or "relates_to"


def _url(issue: JiraIssue, site_url: str | None) -> str:
    site = site_url or issue.self.partition("/rest/")[0]
    return f"{site.rstrip('/')}/browse/{issue.key}" if site.startswith(("https://", "http://")) else ""
