"""The receiver over real HTTP: what it refuses, what it keeps before it answers, what it does in trouble."""

from __future__ import annotations

import gzip
import hmac
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import orjson
import psycopg
import pytest
from psycopg import conninfo

from runners import addressees, inbox, webhooks
from schemas.config import Config
from schemas.errors import BadConfig
from schemas.sources import GitHubSource, GitSource, JiraSource
from transforms.postgres import Store

SECRET = "It's a Secret to Everybody"
REPOSITORY = "https://api.github.com/repos/acme/mill"
ISSUE = {"id": 101, "number": 7, "repository_url": REPOSITORY, "title": "Gate jams", "body": "In frost."}
BODY = orjson.dumps({"action": "edited", "issue": ISSUE})
JIRA_BODY = orjson.dumps({"webhookEvent": "jira:issue_updated", "issue": {"id": "10040", "key": "TES-41"}})


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("HEADRACE_TEST_HOOK", SECRET)
    secret = "env:HEADRACE_TEST_HOOK"
    return Config(
        client="acme",
        sources=(
            GitHubSource(
                type="github", name="team/repos", repositories=("Acme/Mill",), webhook_secret=secret
            ),
            GitHubSource(type="github", name="silent", repositories=("acme/mill",)),
            JiraSource(
                type="jira", name="tickets", site_url="https://jira.example.com", webhook_secret=secret
            ),
            GitSource(type="git", name="code", url="git@github.com:acme/mill.git"),
            GitSource(type="git", name="theirs", client="else", url="https://github.com/acme/mill"),
        ),
    )


@contextmanager
def _serving(config: Config, store: Store) -> Iterator[httpx.Client]:
    listener = webhooks.listen("127.0.0.1", 0)
    server = webhooks.make_server(config, addressees.registry(config), store)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=20, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def server(config: Config, database: Store) -> Iterator[httpx.Client]:
    with _serving(config, database) as client:
        yield client


