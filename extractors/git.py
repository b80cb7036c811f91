"""A live git repository as a source: commits oldest first, resumed by reachability, buried after a force push."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import orjson
from pydantic import ValidationError

from extractors.base import Cursor, Page
from extractors.git_log import (
    COUNTS,
    LOG_ARGUMENTS,
    NAMES,
    LoggedCommit,
    parse_date,
    parse_log,
    payload_of,
)
from extractors.git_origin import parse_origin
from extractors.git_plan import Place, Plan, Reading, Snapshot, boundary_digest, distance, planned, write_plan
from extractors.git_process import FATAL, Git, GitFailed, split_stream
from schemas.documents import Format, Kind, SourceRecord, Tombstone
from schemas.errors import NotARepository
from schemas.sources import GitSource

PAGE_RECORDS = 200
PAGE_BYTES = 1 << 20
SILENCE_S = 120.0
UNREACHABLE = "unreachable after force push or branch deletion"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Repository:
    """What does not change while a repository is read.

    Args:
        name: `owner/repo` of its page on the web, else its folder's name.
        boundary: commits whose parents a shallow clone cut off.
        detail: what to ask git about files; less in a partial clone.
    """

    git: Git
    name: str
    web_url: str
    boundary: frozenset[str]
    detail: tuple[str, ...]

    @property
    def shallow(self) -> str:
        return boundary_digest(self.boundary)

    def plan(self, done: Snapshot, reading: Reading, folder: Path) -> Plan:
        return write_plan(self.git, done, reading, self.boundary, self.shallow, folder)


class GitRepository:
    """Commits of one repository: those that HEAD reaches, or those that the refs in `settings.refs` reach.

    A `*` in a glob of refs crosses slashes. Commits come parents first, so a cursor is the tips that were read
    and, within a pass, how many commits were given; a later call reads what the new tips reach and the old ones
    did not, and buries what only the old ones reached.

    Merges give their message and no files. A shallow clone's boundary commits do too, since git would show the
    whole tree as added; when the boundary moves, all is read again and nothing is buried, as what fell behind it
    is out of sight, not gone. A partial clone without blobs gives paths without counts.

    Pages that were stored by a run that died before it kept their cursor come again. Should a force push take
    those commits away in between, no cursor knows of them, and only a census of the stored ids finds them.

    Args:
        client: whose commits these are.
        now: the time, UTC, as of which the repository is seen.
        silence_s: seconds without a byte from git after which it is given up.
    """

    def __init__(
        self,
        settings: GitSource,
        client: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        silence_s: float = SILENCE_S,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._client = client
        self._now = now
        self._silence_s = silence_s

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        """Yield what happened after `cursor`; the last page carries the cursor of all that was read, never None.

        Raises:
            NotARepository: the path is none, or one without trees.
            MissingFile: git is not installed.
            SourceTimeout: git fell silent.
            GitFailed: git ended early. Pages given so far stand.
        """
        place = self._place(cursor)
        repository = self._open()
        with tempfile.TemporaryDirectory(prefix="headrace-git-") as name:
            folder, done = Path(name), place.done
            if place.reading is not None:
                try:
                    plan = repository.plan(done, place.reading, folder)
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
        """Commits and tombstones still to come; None where what was read before is gone."""
        place = self._place(cursor)
        repository = self._open()
        git, shallow, target = repository.git, repository.shallow, self._snapshot(repository)
        try:
            if place.reading is None:
                return distance(git, place.done, target, shallow)
            rest = distance(git, place.done, place.reading.target, shallow) - place.reading.given
            return max(0, rest) + distance(git, place.reading.target, target, shallow)
        except GitFailed:
            return None

    def _place(self, cursor: Cursor | None) -> Place:
        try:
            return Place.model_validate(cursor or {})
        except ValidationError:
            _log.warning("%s: the cursor is none of a git repository: reading from the beginning", self.name)
            return Place()

    def _open(self) -> _Repository:
        path = Path(self._settings.path or "").expanduser().resolve()
        if not path.is_dir():
            raise NotARepository(f"{path}: no such folder: give the work tree or the bare repository to read")
        git = Git(path, self._silence_s)
        try:
            common_dir = path / _line(git.output("rev-parse", "--git-common-dir"))
        except GitFailed as error:
            raise NotARepository(
                f"{path}: not a git repository ({error.said}): give a work tree (the folder that holds .git) or a "
                "bare repository"
            ) from None
        shallow = path / _line(git.output("rev-parse", "--git-path", "shallow"))
        origin = parse_origin(self._settings.web_url or _setting(git, r"^remote\.origin\.url$"))
        return _Repository(
            git=git,
            name=origin.project if origin and origin.project else _folder_name(common_dir.resolve()),
            web_url=origin.web_url if origin else "",
            boundary=frozenset(shallow.read_text("ascii", "replace").split())
            if shallow.is_file()
            else frozenset(),
            detail=_detail(git),
        )

    def _snapshot(self, repository: _Repository) -> Snapshot:
        return Snapshot(tips=self._tips(repository.git), shallow=repository.shallow)

    def _tips(self, git: Git) -> dict[str, str]:
        """Ref -> object; empty for a repository without commits. No name given by a person is handed to git."""
        if not self._settings.refs:
            try:
                return {"HEAD": _line(git.output("rev-parse", "--verify", "--quiet", "HEAD"))}
            except GitFailed:
                return {}
        listed = git.output("for-each-ref", "--format=%(objectname) %(refname)").decode(
            "utf-8", "backslashreplace"
        )
        pairs = (line.split(" ", 1) for line in listed.split("\n") if line)
        tips = {ref: tip for tip, ref in pairs if any(fnmatchcase(ref, glob) for glob in self._settings.refs)}
        if not tips:
            _log.warning("%s: no ref matches %s", self.name, ", ".join(self._settings.refs))
        return tips

    def _plan_or_restart(
        self, repository: _Repository, done: Snapshot, target: Snapshot, folder: Path
    ) -> Plan:
        try:
            return repository.plan(done, Reading(target=target), folder)
        except GitFailed as error:
            if error.status != FATAL or not done.tips:
                raise
            _log.warning("%s: the commits read last are gone: reading all again, burying nothing", self.name)
            return repository.plan(Snapshot(), Reading(target=target), folder)

    def _give(self, repository: _Repository, plan: Plan) -> Iterator[Page]:
        """The pages of one pass: tombstones first, so that where commits were given all of those were, too."""
        observed_at = self._now()
        given = plan.given
        if not given:
            departed = planned(plan.departures)
            while shas := tuple(islice(departed, PAGE_RECORDS)):
                yield Page(
                    tombstones=tuple(self._tombstone(sha, observed_at) for sha in shas), cursor=_within(plan)
                )
        if given == plan.total:
            yield Page(cursor=_at(plan.target))
            return
        with closing(self._records(repository, plan, observed_at)) as records:
            for page in _pages(records):
                given += len(page)
                cursor = _at(plan.target) if given == plan.total else _within(plan, given, page[-1].native_id)
                yield Page(records=page, cursor=cursor)

    def _records(
        self, repository: _Repository, plan: Plan, observed_at: datetime
    ) -> Generator[SourceRecord, None, None]:
        """The rest of a plan's commits, each at its place.

        Raises:
            GitFailed: git left one out.
        """
        expected = planned(plan.arrivals, plan.offset)
        with plan.arrivals.open("rb") as feed:
            feed.seek(plan.offset)
            blocks = repository.git.blocks(*LOG_ARGUMENTS, *repository.detail, stdin=feed)
            with closing(blocks), closing(expected):
                for commit in parse_log(split_stream(blocks, b"\0")):
                    if commit.sha != next(expected, None):
                        raise GitFailed(f"{repository.git.path}: git gave a commit out of turn: run again")
                    yield self._record(repository, commit, observed_at)
                if missing := next(expected, None):
                    raise GitFailed(f"{repository.git.path}: git left out {missing}: check with git fsck")

    def _record(self, repository: _Repository, commit: LoggedCommit, observed_at: datetime) -> SourceRecord:
        payload = payload_of(
            commit,
            repository.name,
            repository.web_url,
            boundary=commit.sha in repository.boundary,
            counted=repository.detail is COUNTS,
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

    def _tombstone(self, sha: str, observed_at: datetime) -> Tombstone:
        return Tombstone(self._client, self.name, Kind.COMMIT, sha, observed_at, UNREACHABLE)


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


def _line(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").removesuffix("\n")


def _setting(git: Git, name: str) -> str:
    """First value of the setting whose name matches, empty if it is not set."""
    try:
        listed = git.output("config", "-z", "--get-regexp", name)
    except GitFailed:
        return ""
    return listed.split(b"\0")[0].partition(b"\n")[2].decode("utf-8", "replace")


def _detail(git: Git) -> tuple[str, ...]:
    """What can be asked about files without a blob that a partial clone has left at its origin."""
    spec = _setting(git, r"^remote\..*\.partialclonefilter$")
    if spec and not spec.startswith("blob:"):
        raise NotARepository(
            f"{git.path}: a partial clone (filter {spec!r}) that may lack trees: "
            "run git fetch --refetch --filter=blob:none there, or give another clone"
        )
    return NAMES if spec else COUNTS


def _folder_name(common_dir: Path) -> str:
    named = common_dir.parent if common_dir.name == ".git" else common_dir
    return os.fsencode(named.name).decode("utf-8", "backslashreplace").removesuffix(".git")
