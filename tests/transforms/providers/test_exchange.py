"""One request, its bounds, and what its failures are called."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from schemas.errors import (
    BadAnswer,
    InputRefused,
    OutOfCredit,
    PipelineError,
    ProviderTimeout,
    ProviderUnavailable,
    SourceUnreachable,
    WrongAddress,
)
from tests.fakes import serving
from tests.fakes.other_providers import application
from tests.fakes.serving import Fault, Faults, Stage, answer
from transforms.providers import exchange
from transforms.providers.exchange import Caller, JsonClient, codes


def _caller(url: str, timeout_s: float = 5) -> Caller:
    return Caller("main", "the API", url, timeout_s, lambda: {"authorization": "Bearer sk-secret"})


@pytest.fixture
def faults(stage: tuple[Stage, str]) -> Faults:
    stage[0].app = Faults(application(lambda asked: (200, {"ok": asked.path})))
    return stage[0].app


@pytest.fixture
def client(stage: tuple[Stage, str], faults: Faults) -> Iterator[JsonClient]:
    with closing(JsonClient(_caller(f"{stage[1]}/base"))) as client:
        yield client


def test_paths_are_relative_to_the_base(client: JsonClient, faults: Faults) -> None:
    assert client.get("things", {"a": "b c"}).body == {"ok": "/base/things"}
    assert client.post("things:do", {"x": 1}).body == {"ok": "/base/things:do"}
    assert [(seen.method, seen.query) for seen in faults.requests] == [("GET", {"a": "b c"}), ("POST", {})]
    assert faults.requests[1].headers["content-type"] == "application/json"


def test_a_connection_is_used_again(client: JsonClient) -> None:
    for _ in range(3):
        client.get("things")
    assert len(client._clients) == 1


@pytest.mark.parametrize(
    ("fault", "error", "billed"),
    [
        (answer(200, body=b"{"), BadAnswer, None),
        (answer(200, body=b'{"a": NaN}'), BadAnswer, None),
        (answer(200, body=b"[]"), BadAnswer, None),
        (serving.web_page(), BadAnswer, None),
        (serving.gzip_bomb(1), BadAnswer, None),
        (serving.torn(), ProviderUnavailable, True),
        (serving.torn_gzip(), ProviderUnavailable, True),
        (serving.not_gzip(), ProviderUnavailable, True),
        (serving.web_page(502), ProviderUnavailable, True),  # of one in between, who does not know
        (answer(504), ProviderUnavailable, True),
        (answer(503), ProviderUnavailable, False),
        (answer(500, body={"error": {"code": "internal"}}), ProviderUnavailable, False),
        (answer(429, body={"error": {"type": "insufficient_quota"}}), OutOfCredit, None),
        (answer(400, body={"error": "a string"}), InputRefused, None),
        (serving.redirect("https://elsewhere.example/"), WrongAddress, None),
    ],
)
def test_an_answer_that_is_none_is_one_of_our_errors(
    client: JsonClient,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    error: type[PipelineError],
    billed: bool | None,
) -> None:
    faults.next(fault)
    with pytest.raises(PipelineError, match=r'integration "main": the API at 127\.0\.0\.1') as raised:
        client.post("things", {"texts": ["private words"]})
    assert type(raised.value) is error
    assert getattr(raised.value, "may_be_billed", None) is billed
    shown = f"{raised.value!r} {raised.value.__context__!r}"
    assert "sk-secret" not in shown
    assert "private" not in shown


@pytest.fixture(autouse=True)
def _small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER_BYTES", 1 << 19)


@pytest.mark.parametrize("fault", [serving.slow(5), serving.dripping(0.01)])
def test_a_request_ends_in_time_however_it_is_drawn_out(
    stage: tuple[Stage, str], faults: Faults, fault: Fault
) -> None:
    faults.next(fault)
    with closing(JsonClient(_caller(stage[1], 0.2))) as client, pytest.raises(ProviderTimeout):
        client.get("things")


def test_where_nobody_listens_nothing_was_billed() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with closing(JsonClient(_caller(url))) as client, pytest.raises(ProviderUnavailable) as raised:
            client.get("things")
    assert not raised.value.may_be_billed


def test_half_a_character_is_not_sent(client: JsonClient, faults: Faults) -> None:
    with pytest.raises(InputRefused, match="no Unicode character"):
        client.post("things", {"texts": ["\ud83d"]})
    assert faults.requests == []


def test_a_proxy_that_is_none_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://nowhere")
    with pytest.raises(SourceUnreachable, match="ALL_PROXY"):
        JsonClient(_caller("http://127.0.0.1:1"))


def test_only_what_looks_like_a_code_is_shown() -> None:
    assert codes({"error": {"type": "invalid_request", "code": None}}) == ["invalid_request"]
    assert codes({"type": "invalid_model", "code": "1500"}) == ["invalid_model", "1500"]
    assert codes({"error": {"type": "your text: secret words", "code": "x" * 65, "status": 7}}) == ["7"]
    assert codes([1]) == codes(None) == codes({"error": "text"}) == []
