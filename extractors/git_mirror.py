"""A repository elsewhere, kept as a bare mirror on this disk and brought up to date before it is read."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from extractors.base import OnWait
from extractors.git_news import NEWS_EVERY_S, paced
from extractors.git_process import Git, GitFailed
from extractors.git_remote import MIRRORED_HEAD, failure, reason, refspecs, variables
from extractors.git_repository import setting
from schemas.clone_urls import protocol_of
from schemas.errors import NoRoom, PipelineError, SourceTimeout, WrongAddress
from schemas.ids import digest
from schemas.sections import resolve_secret
from schemas.sources import GitSource

LOCK_WAIT_S = 600
MAX_PACKS = 50
"""Every fetch leaves one more pack; of more than these, one is made."""

_FETCH = (
    "fetch", "--progress", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
    "--no-recurse-submodules", "--refmap=", "--stdin",
)  # fmt: skip
_PROGRESS = re.compile(rb"(?:remote: )?([A-Z][a-z]+ [a-z]+): +(\d{1,3}%|\d{1,12})")
_OTHER_FORMAT = "mismatched algorithms"
_SPOKEN = re.compile(rb"packet: +git< (?:version \d|# service=git-upload-pack)")

_log = logging.getLogger(__name__)


def file_name(source: str) -> str:
    """A name of a file for that of a source: on no file system that of another source."""
    readable = re.sub(r"[^a-z0-9_-]+", "_", source.lower())[:60]
    return f"{readable}-{digest(source.encode()).hex()[:12]}"


def patch_ids_of(source: str, data_dir: Path) -> Path:
    """The file in which the patch ids of a source's commits are kept."""
    return data_dir / "patch-ids" / f"{file_name(source)}.sqlite"


def remove_copies(data_dir: Path, source: str) -> None:
    """Remove the mirror of a source and the patch ids of its commits, where there are any."""
    shutil.rmtree(data_dir / "mirrors" / file_name(source), ignore_errors=True)
    patch_ids_of(source, data_dir).unlink(missing_ok=True)


def repository_name(url: str) -> str:
    """What the repository at an address is called."""
    path = url.rstrip("/").removesuffix("/.git").removesuffix(".git")
    return re.split("[/:]", path)[-1]


