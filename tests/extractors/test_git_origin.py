"""What the URL of a remote says about the repository's page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.git_origin import Origin, parse_origin


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/acme/tunnel.git",
        "https://github.com/acme/tunnel/",
        "https://ada:secret@github.com/acme/tunnel",
        "https://secret@github.com/acme/tunnel?token=secret#secret",
        "git@github.com:acme/tunnel.git",
        "github.com:acme/tunnel",
        "ssh://git@github.com:22/acme/tunnel.git",
        "git://github.com/acme/tunnel",
    ],
)
def test_every_way_to_write_a_remote_gives_the_same_page(url: str) -> None:
    assert parse_origin(url) == Origin("https://github.com/acme/tunnel", "acme/tunnel")


def test_the_port_of_a_web_server_stays() -> None:
    assert parse_origin("http://git.acme.com:8080/acme/tunnel") == Origin(
        "http://git.acme.com:8080/acme/tunnel", "acme/tunnel"
    )


def test_a_subgroup_has_a_page_but_is_no_owner_and_repository() -> None:
    assert parse_origin("git@gitlab.com:acme/dig/tunnel.git") == Origin(
        "https://gitlab.com/acme/dig/tunnel", ""
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/git/tunnel.git",
        "../tunnel",
        "file:///srv/git/tunnel.git",
        "C:/git/tunnel",
        "work:acme/tunnel",
        "https://github.com/tunnel",
        "https://github.com/acme/tun nel",
        "https://[::1/acme/tunnel",
        "https://github.com:port/acme/tunnel",
        "ext::sh -c evil% acme/tunnel",
        "javascript://x.com/acme/tunnel",
    ],
)
def test_what_is_no_page_gives_none(url: str) -> None:
    assert parse_origin(url) is None


@given(
    st.text(), st.sampled_from(["https://user:hunter2@", "hunter2@", "ssh://hunter2@", "https://hunter2@a@"])
)
def test_a_password_is_never_in_the_page(rest: str, front: str) -> None:
    origin = parse_origin(f"{front}github.com/acme/x{rest}")
    assert origin is None or "hunter2" not in origin.web_url
