"""Of all commits that make the same change one is given, whatever happens to the branches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import extractors.git as git_source
from extractors.base import Cursor, Page, Reference
from extractors.git import SAME_CHANGE, GitRepository
from schemas.documents import Kind
from schemas.errors import MissingFile, NoRoom, NotARepository
from schemas.sources import GitSource
from tests.extractors.test_git import NOW, buried, cursor_after, partial_clone, shas
from tests.fakes.git_repo import GIT, Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path / "tunnel")
    repo.commit("Start")
    return repo


Make = Callable[..., GitRepository]


@pytest.fixture
def source(repo: Repo, tmp_path: Path) -> Make:
    def make(**fields: Any) -> GitRepository:
        values = {"name": "tunnel", "type": "git", "path": repo.path, "refs": ["*"], "cherry_picks": False}
        settings = GitSource.model_validate(values | fields)
        return GitRepository(settings, "acme", tmp_path / "data", print, now=lambda: NOW)

    return make


def census(reader: GitRepository) -> set[str]:
    return {reference.native_id for part in reader.census() for reference in part}


def skipped(pages: list[Page]) -> int:
    return sum(page.skipped.get("cherry_pick", 0) for page in pages)


def picked(repo: Repo, branch: str, sha: str) -> str:
    """`sha` again, on another branch."""
    repo.clock += 60
    repo("checkout", "-q", branch)
    repo("cherry-pick", "-x", sha)
    return repo("rev-parse", "HEAD")


@pytest.fixture
def original(repo: Repo) -> str:
    """A commit on `topic`, none of whose files are on main; both branches have gone on since."""
    repo("checkout", "-q", "-b", "topic")
    (repo.path / "pump").write_text("one\ntwo\n")
    repo("add", "-A")
    repo("commit", "-q", "-m", "Add a pump")
    sha = repo("rev-parse", "HEAD")
    repo("checkout", "-q", "main")
    repo.commit("Go on")
    return sha


def test_a_cherry_pick_is_counted_and_not_given(repo: Repo, original: str, source: Make) -> None:
    pick = picked(repo, "main", original)
    pages = list(source().pages(None))
    assert set(shas(pages)) == repo.reachable("--branches") - {pick}
    assert skipped(pages) == 1
    assert sum(page.read for page in pages) == source().estimate(None) == 4
    assert pick in shas(source(name="other", cherry_picks=True).pages(None))


def test_a_pick_made_later_is_not_given_either(repo: Repo, original: str, source: Make) -> None:
    cursor = cursor_after(source())
    picked(repo, "main", original)
    pages = list(source().pages(cursor))
    assert (shas(pages), buried(pages), skipped(pages)) == ([], set(), 1)


def test_the_pick_takes_the_place_of_an_original_that_went(repo: Repo, original: str, source: Make) -> None:
    pick = picked(repo, "main", original)
    cursor = cursor_after(source())
    repo("branch", "-q", "-D", "topic")
    pages = list(source().pages(cursor))
    assert (shas(pages), buried(pages)) == ([pick], {original})
    assert list(source().pages(pages[-1].cursor))[-1].read == 0


def test_an_older_commit_that_arrives_later_takes_the_place_of_the_pick(
    repo: Repo, original: str, source: Make
) -> None:
    pick = picked(repo, "main", original)
    cursor = cursor_after(source(refs=["main"]))
    pages = list(source().pages(cursor))
    assert (shas(pages), buried(pages)) == ([original], {pick})


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_what_is_given_does_not_depend_on_the_cache(
    how: str, repo: Repo, original: str, source: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cursor = cursor_after(source())
    (cache,) = (tmp_path / "data" / "patch-ids").iterdir()
    if how == "lost":
        cache.unlink()
    else:
        cache.write_bytes(b"x" * 8192)
    picked(repo, "main", original)
    pages = list(source().pages(cursor))
    assert (shas(pages), buried(pages), skipped(pages)) == ([], set(), 1)
    assert ("is damaged" in caplog.text) == (how == "damaged")


def test_a_pass_goes_on_where_it_was(
    repo: Repo, original: str, source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 1)
    picked(repo, "main", original)
    cursor: Cursor | None = None
    pages: list[Page] = []
    for _ in range(4):
        pages.append(next(iter(source().pages(cursor))))
        cursor = orjson.loads(orjson.dumps(pages[-1].cursor))
    assert len(shas(pages)) == len(set(shas(pages))) == 3
    assert [skipped([page]) for page in pages] == [0, 0, 1, 0]


def test_merges_empty_commits_and_different_contents_are_all_given(
    repo: Repo, original: str, source: Make
) -> None:
    for text in ("One", "Two"):
        repo("commit", "-q", "--allow-empty", "-m", text)
    for name, content in (("a", b"\0\1"), ("b", b"\0\2")):
        repo("checkout", "-q", "-b", name, "main")
        (repo.path / "logo").write_bytes(content)
        repo("add", "-A")
        repo("commit", "-q", "-m", name)
    repo("checkout", "-q", "main")
    repo("merge", "-q", "--no-ff", "-m", "Merge", "topic")
    pages = list(source().pages(None))
    assert set(shas(pages)) == repo.reachable("--branches")
    assert skipped(pages) == 0


def test_settings_of_a_repository_do_not_change_what_is_the_same(
    repo: Repo, original: str, source: Make
) -> None:
    pick = picked(repo, "main", original)
    for name, value in {"diff.context": "0", "diff.noprefix": "true", "diff.algorithm": "patience"}.items():
        repo("config", name, value)
    assert pick not in shas(source().pages(None))


def test_a_census_and_a_second_look_agree_with_what_is_given(repo: Repo, original: str, source: Make) -> None:
    pick = picked(repo, "main", original)
    assert census(source()) == set(shas(source().pages(None)))
    references = [Reference(Kind.COMMIT, sha) for sha in (original, pick, "f" * 40)]
    pages = list(source().look_again(references))
    assert shas(pages) == [original]
    assert {stone.native_id: stone.reason for page in pages for stone in page.tombstones} == {
        pick: SAME_CHANGE,
        "f" * 40: git_source.UNREACHABLE,
    }


def test_a_mirror_whose_changes_are_compared_has_contents(repo: Repo, original: str, source: Make) -> None:
    picked(repo, "main", original)
    repo("config", "uploadpack.allowFilter", "true")
    url = f"file://{repo.path}"
    pages = list(source(path=None, url=url, files=False).pages(None))
    assert skipped(pages) == 1


def test_a_git_that_takes_binary_changes_for_the_same_is_refused(
    repo: Repo, original: str, source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "bin" / "git"
    older.parent.mkdir()
    older.write_text(
        f'#!/bin/sh\ncase "$*" in *version) echo git version 2.38.9.windows.1;; *) exec {GIT} "$@";; esac\n'
    )
    older.chmod(0o755)
    monkeypatch.setenv("PATH", f"{older.parent}:{os.environ['PATH']}")
    with pytest.raises(MissingFile, match=r"git 2\.38 is too old .* install git 2\.39 or newer"):
        list(source().pages(None))
    with pytest.raises(MissingFile, match="too old"):
        source().check()
    assert shas(list(source(cherry_picks=True).pages(None)))


def test_changes_of_binary_files_alone_are_told_apart(repo: Repo, original: str, source: Make) -> None:
    added = set()
    for content in (b"\0one", b"\0two"):
        (repo.path / "picture").write_bytes(content)
        repo("add", "picture")
        repo("commit", "-q", "-m", "Draw")
        added.add(repo("rev-parse", "HEAD"))
    assert added <= set(shas(list(source().pages(None))))


def test_a_clone_without_contents_is_refused(repo: Repo, source: Make, tmp_path: Path) -> None:
    clone = partial_clone(repo, tmp_path / "clone", "blob:none")
    with pytest.raises(NotARepository, match="cherry_picks"):
        next(iter(source(path=clone).pages(None)))


def test_a_cache_that_cannot_be_written_is_told_of(repo: Repo, source: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patch-ids").write_text("a file")
    with pytest.raises(NoRoom, match="data_dir"):
        next(iter(source().pages(None)))


STEP = st.tuples(
    st.sampled_from(
        ["change", "change", "change", "branch", "merge", "reset", "delete", "sync", "crash", "lose"]
    ),
    st.integers(0, 9),
    st.integers(0, 9),
)


@settings(max_examples=8, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_what_lives_after_any_sync_is_the_oldest_commit_of_every_change(
    steps: list[tuple[str, int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(git_source, "PAGE_RECORDS", 2)
        history = _History(Path(folder))
        for action, first, second in [*steps, ("sync", 0, 0)]:
            history.step(action, first, second)


class _History:
    """Branches on which some files are added again and again, and an index that follows them through crashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = Repo(folder / "repo")
        self.blob = self.repo("hash-object", "-w", "--stdin", stdin=b"x\n")
        root = self.repo.bare_commit()
        self.change = {root: -1}  # what a commit adds; less than nothing for what is like no other
        self.files: dict[str, frozenset[int]] = {root: frozenset()}
        self.parent: dict[str, str] = {}
        self.branches = {"b0": root}
        self.made = 0
        self.live: set[str] = set()
        self.cursor: Cursor | None = None
        self.observed = NOW
        self._publish()

    def step(self, action: str, first: int, second: int) -> None:
        names = sorted(self.branches)
        name, other = names[first % len(names)], names[second % len(names)]
        tip = self.branches[name]
        match action:
            case "change" if second % 4 not in self.files[tip]:
                self._commit(name, self.files[tip] | {second % 4}, second % 4, tip)
            case "branch":
                self.made += 1
                self.branches[f"b{self.made}"] = tip
            case "merge" if self.branches[other] != tip:
                self._commit(name, self.files[tip], -1, tip, self.branches[other])
            case "reset" if tip in self.parent:
                self.branches[name] = self.parent[tip]
            case "delete" if len(names) > 1:
                self.repo("update-ref", "-d", f"refs/heads/{name}")
                del self.branches[name]
            case "sync":
                self._read(None)
                assert self.live == self._expected()
                assert self.live == census(self._reader())
            case "crash":
                self._read(first)
            case "lose":
                for cache in (self.folder / "data" / "patch-ids").glob("*"):
                    cache.unlink()
        self._publish()

    def _expected(self) -> set[str]:
        oldest: dict[int, str] = {}
        reached = self.repo.reachable("--branches")
        for sha, change in self.change.items():  # in the order they were made
            if sha in reached and change >= 0:
                oldest.setdefault(change, sha)
        return {sha for sha in reached if self.change[sha] < 0} | set(oldest.values())

    def _commit(self, name: str, files: frozenset[int], change: int, *parents: str) -> None:
        listing = "".join(f"100644 blob {self.blob}\tfile{n}\n" for n in sorted(files))
        sha = self.repo.bare_commit(*parents, tree=self.repo("mktree", stdin=listing.encode()))
        self.change[sha], self.files[sha], self.parent[sha] = change, files, parents[0]
        self.branches[name] = sha

    def _publish(self) -> None:
        for name, tip in self.branches.items():
            self.repo("update-ref", f"refs/heads/{name}", tip)

    def _reader(self) -> GitRepository:
        settings = GitSource(name="t", type="git", url=str(self.repo.path), refs=("*",), cherry_picks=False)
        return GitRepository(
            settings, "acme", self.folder / "data", lambda *a: None, now=lambda: self.observed
        )

    def _read(self, pages: int | None) -> None:
        self.observed += timedelta(hours=1)
        reading = self._reader().pages(self.cursor)
        for count, page in enumerate(reading):
            if count == pages:
                break
            self.live -= {tombstone.native_id for tombstone in page.tombstones}
            self.live |= {record.native_id for record in page.records}
            self.cursor = orjson.loads(orjson.dumps(page.cursor))
        reading.close()  # type: ignore[attr-defined]
