"""Pure: a git commit's payload into a document: its message first, then what it touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from extractors.git_trailers import parse_message
from extractors.references import find_references
from extractors.text.boilerplate import normalize
from schemas.documents import Document, SourceRecord
from schemas.errors import InvalidPayload
from schemas.payloads import parse_json, parse_time, validate

MAX_PATHS_IN_TEXT = 100
MAX_PATHS = 1000
"""Paths in the attribute `paths`."""
MAX_FOLDERS_IN_TEXT = 10


def _empty_if_null(value: Any) -> Any:
    return "" if value is None else value


_Text = Annotated[str, BeforeValidator(_empty_if_null)]
_Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _File(_Model):
    path: str
    old_path: str | None = None
    additions: _Count | None = None
    deletions: _Count | None = None
    binary: bool = False


class _Stats(_Model):
    files: _Count
    additions: _Count
    deletions: _Count


class _Commit(_Model):
    repo: str
    sha: str = Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    parents: tuple[str, ...] = ()
    author: _Text = ""
    author_date: _Text = ""
    committer: _Text = ""
    commit_date: _Text = ""
    message: _Text = ""
    stats: _Stats | None = None
    files: tuple[_File, ...] = ()
    web_url: _Text = ""
    line_counts_missing: bool = False
    files_not_read: bool = False
    message_not_utf8: bool = False
    shallow_boundary: bool = False


def commit_to_document(record: SourceRecord) -> Document:
    """A commit as subject, body and the paths it touched.

    Of many paths the `MAX_PATHS_IN_TEXT` with the most changed lines stand in the text and the folders of the
    others, so that a huge commit does not drown its message; attributes say how many were left out. Trailers are
    attributes; those that name people leave the text.

    Args:
        record: with a payload of format `GIT_COMMIT`.
    Raises:
        InvalidPayload: it is none; names the field.
    """
    try:
        value = parse_json(record.payload)
    except ValueError:
        raise InvalidPayload("(record)", "JSON") from None
    commit = validate(_Commit, value)
    message = normalize(commit.message)
    parsed = parse_message(message)
    shown = _largest(commit.files, MAX_PATHS_IN_TEXT)
    stats = commit.stats or _sums(commit.files)
    heading = f"# {parsed.subject}" if parsed.subject else ""
    parts = (heading, parsed.body, _file_list(commit, stats, shown))
    return Document(
        record=record,
        key=commit.sha,
        project=_clean(commit.repo),
        title=parsed.subject,
        text=normalize("\n\n".join(part for part in parts if part)),
        url=f"{commit.web_url.rstrip('/')}/commit/{commit.sha}" if commit.web_url else "",
        author=_clean(commit.author),
        created_at=_moment(commit.author_date),
        attributes={
            "parents": list(commit.parents),
            "merge": len(commit.parents) > 1,
            "committer": _clean(commit.committer),
            "author_date": _clean(commit.author_date),
            "commit_date": _clean(commit.commit_date),
            "files": stats.files,
            "additions": stats.additions,
            "deletions": stats.deletions,
            "paths": [_clean(file.path) for file in commit.files[:MAX_PATHS]],
            "paths_left_out": max(0, stats.files - MAX_PATHS),
            "paths_left_out_of_text": max(0, stats.files - len(shown)),
            "trailers": {token: list(values) for token, values in parsed.trailers.items()},
            **_flags(commit),
        },
        links=find_references(message, commit.repo if "/" in commit.repo else ""),
    )


def _flags(commit: _Commit) -> dict[str, bool]:
    flags = {
        "line_counts_missing": commit.line_counts_missing,
        "files_not_read": commit.files_not_read,
        "message_not_utf8": commit.message_not_utf8,
        "shallow_boundary": commit.shallow_boundary,
    }
    return {name: True for name, is_set in flags.items() if is_set}


def _largest(files: Sequence[_File], count: int) -> Sequence[_File]:
    """The files with most changed lines, in the order given."""
    if len(files) <= count:
        return files
    by_size = sorted(range(len(files)), key=lambda at: -_lines(files[at]))
    return [files[at] for at in sorted(by_size[:count])]


def _lines(file: _File) -> int:
    return (file.additions or 0) + (file.deletions or 0)


def _sums(files: Sequence[_File]) -> _Stats:
    additions, deletions = (
        sum(file.additions or 0 for file in files),
        sum(file.deletions or 0 for file in files),
    )
    return _Stats(files=len(files), additions=additions, deletions=deletions)


def _file_list(commit: _Commit, stats: _Stats, shown: Sequence[_File]) -> str:
    if not shown:
        return ""
    counts = "" if commit.line_counts_missing else f", +{stats.additions} -{stats.deletions}"
    lines = [f"Files changed: {stats.files}{counts}", "", *(_file_line(file) for file in shown)]
    if stats.files > len(shown):
        listed = {id(file) for file in shown}
        folders = Counter(_folder(file.path) for file in commit.files if id(file) not in listed)
        named = ", ".join(folder for folder, _ in folders.most_common(MAX_FOLDERS_IN_TEXT))
        lines.append(f"- and {stats.files - len(shown)} more files" + (f" in {named}" if named else ""))
    return "\n".join(lines)


def _file_line(file: _File) -> str:
    name = f"{_clean(file.old_path)} => {_clean(file.path)}" if file.old_path else _clean(file.path)
    if file.binary:
        return f"- {name} (binary)"
    if file.additions is None or file.deletions is None:
        return f"- {name}"
    return f"- {name} +{file.additions} -{file.deletions}"


def _folder(path: str) -> str:
    """The first two folders of a path."""
    parts = path.split("/")[:-1][:2]
    return _clean("/".join(parts) + "/") if parts else "./"


def _clean(text: str) -> str:
    """One line that can be stored and shown."""
    return text if text.isprintable() else normalize(text).replace("\n", "\\n").replace("\t", "\\t")


def _moment(date: str) -> datetime | None:
    """UTC; a zone that no clock has is taken for UTC, as git takes it."""
    return parse_time(date) or parse_time(date[:19])