class Mirror:
    """The mirror of one source, in `mirrors/<name>` under the data folder.

    It holds the refs wanted, and HEAD if that is wanted, under the names they have at their origin; no contents of
    files where they are neither shown nor compared. What a force push takes away stays in it, so that a cursor can
    be compared with what came after. Its configuration names the address and no secret.

    A mirror is made beside the one there is, and takes its place when it is complete; half a one is thrown away. It
    is made anew, with a line in the log, when the address or the need for contents has changed, and when it is
    damaged: it cannot be opened, reading failed (`distrust`), or git cannot fetch into it for a reason that has
    nothing to do with the way there.

    One process at a time changes it. git and its helpers hold the lock with their parent, so that one that outlives
    it is not disturbed.

    Args:
        on_wait: told how far a long fetch has got, and that another process is waited for.
        silence_s: seconds without a byte from git after which it is given up.
    """

    def __init__(
        self,
        settings: GitSource,
        data_dir: Path,
        on_wait: OnWait,
        *,
        silence_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        assert settings.url is not None
        self._settings = settings
        self._url = settings.url
        self._folder = data_dir.resolve() / "mirrors" / file_name(settings.name)
        self.path = self._folder / "mirror.git"
        self._unfinished = self._folder / "unfinished"
        self._distrusted = self._folder / "distrusted"
        self._filter = "" if settings.files or not settings.cherry_picks else "blob:none"
        self._on_wait = on_wait
        self._silence_s = silence_s
        self._sleep = sleep

    def update(self) -> Path:
        """Fetch, and make the mirror first if need be; its folder.

        Raises:
            AccessRefused, WrongAddress, SourceUnreachable, NoRoom, BadConfig: each says which setting to change.
            SourceUnavailable, SourceTimeout, RateLimited, GitFailed: the next run tries again.
            MissingFile: git is not installed.
        """
        try:
            with self._locked() as lock:
                why = self._why_anew()
                if not why:
                    self._clear()
                    try:
                        self._fetch(self.path, lock, known=True)
                    except GitFailed as error:
                        why = str(error)
                    else:
                        self._repack(lock)
                        return self.path
                if self.path.exists():
                    _log.warning("%s: the mirror is made anew: %s", self._settings.name, why)
                self._make(lock)
                return self.path
        except OSError as error:
            raise self._no_room(error) from None

    def refs(self) -> list[str]:
        """Names of the refs at the address, HEAD among them; asks for no more, and neither needs nor makes a mirror.

        Raises:
            PipelineError: as `update`.
        """
        with tempfile.TemporaryDirectory(prefix="headrace-git-") as scratch:
            path = Path(scratch).resolve() / "asking.git"
            self._init(path, "sha1")
            git, secrets = self._talking(path)
            try:
                listed = git.output("ls-remote", "origin").decode("utf-8", "backslashreplace")
            except GitFailed as error:
                raise self._meant(error, secrets, known=False) from None
            if not listed:
                self._check_that_git_is_spoken(git)
        names = [line.partition("\t")[2] for line in listed.splitlines()]
        return [name for name in names if not name.endswith("^{}")]  # what a tag leads to

    def distrust(self) -> None:
        """Have the mirror made anew at the next update, as reading it failed."""
        with suppress(OSError):
            self._distrusted.touch()

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("wb") as lock:
            for waited_s in range(LOCK_WAIT_S):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if waited_s % NEWS_EVERY_S == 0:
                        what = f"{self._settings.name}: another process fetches into the mirror"
                        self._on_wait(what, NEWS_EVERY_S)
                    self._sleep(1.0)
            else:
                raise SourceTimeout(
                    f"source {self._settings.name}: another process has been fetching into {self._folder} for "
                    f"{LOCK_WAIT_S} s: run again when it has ended"
                )
            yield lock.fileno()

    def _why_anew(self) -> str:
        if not self.path.is_dir():
            return "there is none"
        if self._distrusted.exists():
            return "it could not be read"
        git = Git(self.path, self._silence_s)
        try:
            git.output("rev-parse", "--git-dir")
        except GitFailed as error:
            return str(error)
        if setting(git, r"^remote\.origin\.url$") != self._url:
            return "the url of the source has changed"
        if setting(git, r"^remote\.origin\.partialclonefilter$") != self._filter:
            return "files or cherry_picks of the source have changed"
        return ""

    def _clear(self) -> None:
        """Remove what a git that was killed has left: half a pack, and locks that nobody holds any more."""
        if self._unfinished.exists():
            for left in (*self.path.glob("objects/pack/*tmp*"), *self.path.rglob("*.lock")):
                left.unlink(missing_ok=True)

    def _make(self, lock: int) -> None:
        new, old = self._folder / "new.git", self._folder / "old.git"
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        try:
            self._init(new, "sha1")
            self._fetch(new, lock, known=False)
        except GitFailed as error:
            if _OTHER_FORMAT not in error.said:
                raise
            shutil.rmtree(new)
            self._init(new, "sha256")
            self._fetch(new, lock, known=False)
        if self.path.exists():
            self.path.rename(old)
        new.rename(self.path)
        self._distrusted.unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)

    def _init(self, path: Path, object_format: str) -> None:
        path.mkdir(mode=0o700)
        git = Git(path, self._silence_s)
        git.output("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}")
        settings = {"remote.origin.url": self._url, "fetch.unpackLimit": "1", "gc.auto": "0"}
        if self._filter:
            settings |= {"remote.origin.promisor": "true", "remote.origin.partialclonefilter": self._filter}
        for name, value in settings.items():
            git.output("config", name, value)
        git.output("symbolic-ref", "HEAD", MIRRORED_HEAD)

    def _fetch(self, path: Path, lock: int, *, known: bool) -> None:
        """Bring `path` in step with its origin.

        Raises:
            GitFailed: for a reason that may lie in the mirror.
        """
        name = self._settings.name
        git, secrets = self._talking(path, lock)
        arguments = (*_FETCH, f"--filter={self._filter}") if self._filter else _FETCH
        lines = "\n".join((*refspecs(self._settings.refs), "")).encode()
        tell = paced(self._on_wait)
        self._unfinished.touch()
        try:
            for block in git.narration(*arguments, "origin", stdin=lines):
                if found := _PROGRESS.findall(block):
                    what, how_much = found[-1]
                    tell(f"{name}: {what.decode().lower()} {how_much.decode()}")
        except GitFailed as error:
            raise self._meant(error, secrets, known) from None
        if not git.output("for-each-ref", "--count=1"):
            self._check_that_git_is_spoken(git)
        if self._filter:
            with suppress(GitFailed):  # the one file that is read; most repositories have none
                git.output("cat-file", "-e", "HEAD:.mailmap")
        self._unfinished.unlink()

    def _talking(self, path: Path, *held: int) -> tuple[Git, list[str]]:
        """A git that may talk to the origin, and what of its environment is not to be shown."""
        setting = f"token of source {self._settings.name}"
        token = self._settings.token and resolve_secret(self._settings.token, setting)
        told = variables(self._url, self._settings.user, token, self._silence_s, os.environ)
        secrets = [value for value in told.values() if token and value.startswith("Authorization: ")]
        secrets += [value.rpartition(" ")[2] for value in secrets] + ([token] if token else [])
        return Git(path, self._silence_s, variables=told, held=held), secrets

    def _meant(self, error: GitFailed, secrets: Sequence[str], known: bool) -> PipelineError:
        """What git's last words mean; `GitFailed` where the reason may lie in the mirror."""
        name, said = self._settings.name, error.said
        return failure(said, name, self._url, str(self._folder), secrets, known) or GitFailed(
            f"source {name}: git cannot fetch from {self._url} ({reason(said, secrets)}): try by hand",
            error.status,
            _OTHER_FORMAT if _OTHER_FORMAT in said else "",
        )

    def _check_that_git_is_spoken(self, git: Git) -> None:
        """An answer without refs may be none: git takes any text on the web for the listing of an empty folder."""
        if protocol_of(self._url) not in ("http", "https"):
            return
        traced = replace(git, variables={**git.variables, "GIT_TRACE_PACKET": "1"})
        if not _SPOKEN.search(b"".join(traced.narration("ls-remote", "origin"))):
            raise WrongAddress(
                f"source {self._settings.name}: {self._url}: what answers there is no git server, but a page to log "
                "in at, say: change url, or token"
            )

    def _repack(self, lock: int) -> None:
        """Make one pack of many. Nothing is lost by it: not what a force push left behind, either."""
        packs = sum(1 for _ in self.path.glob("objects/pack/*.pack"))
        if packs <= MAX_PACKS:
            return
        how = ("-a",) if self._filter else ("--geometric=2",)
        git = Git(self.path, max(self._silence_s, 3600.0), {"repack.writeBitmaps": "false"}, held=(lock,))
        self._unfinished.touch()
        try:
            git.output("repack", "-d", "--quiet", *how)
        except GitFailed as error:
            _log.warning("%s: the packs of the mirror stay as they are: %s", self._settings.name, error)
            return
        self._unfinished.unlink()

    def _no_room(self, error: OSError) -> NoRoom:
        what = "there is no room left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        return NoRoom(
            f"source {self._settings.name}: {self._folder} cannot be written ({what}): make room, or change data_dir"
        )
