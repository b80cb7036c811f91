"""A git repository on this disk, opened for reading: what it is called, where its refs stand, what can be asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from extractors.git_log import COUNTS, MESSAGES, NAMES
from extractors.git_origin import parse_origin
from extractors.git_plan import Lists, Snapshot, boundary_digest, write_lists
from extractors.git_process import Git, GitFailed, last_line
from schemas.errors import NotARepository


@dataclass(frozen=True, slots=True)
class Repository:
    """What does not change while a repository is read.

    Args:
        name: `owner/repo` of its page on the web, else its folder's name.
        boundary: commits whose parents a shallow clone cut off.
        detail: what to ask git about files; less in a partial clone.
        whole: it has the contents of its files.
    """

    git: Git
    name: str
    web_url: str
    boundary: frozenset[str]
    detail: tuple[str, ...]
    whole: bool

    @property
    def shallow(self) -> str:
        return boundary_digest(self.boundary)

    def snapshot(self, globs: Sequence[str]) -> Snapshot:
        return Snapshot(tips=_tips(self.git, globs), shallow=self.shallow)

    def lists(self, done: Snapshot, target: Snapshot, folder: Path) -> Lists:
        return write_lists(self.git, done, target, self.boundary, self.shallow, folder)


def open_repository(
    path: Path, silence_s: float, *, name: str = "", files: bool = True, web_url: str | None = None
) -> Repository:
    """Open a work tree or a bare repository.

    Args:
        name: where its origin tells none; empty takes that of its folder.
        files: False asks git for no changed files.
        web_url: None takes it from `origin`.
    Raises:
        NotARepository: the path is none, or one without trees.
        MissingFile: git is not installed.
    """
    path = path.expanduser().resolve()
    if not path.is_dir():
        raise NotARepository(f"{path}: no such folder: give the work tree or the bare repository to read")
    git = Git(path, silence_s)
    try:
        common_dir = path / _line(git.output("rev-parse", "--git-common-dir"))
    except GitFailed as error:
        raise NotARepository(
            f"{path}: not a git repository ({last_line(error.said)}): give a work tree (the folder that holds .git) "
            "or a bare repository"
        ) from None
    shallow = path / _line(git.output("rev-parse", "--git-path", "shallow"))
    origin = parse_origin(web_url or setting(git, r"^remote\.origin\.url$"))
    partial = _is_partial(git)
    return Repository(
        git=_without_mailmap(git) if partial else git,
        name=origin.project if origin and origin.project else name or _folder_name(common_dir.resolve()),
        web_url=origin.web_url if origin else "",
        boundary=frozenset(shallow.read_text("ascii", "replace").split())
        if shallow.is_file()
        else frozenset(),
        detail=MESSAGES if not files else NAMES if partial else COUNTS,
        whole=not partial,
    )


def full_glob(glob: str) -> str:
    """A glob of full ref names: `main` and `release/*` are branches."""
    return glob if glob == "HEAD" or glob.startswith("refs/") else f"refs/heads/{glob}"


def matching(refs: Iterable[str], globs: Sequence[str]) -> list[str]:
    """Those of some full names that a glob matches."""
    full = [full_glob(glob) for glob in globs]
    return [ref for ref in refs if any(fnmatchcase(ref, glob) for glob in full)]


def setting(git: Git, name: str) -> str:
    """First value of the setting whose name matches the regular expression, empty if it is not set."""
    try:
        listed = git.output("config", "-z", "--get-regexp", name)
    except GitFailed:
        return ""
    return listed.split(b"\0")[0].partition(b"\n")[2].decode("utf-8", "replace")


def _tips(git: Git, globs: Sequence[str]) -> dict[str, str]:
    """Ref -> object; empty for a repository without commits. No name given by a person is handed to git."""
    tips: dict[str, str] = {}
    if not globs or "HEAD" in globs:
        with suppress(GitFailed):  # a branch without commits
            tips["HEAD"] = _line(git.output("rev-parse", "--verify", "--quiet", "HEAD"))
    named = [glob for glob in globs if glob != "HEAD"]
    if named:
        listed = git.output("for-each-ref", "--format=%(objectname) %(refname)")
        lines = listed.decode("utf-8", "backslashreplace").removesuffix("\n").split("\n")
        found = {ref: tip for tip, _, ref in (line.partition(" ") for line in lines)}
        tips |= {ref: found[ref] for ref in matching(found, named)}
    return tips


def _line(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").removesuffix("\n")


def _is_partial(git: Git) -> bool:
    """Whether blobs may have been left at the origin."""
    spec = setting(git, r"^remote\..*\.partialclonefilter$")
    if spec and not spec.startswith("blob:"):
        raise NotARepository(
            f"{git.path}: a partial clone (filter {spec!r}) that may lack trees: "
            "run git fetch --refetch --filter=blob:none there, or give another clone"
        )
    return bool(spec)


def _without_mailmap(git: Git) -> Git:
    """git stops at a .mailmap whose contents were left at the origin."""
    try:
        git.output("cat-file", "-e", "HEAD:.mailmap")
    except GitFailed:
        return replace(git, settings={**git.settings, "mailmap.blob": ""})
    return git


def _folder_name(common_dir: Path) -> str:
    named = common_dir.parent if common_dir.name == ".git" else common_dir
    return os.fsencode(named.name).decode("utf-8", "backslashreplace").removesuffix(".git")
