"""Runs git on a repository that may be hostile: nothing that it configures is executed, nothing is fetched."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from schemas.errors import MissingFile, RetryableError, SourceTimeout

BLOCK_BYTES = 1 << 18
_SAID_BYTES = 4096
_CREDENTIALS = re.compile(r"(?<=//)[^/\s@]{1,500}@")


FATAL = 128


class GitFailed(RetryableError):
    """git ended with an error, or gave something else than it was asked for.

    Args:
        status: `FATAL` when git itself gave up, negative for a signal, 0 when its answer made no sense.
        said: git's own last words.
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
    """

    path: Path
    silence_s: float

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
            with self._start(arguments, stdin, said) as process:
                try:
                    yield from self._read(process, arguments[0])
                    status = process.wait(timeout=self.silence_s)
                except subprocess.TimeoutExpired:
                    raise self._silent(arguments[0]) from None
                finally:
                    process.kill()
            if status:
                last_words = _last_line(said)
                raise GitFailed(
                    f"{self.path}: git {arguments[0]} ended with status {status} ({last_words}): run again, and if "
                    "it stays, check the repository with git fsck",
                    status,
                    last_words,
                )

    def _start(
        self, arguments: tuple[str, ...], stdin: IO[bytes], said: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - git, no shell, arguments of our own
                self._command(arguments),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=said,
                env=self._environment(),
                bufsize=0,
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
        }
        overrides = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ["git", "--no-pager", "-C", str(self.path), *overrides, *arguments]

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        return inherited | {
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


def _last_line(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID_BYTES))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return _CREDENTIALS.sub("", lines[-1])[:500] if lines else "no reason given"
