"""What git is told before it goes out, and what its last words mean."""

from __future__ import annotations

import base64
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.git_remote import failure, reason, refspecs, variables
from schemas.errors import (
    AccessRefused,
    NoRoom,
    PipelineError,
    RateLimited,
    SourceUnavailable,
    SourceUnreachable,
    WrongAddress,
)

URL = "https://mill.example/acme/tunnel.git"
TOKEN = "ghp_S3CR3T"


def meaning(words: str, *, url: str = URL, known: bool = False) -> PipelineError | None:
    return failure(words, "tunnel", url, "/data/mirrors/tunnel", (TOKEN,), known)


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ((), ["+HEAD*:refs/headrace/HEAD*"]),
        (("main",), ["+refs/heads/main*:refs/heads/main*"]),
        (("release/*", "HEAD"), ["+HEAD*:refs/headrace/HEAD*", "+refs/heads/release/*:refs/heads/release/*"]),
        (("*", "main"), ["+refs/heads/*:refs/heads/*"]),
        (("refs/tags/v[0-9].?*", "*/x"), ["+refs/heads/*:refs/heads/*", "+refs/tags/v*:refs/tags/v*"]),
        (("refs/*", "refs/pull/*/head"), ["+refs/*:refs/*"]),
    ],
)
def test_what_a_glob_may_match_is_fetched_and_little_else(
    globs: tuple[str, ...], expected: list[str]
) -> None:
    assert list(refspecs(globs)) == expected


def test_only_the_protocol_of_the_address_is_allowed() -> None:
    allowed = {
        url: variables(url, "x", None, 60, {})["GIT_ALLOW_PROTOCOL"]
        for url in (URL, "http://mill/x", "ssh://mill/x", "git@mill:x", "git://mill/x", "file:///x", "/x")
    }
    assert list(allowed.values()) == ["https", "http:https", "ssh", "ssh", "git", "file", "file"]


def test_a_token_is_a_header_for_its_own_host_and_nobody_else() -> None:
    told = variables(URL, "ada", TOKEN, 60, {"GIT_SSL_CAINFO": "/ca", "GIT_DIR": "/x"})
    settings = {
        told[f"GIT_CONFIG_KEY_{at}"]: told[f"GIT_CONFIG_VALUE_{at}"]
        for at in range(int(told["GIT_CONFIG_COUNT"]))
    }
    header = "Authorization: Basic " + base64.b64encode(b"ada:" + TOKEN.encode()).decode()
    assert settings["http.https://mill.example/.extraHeader"] == header
    assert settings["http.followRedirects"] == "false"
    assert (told["GIT_SSL_CAINFO"], "GIT_DIR" in told) == ("/ca", False)
    assert "Authorization" not in str(variables(URL, "ada", None, 60, {}))


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        ("fatal: write error: No space left on device\nfatal: index-pack failed", NoRoom, "data_dir"),
        ("Host key verification failed.\nfatal: Could not read from remote repository.",
         SourceUnreachable, "known_hosts"),
        ("ada@mill: Permission denied (publickey).\nfatal: Could not read from remote repository.\n\nPlease",
         AccessRefused, "publickey"),
        (f"fatal: Authentication failed for '{URL}/'", AccessRefused, "change token"),
        (f"fatal: could not read Username for '{URL}': terminal prompts disabled", AccessRefused, "change token"),
        ("remote: Repository not found.\nfatal: repository 'https://mill.example/proxy/certificate/' not found",
         WrongAddress, "change url"),
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", WrongAddress, "change url"),
        ("fatal: remote error: access denied or repository not exported: /x", WrongAddress, "change url"),
        (f"fatal: unable to access '{URL}/': The requested URL returned error: 301", WrongAddress, "change url"),
        (f"fatal: unable to access '{URL}/': The requested URL returned error: 429", RateLimited, "fewer"),
        (f"fatal: unable to access '{URL}/': The requested URL returned error: 503", SourceUnavailable, "next run"),
        ("fatal: the remote end hung up unexpectedly\nfatal: early EOF", SourceUnavailable, "next run"),
        (f"fatal: unable to access '{URL}/': Could not resolve host: mill.example", SourceUnreachable, "change url"),
        (f"fatal: unable to access '{URL}/': SSL certificate problem: self-signed certificate", SourceUnreachable,
         "GIT_SSL_CAINFO"),
        (f"fatal: unable to access '{URL}/': Received HTTP code 407 from proxy after CONNECT", SourceUnreachable,
         "proxy"),
        (f"error: RPC failed; curl 56 GnuTLS recv error for '{URL}'", SourceUnavailable, "next run"),
    ],
)  # fmt: skip
def test_git_s_last_words_become_one_line_that_says_what_to_do(
    words: str, expected: type[PipelineError], said: str
) -> None:
    error = meaning(f"remote: 'No space left' {TOKEN}\nwarning: redirecting to https://{TOKEN}@x/\n{words}")
    assert type(error) is expected
    assert said in str(error)
    assert "source tunnel: " in str(error)
    assert "\n" not in str(error)
    assert TOKEN not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_worked_before_is_tried_again() -> None:
    words = f"fatal: unable to access '{URL}/': Could not resolve host: mill.example"
    assert isinstance(meaning(words, known=True), SourceUnavailable)


@pytest.mark.parametrize(
    "words", ["", "fatal: bad object refs/heads/main", "error: inflate: data stream error"]
)
def test_what_has_nothing_to_do_with_the_way_there_lies_in_the_mirror(words: str) -> None:
    assert meaning(words) is None


@given(st.text(max_size=200))
def test_a_reason_is_one_short_line_without_the_secret(words: str) -> None:
    said = reason(f"fatal: {words} {TOKEN} https://u:p@mill/\n", (TOKEN,))
    assert len(said) <= 300
    assert said.isprintable() or "\n" not in said
    assert TOKEN not in said
    assert "u:p@" not in said
