"""Runs git on a repository that may be hostile: nothing that it configures is executed.

Nothing is fetched either, unless `variables` say from where.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from schemas.errors import MissingFile, RetryableError, SourceTimeout

BLOCK_BYTES = 1 << 18
_SAID_BYTES = 4096
_NARRATED_BYTES = 1 << 16
_CREDENTIALS = re.compile(r"(?<=//)[^/\s@]{1,500}@")


FATAL = 128


class GitFailed(RetryableError):
    """git ended with an error, or gave something else than it was asked for.

    Args:
        status: `FATAL` when git itself gave up, negative for a signal, 0 when its answer made no sense.
        said: git's own last words, some lines of them.
    """

    def __init__(self, message: str, status: int = 0, said: str = "") -> None:
        super().__init__(message, status, said)
        self.message = message
        self.status = status
        self.said = said

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Git:
    """How git is called for one repository.

    The environment holds no `GIT_*` variable of the caller (a hook sets `GIT_DIR`), no configuration but the
    repository's own, and no protocol: a partial clone that configures `core.sshCommand` could otherwise have it
    run by asking for a missing object. The index is not read, since the work tree is none of our business.

    The path is declared a safe directory for these calls alone: whoever configured it meant it, and with hooks,
    monitors, filters, external diffs and fetches off, another owner's configuration has nothing to run.

    Args:
        path: work tree or git folder, resolved. Its parents are not searched for a repository.
        silence_s: seconds without a byte from git after which it is given up.
        settings: of git, for these calls alone; seen by whoever lists processes.
        variables: of the environment besides; may hold a secret.
        held: file descriptors that git and its helpers keep open for as long as any of them lives.
    """

    path: Path
    silence_s: float
    settings: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    held: tuple[int, ...] = ()

    def output(self, *arguments: str) -> bytes:
        """Everything that git writes.

        Raises:
            GitFailed: git ended with an error.
            SourceTimeout: git fell silent.
            MissingFile: there is no git.
        """
        return b"".join(self.blocks(*arguments))

    def blocks(self, *arguments: str, stdin: IO[bytes] | bytes = b"") -> Generator[bytes, None, None]:
        """What git writes, as it comes. The process is gone when the iterator is closed or has ended.

        Raises:
            GitFailed, SourceTimeout, MissingFile: as `output`; a failed git never looks like a short answer.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            if isinstance(stdin, bytes):
                given.write(stdin)
                given.seek(0)
                stdin = given
            yield from self._run(arguments, stdin, said, said)

    def narration(self, *arguments: str, stdin: bytes = b"") -> Generator[bytes, None, None]:
        """What git says while it works, as it comes; for a command that writes nothing else.

        Raises:
            GitFailed, SourceTimeout, MissingFile: as `output`.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(stdin)
            given.seek(0)
            with closing(self._run(arguments, given, subprocess.STDOUT, said)) as blocks:
                for block in blocks:
                    if said.tell() > _NARRATED_BYTES:
                        last = _tail(said)
                        said.seek(0)
                        said.truncate()
                        said.write(last)
                    said.write(block)
                    yield block

    def piped(
        self, first: tuple[str, ...], second: tuple[str, ...], stdin: IO[bytes]
    ) -> Generator[bytes, None, None]:
        """What `second` makes of what `first` writes; neither may fail.

        Raises:
            GitFailed, SourceTimeout, MissingFile: as `output`.
        """
        with tempfile.TemporaryFile() as said, self._start(first, stdin, said) as process:
            try:
                assert process.stdout is not None
                yield from self.blocks(*second, stdin=process.stdout)
                self._finish(process, first[0], said)
            finally:
                _kill(process)

    def _run(
        self, arguments: tuple[str, ...], stdin: IO[bytes], stderr: IO[bytes] | int, said: IO[bytes]
    ) -> Generator[bytes, None, None]:
        with self._start(arguments, stdin, stderr) as process:
            try:
                yield from self._read(process, arguments[0])
                self._finish(process, arguments[0], said)
            finally:
                _kill(process)

    def _finish(self, process: subprocess.Popen[bytes], command: str, said: IO[bytes]) -> None:
        try:
            status = process.wait(timeout=self.silence_s)
        except subprocess.TimeoutExpired:
            raise self._silent(command) from None
        if status:
            words = _tail(said).decode("utf-8", "replace").strip()
            raise GitFailed(
                f"{self.path}: git {command} ended with status {status} ({last_line(words)}): run again, and if it "
                "stays, check the repository with git fsck",
                status,
                _CREDENTIALS.sub("", words),
            )

    def _start(
        self, arguments: tuple[str, ...], stdin: IO[bytes], stderr: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - git, no shell, arguments of our own
                self._command(arguments),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment(),
                bufsize=0,
                pass_fds=self.held,
                start_new_session=True,  # a group to end with its helpers, and no terminal to ask at
            )
        except OSError as error:
            raise MissingFile(
                f"git: cannot be started ({error.strerror}): install git 2.32 or newer, or put it on the PATH"
            ) from None

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        settings = {
            "safe.directory": str(self.path),
            "core.fsmonitor": "false",
            "core.hooksPath": os.devnull,
            "core.pager": "cat",
            **self.settings,
        }
        overrides = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ["git", "--no-pager", "-C", str(self.path), *overrides, *arguments]

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        ours = {
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_GRAFT_FILE": os.devnull,
            "GIT_INDEX_FILE": f"{os.devnull}.index",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
        }
        return {**inherited, **ours, **self.variables}

    def _read(self, process: subprocess.Popen[bytes], command: str) -> Iterator[bytes]:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(self.silence_s):
                    raise self._silent(command)
                block = process.stdout.read(BLOCK_BYTES)
                if not block:
                    return
                yield block

    def _silent(self, command: str) -> SourceTimeout:
        return SourceTimeout(
            f"{self.path}: git {command} gave nothing for {self.silence_s:g} s: run again; "
            "if it stays, see whether the disk answers"
        )


def git_version() -> tuple[int, ...]:
    """Major and minor version of git.

    Raises:
        MissingFile: there is none.
    """
    said = Git(Path("/"), silence_s=60).output("version")
    return tuple(int(part) for part in re.findall(rb"\d+", said)[:2])


def split_stream(blocks: Iterable[bytes], separator: bytes) -> Iterator[bytes]:
    """The pieces between separators, whatever the sizes of the blocks; linear however long a piece is."""
    unfinished: list[bytes] = []
    for block in blocks:
        first, *others = block.split(separator)
        unfinished.append(first)
        if others:
            yield b"".join(unfinished)
            yield from others[:-1]
            unfinished = [others[-1]]
    last = b"".join(unfinished)
    if last:
        yield last


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End git and its helpers; nothing if it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _tail(said: IO[bytes]) -> bytes:
    said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID_BYTES))
    return said.read()


def last_line(words: str) -> str:
    """The last of git's words that it says for a person, without a user or password in a URL."""
    lines = words.splitlines()
    return _CREDENTIALS.sub("", lines[-1])[:500] if lines else "no reason given"
