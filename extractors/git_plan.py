"""What is left to read of a git history: the cursor, and the commits between two looks at the refs."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
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
class Lists:
    """What a pass is about, a commit a line.

    Args:
        arrivals: to give, parents first. A boundary commit stands twice on its line: diff-tree then takes it for its
            own parent and shows no files.
        departures: to bury.
        passed_over: commits that arrived and are not given, as another makes the same change.
    """

    arrivals: Path
    departures: Path
    passed_over: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A pass, and how far it got.

    Args:
        total: commits to give.
        given: of those, how many were given before.
        offset: bytes of the list which those take.
    """

    done: Snapshot
    target: Snapshot
    lists: Lists
    total: int
    given: int
    offset: int


def arrivals(done: Snapshot, target: Snapshot, shallow: str) -> Range:
    """Commits that are new in `target`: all of them when a shallow clone's boundary moved (`shallow` is today's)."""
    known = done.tips.values() if done.shallow == shallow else ()
    return Range(unique(target.tips.values()), unique(known))


def departures(done: Snapshot, target: Snapshot, shallow: str) -> Range:
    """Commits that `target` does not reach any more: none that may only be hidden behind a moved boundary."""
    known = done.tips.values() if done.shallow == shallow or not shallow else ()
    return Range(unique(known), unique(target.tips.values()))


def distance(git: Git, done: Snapshot, target: Snapshot, shallow: str) -> int:
    """Number of arrivals and departures.

    Raises:
        GitFailed: a commit of either is gone.
    """
    ranges = (arrivals(done, target, shallow), departures(done, target, shallow))
    return sum(int(line) for span in ranges for line in rev_list(git, span, "--count"))


def write_lists(
    git: Git, done: Snapshot, target: Snapshot, boundary: frozenset[str], shallow: str, folder: Path
) -> Lists:
    """Write out what lies between two snapshots.

    Args:
        boundary: commits whose parents a shallow clone cut off.
    Raises:
        GitFailed: a commit of either is gone.
    """
    lists = Lists(folder / "arrivals", folder / "departures")
    with lists.departures.open("wb") as file:
        file.writelines(sha + b"\n" for sha in rev_list(git, departures(done, target, shallow)))
    cut_off = {sha.encode() for sha in boundary}
    with lists.arrivals.open("wb") as file:
        for sha in rev_list(git, arrivals(done, target, shallow), "--topo-order", "--reverse"):
            file.write(b"%b %b\n" % (sha, sha) if sha in cut_off else sha + b"\n")
    return lists


def place_in(lists: Lists, done: Snapshot, reading: Reading) -> Plan:
    """Find where a pass got to. If the commit last given is not at its place any more (another version of git may
    order others), the pass begins anew."""
    total, at, offset = 0, 0, 0
    last = reading.last.encode()
    with lists.arrivals.open("rb") as file:
        for line in file:
            total, at = total + 1, at + len(line)
            if total == reading.given and line.split(maxsplit=1)[0] == last:
                offset = at
    return Plan(done, reading.target, lists, total, reading.given if offset else 0, offset)


def planned(path: Path, offset: int = 0) -> Generator[str, None, None]:
    """The commits listed in a plan's file."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            yield line.split(maxsplit=1)[0].decode()


def reached(git: Git, shas: Collection[str], tips: Collection[str]) -> set[str]:
    """Those of `shas` that are commits which `tips` reach. Cheap for what lies near the tips.

    Raises:
        GitFailed: a tip is gone.
    """
    if not shas or not tips:
        return set()
    check = ("cat-file", "--batch-check=%(objecttype) %(objectname)")
    answers = split_stream(git.blocks(*check, stdin="\n".join((*shas, "")).encode()), b"\n")
    commits = {answer[7:].decode() for answer in answers if answer.startswith(b"commit ")}
    beyond = rev_list(git, Range(unique(commits), unique(tips)))
    return commits.difference(sha.decode() for sha in beyond)


def boundary_digest(boundary: frozenset[str]) -> str:
    return digest(*(sha.encode() for sha in sorted(boundary))).hex() if boundary else ""


def rev_list(git: Git, span: Range, *options: str) -> Iterator[bytes]:
    """The commits of a range.

    Raises:
        GitFailed: an end of it is gone.
    """
    if not span.reached_from:
        return iter(())
    lines = [*span.reached_from, *(f"^{name}" for name in span.not_from), ""]
    return split_stream(git.blocks("rev-list", *options, "--stdin", stdin="\n".join(lines).encode()), b"\n")


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(sorted(set(names)))
