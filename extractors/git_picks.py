"""Which commits make the same change: of all that do, one is given, the oldest that the refs reach.

Which one that is depends on the refs alone, not on what was read before: a pass compares what the refs reached
before with what they reach now, and the first commit of a change may be given, buried or replaced by another. So
nothing has to be remembered, and a run that died changes nothing. What is kept is a cache: the patch id of a commit
never changes and costs a comparison of its files.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from extractors.base import OnWait
from extractors.git_news import paced
from extractors.git_plan import Lists, Range, Snapshot, planned, reached, rev_list, unique
from extractors.git_process import Git, GitFailed, split_stream
from extractors.git_repository import Repository
from schemas.errors import NoRoom

LEARNED_AT_ONCE = 2000
COMPARED_AT_ONCE = 10_000

# Options stand against whatever the repository configures, since an id must not depend on it.
_DATES = ("diff-tree", "--stdin", "-s", "--root", "--always", "--no-color", "--format=%H %ct")
_CHANGES = (
    "diff-tree", "--stdin", "-r", "-p", "--root", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv",
    "--no-renames", "--no-relative", "-U3", "--inter-hunk-context=0", "--diff-algorithm=myers",
    "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip
_PATCH_ID = ("patch-id", "--stable")

_TABLES = """
CREATE TABLE IF NOT EXISTS learned (tip TEXT PRIMARY KEY, shallow TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (sha TEXT PRIMARY KEY, committed_at INTEGER NOT NULL, patch TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commits_of_a_patch ON commits (patch) WHERE patch IS NOT NULL;
"""
_TEMPORARY = """
CREATE TEMPORARY TABLE arrived (place INTEGER PRIMARY KEY, sha TEXT UNIQUE NOT NULL);
CREATE TEMPORARY TABLE departed (place INTEGER PRIMARY KEY, sha TEXT UNIQUE NOT NULL);
CREATE TEMPORARY TABLE unknown (place INTEGER PRIMARY KEY, sha TEXT NOT NULL);
CREATE TEMPORARY TABLE others (sha TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMPORARY TABLE members (
    sha TEXT PRIMARY KEY, patch TEXT NOT NULL, committed_at INTEGER NOT NULL,
    was INTEGER NOT NULL, now INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TEMPORARY TABLE firsts (patch TEXT PRIMARY KEY, was TEXT, now TEXT) WITHOUT ROWID;
"""
_OTHERS = """
SELECT sha FROM commits WHERE patch IN (
    SELECT patch FROM commits WHERE sha IN (SELECT sha FROM arrived UNION ALL SELECT sha FROM departed)
) AND sha NOT IN (SELECT sha FROM arrived) AND sha NOT IN (SELECT sha FROM departed)
"""
_CHOOSE = """
INSERT INTO members SELECT sha, patch, committed_at, 0, 1 FROM arrived JOIN commits USING (sha) WHERE patch NOT NULL;
INSERT INTO members SELECT sha, patch, committed_at, 1, 0 FROM departed JOIN commits USING (sha) WHERE patch NOT NULL;
INSERT INTO members SELECT sha, patch, committed_at, 1, 1 FROM others JOIN commits USING (sha);
CREATE INDEX temp.members_of_a_patch ON members (patch, committed_at, sha);
INSERT INTO firsts SELECT patch,
    (SELECT sha FROM members AS m WHERE m.patch = p.patch AND m.was ORDER BY committed_at, sha LIMIT 1),
    (SELECT sha FROM members AS m WHERE m.patch = p.patch AND m.now ORDER BY committed_at, sha LIMIT 1)
FROM (SELECT DISTINCT patch FROM members) AS p;
"""
_PASSED_OVER = """
SELECT arrived.sha FROM arrived JOIN members USING (sha) JOIN firsts USING (patch) WHERE arrived.sha <> firsts.now
ORDER BY place
"""
_MOVED = (
    "SELECT {side} FROM firsts WHERE now IS NOT was AND {side} IN (SELECT sha FROM others) ORDER BY {side}"
)

_log = logging.getLogger(__name__)


def without_picks(
    lists: Lists,
    done: Snapshot,
    target: Snapshot,
    repository: Repository,
    cache: Path,
    on_wait: OnWait,
    name: str,
) -> Lists:
    """The lists of a pass in which every change is given once.

    A merge changes nothing by itself, nor does a commit without changes, and what a shallow clone's boundary changes
    cannot be known: all of these are given. A commit that was passed over before comes first where it takes the
    place of one that went.

    Args:
        cache: the file of patch ids; made if it is not there, made anew if it is damaged.
        on_wait: told how far comparing has got, where it takes long.
        name: of the source, for messages.
    Raises:
        NoRoom: the cache cannot be written.
        GitFailed, SourceTimeout: as `Git.output`.
    """
    git = repository.git

    def choose() -> Lists:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache, timeout=60, isolation_level=None)) as ids:
            ids.executescript(_TABLES + _TEMPORARY)
            with _transaction(ids):
                for table, path in (("arrived", lists.arrivals), ("departed", lists.departures)):
                    rows = ((sha,) for sha in planned(path))
                    ids.executemany(f"INSERT INTO {table} (sha) VALUES (?)", rows)  # noqa: S608 - constants
                _list_unknown(ids, repository, (*done.tips.values(), *target.tips.values()))
            _learn(ids, git, on_wait, name)
            _remember(ids, repository, target)
            for shas in _in_parts(ids.execute(_OTHERS).fetchall()):
                present = reached(git, shas, target.tips.values())
                ids.executemany("INSERT INTO others VALUES (?)", ((sha,) for sha in present))
            ids.executescript(_CHOOSE)
            return _rewritten(lists, ids)

    try:
        try:
            return choose()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            _log.warning("%s: %s is damaged (%s): patch ids are computed again", name, cache, error)
            cache.unlink()
            return choose()
    except (sqlite3.OperationalError, OSError) as error:
        raise NoRoom(
            f"source {name}: {cache} cannot be written ({error}): make room, or change data_dir"
        ) from None


def _list_unknown(ids: sqlite3.Connection, repository: Repository, tips: Iterable[str]) -> None:
    """Commits that the cache may not hold: what lies behind the tips that it was filled from, it holds."""
    rows = ids.execute("SELECT tip FROM learned WHERE shallow = ?", (repository.shallow,)).fetchall()
    filled_from = [tip for (tip,) in rows]
    span = Range(unique(tips), unique(reached(repository.git, filled_from, filled_from)))
    boundary = {sha.encode() for sha in repository.boundary}
    shas = ((sha.decode(),) for sha in rev_list(repository.git, span) if sha not in boundary)
    ids.executemany("INSERT INTO unknown (sha) VALUES (?)", shas)
    ids.execute("DELETE FROM unknown WHERE sha IN (SELECT sha FROM commits)")


def _learn(ids: sqlite3.Connection, git: Git, on_wait: OnWait, name: str) -> None:
    """Compute patch ids and keep them, by some thousands."""
    (total,) = ids.execute("SELECT count(*) FROM unknown").fetchone()
    some = "SELECT place, sha FROM unknown WHERE place > ? ORDER BY place LIMIT ?"
    tell = paced(on_wait)
    done, last = 0, 0
    while rows := ids.execute(some, (last, LEARNED_AT_ONCE)).fetchall():
        tell(f"{name}: comparing changes, {done:,} of {total:,} commits")
        with TemporaryFile() as feed:
            feed.writelines(b"%b\n" % sha.encode() for _, sha in rows)
            feed.seek(0)
            dates = dict(_pairs(git.blocks(*_DATES, stdin=feed)))
            feed.seek(0)
            patches = {sha: patch for patch, sha in _pairs(git.piped(_CHANGES, _PATCH_ID, feed))}
        if dates.keys() != {sha for _, sha in rows}:
            raise GitFailed(
                f"{git.path}: git left out a commit: run again, and if it stays, check with git fsck"
            )
        found = ((sha, _seconds(date), patches.get(sha)) for sha, date in dates.items())
        with _transaction(ids):
            ids.executemany("INSERT OR REPLACE INTO commits VALUES (?, ?, ?)", found)
        done, last = done + len(rows), rows[-1][0]


def _remember(ids: sqlite3.Connection, repository: Repository, target: Snapshot) -> None:
    tips = Range(unique(target.tips.values()), ())
    rows = [(sha.decode(), repository.shallow) for sha in rev_list(repository.git, tips, "--no-walk")]
    with _transaction(ids):
        ids.execute("DELETE FROM learned")
        ids.executemany("INSERT INTO learned VALUES (?, ?)", rows)


def _rewritten(lists: Lists, ids: sqlite3.Connection) -> Lists:
    """The lists without what is passed over, with what takes another's place and what lost its own."""
    arrivals, departures = lists.arrivals.with_suffix(".once"), lists.departures.with_suffix(".once")
    passed_over = ids.execute(_PASSED_OVER)
    returned = [f"{sha}\n".encode() for (sha,) in ids.execute(_MOVED.format(side="now"))]
    with lists.arrivals.open("rb") as all_of_them, arrivals.open("wb") as kept:
        kept.writelines(returned)
        left_out, skip = 0, _next(passed_over)
        for line in all_of_them:
            if line.split(maxsplit=1)[0] == skip:
                left_out, skip = left_out + 1, _next(passed_over)
            else:
                kept.write(line)
    with lists.departures.open("rb") as gone, departures.open("wb") as buried:
        buried.writelines(gone)
        buried.writelines(f"{sha}\n".encode() for (sha,) in ids.execute(_MOVED.format(side="was")))
    return Lists(arrivals, departures, left_out)


def _next(rows: sqlite3.Cursor) -> bytes:
    row = rows.fetchone()
    return row[0].encode() if row else b""


def _pairs(blocks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for line in split_stream(blocks, b"\n"):
        first, _, second = line.decode("ascii", "replace").partition(" ")
        yield first, second


def _seconds(date: str) -> int:
    """A commit's time; one that is none, or that no table holds, is 1970."""
    return int(date) if re.fullmatch(r"-?\d{1,18}", date) else 0


def _in_parts(rows: Sequence[tuple[str]]) -> Iterator[list[str]]:
    for start in range(0, len(rows), COMPARED_AT_ONCE):
        yield [sha for (sha,) in rows[start : start + COMPARED_AT_ONCE]]


@contextmanager
def _transaction(ids: sqlite3.Connection) -> Iterator[None]:
    ids.execute("BEGIN")
    with ids:  # commits, or takes all back
        yield
