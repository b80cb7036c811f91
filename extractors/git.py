"""A live git repository as a source: commits oldest first, resumed by reachability, buried after a force push."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import orjson
from pydantic import ValidationError

from extractors.base import Cursor, OnWait, Page, Reference
from extractors.git_log import LOG_ARGUMENTS, LoggedCommit, parse_date, parse_log, payload_of
from extractors.git_mirror import Mirror, patch_ids_of, repository_name
from extractors.git_picks import without_picks
from extractors.git_plan import (
    Lists,
    Place,
    Plan,
    Reading,
    Snapshot,
    distance,
    place_in,
    planned,
    reached,
)
from extractors.git_process import FATAL, GitFailed, git_version, split_stream
from extractors.git_repository import Repository, matching, open_repository
from schemas.documents import Format, Kind, SourceRecord, Tombstone
from schemas.errors import MissingFile, NotARepository
from schemas.sources import GitSource

PAGE_RECORDS = 200
PAGE_BYTES = 1 << 20
REFERENCES = 500
SILENCE_S = 120.0
COMPARES_SINCE = (2, 39)
"""Before it, `git patch-id --stable` gave one id to all changes of binary files alone."""
FRESH = timedelta(seconds=60)
"""An estimate has the mirror brought up to date; `pages` takes it as it is for so long."""
UNREACHABLE = "unreachable after force push or branch deletion"
SAME_CHANGE = "makes the same change as another commit"

_SHA = re.compile("[0-9a-f]{40}(?:[0-9a-f]{24})?")
_log = logging.getLogger(__name__)


class GitRepository:
    """Commits of one repository: those that HEAD reaches, or those that the refs in `settings.refs` reach.

    Commits come parents first, so a cursor is the tips that were read and, within a pass, how many commits were
    given; a later call reads what the new tips reach and the old ones did not, and buries what only the old ones
    reached.

    Merges give their message and no files. A shallow clone's boundary commits do too, since git would show the
    whole tree as added; when the boundary moves, all is read again and nothing is buried, as what fell behind it
    is out of sight, not gone. A partial clone without blobs gives paths without counts.

    Pages that were stored by a run that died before it kept their cursor come again. Should a force push take
    those commits away in between, no cursor knows of them: they are in no later census, and looking at them again
    buries them.

    A repository elsewhere is read from a mirror, see `Mirror`. Between two calls nothing of it is open.

    Args:
        client: whose commits these are.
        data_dir: where mirrors are kept, and patch ids.
        on_wait: told what takes long.
        now: the time, UTC, as of which the repository is seen.
        silence_s: seconds without a byte from git after which it is given up.
    """

    def __init__(
        self,
        settings: GitSource,
        client: str,
        data_dir: Path,
        on_wait: OnWait,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._client = client
        self._on_wait = on_wait
        self._now = now
        self._silence_s = silence_s
        self._patch_ids = patch_ids_of(settings.name, data_dir)
        self._mirror = (
            Mirror(settings, data_dir, on_wait, silence_s=silence_s, sleep=sleep) if settings.url else None
        )
        self._updated_at: datetime | None = None

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        """Yield what happened after `cursor`; the last page carries the cursor of all that was read, never None.

        Raises:
            NotARepository: the path is none, or one without trees.
            MissingFile: git is not installed.
            SourceTimeout: git fell silent.
            GitFailed: git ended early. Pages given so far stand.
            SetupError, RetryableError: the mirror could not be brought up to date, see `Mirror.update`.
        """
        place = self._place(cursor)
        with self._opened(fresh_enough=True) as repository, _scratch() as folder:
            done = place.done
            if place.reading is not None:
                try:
                    plan = self._plan(repository, done, place.reading, folder)
                except GitFailed as error:
                    if error.status != FATAL:
                        raise
                    _log.warning("%s: the commits being read are gone: reading what is there now", self.name)
                else:
                    yield from self._give(repository, plan)
                    done = plan.target
            target = self._snapshot(repository)
            if done.tips and not target.tips:
                _log.warning("%s: no ref leads to a commit any more: keeping what was read before", self.name)
                yield Page(cursor=_at(done))
                return
            yield from self._give(repository, self._plan_or_restart(repository, done, target, folder))

    def estimate(self, cursor: Cursor | None) -> int | None:
        """Commits and tombstones still to come; None where what was read before is gone.

        Raises:
            PipelineError: as `pages`.
        """
        place = self._place(cursor)
        with self._opened() as repository:
            self._updated_at = self._now()
            git, shallow, target = repository.git, repository.shallow, self._snapshot(repository)
            try:
                if place.reading is None:
                    return distance(git, place.done, target, shallow)
                rest = distance(git, place.done, place.reading.target, shallow) - place.reading.given
                return max(0, rest) + distance(git, place.reading.target, target, shallow)
            except GitFailed:
                return None

    def check(self) -> str:
        """Ask whether it can be read, without cloning it; what was found, in a few words.

        Raises:
            PipelineError: as `pages`.
        """
        self._check_git()
        globs = self._settings.refs or ("HEAD",)
        if self._mirror is None:
            found = list(self._open(self._settings.path or Path()).snapshot(globs).tips)
        else:
            found = matching(self._mirror.refs(), globs)
        return f"readable, {len(found):,} of its refs match {', '.join(globs)}"

    def close(self) -> None:
        """Nothing is held open between pages."""

    def census(self) -> Iterator[Sequence[Reference]]:
        """Yield every commit that is to be stored: what the refs reach, of those that make the same change one.

        Raises:
            PipelineError: as `pages`.
        """
        with self._opened() as repository, _scratch() as folder:
            shas = planned(self._everything(repository, folder).arrivals)
            while part := tuple(islice(shas, REFERENCES)):
                yield [Reference(Kind.COMMIT, sha, sha) for sha in part]

    def look_again(self, references: Sequence[Reference]) -> Iterator[Page]:
        """Yield each commit that the refs reach, a tombstone for each that they do not.

        Nothing is said of what a shallow clone may have out of sight, nor of anything when no ref leads to a commit.

        Raises:
            PipelineError: as `pages`.
        """
        asked = dict.fromkeys(each.native_id for each in references if _is_sha(each))
        with self._opened() as repository, _scratch() as folder:
            tips = self._snapshot(repository).tips
            if not tips:
                return
            observed_at = self._now()
            there = reached(repository.git, asked, tips.values())
            told, same = there, set[str]()
            if not self._settings.cherry_picks:
                told = there.intersection(planned(self._everything(repository, folder).arrivals))
                same = there - told
            feed = folder / "again"
            boundary = repository.boundary
            lines = (f"{sha} {sha}\n" if sha in boundary else f"{sha}\n" for sha in asked if sha in told)
            feed.write_text("".join(lines), encoding="ascii")
            with closing(self._records(repository, feed, 0, observed_at)) as records:
                for page in _pages(records):
                    yield Page(records=page)
            gone = [] if repository.shallow else [sha for sha in asked if sha not in there]
            stones = [self._tombstone(sha, observed_at) for sha in gone]
            stones += [self._tombstone(sha, observed_at, SAME_CHANGE) for sha in asked if sha in same]
            if stones:
                yield Page(tombstones=tuple(stones))

    def _place(self, cursor: Cursor | None) -> Place:
        try:
            return Place.model_validate(cursor or {})
        except ValidationError:
            _log.warning("%s: the cursor is none of a git repository: reading from the beginning", self.name)
            return Place()

    @contextmanager
    def _opened(self, *, fresh_enough: bool = False) -> Iterator[Repository]:
        """The repository as it is now; a mirror that cannot be read is made anew the next time."""
        self._check_git()
        settings, mirror = self._settings, self._mirror
        if mirror is None:
            yield self._open(settings.path or Path())
            return
        fresh = fresh_enough and self._updated_at is not None and self._now() - self._updated_at < FRESH
        self._updated_at = None
        path = mirror.path if fresh else mirror.update()
        try:
            yield self._open(path)
        except (GitFailed, NotARepository) as error:
            if isinstance(error, NotARepository) or error.status == FATAL:
                mirror.distrust()
            raise

    def _open(self, path: Path) -> Repository:
        settings = self._settings
        repository = open_repository(
            path,
            self._silence_s,
            name=repository_name(settings.url) if settings.url else "",
            files=settings.files,
            web_url=settings.web_url,
        )
        if not (settings.cherry_picks or repository.whole):
            raise NotARepository(
                f"{path}: a partial clone without contents, which cherry_picks = false compares: give a whole clone, "
                "or leave cherry_picks out"
            )
        return repository

    def _check_git(self) -> None:
        if not self._settings.cherry_picks and (found := git_version()) < COMPARES_SINCE:
            raise MissingFile(
                f"git {'.'.join(map(str, found))} is too old for cherry_picks = false of source {self.name}: install "
                f"git {'.'.join(map(str, COMPARES_SINCE))} or newer, or leave cherry_picks out"
            )

    def _snapshot(self, repository: Repository) -> Snapshot:
        snapshot = repository.snapshot(self._settings.refs)
        if not snapshot.tips and self._settings.refs:
            _log.warning("%s: no ref matches %s", self.name, ", ".join(self._settings.refs))
        return snapshot

    def _lists(self, repository: Repository, done: Snapshot, target: Snapshot, folder: Path) -> Lists:
        lists = repository.lists(done, target, folder)
        if self._settings.cherry_picks:
            return lists
        return without_picks(lists, done, target, repository, self._patch_ids, self._on_wait, self.name)

    def _everything(self, repository: Repository, folder: Path) -> Lists:
        return self._lists(repository, Snapshot(), self._snapshot(repository), folder)

    def _plan(self, repository: Repository, done: Snapshot, reading: Reading, folder: Path) -> Plan:
        return place_in(self._lists(repository, done, reading.target, folder), done, reading)

    def _plan_or_restart(
        self, repository: Repository, done: Snapshot, target: Snapshot, folder: Path
    ) -> Plan:
        try:
            return self._plan(repository, done, Reading(target=target), folder)
        except GitFailed as error:
            if error.status != FATAL or not done.tips:
                raise
            _log.warning("%s: the commits read last are gone: reading all again, burying nothing", self.name)
            return self._plan(repository, Snapshot(), Reading(target=target), folder)

    def _give(self, repository: Repository, plan: Plan) -> Iterator[Page]:
        """The pages of one pass: tombstones first, so that where commits were given all of those were, too."""
        observed_at = self._now()
        given = plan.given
        if not given:
            departed = planned(plan.lists.departures)
            while shas := tuple(islice(departed, PAGE_RECORDS)):
                yield Page(
                    tombstones=tuple(self._tombstone(sha, observed_at) for sha in shas), cursor=_within(plan)
                )
        passed_over = plan.lists.passed_over
        skipped = {"cherry_pick": passed_over} if passed_over else {}
        if given == plan.total:
            yield Page(skipped=skipped, cursor=_at(plan.target))
            return
        feed = plan.lists.arrivals
        with closing(self._records(repository, feed, plan.offset, observed_at)) as records:
            for page in _pages(records):
                given += len(page)
                if given < plan.total:
                    yield Page(records=page, cursor=_within(plan, given, page[-1].native_id))
                else:
                    yield Page(records=page, skipped=skipped, cursor=_at(plan.target))

    def _records(
        self, repository: Repository, feed: Path, offset: int, observed_at: datetime
    ) -> Generator[SourceRecord, None, None]:
        """The commits of a list from `offset` bytes on, each at its place.

        Raises:
            GitFailed: git left one out.
        """
        expected = planned(feed, offset)
        with feed.open("rb") as file:
            file.seek(offset)
            blocks = repository.git.blocks(*LOG_ARGUMENTS, *repository.detail, stdin=file)
            with closing(blocks), closing(expected):
                for commit in parse_log(split_stream(blocks, b"\0")):
                    if commit.sha != next(expected, None):
                        raise GitFailed(f"{repository.git.path}: git gave a commit out of turn: run again")
                    yield self._record(repository, commit, observed_at)
                if missing := next(expected, None):
                    raise GitFailed(f"{repository.git.path}: git left out {missing}: check with git fsck")

    def _record(self, repository: Repository, commit: LoggedCommit, observed_at: datetime) -> SourceRecord:
        payload = payload_of(
            commit,
            repository.name,
            repository.web_url,
            boundary=commit.sha in repository.boundary,
            detail=repository.detail,
        )
        return SourceRecord(
            client=self._client,
            source=self.name,
            format=Format.GIT_COMMIT,
            kind=Kind.COMMIT,
            native_id=commit.sha,
            payload=orjson.dumps(payload),
            # A clock that ran fast must not make the commit newer than its own tombstone.
            updated_at=min(parse_date(commit.commit_date).astimezone(UTC), observed_at),
            observed_at=observed_at,
            locator=f"{self.name}@{commit.sha[:12]}",
        )

    def _tombstone(self, sha: str, observed_at: datetime, reason: str = UNREACHABLE) -> Tombstone:
        return Tombstone(self._client, self.name, Kind.COMMIT, sha, observed_at, reason)


def _pages(records: Iterator[SourceRecord]) -> Iterator[tuple[SourceRecord, ...]]:
    page: list[SourceRecord] = []
    page_bytes = 0
    for record in records:
        page.append(record)
        page_bytes += len(record.payload)
        if len(page) == PAGE_RECORDS or page_bytes >= PAGE_BYTES:
            yield tuple(page)
            page, page_bytes = [], 0
    if page:
        yield tuple(page)


def _within(plan: Plan, given: int = 0, last: str = "") -> Cursor:
    reading = Reading(target=plan.target, given=given, last=last)
    return Place(done=plan.done, reading=reading).model_dump()


def _at(done: Snapshot) -> Cursor:
    return Place(done=done).model_dump(exclude_none=True)


def _is_sha(reference: Reference) -> bool:
    return reference.kind is Kind.COMMIT and bool(_SHA.fullmatch(reference.native_id))


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="headrace-git-") as name:
        yield Path(name)
