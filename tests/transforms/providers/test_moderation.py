"""Verdicts over texts: one request as the endpoint wants it, then many, patiently."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import (
    AccessRefused,
    BadAnswer,
    BadConfig,
    InputRefused,
    ProviderUnavailable,
    RateLimited,
)
from schemas.integrations import Integration
from schemas.moderation import Moderation
from schemas.usage import UNFINISHED
from tests.fakes.other_providers import FLAG, TOO_LONG, fake_moderation
from tests.fakes.serving import Faults, Stage, answer
from tests.transforms.allowance.world import NoAllowance
from transforms import moderation
from transforms.background import Discarded
from transforms.moderation import MAX_INPUTS, MAX_REQUEST_CHARS, Input, Moderator, packed
from transforms.providers.accounting import Accounts
from transforms.providers.metering import ProviderCall
from transforms.providers.moderation import (
    PRICES,
    ModerationEndpoint,
    Verdict,
    price_of_moderation,
    verdict_of,
)

FREE = PRICES["openai"]
GOOD = Verdict(False)
FLAGGED = Verdict(True, ("harassment", "violence/graphic"))


@pytest.fixture
def faults(stage: tuple[Stage, str]) -> Faults:
    stage[0].app = Faults(fake_moderation)
    return stage[0].app


def integration(url: str, **changes: Any) -> Integration:
    given = {"name": "main", "provider": "openai", "model": "text-embedding-3-small", "url": f"{url}/v1"}
    return Integration.model_validate({**given, "api_key": "env:FAKE_KEY", **changes})


@pytest.fixture
def endpoint(stage: tuple[Stage, str], faults: Faults) -> Iterator[ModerationEndpoint]:
    with closing(ModerationEndpoint(integration(stage[1]), "omni-moderation-latest")) as endpoint:
        yield endpoint


class Patience:
    """A moderator whose pauses are noted and take no time, and whose calls are kept."""

    def __init__(self, endpoint: ModerationEndpoint) -> None:
        self.pauses: list[float] = []
        self.begun: list[ProviderCall] = []
        self.calls: list[ProviderCall] = []
        accounts = Accounts("acme", NoAllowance(), self._note)
        self.moderator = Moderator(endpoint, accounts, FREE, self._wait)

    def _note(self, call: ProviderCall) -> None:
        (self.begun if call.error_type == UNFINISHED else self.calls).append(call)

    def _wait(self, stop: threading.Event, seconds: float) -> bool:
        self.pauses.append(seconds)
        return stop.is_set()

    def findings(self, *texts: str) -> list[moderation.Finding]:
        return self.moderator.findings([Input(text, len(text.split())) for text in texts])


@pytest.fixture
def patience(endpoint: ModerationEndpoint) -> Iterator[Patience]:
    patience = Patience(endpoint)
    yield patience
    patience.moderator.close()


def test_a_text_is_flagged_with_its_categories(endpoint: ModerationEndpoint, faults: Faults) -> None:
    judged = endpoint.judge(["fine", f"not {FLAG}"])
    assert judged.verdicts == (GOOD, FLAGGED)
    assert judged.request_id == "req-of-the-fake"
    assert faults.paths() == ["/v1/moderations"]
    asked = orjson.loads(bytes(faults.requests[0].body))
    assert asked == {"model": "omni-moderation-latest", "input": ["fine", f"not {FLAG}"]}


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"flagged": False, "categories": {"a": False}}, GOOD),
        ({"flagged": True, "categories": {"b": True, "a": True, "c": False}}, Verdict(True, ("a", "b"))),
        ({"flagged": True}, Verdict(True)),
        ({"flagged": False, "categories": {"a": True}}, GOOD),  # the endpoint's own word counts
        ({"categories": {"pii": True, "law": False}}, Verdict(True, ("pii",))),  # Mistral says no `flagged`
        ({"categories": {"pii": False}}, GOOD),
        ({}, None),
        ({"flagged": "no"}, None),
        ({"flagged": None, "categories": {}}, None),
        ("fine", None),
    ],
)
def test_a_result_is_read_as_it_says(result: Any, verdict: Verdict | None) -> None:
    assert verdict_of(result) == verdict


def test_categories_are_bounded_however_many_and_long() -> None:
    result = {"flagged": True, "categories": {f"{n:02d}" + "x" * 500: True for n in range(50)}}
    found = verdict_of(result)
    assert found is not None
    assert len(found.categories) == 20
    assert max(map(len, found.categories)) == 40


@pytest.mark.parametrize("results", [[], [{"flagged": False}] * 3, [{"flagged": False}, {}], "none"])
def test_too_few_verdicts_are_no_answer(endpoint: ModerationEndpoint, faults: Faults, results: Any) -> None:
    faults.next(answer(200, body={"results": results}))
    with pytest.raises(BadAnswer, match="for 2 texts"):
        endpoint.judge(["a", "b"])


def test_what_judging_costs_is_listed_or_configured_and_never_unknown() -> None:
    def asks(provider: str, **said: Any) -> str:
        judge = integration("https://nowhere.invalid", provider=provider)
        settings = Moderation(integration="main", on_failure="refuse", **said)
        return str(price_of_moderation(settings, judge).usd_per_million_tokens)

    assert (asks("openai"), asks("mistral")) == ("0", "0.10")
    assert asks("gateway", price_usd_per_million_tokens="0.3", price_as_of="2026-11-21") == "0.3"
    with pytest.raises(BadConfig, match=r"price_as_of in \[moderation\], 0 where nothing is billed"):
        asks("gateway")
    with pytest.raises(ValueError, match="go together"):
        asks("mistral", price_usd_per_million_tokens="0.3")


def test_a_provider_without_moderation_is_refused() -> None:
    with pytest.raises(BadConfig, match="voyage, which has no moderation"):
        ModerationEndpoint(integration("https://nowhere.invalid", provider="voyage"), "m")


@given(st.lists(st.integers(0, 2 * MAX_REQUEST_CHARS), max_size=80))
def test_requests_hold_every_text_once_in_order_and_no_more_than_they_may(lengths: list[int]) -> None:
    inputs = [Input("x" * length, number) for number, length in enumerate(lengths)]
    batches = list(packed(inputs))
    assert [one for batch in batches for one in batch] == inputs
    for batch in batches:
        assert 1 <= len(batch) <= MAX_INPUTS
        assert len(batch) == 1 or sum(len(one.text) for one in batch) <= MAX_REQUEST_CHARS


def test_findings_come_in_the_order_asked(patience: Patience, faults: Faults) -> None:
    texts = [FLAG if number % 7 == 0 else f"text {number}" for number in range(100)]
    assert patience.findings(*texts) == [FLAGGED if text == FLAG else GOOD for text in texts]
    assert len(faults.requests) == len(patience.calls) == 4
    assert sum(call.inputs for call in patience.calls) == 100
    assert {(call.operation, call.usd, call.error_type) for call in patience.calls} == {("moderate", 0, None)}
    assert {call.call_id for call in patience.begun} == {call.call_id for call in patience.calls}


def test_what_passes_is_tried_again_and_each_attempt_written_down(patience: Patience, faults: Faults) -> None:
    faults.next(answer(500), times=2)
    faults.next(answer(200, body={"results": []}))
    assert patience.findings("a", FLAG) == [GOOD, FLAGGED]
    assert [(call.attempt, call.error_type) for call in patience.calls] == [
        (1, "ProviderUnavailable"),
        (2, "ProviderUnavailable"),
        (3, "BadAnswer"),
        (4, None),
    ]
    assert len(patience.pauses) == 3


def test_a_limit_is_waited_out_and_is_no_failed_attempt(patience: Patience, faults: Faults) -> None:
    faults.next(answer(429, {"retry-after": "3"}), times=12)
    assert patience.findings("a") == [GOOD]
    assert len(patience.pauses) == 12
    assert all(3 <= pause <= 5 for pause in patience.pauses)


def test_a_limit_that_takes_too_long_is_given_up(patience: Patience, faults: Faults) -> None:
    faults.next(answer(429, {"retry-after": "100"}), times=10)
    (finding,) = patience.findings("a")
    assert isinstance(finding, RateLimited)
    assert sum(patience.pauses) <= moderation.MAX_WAIT_S


def test_an_endpoint_that_is_down_holds_up_one_request_and_not_all(
    patience: Patience, faults: Faults
) -> None:
    faults.next(answer(503), times=1000)
    for _ in range(3):
        (finding,) = patience.findings("a")
        assert isinstance(finding, ProviderUnavailable)
    assert len(faults.requests) == 5 + 1 + 1
    faults.clear()
    assert patience.findings("a") == [GOOD]
    faults.next(answer(503), times=4)
    assert patience.findings("a") == [GOOD]


def test_a_text_that_is_refused_leaves_the_others_their_verdict(patience: Patience) -> None:
    findings = patience.findings("a", FLAG, TOO_LONG, "b", "c")
    assert [*findings[:2], *findings[3:]] == [GOOD, FLAGGED, GOOD, GOOD]
    assert isinstance(findings[2], InputRefused)


def test_a_wrong_key_stops(patience: Patience, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", "wrong")
    with pytest.raises(AccessRefused):
        patience.findings("a")


def test_a_pause_ends_when_nobody_waits_any_more(endpoint: ModerationEndpoint, faults: Faults) -> None:
    faults.next(answer(429, {"retry-after": "60"}), times=10)
    moderator = Moderator(endpoint, Accounts("acme", NoAllowance(), lambda call: None), FREE)
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            moderator.findings([Input("a", 1)])
        except Discarded:
            ended.append(Discarded)

    thread = threading.Thread(target=ask)
    thread.start()
    while not faults.requests:
        time.sleep(0.001)
    moderator.close()
    thread.join(5)
    assert ended == [Discarded]
