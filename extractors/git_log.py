"""Pure: the bytes of `git diff-tree --stdin -z` into commits, and a commit into the payload of a record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from extractors.git_process import GitFailed

# sha, parents, author, its date, committer, its date, message: NUL cannot occur in any of them.
_FORMAT = "%H%x00%P%x00%aN%x00%ad%x00%cN%x00%cd%x00%B%x00"
LOG_ARGUMENTS = (
    "diff-tree", "--stdin", "-z", "--root", "--always", "--no-color", "--no-ext-diff", "--no-textconv",
    "--no-relative", "--encoding=UTF-8", "--date=raw", f"--format={_FORMAT}",
)  # fmt: skip
COUNTS = ("-r", "--numstat", "--find-renames=50%", "-l1000")
NAMES = ("-r", "--name-status", "--no-renames")
MESSAGES = ("-s",)

MAX_FILES = 10_000
"""Files listed in one payload; `stats` covers all of them."""

_COUNTED = re.compile(rb"(\d+|-)\t(\d+|-)\t(.*)", re.DOTALL)
_STATUS = re.compile(rb"[A-Z]\d*")
_SHA = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")

# A day inside what datetime can hold, so that no zone moves a date out of it; Postgres holds more.
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class FileChanges:
    """What a commit did to files: the sums over all, the first `MAX_FILES` by name.

    Args:
        listed: `{path, old_path?, additions, deletions, binary?}`; counts are None for binary files, and for all
            files where only names were asked for.
    """

    files: int = 0
    additions: int = 0
    deletions: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: bytes, old_path: bytes | None, counts: tuple[bytes, bytes] | None) -> None:
        binary = counts is not None and counts[0] == b"-"
        additions, deletions = (None, None) if counts is None or binary else (int(counts[0]), int(counts[1]))
        self.files += 1
        self.additions += additions or 0
        self.deletions += deletions or 0
        if len(self.listed) == MAX_FILES:
            return
        change: dict[str, Any] = {"path": _path(path)}
        if old_path is not None:
            change["old_path"] = _path(old_path)
        change |= {"additions": additions, "deletions": deletions}
        if binary:
            change["binary"] = True
        self.listed.append(change)


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """A commit as git tells it. Dates are as git keeps them: seconds since 1970, a space, the zone."""

    sha: str
    parents: tuple[str, ...]
    author: str
    author_date: str
    committer: str
    commit_date: str
    message: str
    message_not_utf8: bool
    changes: FileChanges


def parse_log(tokens: Iterator[bytes]) -> Iterator[LoggedCommit]:
    """Commits out of the NUL-separated output of `LOG_ARGUMENTS` with `COUNTS`, `NAMES` or `MESSAGES`.

    Raises:
        GitFailed: the output does not have the shape asked for, or ends inside a commit.
    """
    sha = next(tokens, None)
    while sha is not None:
        if not _SHA.fullmatch(sha):
            raise GitFailed("git diff-tree gave something that is no commit: install git 2.32 or newer")
        parents, author, author_date, committer, commit_date, message = [_take(tokens) for _ in range(6)]
        _take(tokens)  # -z ends a header with one more NUL
        changes = FileChanges()
        following = _read_changes(tokens, changes)
        text, message_not_utf8 = _message(message)
        yield LoggedCommit(
            sha=sha.decode(),
            parents=tuple(parents.decode().split()),
            author=author.decode("utf-8", "replace"),
            author_date=author_date.decode("ascii", "replace"),
            committer=committer.decode("utf-8", "replace"),
            commit_date=commit_date.decode("ascii", "replace"),
            message=text,
            message_not_utf8=message_not_utf8,
            changes=changes,
        )
        sha = following


def payload_of(
    commit: LoggedCommit, repo: str, web_url: str, *, boundary: bool, detail: tuple[str, ...]
) -> dict[str, Any]:
    """The payload of a `GIT_COMMIT` record: the same for the same commit, so no branch and no time of reading.

    Args:
        boundary: the commit's parents were cut off by a shallow clone.
        detail: what was asked about files: `COUNTS`, `NAMES` or `MESSAGES`.
    """
    payload: dict[str, Any] = {
        "repo": repo,
        "sha": commit.sha,
        "parents": () if boundary else commit.parents,
        "author": commit.author,
        "author_date": parse_date(commit.author_date).isoformat(),
        "committer": commit.committer,
        "commit_date": parse_date(commit.commit_date).isoformat(),
        "message": commit.message,
    }
    if detail != MESSAGES:
        payload["stats"] = {
            "files": commit.changes.files,
            "additions": commit.changes.additions,
            "deletions": commit.changes.deletions,
        }
        payload["files"] = commit.changes.listed
    facts = {
        "message_not_utf8": commit.message_not_utf8,
        "shallow_boundary": boundary,
        "line_counts_missing": detail == NAMES,
        "files_not_read": detail == MESSAGES,
    }
    payload |= {fact: True for fact, holds in facts.items() if holds}
    return payload | ({"web_url": web_url} if web_url else {})


def parse_date(raw: str) -> datetime:
    """`1700000000 +0545` as a date in its zone; what no calendar holds is moved to the nearest that one does.

    A missing or unreadable time is 1970, as git has it; a zone of a day or more is UTC.
    """
    seconds, _, zone = raw.partition(" ")
    try:
        moment = min(max(_EPOCH + timedelta(seconds=int(seconds)), EARLIEST), LATEST)
    except ValueError:
        moment = _EPOCH
    except OverflowError:
        moment = EARLIEST if seconds.startswith("-") else LATEST
    return moment.astimezone(_zone(zone))


def _zone(raw: str) -> timezone:
    if not re.fullmatch(r"[+-]\d{4}", raw, re.ASCII):
        return UTC
    offset = timedelta(hours=int(raw[1:3]), minutes=int(raw[3:]))
    if offset >= timedelta(hours=24):
        return UTC
    return timezone(-offset if raw[0] == "-" else offset)


def _read_changes(tokens: Iterator[bytes], changes: FileChanges) -> bytes | None:
    """Add the changes that follow a header; returns the token after them, None at the end."""
    token = next(tokens, None)
    if token is None or not token.startswith(b"\n"):
        return token
    token = token[1:]
    while token is not None:
        if counted := _COUNTED.fullmatch(token):
            added, deleted, path = counted.groups()
            if path:
                changes.add(path, None, (added, deleted))
            else:
                old_path = _take(tokens)
                changes.add(_take(tokens), old_path, (added, deleted))
        elif _STATUS.fullmatch(token):
            changes.add(_take(tokens), None, None)
        else:
            return token
        token = next(tokens, None)
    return None


def _take(tokens: Iterator[bytes]) -> bytes:
    token = next(tokens, None)
    if token is None:
        raise GitFailed("git diff-tree ended in the middle of a commit: run again")
    return token


def _message(raw: bytes) -> tuple[str, bool]:
    """git has turned a declared encoding into UTF-8; what still is none was declared wrongly or not at all."""
    try:
        return raw.decode("utf-8").rstrip("\n"), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace").rstrip("\n"), True


def _path(raw: bytes) -> str:
    """A path as text; bytes that are no UTF-8 become `\\xe9`, so that two paths stay two."""
    return raw.decode("utf-8", "backslashreplace")
