"""What may be cloned from: addresses that run no command and hold no secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.clone_urls import checked_clone_url, checked_ref_glob, protocol_of
from schemas.sources import GitSource


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("https://github.com/acme/tunnel.git", "https"),
        ("https://git.acme.com:8443/a/b/c", "https"),
        ("http://[::1]:8080/tunnel", "http"),
        ("ssh://git@github.com/acme/tunnel", "ssh"),
        ("ssh://mill:2222/~ada/tunnel", "ssh"),
        ("git@github.com:acme/tunnel.git", "ssh"),
        ("mill:tunnel", "ssh"),
        ("git://mill.example/tunnel", "git"),
        ("file:///srv/git/tunnel.git", "file"),
        ("/srv/git/tunnel.git", "file"),
    ],
)
def test_addresses_that_git_clones_from_are_taken(url: str, protocol: str) -> None:
    assert checked_clone_url(url) == url
    assert protocol_of(url) == protocol


@pytest.mark.parametrize(
    "url",
    [
        "", "--upload-pack=touch /tmp/x", "-oProxyCommand=x", "ext::sh -c touch% /tmp/x", "ext::sh", "fd::17",
        "https::https://github.com/a/b", "http+unix://x/y", "ftp://mill/x", "odd://x/y", "HTTPS://mill/a",
        "ssh://-oProxyCommand=x/y", "ssh://-l@host/y", "-x@host:path", "host:-x", "host:--x=x", "host::path",
        "-host:path", "../tunnel", "tunnel", "~/tunnel", "https://github.com", "https:///a/b", "https://ho st/a",
        "https://github.com/a\nb", "https://github.com/a\0b", "file://mill/srv/tunnel", "https://[::1/a", "c:\\x y",
        "https://github.com:port/a",
    ],
)  # fmt: skip
def test_options_commands_and_nonsense_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected https://"):
        checked_clone_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hunter2@github.com/a/b", "https://ada:hunter2@github.com/a/b", "ssh://git:hunter2@github.com/a/b",
        "https://github.com/a/b?private_token=hunter2", "https://github.com/a/b#hunter2", "git://hunter2@mill/x",
        "https://:hunter2@github.com/a/b", "https://@github.com/a/b",
    ],
)  # fmt: skip
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GitSource(name="a", type="git", url=url)
    message = str(caught.value.errors(include_input=False, include_url=False)[0]["msg"])
    assert "put a secret into token" in message
    assert "hunter2" not in message


@given(st.text(max_size=40))
def test_whatever_is_taken_is_one_word_and_no_option(text: str) -> None:
    try:
        url = checked_clone_url(text)
    except ValueError:
        return
    assert url == text
    assert not url.startswith("-")
    assert "::" not in url.partition("/")[0] or "[" in url
    assert url.split() == [url] or not url.isascii()
    assert protocol_of(url) in ("https", "http", "ssh", "git", "file")


@pytest.mark.parametrize("url", ["http://mill.example/x", "ssh://mill/x", "git@mill:x", "/srv/x", None])
def test_a_token_is_not_sent_where_others_can_read_it(url: str | None) -> None:
    where = {"url": url} if url else {"path": "/srv/x"}
    with pytest.raises(ValidationError, match="token needs a url that begins with https://"):
        GitSource.model_validate({"name": "a", "type": "git", "token": "env:T"} | where)


@pytest.mark.parametrize("url", ["https://mill.example/x", "http://127.0.0.1:80/x", "http://localhost/x"])
def test_a_token_is_sent_by_https_or_to_this_machine(url: str) -> None:
    assert GitSource(name="a", type="git", url=url, token="env:T").token == "env:T"


@pytest.mark.parametrize(
    "glob", ["main", "release/*", "refs/tags/v?.*", "HEAD", "refs/*", "*", "[a-m]*", "--all"]
)
def test_globs_that_a_ref_can_match_are_taken(glob: str) -> None:
    assert checked_ref_glob(glob) == glob


@pytest.mark.parametrize(
    "glob", ["", "/main", "main/", "a..b", "a b", "a:b", "^main", "a~1", "x@{1}", "a//b", ".x", "a/.b", "a\n"]
)
def test_globs_that_no_ref_can_match_are_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="expected a glob"):
        checked_ref_glob(glob)
