"""A repository elsewhere, against real git at both ends of a real wire."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import extractors.git as git_source
import extractors.git_mirror as git_mirror
import extractors.git_news as git_news
from extractors.base import Cursor
from extractors.git import GitRepository
from extractors.git_mirror import file_name
from schemas.errors import (
    AccessRefused,
    NoRoom,
    PipelineError,
    RateLimited,
    SourceTimeout,
    SourceUnavailable,
    SourceUnreachable,
    WrongAddress,
)
from schemas.sources import GitSource
from tests.extractors.test_git import NOW, buried, cursor_after, payloads, shas
from tests.fakes.certificates import self_signed
from tests.fakes.git_repo import GIT, GitServer, Repo
from tests.fakes.serving import (
    App,
    Fault,
    Faults,
    Receive,
    Send,
    Stage,
    answer,
    redirect,
    serve,
    torn,
    web_page,
)

TOKEN = "ghp_S3CR3T0123456789"
BASIC = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path / "served" / "tunnel")
    repo("config", "uploadpack.allowFilter", "true")
    return repo


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def waits() -> list[str]:
    return []


Make = Callable[..., GitRepository]


@pytest.fixture
def source(repo: Repo, data_dir: Path, waits: list[str]) -> Make:
    def make(
        url: str | Path = repo.path, *, silence_s: float = 20, sleep: Any = None, **fields: Any
    ) -> GitRepository:
        settings = GitSource.model_validate({"name": "tunnel", "type": "git", "url": str(url)} | fields)
        return GitRepository(
            settings,
            "acme",
            data_dir,
            lambda reason, duration_s: waits.append(reason),
            now=lambda: NOW,
            sleep=sleep or (lambda s: time.sleep(0.02)),
            silence_s=silence_s,
        )

    return make


@pytest.fixture
def server(stage: tuple[Stage, str], repo: Repo) -> Faults:
    """Repositories over HTTP; `faults` are met on the way to them."""
    faults = Faults(GitServer(repo.path.parent))
    stage[0].app = faults
    return faults


@pytest.fixture
def url(stage: tuple[Stage, str], server: Faults) -> str:
    return f"{stage[1]}/tunnel/.git"


@pytest.fixture
def private(server: Faults, monkeypatch: pytest.MonkeyPatch) -> GitServer:
    monkeypatch.setenv("TUNNEL_TOKEN", TOKEN)
    assert isinstance(server._app, GitServer)
    server._app.password = f"x-access-token:{TOKEN}"
    return server._app


def mirror_of(data_dir: Path, name: str = "tunnel") -> Path:
    return data_dir / "mirrors" / file_name(name) / "mirror.git"


def in_mirror(data_dir: Path, *arguments: str) -> str:
    command = [GIT, "-C", str(mirror_of(data_dir)), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "S3CR3T" not in text + repr(error)
    assert BASIC not in text + repr(error)
    assert str(pickle.loads(pickle.dumps(error))) == text
    return text


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("address", ["{path}", "file://{path}", "{http}", "git@mill:{path}"])
def test_a_repository_elsewhere_reads_like_one_on_this_disk(
    address: str, repo: Repo, url: str, source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit(**{".mailmap": "Ada Lovelace <ada@example.org>\n"})
    repo.commit(a="1\n2\n")
    monkeypatch.setenv("PATH", f"{_local_ssh(tmp_path)}:{os.environ['PATH']}")
    mirrored = payloads(source(address.format(path=repo.path, http=url)))
    settings = GitSource(name="tunnel", type="git", path=repo.path)
    local = GitRepository(settings, "acme", tmp_path / "other", print, now=lambda: NOW)
    web_url = {"web_url": mirrored[0]["web_url"]} if "web_url" in mirrored[0] else {}
    assert [{**payload, "repo": "tunnel"} for payload in mirrored] == [
        {**payload, **web_url} for payload in payloads(local)
    ]
    assert mirrored[0]["author"] == "Ada Lovelace"


def _local_ssh(folder: Path) -> Path:
    """An ssh that notes what it is asked and runs it here."""
    script = folder / "bin" / "ssh"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\nfor last; do :; done\nexec sh -c "$last"\n')
    script.chmod(0o755)
    return script.parent


def test_ssh_asks_nobody_anything(
    repo: Repo, source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit()
    monkeypatch.setenv("PATH", f"{_local_ssh(tmp_path)}:{os.environ['PATH']}")
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    assert len(shas(source(f"ssh://git@mill{repo.path}").pages(None))) == 1
    assert "BatchMode=yes" in (tmp_path / "asked").read_text()


def test_what_was_read_is_not_read_again_and_news_is(repo: Repo, url: str, source: Make) -> None:
    repo.commit()
    cursor = cursor_after(source(url))
    assert shas(source(url).pages(cursor)) == []
    new = [repo.commit(), repo.commit()]
    assert source(url).estimate(cursor) == 2
    assert shas(source(url).pages(cursor)) == new


def test_an_estimate_and_the_pages_after_it_fetch_once(
    repo: Repo, url: str, server: Faults, source: Make
) -> None:
    repo.commit()
    reader = source(url)
    reader.estimate(None)
    seen = len(server.requests)
    assert len(shas(reader.pages(None))) == 1
    assert len(server.requests) == seen
    repo.commit()
    assert len(shas(reader.pages(None))) == 2


def test_a_force_push_buries_what_it_took_away(repo: Repo, url: str, source: Make) -> None:
    repo.commit()
    old = [repo.commit(), repo.commit()]
    cursor = cursor_after(source(url))
    repo("reset", "-q", "--hard", "HEAD~2")
    new = repo.commit("Dig elsewhere")
    repo("reflog", "expire", "--expire=now", "--all")
    repo("gc", "-q", "--prune=now")
    pages = list(source(url).pages(cursor))
    assert (shas(pages), buried(pages)) == ([new], set(old))


def test_branches_come_go_and_are_renamed(repo: Repo, url: str, source: Make) -> None:
    main = repo.commit()
    repo("checkout", "-q", "-b", "topic")
    topic = repo.commit()
    cursor = cursor_after(source(url, refs=["*"]))
    repo("branch", "-q", "-m", "topic", "topic/two")  # a folder in place of a file
    pages = list(source(url, refs=["*"]).pages(cursor))
    assert (shas(pages), buried(pages)) == ([], set())
    repo("checkout", "-q", "main")
    repo("branch", "-q", "-D", "topic/two")
    pages = list(source(url, refs=["*"]).pages(pages[-1].cursor))
    assert buried(pages) == {topic}
    repo("branch", "-q", "-m", "main", "trunk")
    pages = list(source(url).pages(pages[-1].cursor))
    assert (shas(pages), buried(pages)) == ([], set())
    assert shas(source(url).pages(None)) == [main]


def test_an_empty_repository_is_read_once_it_has_commits(repo: Repo, url: str, source: Make) -> None:
    cursor = cursor_after(source(url))
    assert list(source(url).census()) == []
    sha = repo.commit()
    assert shas(source(url).pages(cursor)) == [sha]


def test_only_the_refs_wanted_are_fetched(repo: Repo, url: str, data_dir: Path, source: Make) -> None:
    main = repo.commit()
    repo("checkout", "-q", "-b", "release/1.0")
    release = repo.commit()
    repo("tag", "v1")
    repo("checkout", "-q", "-b", "private", main)
    private = repo.commit()
    repo("update-ref", "refs/pull/1/head", private)
    assert set(shas(source(url, refs=["release/*", "main", "nothing"]).pages(None))) == {main, release}
    listed = in_mirror(data_dir, "for-each-ref", "--format=%(refname)").split()
    assert listed == ["refs/heads/main", "refs/heads/release/1.0"]
    assert private not in in_mirror(data_dir, "cat-file", "--batch-check", "--batch-all-objects")
    assert shas(source(url, refs=["refs/tags/v?"]).pages(None)) == [main, release]
    assert set(shas(source(url, refs=["HEAD", "release/[0-9]*"]).pages(None))) == {main, release, private}


def test_a_check_asks_for_refs_and_clones_nothing(repo: Repo, url: str, data_dir: Path, source: Make) -> None:
    assert source(url).check() == "readable, 0 of its refs match HEAD"
    repo.commit()
    for branch in ("release/1", "release/2", "topic"):
        repo("branch", branch)
    repo("tag", "-a", "-m", "One", "v1")
    for address in (url, repo.path):
        assert source(address).check() == "readable, 1 of its refs match HEAD"
        wanted = source(address, refs=["main", "release/*", "refs/tags/*"]).check()
        assert wanted == "readable, 4 of its refs match main, release/*, refs/tags/*"
    assert not (data_dir / "mirrors").exists()


def test_a_check_of_a_repository_of_the_other_object_format(source: Make, tmp_path: Path) -> None:
    repo = Repo(tmp_path / "other", "--object-format=sha256")
    repo.commit()
    assert source(repo.path).check() == "readable, 1 of its refs match HEAD"


def test_where_only_messages_are_wanted_no_contents_are_fetched(
    repo: Repo, url: str, data_dir: Path, source: Make
) -> None:
    repo.commit(**{".mailmap": "Ada Lovelace <ada@example.org>\n"})
    repo.commit("Dig\n\nDeeper.", a="1\n")
    first, second = payloads(source(url, files=False))
    assert (second["message"], second["files_not_read"]) == ("Dig\n\nDeeper.", True)
    assert "files" not in second
    assert first["author"] == "Ada Lovelace"
    objects = in_mirror(data_dir, "cat-file", "--batch-check=%(objecttype)", "--batch-all-objects").split()
    assert objects.count("blob") == 1  # the mailmap
    assert repo.commit() in shas(source(url, files=False).pages(None))
    assert [payload["stats"]["files"] for payload in payloads(source(url))] == [2, 2, 1]


def test_another_url_makes_the_mirror_anew(
    repo: Repo, url: str, source: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repo.commit()
    cursor = cursor_after(source(url))
    other = Repo(tmp_path / "served" / "other")
    sha = other.commit("Elsewhere")
    assert shas(source(other.path).pages(cursor)) == [sha]
    assert "tunnel: the mirror is made anew: the url of the source has changed" in caplog.text


def _distort(data_dir: Path, how: str) -> None:
    mirror = mirror_of(data_dir)
    match how:
        case "pack":
            (pack,) = mirror.glob("objects/pack/*.pack")
            pack.chmod(0o644)
            content = bytearray(pack.read_bytes())
            content[12:-20] = bytes(len(content) - 32)
            pack.write_bytes(content)
        case "no pack":
            for pack in mirror.glob("objects/pack/*"):
                pack.unlink()
        case "config":
            (mirror / "config").write_text("[core\n")
        case "HEAD":
            (mirror / "HEAD").write_bytes(b"\0" * 20)
        case "ref":
            (mirror / "refs" / "headrace" / "HEAD").write_text("0" * 39)


@pytest.mark.parametrize("how", ["pack", "no pack", "config", "HEAD", "ref"])
def test_a_damaged_mirror_is_made_anew(
    how: str, repo: Repo, url: str, data_dir: Path, source: Make, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [repo.commit(), repo.commit()]
    list(source(url).pages(None))
    _distort(data_dir, how)
    try:
        found = shas(source(url).pages(None))
    except PipelineError as error:  # met while reading: the next run makes it anew
        one_line(error)
        found = shas(source(url).pages(None))
    assert found == expected
    assert "tunnel: the mirror is made anew: " in caplog.text or how == "no pack"  # fetched again


def test_what_a_killed_fetch_leaves_behind_is_cleared(
    repo: Repo, url: str, data_dir: Path, source: Make, caplog: pytest.LogCaptureFixture
) -> None:
    repo.commit()
    list(source(url).pages(None))
    mirror = mirror_of(data_dir)
    left = [
        mirror / "packed-refs.lock",
        mirror / "objects/pack/tmp_pack_x",
        mirror / "refs/headrace/HEAD.lock",
    ]
    for path in (*left, mirror.parent / "unfinished"):
        path.write_bytes(b"")
    sha = repo.commit()
    assert sha in shas(source(url).pages(None))
    assert not any(path.exists() for path in left)
    assert "anew" not in caplog.text


def _held(gate: threading.Event) -> Fault:
    async def fault(app: App, scope: Any, receive: Receive, send: Send) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        await torn()(app, scope, receive, send)

    return fault


CLONE = """
import sys; from pathlib import Path
from extractors.git import GitRepository; from schemas.sources import GitSource
settings = GitSource(name="tunnel", type="git", url=sys.argv[1])
list(GitRepository(settings, "acme", Path(sys.argv[2]), lambda *a: None).pages(None))
"""


def test_a_clone_that_was_killed_is_begun_anew(
    repo: Repo, url: str, server: Faults, data_dir: Path, source: Make, waits: list[str]
) -> None:
    expected = [repo.commit(), repo.commit()]
    gate = threading.Event()
    server.next(_held(gate), method="POST")
    clone = subprocess.Popen([sys.executable, "-c", CLONE, url, str(data_dir)])
    while not any(seen.method == "POST" for seen in server.requests):
        time.sleep(0.01)
    clone.send_signal(signal.SIGKILL)
    clone.wait()
    new = mirror_of(data_dir).with_name("new.git")
    assert new.is_dir()
    # its git goes on for a while, and holds the lock for as long
    assert shas(source(url, sleep=lambda s: (gate.set(), time.sleep(0.02))).pages(None)) == expected
    assert "tunnel: another process fetches into the mirror" in waits
    assert not new.exists()


def test_a_mirror_that_another_process_changes_is_waited_for_but_not_for_ever(
    repo: Repo, data_dir: Path, source: Make, waits: list[str]
) -> None:
    repo.commit()
    list(source().pages(None))
    slept: list[float] = []
    with (mirror_of(data_dir).parent / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SourceTimeout, match="another process"):
            next(source(sleep=slept.append).pages(None))
    assert sum(slept) == git_mirror.LOCK_WAIT_S
    assert len(shas(source().pages(None))) == 1


def test_a_long_clone_shows_how_far_it_is_and_a_short_one_is_not_spoken_of(
    repo: Repo, url: str, source: Make, waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit()
    list(source(url).pages(None))
    assert waits == []
    monkeypatch.setattr(git_news, "NEWS_EVERY_S", 0.0)
    list(source(url, name="long").pages(None))
    assert "long: receiving objects 100%" in waits


def test_news_come_now_and_then() -> None:
    told: list[tuple[str, float]] = []
    seconds = iter([0.0, 9.9, 10.0, 10.0, 15.0, 30.0, 30.0])
    tell = git_news.paced(lambda news, duration_s: told.append((news, duration_s)), lambda: next(seconds))
    for news in "abcd":
        tell(news)
    assert told == [("b", 10.0), ("d", 10.0)]


def test_many_fetches_end_in_few_packs_and_lose_nothing(
    repo: Repo, data_dir: Path, source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_mirror, "MAX_PACKS", 3)
    repo.commit()
    kept = repo.commit()
    lost = repo.commit()
    cursor = cursor_after(source())
    repo("reset", "-q", "--hard", kept)
    for files in (True, False):
        for _ in range(8):
            repo.commit()
            source(files=files).estimate(None)
        assert len(list(mirror_of(data_dir).glob("objects/pack/*.pack"))) <= 4
        assert len(in_mirror(data_dir, "rev-list", "HEAD").split()) == len(repo.reachable())
        if files:
            assert buried(source().pages(cursor)) == {lost}
            assert len(shas(source().pages(None))) == 10


def test_between_calls_nothing_is_open_however_many_the_sources(
    repo: Repo, source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 1)
    for _ in range(3):
        repo.commit()
    before = len(list(Path("/proc/self/fd").iterdir()))
    readers = [source(name=f"tunnel-{n}") for n in range(6)]
    for reader in readers:
        assert reader.estimate(None) == 3
        abandoned = reader.pages(None)
        next(abandoned)
        abandoned.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert children() == []


def children() -> list[str]:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


def test_names_of_sources_are_names_of_files() -> None:
    names = ["a", "A", "a/b", "a_b", "a..", "a/../b", "x" * 100]
    files = [file_name(name) for name in names]
    assert len({file.lower() for file in files}) == len(names)
    assert not any(set(file) & set("/.") or len(file) > 80 for file in files)


# Who may read


def test_a_token_opens_the_door_and_is_kept_nowhere(
    repo: Repo, url: str, private: GitServer, server: Faults, data_dir: Path, source: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    sha = repo.commit()
    commands = tmp_path / "commands"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {commands}\nexec {GIT} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GIT_TRACE_CURL", str(tmp_path / "trace"))
    reader = source(url, token="env:TUNNEL_TOKEN")
    pages = list(reader.pages(None))
    assert shas(pages) == [sha]
    assert server.requests[0].headers["authorization"] == f"Basic {BASIC}"
    written = everything_below(data_dir) + commands.read_bytes() + repr((pages, reader, caplog.text)).encode()
    assert b"fetch" in written
    assert TOKEN.encode() not in written
    assert BASIC.encode() not in written
    assert not (tmp_path / "trace").exists()


def test_a_user_goes_with_the_token_where_one_is_wanted(
    repo: Repo, url: str, private: GitServer, source: Make
) -> None:
    repo.commit()
    private.password = f"x-token-auth:{TOKEN}"
    assert len(shas(source(url, token="env:TUNNEL_TOKEN", user="x-token-auth").pages(None))) == 1


@pytest.mark.parametrize("fields", [{}, {"token": "env:WRONG_TOKEN"}])
def test_a_door_that_stays_shut_is_told_of(
    fields: dict[str, str],
    repo: Repo,
    url: str,
    private: GitServer,
    source: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WRONG_TOKEN", "S3CR3T-too")
    with pytest.raises(AccessRefused) as caught:
        next(source(url, **fields).pages(None))
    assert "source tunnel: " in one_line(caught.value)
    assert "change token" in str(caught.value)


def test_a_token_goes_to_no_other_address(
    repo: Repo, url: str, server: Faults, private: GitServer, source: Make
) -> None:
    repo.commit()
    with serve(elsewhere := Faults(GitServer(repo.path.parent))) as other:
        server.next(redirect(f"{other}/tunnel/.git/info/refs?service=git-upload-pack", 301))
        with pytest.raises(WrongAddress, match="change url"):
            next(source(url, token="env:TUNNEL_TOKEN").pages(None))
        assert elsewhere.requests == []
        server.next(redirect(f"{other}/tunnel/.git/info/refs?service=git-upload-pack", 301))
        assert len(shas(source(url, name="open").pages(None))) == 1


def test_https_is_verified_and_never_left_for_http(
    repo: Repo, url: str, source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = repo.commit()
    certificate = self_signed(tmp_path / "mill.pem")
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    with serve(faults := Faults(GitServer(repo.path.parent)), certificate=certificate) as base:
        secure = f"{base}/tunnel/.git"
        with pytest.raises(SourceUnreachable, match="GIT_SSL_CAINFO") as caught:
            next(source(secure).pages(None))
        one_line(caught.value)
        monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
        assert shas(source(secure).pages(None)) == [sha]
        faults.next(redirect(f"{url}/info/refs?service=git-upload-pack", 301))
        with pytest.raises(WrongAddress, match="change url") as caught_too:
            next(source(secure).pages(None))
        one_line(caught_too.value)


@pytest.mark.parametrize(
    ("fault", "expected", "said"),
    [
        (answer(403), AccessRefused, "token"),
        (answer(404), WrongAddress, "change url"),
        (answer(429), RateLimited, "fewer requests"),
        (answer(500), SourceUnavailable, "next run"),
        (answer(502), SourceUnavailable, "next run"),
        (web_page(), WrongAddress, "change url"),
        (torn(), SourceUnavailable, "next run"),
    ],
)
def test_each_refusal_is_one_line_that_says_what_to_do(
    fault: Fault, expected: type[PipelineError], said: str, repo: Repo, url: str, server: Faults, private: GitServer,
    data_dir: Path, source: Make,
) -> None:  # fmt: skip
    repo.commit()
    server.next(fault, times=9)
    with pytest.raises(expected, match=said) as caught:
        next(source(url, token="env:TUNNEL_TOKEN").pages(None))
    assert url in one_line(caught.value)
    assert not mirror_of(data_dir).exists()
    server.clear()
    server.next(fault, times=9)
    with pytest.raises(expected, match=said) as checked:
        source(url, token="env:TUNNEL_TOKEN").check()
    assert url in one_line(checked.value)


@pytest.mark.parametrize(
    ("url", "expected", "said"),
    [
        ("https://no-such-host.invalid/x/y.git", SourceUnreachable, "change url"),
        ("http://127.0.0.1:1/x", SourceUnreachable, "change url"),
        ("git://127.0.0.1:1/x", SourceUnreachable, "change url"),
        ("ssh://no-such-host.invalid/x", SourceUnreachable, "change url"),
        ("/no/such/folder", WrongAddress, "change url"),
        ("file:///no/such/proxy-certificate", WrongAddress, "change url"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_of(
    url: str, expected: type[PipelineError], said: str, source: Make
) -> None:
    with pytest.raises(expected, match=said) as caught:
        next(source(url).pages(None))
    assert url in one_line(caught.value)


def test_an_address_that_worked_before_is_tried_again(
    repo: Repo, source: Make, data_dir: Path, tmp_path: Path
) -> None:
    repo.commit()
    stage = Stage()
    stage.app = GitServer(repo.path.parent)
    with serve(stage) as base:
        list(source(f"{base}/tunnel/.git").pages(None))
    with pytest.raises(SourceUnavailable, match="next run"):
        next(source(f"{base}/tunnel/.git").pages(None))
    assert mirror_of(data_dir).is_dir()


def test_a_far_end_that_falls_silent_is_given_up_with_all_its_helpers(
    repo: Repo, url: str, server: Faults, source: Make
) -> None:
    repo.commit()
    gate = threading.Event()
    server.next(_held(gate), times=2)
    try:
        with pytest.raises((SourceTimeout, SourceUnavailable)):
            next(source(url, silence_s=0.5).pages(None))
    finally:
        gate.set()
    assert children() == []


def test_what_the_far_end_says_is_not_shown(repo: Repo, source: Make, tmp_path: Path) -> None:
    repo.commit()
    server = tmp_path / "served" / "loud"
    server.mkdir()
    with pytest.raises(PipelineError) as caught:
        next(source(server).pages(None))
    assert "remote:" not in one_line(caught.value)


def test_a_data_folder_that_cannot_be_written_is_told_of(repo: Repo, data_dir: Path, source: Make) -> None:
    data_dir.write_text("a file")
    with pytest.raises(NoRoom, match="change data_dir") as caught:
        next(source().pages(None))
    one_line(caught.value)


def test_repositories_of_the_other_object_format_are_mirrored(source: Make, tmp_path: Path) -> None:
    repo = Repo(tmp_path / "served" / "long", "--object-format=sha256")
    sha = repo.commit()
    assert shas(source(repo.path).pages(None)) == [sha]


def test_nothing_that_the_caller_configures_sends_git_elsewhere(
    repo: Repo, url: str, source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = repo.commit()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[url "/nowhere/"]\n\tinsteadOf = {url}\n[credential]\n\thelper = "!touch {home}/asked"\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(home))
    monkeypatch.setenv("GIT_ASKPASS", "/nowhere/ask")
    assert shas(source(url).pages(None)) == [sha]
    assert not (home / "asked").exists()


# Staying true


def _all(reader: GitRepository) -> set[str]:
    return {reference.native_id for part in reader.census() for reference in part}


def test_a_census_is_what_the_refs_reach(repo: Repo, url: str, source: Make) -> None:
    main = repo.commit()
    repo("checkout", "-q", "-b", "side")
    side = repo.commit()
    repo("checkout", "-q", "main")
    assert _all(source(url)) == {main}
    assert _all(source(url, refs=["side"])) == {main, side}


def test_a_census_of_a_source_that_cannot_be_asked_raises(
    repo: Repo, url: str, server: Faults, source: Make
) -> None:
    repo.commit()
    list(source(url).pages(None))
    server.next(answer(500), times=2)
    with pytest.raises(SourceUnavailable):
        list(source(url).census())


def test_looking_again_tells_what_is_there_from_what_is_gone(repo: Repo, url: str, source: Make) -> None:
    kept = repo.commit("Kept")
    lost = repo.commit("Lost")
    reader = source(url)
    references = [reference for part in reader.census() for reference in part]
    repo("reset", "-q", "--hard", kept)
    never = git_source.Reference(git_source.Kind.COMMIT, "f" * 40)
    hostile = [
        git_source.Reference(git_source.Kind.COMMIT, text)
        for text in ("--output=/tmp/x", "HEAD", "", "f" * 39, "F" * 40, f"{kept}\n{lost}")
    ]
    issue = git_source.Reference(git_source.Kind.ISSUE, kept)
    pages = list(reader.look_again([*references, never, issue, *hostile]))
    assert shas(pages) == [kept]
    assert buried(pages) == {lost, never.native_id}
    assert orjson.loads(pages[0].records[0].payload)["message"] == "Kept"


def test_commits_of_a_run_that_died_and_were_forced_away_are_found(
    repo: Repo, url: str, source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_source, "PAGE_RECORDS", 1)
    base = repo.commit()
    cursor: Cursor = cursor_after(source(url))
    stored = {base, repo.commit(), repo.commit()}
    for _ in source(url).pages(cursor):
        pass  # stored, and then the run died: its cursor was never kept
    repo("reset", "-q", "--hard", base)
    new = repo.commit("Dig elsewhere")
    repo("reflog", "expire", "--expire=now", "--all")
    repo("gc", "-q", "--prune=now")
    pages = list(source(url).pages(cursor))
    assert (shas(pages), buried(pages)) == ([new], set())
    stored.add(new)
    reader = source(url)
    census = _all(reader)
    assert census == {base, new}
    missing = [git_source.Reference(git_source.Kind.COMMIT, sha) for sha in stored - census]
    assert buried(reader.look_again(missing)) == stored - census


def test_nothing_is_said_where_no_ref_leads_to_a_commit(repo: Repo, source: Make) -> None:
    sha = repo.commit()
    references = [git_source.Reference(git_source.Kind.COMMIT, sha)]
    repo("checkout", "-q", "--orphan", "new")
    assert list(source().look_again(references)) == []


def test_what_a_shallow_clone_has_out_of_sight_is_not_called_gone(
    repo: Repo, tmp_path: Path, data_dir: Path
) -> None:
    commits = [repo.commit() for _ in range(4)]
    clone = tmp_path / "clone"
    repo("clone", "-q", "--depth=2", f"file://{repo.path}", str(clone))
    reader = GitRepository(
        GitSource(name="x", type="git", path=clone), "acme", data_dir, print, now=lambda: NOW
    )
    assert _all(reader) == set(commits[2:])
    pages = list(reader.look_again([git_source.Reference(git_source.Kind.COMMIT, sha) for sha in commits]))
    assert (shas(pages), buried(pages)) == (commits[2:], set())
    boundary = orjson.loads(pages[0].records[0].payload)
    assert (boundary["shallow_boundary"], boundary["files"]) == (True, [])
