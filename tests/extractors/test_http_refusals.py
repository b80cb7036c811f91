"""What a person must change is said in one line, and no secret is said at all."""

from __future__ import annotations

import base64
import logging
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from extractors.http import ApiSession, Policy
from schemas.errors import (
    AccessRefused,
    NotAllowed,
    PipelineError,
    QueryRefused,
    SetupError,
    SourceTimeout,
    SourceUnavailable,
    SourceUnreachable,
    WrongAddress,
)
from schemas.http_wire import Bounds
from tests.fakes import serving
from tests.fakes.certificates import self_signed
from tests.fakes.serving import Fault, Faults, answer, serve

TOKEN = "tok-S3CR3T-0123456789"
PASSWORD = "pw-S3CR3T-abc"
BASIC = base64.b64encode(f"me@example.com:{PASSWORD}".encode()).decode()
QUERY = "QUERY-S3CR3T"
SECRETS = (TOKEN, PASSWORD, BASIC, QUERY)


class Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request):  # type: ignore[no-untyped-def]
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


def refused(response: httpx.Response) -> str:
    return "the credentials are wrong" if response.status_code == 401 else "read access is missing"


POLICY = Policy("Mill", "tracker", "api_url", "token", lambda *_: None, refused)


@contextmanager
def opened(
    url: str,
    auth: httpx.Auth | None = None,
    bounds: Bounds = Bounds(total_s=5),  # noqa: B008
) -> Iterator[ApiSession]:
    session = ApiSession(
        url,
        auth,
        POLICY,
        on_wait=lambda reason, seconds: logging.getLogger("waits").info("%s", reason),
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        sleep=lambda seconds: None,
        bounds=bounds,
    )
    with closing(session):
        yield session


async def _items(request: Request) -> Response:
    return JSONResponse([1])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Faults]]:
    app = Faults(Starlette(routes=[Route("/items", _items)]))
    with serve(app) as url:
        yield url, app


@pytest.fixture
def url(served: tuple[str, Faults]) -> str:
    return served[0]


