"""A live repository as a source, against real git."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import extractors.git as git_source
from extractors.base import Cursor, Page
from extractors.commits import commit_to_document
from extractors.git import UNREACHABLE, GitRepository
from extractors.git_process import GitFailed
from schemas.documents import Format, Kind
from schemas.errors import MissingFile, NotARepository, SourceTimeout
from schemas.sources import GitSource
from tests.fakes.git_repo import GIT, Repo

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def source(path: Path | Repo, *, silence_s: float = 120.0, **fields: Any) -> GitRepository:
    path = path.path if isinstance(path, Repo) else path
    values = {"name": "tunnel", "type": "git", "path": path} | fields
    data_dir = path.parent / "data"
    settings = GitSource.model_validate(values)
    return GitRepository(settings, "acme", data_dir, print, now=lambda: NOW, silence_s=silence_s)


def shas(pages: Iterable[Page]) -> list[str]:
    return [record.native_id for page in pages for record in page.records]


def buried(pages: Iterable[Page]) -> set[str]:
    return {tombstone.native_id for page in pages for tombstone in page.tombstones}


def payloads(repository: GitRepository, cursor: Cursor | None = None) -> list[dict[str, Any]]:
    return [orjson.loads(record.payload) for page in repository.pages(cursor) for record in page.records]


def last_payload(repository: GitRepository) -> dict[str, Any]:
    return payloads(repository)[-1]


def cursor_after(repository: GitRepository, cursor: Cursor | None = None) -> Cursor:
    pages = list(repository.pages(cursor))
    assert pages[-1].cursor is not None
    return orjson.loads(orjson.dumps(pages[-1].cursor))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "tunnel")


def test_a_commit_is_a_record_of_the_known_shape(repo: Repo) -> None:
    parent = repo.commit("Start")
    sha = repo.commit("Dig\n\nDeeper.\n", **{"src/dig.py": "one\ntwo\n"})
    record = list(source(repo).pages(None))[-1].records[-1]
    assert (record.client, record.source, record.format, record.kind) == (
        "acme", "tunnel", Format.GIT_COMMIT, Kind.COMMIT,
    )  # fmt: skip
    assert (record.native_id, record.locator) == (sha, f"tunnel@{sha[:12]}")
    assert record.updated_at == datetime.fromtimestamp(repo.clock, UTC)
    assert record.observed_at == NOW
    assert orjson.loads(record.payload) == {
        "repo": "tunnel",
        "sha": sha,
        "parents": [parent],
        "author": "Ada",
        "author_date": "2023-11-14T23:15:20+01:00",
        "committer": "Bob",
        "commit_date": "2023-11-14T23:15:20+01:00",
        "message": "Dig\n\nDeeper.",
        "stats": {"files": 2, "additions": 3, "deletions": 1},
        "files": [
            {"path": "count", "additions": 1, "deletions": 1},
            {"path": "src/dig.py", "additions": 2, "deletions": 0},
        ],
    }
    assert commit_to_document(record).title == "Dig"


def test_parents_come_before_children(repo: Repo) -> None:
    expected = [repo.commit() for _ in range(5)]
    assert shas(source(repo).pages(None)) == expected


def test_the_same_commit_has_the_same_payload_in_a_clone_and_with_other_settings_of_git(
    repo: Repo, tmp_path: Path
) -> None:
    repo.commit(a="1\n2\n3\n4\n")
    repo("mv", "a", "ä")
    repo.commit()
    clone = tmp_path / "clone" / "tunnel"
    repo("clone", "-q", str(repo.path), str(clone))
    for setting in (
        "diff.renames=false",
        "core.quotePath=true",
        "log.date=relative",
        "diff.noprefix=true",
        "i18n.logOutputEncoding=ISO-8859-1",
        "diff.orderFile=/nonexistent",
        "color.ui=always",
    ):
        subprocess.run([GIT, "-C", str(clone), "config", *setting.split("=")], check=True)
    assert payloads(source(clone)) == payloads(source(repo))


def test_what_was_read_is_not_read_again(repo: Repo) -> None:
    repo.commit()
    cursor = cursor_after(source(repo))
    pages = list(source(repo).pages(cursor))
    assert [(page.read, page.cursor) for page in pages] == [(0, cursor)]
    new = [repo.commit(), repo.commit()]
    assert shas(source(repo).pages(cursor)) == new


def test_an_abandoned_read_goes_on_after_the_last_page_given_out(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 3)
    expected = [repo.commit() for _ in range(10)]
    cursor: Cursor | None = None
    found: list[str] = []
    for _ in range(4):
        pages = source(repo).pages(cursor)
        page = next(pages)
        pages.close()  # type: ignore[attr-defined]
        found += shas([page])
        cursor = page.cursor
    assert found == expected
    assert cursor == cursor_after(source(repo))


def test_a_read_resumes_and_goes_on_to_commits_made_since(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 3)
    expected = [repo.commit() for _ in range(5)]
    first = next(source(repo).pages(None))
    expected.append(repo.commit())
    assert source(repo).estimate(first.cursor) == 3
    assert shas([first, *source(repo).pages(first.cursor)]) == expected


def test_a_page_is_small_in_records_and_in_bytes(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_source, "PAGE_BYTES", 2000)
    for _ in range(6):
        repo.commit("x" * 900)
    assert [page.read for page in source(repo).pages(None)] == [2, 2, 2]


def test_a_force_push_buries_what_no_ref_reaches(repo: Repo) -> None:
    repo.commit()
    old = [repo.commit(), repo.commit()]
    cursor = cursor_after(source(repo))
    repo("reset", "-q", "--hard", "HEAD~2")
    new = repo.commit("Dig elsewhere")
    assert source(repo).estimate(cursor) == 3
    pages = list(source(repo).pages(cursor))
    assert shas(pages) == [new]
    assert buried(pages) == set(old)
    (tombstone,) = {
        (stone.reason, stone.updated_at, stone.kind) for page in pages for stone in page.tombstones
    }
    assert tombstone == (UNREACHABLE, NOW, Kind.COMMIT)


def test_a_commit_that_comes_back_is_newer_than_its_tombstone(repo: Repo) -> None:
    repo.commit()
    later = repo.commit(env={"GIT_COMMITTER_DATE": "2099-01-01T00:00:00Z"})
    (record,) = [r for page in source(repo).pages(None) for r in page.records if r.native_id == later]
    assert record.updated_at == record.observed_at == NOW
    cursor = cursor_after(source(repo))
    repo("reset", "-q", "--hard", "HEAD~1")
    cursor = cursor_after(source(repo), cursor)
    repo("reset", "-q", "--hard", later)
    assert shas(source(repo).pages(cursor)) == [later]


def test_old_commits_that_were_collected_mean_reading_all_again(
    repo: Repo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 1)
    kept = repo.commit()
    repo.commit()
    done = cursor_after(source(repo))
    in_the_middle = next(source(repo).pages(None)).cursor
    repo("reset", "-q", "--hard", "HEAD~1")
    repo("reflog", "expire", "--expire=now", "--all")
    repo("gc", "-q", "--prune=now")
    for cursor in (done, in_the_middle):
        caplog.clear()
        assert source(repo).estimate(cursor) is None
        pages = list(source(repo).pages(cursor))
        assert shas(pages) == [kept]
        assert buried(pages) == set()
        assert "gone" in caplog.text
        assert pages[-1].cursor == cursor_after(source(repo))


def test_a_repository_that_lost_its_refs_keeps_its_documents(
    repo: Repo, caplog: pytest.LogCaptureFixture
) -> None:
    repo.commit()
    cursor = cursor_after(source(repo))
    repo("checkout", "-q", "--orphan", "new")
    (page,) = source(repo).pages(cursor)
    assert (page.read, page.cursor) == (0, cursor)
    assert "keeping" in caplog.text
    shutil.rmtree(repo.path / ".git")
    (page,) = source(Repo(repo.path)).pages(cursor)
    assert (page.read, page.cursor) == (0, cursor)


def test_a_cursor_of_another_source_starts_from_the_beginning(
    repo: Repo, caplog: pytest.LogCaptureFixture
) -> None:
    sha = repo.commit()
    assert shas(source(repo).pages({"since": "2024"})) == [sha]
    assert shas(source(repo).pages({"done": {"tips": {"HEAD": "--output=/tmp/x"}}})) == [sha]
    assert "beginning" in caplog.text


def test_an_empty_repository_gives_one_empty_page(repo: Repo) -> None:
    (page,) = source(repo).pages(None)
    assert page.read == 0
    assert page.cursor is not None
    assert source(repo).estimate(None) == 0
    sha = repo.commit()
    assert shas(source(repo).pages(page.cursor)) == [sha]


def test_a_detached_head_is_read(repo: Repo) -> None:
    first = repo.commit()
    repo.commit()
    repo("checkout", "-q", "--detach", first)
    assert shas(source(repo).pages(None)) == [first]


@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)])
def test_bare_repositories_git_folders_and_worktrees_are_read(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    repo = Repo(tmp_path / "tunnel", *options)
    sha = repo.commit()
    repo("clone", "-q", "--bare", str(repo.path), str(tmp_path / "copy" / "tunnel.git"))
    repo("worktree", "add", "-q", "-b", "side", str(tmp_path / "elsewhere"))
    for path in (repo.path, repo.path / ".git", tmp_path / "copy" / "tunnel.git", tmp_path / "elsewhere"):
        (payload,) = payloads(source(path))
        assert (payload["sha"], payload["repo"]) == (sha, "tunnel")


def test_refs_are_chosen_by_globs_of_their_full_names(repo: Repo, caplog: pytest.LogCaptureFixture) -> None:
    main = repo.commit()
    repo("checkout", "-q", "-b", "feature/deep/er")
    feature = repo.commit()
    repo("tag", "-a", "-m", "release", "v1")
    repo("checkout", "-q", "-b", "other", main)
    other = repo.commit()
    repo("tag", "blob", repo("hash-object", "-w", "count"))
    assert set(shas(source(repo, refs=["refs/heads/feature/*"]).pages(None))) == {main, feature}
    assert set(shas(source(repo, refs=["refs/tags/*"]).pages(None))) == {main, feature}
    assert set(shas(source(repo, refs=["refs/heads/*"]).pages(None))) == {main, feature, other}
    cursor = cursor_after(source(repo, refs=["refs/heads/*"]))
    repo("branch", "-q", "-D", "feature/deep/er")
    assert buried(source(repo, refs=["refs/heads/*"]).pages(cursor)) == {feature}
    assert shas(source(repo, refs=["--all", "refs/heads/nothing"]).pages(None)) == []
    assert "no ref matches" in caplog.text


def test_names_in_any_script_or_none_are_read(tmp_path: Path) -> None:
    repo = Repo(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    repo.commit()
    repo("branch", "line\u2028separator")
    (payload,) = payloads(source(repo, refs=["refs/heads/line*"]))
    assert payload["repo"] == "caf\\xe9"


def test_authors_are_named_by_the_mailmap_and_no_address_is_kept(repo: Repo) -> None:
    repo.commit(**{".mailmap": "Ada Lovelace <ada@example.org>\n"})
    payload = last_payload(source(repo))
    assert payload["author"] == "Ada Lovelace"
    assert "example.org" not in orjson.dumps({**payload, "files": []}).decode()


def test_merges_have_all_parents_and_no_files(repo: Repo) -> None:
    base = repo.commit()
    tips = []
    for name in ("a", "b", "c"):
        repo("checkout", "-q", "-b", name, base)
        (repo.path / name).write_text(name)
        repo("add", "-A")
        repo("commit", "-q", "-m", name)
        tips.append(repo("rev-parse", "HEAD"))
    repo("checkout", "-q", "a")
    repo("merge", "-q", "-m", "Merge branches 'b' and 'c'", "b", "c")
    payload = last_payload(source(repo))
    assert (payload["parents"], payload["files"]) == (tips, [])
    assert payload["message"] == "Merge branches 'b' and 'c'"


def test_renames_binary_files_and_hostile_paths_are_read(repo: Repo) -> None:
    repo.commit(old="".join(f"line {n}\n" for n in range(20)))
    repo("mv", "old", "new")
    (repo.path / "logo").write_bytes(b"\0\1\2")
    odd = ['quo"te', "line\nbreak", "tab\there", "ünïcode", "-dash", ":colon"]
    for name in odd:
        (repo.path / name).write_text("x\n")
    (Path(os.fsdecode(os.fsencode(repo.path) + b"/caf\xe9"))).write_text("x\n")
    repo("add", "-A")
    repo("commit", "-q", "-m", "Odd")
    files = {file["path"]: file for file in last_payload(source(repo))["files"]}
    assert files["new"] == {"path": "new", "old_path": "old", "additions": 0, "deletions": 0}
    assert files["logo"] == {"path": "logo", "additions": None, "deletions": None, "binary": True}
    assert set(files) == {*odd, "new", "logo", "caf\\xe9"}


def test_messages_in_other_encodings_are_read(repo: Repo) -> None:
    repo("config", "i18n.commitEncoding", "ISO-8859-1")
    repo("commit", "-q", "--allow-empty", "-F", "-", stdin="Café".encode("latin-1"))
    assert last_payload(source(repo))["message"] == "Café"
    for header in (b"", b"encoding unheard-of\n"):
        raw = b"tree %b\nauthor A <a@x> 0 +0000\ncommitter C <c@x> 0 +0000\n%b\n" % (
            repo("mktree").encode(),
            header,
        )
        repo(
            "reset",
            "-q",
            "--hard",
            repo("hash-object", "-t", "commit", "-w", "--stdin", stdin=raw + b"Caf\xe9"),
        )
        payload = last_payload(source(repo))
        assert (payload["message"], payload["message_not_utf8"]) == ("Caf\ufffd", True)


def test_commits_that_no_porcelain_writes_are_read(repo: Repo) -> None:
    tree = repo("mktree")
    headers = ["99999999999999 +9999", "-5 +0000", "nonsense", "253402300800 +1400", "0 -0000"]
    for at, date in enumerate(headers):
        raw = f"tree {tree}\nauthor A <a@x> {date}\ncommitter C <c@x> {date}\n\nodd {at}\n"
        sha = repo("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw.encode())
        repo("update-ref", f"refs/heads/odd{at}", sha)
    repo("update-ref", "refs/heads/empty", repo("commit-tree", tree, stdin=b""))
    found = [record for page in source(repo, refs=["refs/heads/*"]).pages(None) for record in page.records]
    assert len(found) == len(headers) + 1
    assert all(commit_to_document(record).created_at is not None for record in found)
    assert all(record.updated_at <= NOW for record in found)
    assert "" in {orjson.loads(record.payload)["message"] for record in found}


def test_a_commit_of_five_thousand_files_is_one_record(repo: Repo) -> None:
    blob = repo("hash-object", "-w", "--stdin", stdin=b"x\n")
    listing = "".join(f"100644 blob {blob}\tfile{n:05}\n" for n in range(5000))
    sha = repo("commit-tree", repo("mktree", stdin=listing.encode()), "-m", "Vendor everything")
    repo("update-ref", "refs/heads/main", sha)
    payload = last_payload(source(repo))
    assert payload["stats"] == {"files": 5000, "additions": 5000, "deletions": 0}
    assert len(payload["files"]) == 5000


def test_the_boundary_of_a_shallow_clone_has_a_message_and_no_files(repo: Repo, tmp_path: Path) -> None:
    commits = [repo.commit() for _ in range(5)]
    clone = tmp_path / "clone"
    repo("clone", "-q", "--depth=2", f"file://{repo.path}", str(clone))
    boundary, tip = payloads(source(clone))
    assert (boundary["sha"], boundary["parents"], boundary["files"]) == (commits[3], [], [])
    assert boundary["shallow_boundary"] is True
    assert "shallow_boundary" not in tip
    assert len(tip["files"]) == 1


def test_a_moved_shallow_boundary_reads_again_and_buries_nothing(repo: Repo, tmp_path: Path) -> None:
    commits = [repo.commit() for _ in range(5)]
    clone = tmp_path / "clone"
    repo("clone", "-q", "--depth=2", f"file://{repo.path}", str(clone))
    cursor = cursor_after(source(clone))
    commits.append(repo.commit())
    run = [GIT, "-C", str(clone)]
    subprocess.run([*run, "fetch", "-q", "--depth=1", "origin", "main"], check=True)
    subprocess.run([*run, "reset", "-q", "--hard", "FETCH_HEAD"], check=True)
    pages = list(source(clone).pages(cursor))
    assert (shas(pages), buried(pages)) == ([commits[-1]], set())
    subprocess.run([*run, "fetch", "-q", "--unshallow"], check=True)
    pages = list(source(clone).pages(pages[-1].cursor))
    assert (shas(pages), buried(pages)) == (commits, set())


def partial_clone(repo: Repo, path: Path, spec: str) -> Path:
    repo("config", "uploadpack.allowFilter", "true")
    repo("clone", "-q", "--no-checkout", f"--filter={spec}", f"file://{repo.path}", str(path))
    return path


def test_a_clone_without_blobs_gives_paths_and_fetches_nothing(repo: Repo, tmp_path: Path) -> None:
    repo.commit()
    repo.commit()
    payload = last_payload(source(partial_clone(repo, tmp_path / "clone", "blob:none")))
    assert payload["files"] == [{"path": "count", "additions": None, "deletions": None}]
    assert payload["line_counts_missing"] is True


def test_a_clone_without_trees_is_refused_with_what_to_do(repo: Repo, tmp_path: Path) -> None:
    repo.commit()
    with pytest.raises(NotARepository, match=r"fetch --refetch --filter=blob:none"):
        next(source(partial_clone(repo, tmp_path / "clone", "tree:0")).pages(None))


def test_the_page_on_the_web_comes_from_origin_without_its_password(repo: Repo) -> None:
    sha = repo.commit("Dig, see #4")
    repo("remote", "add", "origin", "https://ada:hunter2@github.com/acme/tunnel.git")
    record = next(source(repo).pages(None)).records[0]
    assert b"hunter2" not in record.payload
    document = commit_to_document(record)
    assert document.url == f"https://github.com/acme/tunnel/commit/{sha}"
    assert (document.project, [link.target_key for link in document.links]) == (
        "acme/tunnel",
        ["acme/tunnel#4"],
    )
    assert last_payload(source(repo, web_url="https://git.acme.com/dig/tunnel"))["repo"] == "dig/tunnel"


def test_a_check_counts_the_refs_that_are_wanted(repo: Repo) -> None:
    repo.commit()
    repo("branch", "topic")
    assert source(repo).check() == "readable, 1 of its refs match HEAD"
    assert source(repo, refs=("top*", "gone")).check() == "readable, 1 of its refs match top*, gone"
    with pytest.raises(NotARepository):
        source(repo.path / "gone").check()


def test_what_is_no_repository_is_refused_with_what_to_do(repo: Repo, tmp_path: Path) -> None:
    repo.commit(**{"inner/file": "x"})
    file = tmp_path / "file"
    file.write_text("x")
    for path in (tmp_path, tmp_path / "missing", file, repo.path / "inner"):
        with pytest.raises(NotARepository, match=r"give the work tree|give a work tree") as caught:
            next(source(path).pages(None))
        assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_another_owner_is_read(repo: Repo) -> None:
    sha = repo.commit()
    os.chown(repo.path, 12345, 12345)
    os.chown(repo.path / ".git", 12345, 12345)
    assert shas(source(repo).pages(None)) == [sha]


def test_variables_of_a_calling_hook_do_not_lead_elsewhere(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = repo.commit()
    monkeypatch.setenv("GIT_DIR", str(Repo(tmp_path / "other").path / ".git"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "broken")
    assert shas(source(repo).pages(None)) == [sha]


def test_nothing_that_a_repository_configures_is_executed(repo: Repo, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    script = tmp_path / "evil"
    script.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    script.chmod(0o755)
    repo.commit(**{".gitattributes": "* diff=evil filter=evil\n", "a": "1\n"})
    repo.commit(a="2\n")
    lost = repo("hash-object", "a")
    hooks = repo.path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        shutil.copy(script, hooks / hook)
    for setting, value in {
        "core.fsmonitor": str(script), "core.pager": str(script), "core.sshCommand": str(script),
        "core.alternateRefsCommand": str(script), "core.editor": str(script), "core.askPass": str(script),
        "diff.external": str(script), "diff.evil.command": str(script), "diff.evil.textconv": str(script),
        "filter.evil.clean": str(script), "filter.evil.smudge": str(script), "gpg.program": str(script),
        "log.showSignature": "true", "credential.helper": str(script), "remote.evil.url": "ssh://host/x",
        "remote.evil.promisor": "true", "protocol.allow": "always", "protocol.ssh.allow": "always",
        "protocol.ext.allow": "always",
    }.items():  # fmt: skip
        repo("config", setting, value)
    marker.unlink(missing_ok=True)
    assert len(payloads(source(repo))) == 2
    (repo.path / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    with pytest.raises(GitFailed):
        list(source(repo).pages(None))
    assert not marker.exists()


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a git on the PATH that runs `script` in place of diff-tree; `$GIT` is the real one."""

    def wrap(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "git").write_text(
            f'#!/bin/sh\nGIT={GIT}\ncase "$*" in *diff-tree*) {script};; *) exec $GIT "$@";; esac\n'
        )
        (folder / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return wrap


@pytest.mark.parametrize(
    "script",
    [
        '$GIT "$@" | head -c 700; kill -9 $$',
        '$GIT "$@" | head -c 700',
        '$GIT "$@"; exit 3',
        'head -3 | $GIT "$@"',
        "exit 0",
    ],
)
def test_a_git_that_ends_early_never_looks_like_a_short_history(
    repo: Repo, wrapped: Callable[[str], None], script: str
) -> None:
    for _ in range(8):
        repo.commit()
    wrapped(script)
    with pytest.raises(GitFailed, match="git"):
        list(source(repo).pages(None))


def test_a_git_that_skips_a_commit_is_noticed(repo: Repo, wrapped: Callable[[str], None]) -> None:
    for _ in range(3):
        repo.commit()
    wrapped('sed 2d | $GIT "$@"')
    with pytest.raises(GitFailed, match="out of turn"):
        list(source(repo).pages(None))


def test_a_silent_git_is_given_up(repo: Repo, wrapped: Callable[[str], None]) -> None:
    repo.commit()
    wrapped("exec sleep 60")
    with pytest.raises(SourceTimeout, match=r"0\.5 s"):
        list(source(repo, silence_s=0.5).pages(None))


def test_an_abandoned_read_leaves_no_process_and_no_file(
    repo: Repo, wrapped: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 1)
    for _ in range(3):
        repo.commit()
    wrapped(f'echo $$ > {tmp_path}/pid; $GIT "$@"; exec sleep 60')
    pages = source(repo).pages(None)
    next(pages)
    pages.close()  # type: ignore[attr-defined]
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(scratch.iterdir()) == []


def test_a_machine_without_git_is_told_to_install_it(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingFile, match="install git"):
        next(source(repo).pages(None))


STEP = st.tuples(
    st.sampled_from(
        [
            "commit",
            "commit",
            "branch",
            "merge",
            "amend",
            "reset",
            "delete",
            "sync",
            "crash",
            "crash",
            "repeat",
        ]
    ),
    st.integers(0, 9),
    st.integers(0, 9),
)


@settings(max_examples=12, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_what_lives_after_any_sync_is_what_the_refs_reach(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(git_source, "PAGE_RECORDS", 2)
        history = _History(Repo(Path(folder)))
        for action, first, second in [*steps, ("sync", 0, 0)]:
            history.step(action, first, second)


class _History:
    """A repository under random work, and an index that follows it through crashes."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self.branches = {"b0": repo.bare_commit()}
        self.parents: dict[str, str] = {}
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
            case "commit":
                self._move(name, tip)
            case "branch":
                self.made += 1
                self._move(f"b{self.made}", tip)
            case "merge" if self.branches[other] != tip:
                self._move(name, tip, self.branches[other])
            case "amend" if tip in self.parents:
                self._move(name, self.parents[tip])
            case "reset" if tip in self.parents:
                self.branches[name] = self.parents[tip]
            case "delete" if len(names) > 1:
                self.repo("update-ref", "-d", f"refs/heads/{name}")
                del self.branches[name]
            case "sync":
                self._read(pages=None, keep_cursor=True)
                assert self.live == self.repo.reachable("--branches")
            case "crash":
                self._read(pages=first, keep_cursor=True)
            case "repeat":
                self._read(pages=first, keep_cursor=False)
                self._read(pages=second + 1, keep_cursor=True)
        self._publish()

    def _move(self, name: str, *parents: str) -> None:
        sha = self.repo.bare_commit(*parents)
        self.parents[sha] = parents[0]
        self.branches[name] = sha

    def _publish(self) -> None:
        for name, tip in self.branches.items():
            self.repo("update-ref", f"refs/heads/{name}", tip)

    def _read(self, pages: int | None, *, keep_cursor: bool) -> None:
        self.observed += timedelta(hours=1)
        settings = GitSource(name="tunnel", type="git", path=self.repo.path, refs=("refs/heads/*",))
        reading = GitRepository(
            settings, "acme", self.repo.path / "data", print, now=lambda: self.observed
        ).pages(self.cursor)
        for count, page in enumerate(reading):
            if count == pages:
                break
            self.live -= {tombstone.native_id for tombstone in page.tombstones}
            self.live |= {record.native_id for record in page.records}
            if keep_cursor:
                self.cursor = orjson.loads(orjson.dumps(page.cursor))
        reading.close()  # type: ignore[attr-defined]
