"""What is left to read of a git history: the cursor, and the commits between two looks at the refs."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from extractors.git_process import Git, split_stream
from schemas.ids import digest

ObjectName = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Snapshot(_Part):
    """A look at a repository.

    Args:
        tips: full ref name, or HEAD -> object.
        shallow: digest of the commits whose parents a shallow clone cut off; empty where nothing is cut off.
    """

    tips: dict[str, ObjectName] = Field(default_factory=dict)
    shallow: str = ""


class Reading(_Part):
    """A pass that has not ended: where it goes, how many commits it gave, and the last of them."""

    target: Snapshot
    given: int = Field(default=0, ge=0)
    last: str = ""


class Place(_Part):
    """The cursor of a repository: what `done` reaches was given, and some of `reading`."""

    done: Snapshot = Snapshot()
    reading: Reading | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """The commits that some objects reach and others do not."""

    reached_from: tuple[str, ...]
    not_from: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A pass written out: commits to give, parents first, and commits to bury, one a line in each file.

    Args:
        total: lines of `arrivals`.
        given: of those, how many were given before.
        offset: bytes of `arrivals` which those take.
    """

    done: Snapshot
    target: Snapshot
    arrivals: Path
    departures: Path
    total: int
    given: int
    offset: int


def arrivals(done: Snapshot, target: Snapshot, shallow: str) -> Range:
    """Commits that are new in `target`: all of them when a shallow clone's boundary moved (`shallow` is today's)."""
    known = done.tips.values() if done.shallow == shallow else ()
    return Range(_unique(target.tips.values()), _unique(known))


def departures(done: Snapshot, target: Snapshot, shallow: str) -> Range:
    """Commits that `target` does not reach any more: none that may only be hidden behind a moved boundary."""
    known = done.tips.values() if done.shallow == shallow or not shallow else ()
    return Range(_unique(known), _unique(target.tips.values()))


def distance(git: Git, done: Snapshot, target: Snapshot, shallow: str) -> int:
    """Number of arrivals and departures.

    Raises:
        GitFailed: a commit of either is gone.
    """
    ranges = (arrivals(done, target, shallow), departures(done, target, shallow))
    return sum(int(line) for span in ranges for line in _rev_list(git, span, "--count"))


def write_plan(
    git: Git, done: Snapshot, reading: Reading, boundary: frozenset[str], shallow: str, folder: Path
) -> Plan:
    """Write out what lies between `done` and the reading's target.

    A boundary commit stands twice on its line: diff-tree then takes it for its own parent and shows no files. If
    the commit last given is not at its place any more (another version of git may order others), the pass begins
    anew.

    Raises:
        GitFailed: a commit of either is gone.
    """
    paths = folder / "departures", folder / "arrivals"
    with paths[0].open("wb") as file:
        file.writelines(sha + b"\n" for sha in _rev_list(git, departures(done, reading.target, shallow)))
    total, offset = 0, 0
    cut_off = {sha.encode() for sha in boundary}
    with paths[1].open("wb") as file:
        span = arrivals(done, reading.target, shallow)
        for sha in _rev_list(git, span, "--topo-order", "--reverse"):
            file.write(b"%b %b\n" % (sha, sha) if sha in cut_off else sha + b"\n")
            total += 1
            if total == reading.given and sha == reading.last.encode():
                offset = file.tell()
    given = reading.given if offset else 0
    return Plan(done, reading.target, paths[1], paths[0], total, given, offset)


def planned(path: Path, offset: int = 0) -> Generator[str, None, None]:
    """The commits listed in a plan's file."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            yield line.split(maxsplit=1)[0].decode()


def boundary_digest(boundary: frozenset[str]) -> str:
    return digest(*(sha.encode() for sha in sorted(boundary))).hex() if boundary else ""


def _rev_list(git: Git, span: Range, *options: str) -> Iterator[bytes]:
    if not span.reached_from:
        return iter(())
    lines = [*span.reached_from, *(f"^{name}" for name in span.not_from), ""]
    return split_stream(git.blocks("rev-list", *options, "--stdin", stdin="\n".join(lines).encode()), b"\n")


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