@pytest.fixture
def api(served: tuple[str, Faults]) -> Faults:
    served[1].clear()
    return served[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and the certificate for 127.0.0.1 that it signed itself."""
    return self_signed(tmp_path_factory.mktemp("tls") / "mill.pem")


@pytest.fixture(scope="module")
def served_by_tls(certificate: Path) -> Iterator[tuple[str, Faults]]:
    app = Faults(Starlette(routes=[Route("/items", _items)]))
    with serve(app, certificate=certificate) as url:
        yield url, app


def said(error: PipelineError) -> str:
    """The one line."""
    line = str(error)
    assert "\n" not in line
    assert len(line) < 400
    assert 'source "tracker"' in line
    return line


# What an answer may mean


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (answer(401), AccessRefused, ["the credentials are wrong", "check token"]),
        (answer(403), NotAllowed, ["read access is missing", "check token"]),
        (answer(404), WrongAddress, ["GET /items", "HTTP 404", "check api_url", "token may see"]),
        (answer(410), WrongAddress, ["HTTP 410", "check api_url"]),
        (answer(400), QueryRefused, ["HTTP 400", "GET /items"]),
        (answer(304), QueryRefused, ["HTTP 304"]),
        (serving.web_page(), WrongAddress, ["web page", "check api_url", "login"]),
        (serving.web_page(404), WrongAddress, ["HTTP 404", "check api_url"]),
        (
            serving.redirect("https://login.example/?next=" + QUERY),
            WrongAddress,
            ["login.example", "check api_url"],
        ),
        (answer(503), SourceUnavailable, ["HTTP 503"]),
        (answer(429), SourceUnavailable, ["HTTP 429"]),
    ],
)
def test_one_line_says_what_to_change(
    url: str, api: Faults, fault: Fault, error: type[PipelineError], words: list[str]
) -> None:
    api.next(fault, times=20)
    with opened(url) as session, pytest.raises(error) as raised:
        session.get("/items", {"jql": QUERY})
    assert type(raised.value) is error
    line = said(raised.value)
    assert [word for word in words if word not in line] == []
    assert "Mill at 127.0.0.1" in line


def test_a_login_page_of_the_same_host_is_named(url: str, api: Faults) -> None:
    api.next(serving.redirect(f"/login.jsp?os_destination={QUERY}"))
    api.next(serving.web_page(), prefix="/login.jsp")
    with opened(url) as session, pytest.raises(WrongAddress, match=r"/login\.jsp .*check api_url, and token"):
        session.get("/items")


def test_a_web_page_in_the_middle_of_a_run_passes(url: str, api: Faults) -> None:
    with opened(url) as session:
        session.get("/items")
        api.next(serving.web_page())
        assert session.get("/items").body == [1]
        api.next(serving.web_page(), times=20)
        with pytest.raises(SourceUnavailable, match="web page"):
            session.get("/items")


def test_what_a_policy_says_is_cut_to_a_line(url: str, api: Faults) -> None:
    api.next(answer(403))
    policy = Policy("Mill", "tracker", "api_url", "token", lambda *_: None, lambda _: "no\nno \x1b[31m" * 99)
    session = ApiSession(
        url, None, policy, on_wait=print, now=lambda: datetime.now(UTC), sleep=lambda seconds: None
    )
    with closing(session), pytest.raises(AccessRefused) as raised:
        session.get("/items")
    assert said(raised.value).isprintable()


# No connection


def _refusing_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_name_that_is_none_is_said_to_be_so() -> None:
    with (
        opened("https://mill.invalid/api") as session,
        pytest.raises(SourceUnreachable, match="no such host") as raised,
    ):
        session.get("/items")
    assert "check api_url" in said(raised.value)
    assert session.requests == 1


def test_a_port_where_nothing_listens_is_said_to_be_so() -> None:
    with (
        opened(f"http://127.0.0.1:{_refusing_port()}") as session,
        pytest.raises(SourceUnreachable) as raised,
    ):
        session.get("/items")
    line = said(raised.value)
    assert "refused" in line
    assert "check api_url" in line
    assert "proxy" not in line


def test_a_certificate_of_nobody_known_is_not_trusted(served_by_tls: tuple[str, Faults]) -> None:
    with opened(served_by_tls[0]) as session, pytest.raises(SourceUnreachable, match="self-signed") as raised:
        session.get("/items")
    line = said(raised.value)
    assert "check api_url" in line
    assert "SSL_CERT_FILE" in line


def test_a_certificate_that_the_environment_names_is_trusted(
    served_by_tls: tuple[str, Faults], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with opened(served_by_tls[0]) as session:
        assert session.get("/items").body == [1]


def test_a_certificate_for_another_name_is_not_trusted(
    served_by_tls: tuple[str, Faults], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        opened(served_by_tls[0].replace("127.0.0.1", "localhost")) as session,
        pytest.raises(SourceUnreachable, match="localhost"),
    ):
        session.get("/items")


def test_https_where_only_http_is_spoken_is_said_to_be_so(url: str) -> None:
    with (
        opened(url.replace("http:", "https:")) as session,
        pytest.raises(SourceUnreachable, match="TLS") as raised,
    ):
        session.get("/items")
    assert "check api_url" in said(raised.value)


def test_http_where_only_https_is_spoken_is_an_error(served_by_tls: tuple[str, Faults]) -> None:
    address = served_by_tls[0].replace("https:", "http:")
    with opened(address) as session, pytest.raises(SourceUnavailable) as raised:
        session.get("/items")
    assert "check api_url" in said(raised.value)


def test_a_server_that_goes_away_in_the_middle_of_a_run_may_come_back() -> None:
    app = Starlette(routes=[Route("/items", _items)])
    with serve(app) as url, opened(url) as session:
        session.get("/items")
        stopped = url
    with opened(stopped) as fresh, pytest.raises(SetupError):
        fresh.get("/items")
    with serve(app) as url, opened(url) as session:
        session.get("/items")
        session._base = httpx.URL(stopped)  # as if this one had gone away
        with pytest.raises(SourceUnavailable, match="refused"):
            session.get("/items")


def test_an_unusable_proxy_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"gopher://me:{PASSWORD}@proxy.invalid")
    with pytest.raises(SourceUnreachable, match="HTTPS_PROXY") as raised, opened("http://mill.invalid"):
        pass
    assert PASSWORD not in said(raised.value)


def test_certificates_that_are_not_there_are_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(SourceUnreachable, match="SSL_CERT_FILE"), opened("https://mill.invalid"):
        pass


def test_a_proxy_of_the_environment_is_used_and_named_when_it_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HTTP_PROXY", f"http://me%40example.com:{PASSWORD}@127.0.0.1:{_refusing_port()}")
    with opened("http://mill.invalid") as session, pytest.raises(SourceUnreachable, match="proxy") as raised:
        session.get("/items")
    _holds_no_secret(raised.value, caplog)


# Bounds on the wire


@contextmanager
def _raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Says what no proper server says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65536)
                        talk(connection)
                    except OSError:
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()


def test_headers_that_never_end_are_given_up() -> None:
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stopped.wait(0.002):
            connection.sendall(b"x: y\r\n")

    bounds = Bounds(total_s=0.05)
    with _raw_server(drip) as url, opened(url, bounds=bounds) as session, pytest.raises(SourceTimeout):
        session.get("/items")
    stopped.set()


def test_an_answer_without_a_length_that_never_ends_is_given_up() -> None:
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n[1]")
        while not stopped.wait(0.002):
            connection.sendall(b" ")

    bounds = Bounds(total_s=0.05)
    with _raw_server(drip) as url, opened(url, bounds=bounds) as session, pytest.raises(SourceTimeout):
        session.get("/items")
    stopped.set()


def test_what_is_not_http_is_an_error() -> None:
    with (
        _raw_server(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as url,
        opened(url) as session,
        pytest.raises(SourceUnavailable),
    ):
        session.get("/items")


def test_an_encrypted_answer_that_never_ends_is_given_up(
    served_by_tls: tuple[str, Faults], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    url, api = served_by_tls
    api.clear()
    with opened(url, bounds=Bounds(total_s=0.1)) as session:
        session.get("/items")
        api.next(serving.dripping(0.005), times=20)
        with pytest.raises(SourceTimeout):
            session.get("/items")
    api.clear()


# Secrets


def _holds_no_secret(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does anything that hangs on it."""
    shown = [
        str(error),
        repr(error),
        repr(pickle.dumps(error)),
        "".join(traceback.format_exception(error)),
        caplog.text,
        *(repr(record.args) for record in caplog.records),
        *(repr(vars(record)) for record in caplog.records),
    ]
    assert [secret for text in shown for secret in SECRETS if secret.lower() in text.lower()] == []
    assert error.__cause__ is None
    assert error.__context__ is None


FAULTS = {
    "bad credentials": answer(401, body={"message": f"bad token {TOKEN}"}),
    "missing scope": answer(403, {"www-authenticate": f"Bearer {TOKEN}"}),
    "not there": answer(404, body={"message": TOKEN}),
    "refused": answer(422, body={"message": TOKEN}),
    "out of order": answer(500, body=TOKEN.encode()),
    "web page": serving.web_page(),
    "elsewhere": serving.redirect(f"https://me:{PASSWORD}@login.example/{TOKEN}?t={TOKEN}"),
    "no place": serving.redirect("http://["),
    "torn": serving.torn(),
    "torn gzip": serving.torn_gzip(),
    "not gzip": serving.not_gzip(),
    "spliced": serving.limit_in_listing(),
    "too large": serving.gzip_bomb(2),
    "endless": serving.dripping(0.002),
    "slow": serving.slow(5),
}


@pytest.mark.parametrize(
    "auth", [Bearer(TOKEN), httpx.BasicAuth("me@example.com", PASSWORD)], ids=["bearer", "basic"]
)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_secret_is_in_no_error_and_no_log(
    url: str, api: Faults, caplog: pytest.LogCaptureFixture, fault: Fault, auth: httpx.Auth
) -> None:
    caplog.set_level(logging.DEBUG)
    api.next(fault, times=20)
    bounds = Bounds(read_s=0.03, total_s=0.05, max_bytes=1 << 20)
    with opened(url, auth, bounds) as session, pytest.raises(PipelineError) as raised:
        session.get("/items", {"jql": QUERY})
    assert "authorization" in api.requests[0].headers
    assert not any(secret in repr(session) for secret in SECRETS)
    _holds_no_secret(raised.value, caplog)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{closed}", "https://mill.invalid", "https://127.0.0.1:{tls}"]
)
def test_a_secret_is_not_told_when_there_is_no_connection(
    address: str, served_by_tls: tuple[str, Faults], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    there = address.format(closed=_refusing_port(), tls=httpx.URL(served_by_tls[0]).port)
    with opened(there, Bearer(TOKEN)) as session, pytest.raises(SourceUnreachable) as raised:
        session.get("/items", {"jql": QUERY})
    _holds_no_secret(raised.value, caplog)


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f"{TOKEN}\x00", "", f"{TOKEN}\r\nhost: evil.example"])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(
    url: str, api: Faults, caplog: pytest.LogCaptureFixture, token: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(url, Bearer(token)) as session, pytest.raises(AccessRefused, match="check token") as raised:
        session.get("/items")
    _holds_no_secret(raised.value, caplog)
    assert api.requests == []