def _sign(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()


def _post(
    client: httpx.Client, body: bytes = BODY, *, delivery: str = "d-1", event: str = "issues", **headers: str
) -> httpx.Response:
    given = {
        "X-Hub-Signature-256": _sign(body),
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return client.post("/github/team/repos", content=body, headers=given)


def _post_jira(client: httpx.Client, body: bytes = JIRA_BODY, **headers: str) -> httpx.Response:
    given = {
        "X-Hub-Signature": _sign(body),
        "Content-Type": "application/json; charset=UTF-8",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return client.post("/jira/tickets", content=body, headers=given)


def _kept(connection: psycopg.Connection) -> list[tuple[str, str, str, Any]]:
    return connection.execute(
        "SELECT source, event, provider_id, named FROM webhook_deliveries ORDER BY delivery_id"
    ).fetchall()


NAMED = [["issue", "101", "acme/mill#7"]]


def test_a_signed_delivery_is_stored_before_it_is_answered(
    server: httpx.Client, connection: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with connection.transaction():
            connection.execute("LOCK TABLE webhook_deliveries IN ACCESS EXCLUSIVE MODE")
            posted = threads.submit(_post, server)
            with pytest.raises(TimeoutError):
                posted.result(0.5)
        answer = posted.result(10)
    assert (answer.status_code, answer.text) == (202, "stored")
    assert _kept(connection) == [("team/repos", "issues.edited", "d-1", NAMED)]


def test_no_text_of_a_delivery_is_kept(server: httpx.Client, connection: psycopg.Connection) -> None:
    _post(server)
    assert "frost" not in str(connection.execute("SELECT d::text FROM webhook_deliveries AS d").fetchall())


def test_a_form_is_stored_as_json_is(server: httpx.Client, connection: psycopg.Connection) -> None:
    form = b"payload=" + quote_plus(BODY).encode()
    answer = _post(server, form, Content_Type="application/x-www-form-urlencoded")
    assert answer.text == "stored"
    assert _kept(connection)[0][3] == NAMED


def test_a_delivery_that_comes_again_is_known(server: httpx.Client, connection: psycopg.Connection) -> None:
    assert [_post(server).text for _ in range(3)] == ["stored", "known", "known"]
    assert _post(server, delivery="d-2").text == "stored"
    assert len(_kept(connection)) == 2


def test_a_retry_of_jira_is_known_by_its_identifier_or_its_body(
    server: httpx.Client, connection: psycopg.Connection
) -> None:
    for _ in range(2):
        _post_jira(server, X_Atlassian_Webhook_Identifier="site-1")
        _post_jira(server)
    kept = _kept(connection)
    assert [named for *_, named in kept] == [[["issue", "10040", "TES-41"]]] * 2
    assert kept[0][2] == "site-1"


@pytest.mark.parametrize(
    "signature",
    ["", "sha256=", _sign(BODY, "other"), _sign(b"{}"), _sign(BODY).removeprefix("sha256="), "sha256=é"],
)
def test_without_the_right_signature_nothing_is_stored(
    server: httpx.Client, connection: psycopg.Connection, signature: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers: Any = {"x-hub-signature-256": signature.encode("latin-1"), "x-github-event": "issues"}
    answers = [server.post("/github/team/repos", content=BODY, headers=headers) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {401}
    assert server.post("/jira/tickets", content=JIRA_BODY).status_code == 401
    assert _kept(connection) == []
    said = caplog.text + answers[0].text
    assert "webhook_secret" in said
    assert SECRET not in said
    assert _sign(BODY) not in said
    assert said.count("'team/repos'") == 1, "one line, not one for each"


def test_an_unknown_name_and_one_without_a_secret_are_the_same_to_the_world(server: httpx.Client) -> None:
    headers = {"x-hub-signature-256": _sign(BODY, "")}
    paths = ["/github/nobody", "/github/silent", "/github/tickets", "/jira/team/repos", "/github/code"]
    answers = [server.post(path, content=BODY, headers=headers) for path in paths]
    assert {(answer.status_code, answer.text) for answer in answers} == {
        (404, "no source of this name takes deliveries")
    }


def test_a_ping_is_answered(server: httpx.Client, connection: psycopg.Connection) -> None:
    assert _post(server, b'{"zen": "Design for failure."}', event="ping").text == "pong"
    assert _kept(connection) == []


def test_news_of_nothing_we_keep_is_accepted_and_not_stored(
    server: httpx.Client, connection: psycopg.Connection
) -> None:
    other = orjson.dumps({"action": "edited", "issue": {**ISSUE, "repository_url": f"{REPOSITORY}-2"}})
    assert "none of the configured sources" in _post(server, other).text
    assert _post(server, b'{"action": "started"}', event="watch").status_code == 202
    assert _kept(connection) == []


def test_a_push_polls_the_git_sources_of_the_same_client(
    server: httpx.Client, connection: psycopg.Connection
) -> None:
    body = orjson.dumps({"repository": {"clone_url": "https://github.com/Acme/mill.git"}})
    assert _post(server, body, event="push").text == "stored"
    assert _kept(connection) == [("code", "push", "d-1", [])]


def test_a_renamed_repository_polls_its_source(server: httpx.Client, connection: psycopg.Connection) -> None:
    changes = {"repository": {"name": {"from": "mill"}}}
    body = {"action": "renamed", "repository": {"full_name": "acme/sluice"}, "changes": changes}
    _post(server, orjson.dumps(body), event="repository")
    assert _kept(connection) == [("team/repos", "repository.renamed", "d-1", [])]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"data={}", "application/x-www-form-urlencoded", 400),
    ],
)
def test_what_is_no_delivery_is_refused(
    server: httpx.Client, body: bytes, content_type: str, status: int
) -> None:
    assert _post(server, body, Content_Type=content_type).status_code == status


def test_a_body_may_have_25_mib_and_no_more(
    server: httpx.Client, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_BODY_BYTES", 200_000)
    padded = orjson.dumps({"action": "edited", "issue": ISSUE, "padding": "x" * 150_000})
    assert _post(server, padded).text == "stored"

    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            yield b"x" * 65_000

    headers = {"x-hub-signature-256": _sign(b"x" * 260_000)}
    assert server.post("/github/team/repos", content=b"x" * 200_001, headers=headers).status_code == 413
    assert server.post("/github/team/repos", content=chunks(), headers=headers).status_code == 413
    monkeypatch.setattr(webhooks, "MAX_HELD_BYTES", 100_000)
    answer = _post(server, padded, delivery="d-2")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


def test_a_hundred_deliveries_at_once_are_all_stored(
    config: Config, server: httpx.Client, connection: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda n: _post(server, delivery=f"d-{n % 90}"), range(100)))
    assert sorted(answer.text for answer in answers) == ["known"] * 10 + ["stored"] * 90
    assert len(_kept(connection)) == 90


def _raw(server: httpx.Client) -> socket.socket:
    assert server.base_url.port
    return socket.create_connection((server.base_url.host, server.base_url.port), timeout=10)


def test_a_body_that_comes_too_slowly_is_given_up(
    server: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "BODY_TIMEOUT_S", 0.2)
    with _raw(server) as wire:
        wire.sendall(b"POST /github/team/repos HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert wire.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.alone
def test_a_head_that_comes_byte_by_byte_is_given_up(
    server: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "CONNECTION_LIMIT_S", 0.3)
    before = time.monotonic()
    with _raw(server) as wire, suppress(ConnectionError):
        wire.sendall(b"POST /github/team/repos HTTP/1.1\r\n")
        while time.monotonic() < before + 5:
            wire.sendall(b"X")
            time.sleep(0.02)
    assert time.monotonic() < before + 5


def _let_in(store: Store, allowed: bool) -> None:
    parts = conninfo.conninfo_to_dict(store.dsn)
    name = parts["dbname"]
    with psycopg.connect(conninfo.make_conninfo(store.dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


def test_while_the_database_is_away_providers_are_asked_to_come_again(
    server: httpx.Client, database: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert _post(server).text == "stored"
    _let_in(database, False)
    try:
        answers = [_post(server, delivery="d-2") for _ in range(2)]
        assert {(one.status_code, one.headers["retry-after"]) for one in answers} == {(503, "30")}
        assert server.get("/healthz").status_code == 503
        assert caplog.text.count("deliveries are refused until") == 1
    finally:
        _let_in(database, True)
    assert _post(server, delivery="d-2").text == "stored"
    assert server.get("/healthz").json()["pending"] == 2


def test_a_full_queue_takes_no_more(
    server: httpx.Client, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_PENDING", 1)
    assert _post(server).text == "stored"
    assert server.get("/healthz").json()["pending"] == 1
    assert _post(server, delivery="d-2").status_code == 503


def test_what_was_answered_is_there_after_a_restart(
    config: Config, database: Store, connection: psycopg.Connection
) -> None:
    for number in range(2):
        with _serving(config, database) as client:
            assert _post(client, delivery=f"d-{number}").text == "stored"
    assert len(_kept(connection)) == 2


def test_health_tells_how_many_are_pending(server: httpx.Client) -> None:
    assert server.get("/healthz").json() == {"database": "reachable", "pending": 0, "oldest_at": None}
    _post(server)
    assert server.get("/healthz").json()["pending"] == 1


def test_whoever_starts_it_is_told_addresses_and_sources_left_out(config: Config) -> None:
    lines = addressees.introduction(config, addressees.registry(config), "http://127.0.0.1:8787")
    assert "  http://127.0.0.1:8787/github/team/repos" in lines
    assert "  source 'silent' takes no deliveries: its webhook_secret is not set" in lines
    assert SECRET not in str(lines) + repr(addressees.registry(config))


def test_mistakes_name_the_setting(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="webhook_secret"):
        addressees.registry(config.model_copy(update={"sources": config.sources[1:2]}))
    monkeypatch.delenv("HEADRACE_TEST_HOOK")
    with pytest.raises(BadConfig, match="webhook_secret of source 'team/repos'"):
        addressees.registry(config)
    (tmp_path / "empty").touch()
    empty = config.sources[0].model_copy(update={"webhook_secret": f"file:{tmp_path / 'empty'}"})
    with pytest.raises(BadConfig, match="empty"):
        addressees.registry(config.model_copy(update={"sources": (empty,)}))
    with webhooks.listen("127.0.0.1", 0) as taken, pytest.raises(BadConfig, match=r"webhooks\.port"):
        webhooks.listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.alone
@pytest.mark.shared_data
def test_every_real_delivery_is_answered_in_good_time(
    server: httpx.Client, shared_data: Path, connection: psycopg.Connection
) -> None:
    with gzip.open(shared_data / "github" / "webhook_payloads_octokit.jsonl.gz") as lines:
        messages = [orjson.loads(line) for line in lines]
    took = []
    for number, message in enumerate(messages):
        before = time.perf_counter()
        body = orjson.dumps(message["payload"])
        answer = _post(server, body, event=message["event"], delivery=f"d-{number}")
        took.append(time.perf_counter() - before)
        assert answer.status_code == (200 if message["event"] == "ping" else 202)
    for line in (shared_data / "jira" / "jira_webhooks.jsonl").read_bytes().splitlines():
        assert _post_jira(server, orjson.dumps(orjson.loads(line)["payload"])).status_code == 202
    assert sorted(took)[len(took) // 2] < 0.1


def test_the_command_listens_until_it_is_told_to_stop(
    database: Store, connection: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "headrace.toml").write_text(
        """
        client = "acme"
        postgres.dsn = "env:HEADRACE_TEST_DATABASE"
        webhooks.port = 0
        [[sources]]
        type = "github"
        name = "team/repos"
        repositories = ["acme/mill"]
        webhook_secret = "env:HEADRACE_TEST_HOOK"
        """,
        encoding="utf-8",
    )
    environment = {**os.environ, "HEADRACE_TEST_DATABASE": database.dsn, "HEADRACE_TEST_HOOK": SECRET}
    with subprocess.Popen(
        [sys.executable, "-m", "runners.cli", "webhooks", "--config", tmp_path / "headrace.toml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        assert first.startswith("listening on http://127.0.0.1:"), process.stderr.read()
        with httpx.Client(base_url=first.split()[2].rstrip(";"), trust_env=False) as client:
            assert _post(client).text == "stored"
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        rest, errors = (
            process.stdout.read(),
            process.stderr.read(),
        )  # communicate() would skip what is buffered
    assert (process.returncode, errors) == (0, "")
    assert "/github/team/repos" in rest
    assert len(_kept(connection)) == 1
