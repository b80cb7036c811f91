"""A source that cannot be asked: one line says which setting to change, and a secret is said nowhere."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.certificates import self_signed
from tests.fakes.github import FakeGitHub
from tests.fakes.jira import FakeJira
from tests.fakes.serving import Fault, Faults, answer, serve, web_page
from tests.runners.live_world import Clock
from tests.runners.stored_text import all_text
from tests.runners.world import Headrace
from tests.transforms.embedders.tiny_models import write_model
from transforms.postgres import Store

SECRET = "tok-S3CR3T-0123456789"
MODEL = '[model]\nname = "tiny/bert"\nfolder = "tiny"\n'
SOURCES = {
    "github": (
        '[[sources]]\ntype = "github"\nname = "live"\nrepositories = ["acme/sluice"]\napi_url = "{url}"\n'
        'token = "env:HEADRACE_TEST_TOKEN"\n'
    ),
    "jira": (
        '[[sources]]\ntype = "jira"\nname = "live"\nsite_url = "{url}"\nprojects = ["ABC"]\n'
        'token = "env:HEADRACE_TEST_TOKEN"\n'
    ),
}
URL_SETTING = {"github": "api_url", "jira": "site_url"}

Configure = Callable[[str, str], Path]


class Services:
    """A fake GitHub and a fake Jira that know the secret, with a record each."""

    def __init__(self) -> None:
        clock = Clock()
        self.github = FakeGitHub(clock.now, tokens=[SECRET])
        self.github.create(self.github.repository("acme/sluice"), title="The gate jams")
        self.jira = FakeJira(clock.now, accepts=f"Bearer {SECRET}")
        self.jira.create("ABC", summary="The turbine hums")
        self.faults = {"github": Faults(self.github), "jira": Faults(self.jira.app)}
        self.urls: dict[str, str] = {}


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    made = Services()
    with serve(made.faults["github"]) as github, serve(made.faults["jira"]) as jira:
        made.urls = {"github": github, "jira": jira}
        yield made


@pytest.fixture
def configure(
    write_config: Callable[[str], Path], tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Configure:
    """Writes a configuration with one source at an address, whose token is the secret."""
    monkeypatch.setenv("HEADRACE_TEST_TOKEN", SECRET)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for faults in services.faults.values():
        faults.clear()
    write_model(tmp_path / "tiny")

    def write(kind: str, url: str) -> Path:
        return write_config(MODEL + SOURCES[kind].format(url=url))

    return write


@pytest.fixture
def refused(headrace: Headrace, database: Store, caplog: pytest.LogCaptureFixture) -> Callable[[Path], str]:
    """Checks that a source cannot be read; gives the one line that `run` ends with."""

    def look(config: Path) -> str:
        with caplog.at_level(logging.DEBUG):
            checked, check_out, check_err = headrace("check", "-c", config)
            ran, out, err = headrace("run", "-c", config)
        assert (checked, ran, out) == (3, 1, "")
        [line] = err.strip().splitlines()
        assert line.startswith("headrace: ")
        words = line.removeprefix("headrace: ").removeprefix("live: ")
        assert " ".join(words.split()[:6]) in " ".join(check_out.split())
        for said in (check_out, check_err, err, caplog.text, all_text(database)):
            assert SECRET not in said
        return line

    return look


STRANGER = answer(200, {"x-ausername": "anonymous"}, {})


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("github", answer(401, body={"message": "Bad credentials"}), ["HTTP 401", "check token"]),
        ("jira", answer(401, body={}), ["HTTP 401", "check token"]),
        ("jira", STRANGER, ["as to a stranger", "check token"]),
        (
            "github",
            answer(403, body={"message": "Resource not accessible by personal access token"}),
            ["HTTP 403", "check token"],
        ),
        ("jira", answer(403, body={"message": "scope does not match"}), ["HTTP 403", "check token"]),
        ("github", web_page(), ["web page", "check api_url"]),
        ("jira", web_page(), ["web page", "check site_url"]),
        ("github", web_page(404), ["web page", "check api_url"]),
        ("github", answer(404, body={"message": "Not Found"}), ["acme/sluice is not there", "repositories"]),
        ("jira", answer(404, body={}), ["HTTP 404", "check site_url"]),
    ],
)
def test_who_is_refused_is_told_which_setting_to_change(
    kind: str,
    fault: Fault,
    words: list[str],
    services: Services,
    configure: Configure,
    refused: Callable[[Path], str],
) -> None:
    services.faults[kind].next(fault, times=100)
    line = refused(configure(kind, services.urls[kind]))
    assert 'source "live"' in line
    assert all(word in line for word in words), line


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("kind", ["github", "jira"])
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://headrace.invalid", ["no such host"]),
        ("http://127.0.0.1:{closed}", ["refused"]),
        ("https://127.0.0.1:{tls}", ["certificate is not trusted", "SSL_CERT_FILE"]),
        ("https://127.0.0.1:{plain}", ["no TLS connection"]),
        ("{url}/wrong", []),  # an API, but not this one
    ],
)
def test_an_address_that_does_not_answer_is_named_with_its_setting(
    kind: str,
    address: str,
    words: list[str],
    services: Services,
    configure: Configure,
    refused: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    with serve(services.faults[kind], certificate=self_signed(tmp_path / "mill.pem")) as tls:
        plain = services.urls[kind]
        url = address.format(
            closed=closed_port(), tls=tls.rpartition(":")[2], plain=plain.rpartition(":")[2], url=plain
        )
        line = refused(configure(kind, url))
    assert 'source "live"' in line
    assert all(word in line for word in [*words, URL_SETTING[kind]]), line


@pytest.mark.parametrize("kind", ["github", "jira"])
def test_a_token_that_is_not_there_is_named(
    kind: str,
    services: Services,
    configure: Configure,
    refused: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(kind, services.urls[kind])
    monkeypatch.delenv("HEADRACE_TEST_TOKEN")
    line = refused(config)
    assert "HEADRACE_TEST_TOKEN" in line
    assert "token" in line


@pytest.mark.parametrize("kind", ["github", "jira"])
def test_no_secret_is_kept_with_what_was_read_nor_with_what_could_not_be(
    kind: str,
    services: Services,
    configure: Configure,
    headrace: Headrace,
    database: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = configure(kind, services.urls[kind])
    if kind == "jira":
        services.jira.broken.add(services.jira.create("ABC", summary="Torn whenever it is asked for"))
    else:
        rubbish = services.github.repositories[services.github.names["acme/sluice"]].lists["issues"]
        rubbish.put(99, "2027-01-01T00:00:00Z", b'{"number": "none", "url": "https://x"}')
    with caplog.at_level(logging.DEBUG):
        code, out, err = headrace("run", "-c", config)
    assert code == 0, err
    stored = all_text(database)
    assert "BrokenAnswer" in stored or "InvalidPayload" in stored
    services.faults[kind].next(answer(401, body={}), times=100)
    assert headrace("run", "-c", config)[0] == 1
    for said in (out, err, caplog.text, stored, all_text(database)):
        assert SECRET not in said
