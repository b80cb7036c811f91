"""`headrace integrations check`: every endpoint tried, one line each, nothing spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from tests.fakes import other_providers as fakes
from tests.fakes.embedding_provider import FakeProvider
from tests.fakes.serving import Faults, answer, serve
from tests.runners.world import Headrace
from transforms.postgres import Store
from transforms.providers.inputs import RemoteWords

WriteConfig = Callable[[str], Path]
GOOD = """
[[integrations]]
name = "voyage-main"
provider = "voyage"
model = "voyage-4"
url = "{voyage}/v1"
api_key = "env:FAKE_KEY"
dimensions = 512

[[integrations]]
name = "cohere-main"
provider = "cohere"
model = "embed-v4.0"
url = "{cohere}"
api_key = "env:FAKE_KEY"
dimensions = 1024
"""

GATEWAY = """
[[integrations]]
name = "proxy"
provider = "gateway"
model = "{model}"
url = "{url}/v1"
api_key = "env:FAKE_GATEWAY_KEY"
dimensions = 16
price_usd_per_million_tokens = {usd}
price_as_of = 2026-11-21
"""


@pytest.fixture(scope="module")
def voyage() -> Faults:
    return Faults(fakes.fake_voyage)


@pytest.fixture(scope="module")
def cohere() -> Faults:
    return Faults(fakes.fake_cohere)


@pytest.fixture(scope="module")
def moderation() -> Faults:
    return Faults(fakes.fake_moderation)


@pytest.fixture(scope="module")
def urls(voyage: Faults, cohere: Faults, moderation: Faults) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        apps = {"voyage": voyage, "cohere": cohere, "moderation": moderation}
        yield {name: stack.enter_context(serve(app)) for name, app in apps.items()}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, voyage: Faults, cohere: Faults, moderation: Faults) -> None:
    monkeypatch.setenv("FAKE_KEY", fakes.KEY)
    for one in (voyage, cohere, moderation):
        one.clear()


def test_endpoints_that_are_ready_have_a_line_each_and_spend_nothing(
    headrace: Headrace, write_config: WriteConfig, urls: dict[str, str], voyage: Faults, cohere: Faults
) -> None:
    code, said, _ = headrace("integrations", "check", "--config", write_config(GOOD.format(**urls)))
    assert code == 0
    lines = said.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ok", "integration", "cohere-main"],
        ["ok", "integration", "voyage-main"],
    ]
    assert (
        "voyage-4: key accepted, model available, 512 dimensions, 1,000 texts and 320,000 tokens" in lines[1]
    )
    assert "$0.06 per million tokens as of 2026-11-21" in lines[1]
    assert cohere.paths() == ["/v1/check-api-key", "/v1/models", "/v1/models"]
    assert [orjson.loads(bytes(seen.body))["input"] for seen in voyage.requests] == [[]]


@pytest.mark.parametrize(
    ("configured", "remark"),
    [
        ("0.02", ""),
        ("0.018", ""),
        ("0.00002", ", but the gateway charges $0.020: see price_usd_per_million_tokens"),
    ],
)
def test_a_price_that_is_not_the_gateways_own_is_remarked_on(
    headrace: Headrace,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    configured: str,
    remark: str,
) -> None:
    fake = FakeProvider(count=RemoteWords().count, usd_per_million_tokens=0.02)
    monkeypatch.setenv("FAKE_GATEWAY_KEY", fake.key)
    with serve(fake) as url:
        path = write_config(GATEWAY.format(url=url, model=fake.model, usd=configured))
        code, said, _ = headrace("integrations", "check", "--config", path)
    assert code == 0
    assert said.rstrip().endswith(f"${configured} per million tokens as of 2026-11-21{remark}")
    assert fake.requests == 0


def test_each_problem_is_said_where_it_is_and_the_others_are_tried(
    headrace: Headrace, write_config: WriteConfig, urls: dict[str, str], cohere: Faults
) -> None:
    more = """
[[integrations]]
name = "no-such-model"
provider = "cohere"
model = "embed-english-v9"
url = "{cohere}"
api_key = "env:FAKE_KEY"
dimensions = 1024
price_usd_per_million_tokens = 0.1
price_as_of = 2026-11-21

[[integrations]]
name = "other-dimensions"
provider = "cohere"
model = "embed-v4.0"
url = "{cohere}"
api_key = "env:FAKE_KEY"
dimensions = 999

[[integrations]]
name = "unsaid"
provider = "cohere"
model = "embed-v4.0"
url = "{cohere}"
api_key = "env:FAKE_KEY"

[[integrations]]
name = "wrong-key"
provider = "cohere"
model = "embed-v4.0"
url = "{cohere}"
api_key = "env:OTHER_KEY"
dimensions = 1024
"""
    code, said, _ = headrace(
        "integrations", "check", "--json", "--config", write_config((GOOD + more).format(**urls))
    )
    found = {result["name"].removeprefix("integration "): result for result in orjson.loads(said)}
    assert code == 3
    assert {name for name, result in found.items() if result["ok"]} == {"voyage-main", "cohere-main"}
    assert (
        "not among the models it may use (embed-english-v3.0, embed-v4.0)" in found["no-such-model"]["detail"]
    )
    assert "999" in found["other-dimensions"]["detail"]
    assert "give its dimensions" in found["unsaid"]["detail"]
    assert "OTHER_KEY" in found["wrong-key"]["detail"]


def test_a_row_with_a_literal_key_is_a_problem_that_does_not_show_it(
    headrace: Headrace, write_config: WriteConfig, database: Store, urls: dict[str, str]
) -> None:
    path = write_config(GOOD.format(**urls))
    assert headrace("integrations", "check", "--config", path)[0] == 0
    with database.connect() as connection:
        connection.execute("ALTER TABLE integrations DROP CONSTRAINT api_key_is_a_reference")
        connection.execute(
            "INSERT INTO integrations (name, origin, provider, model, api_key)"
            " VALUES ('careless', 'table', 'voyage', 'voyage-4', 'pa-literal')"
        )
    code, said, _ = headrace("integrations", "check", "--config", path)
    assert code == 3
    assert "no  integration careless" in said
    assert "pa-literal" not in said


def test_a_chain_that_serves_no_space_is_a_problem_of_its_own(
    headrace: Headrace, write_config: WriteConfig, urls: dict[str, str]
) -> None:
    model = """
[model]
integration = "voyage-main"
name = "voyage-4"
dimensions = 512
max_tokens = 512
"""
    chained = GOOD.replace('name = "voyage-main"\n', 'name = "voyage-main"\nfallback = "cohere-main"\n')
    for text, code, line in (
        (GOOD, 0, "ok  routing  voyage-main"),
        (chained, 3, "no  routing  integration cohere-main serves"),
    ):
        exit_code, said, _ = headrace(
            "integrations", "check", "--config", write_config((model + text).format(**urls))
        )
        assert (exit_code, line in said) == (code, True), said


def test_moderation_is_tried_with_a_harmless_sentence(
    headrace: Headrace, write_config: WriteConfig, urls: dict[str, str], moderation: Faults
) -> None:
    text = """
[moderation]
integration = "judge"
on_failure = "refuse"

[[integrations]]
name = "judge"
provider = "openai"
model = "text-embedding-3-small"
url = "{moderation}/v1"
api_key = "env:FAKE_KEY"
"""
    path = write_config(text.format(**urls))
    code, said, _ = headrace("integrations", "check", "--config", path)
    assert code == 0
    assert "ok  moderation  omni-moderation-latest at judge; documents nobody can judge: refuse" in said
    moderation.next(answer(401, body={"error": {"code": "invalid_api_key"}}))
    code, said, _ = headrace("integrations", "check", "--config", path)
    assert code == 3
    assert "no  moderation" in said
    assert "check api_key" in said


def test_moderation_that_costs_is_looked_up_and_not_tried(
    headrace: Headrace, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
[moderation]
integration = "judge"
model = "{model}"
on_failure = "refuse"

[[integrations]]
name = "judge"
provider = "mistral"
model = "mistral-embed"
url = "{url}/v1"
api_key = "env:FAKE_KEY"
"""
    mistral = Faults(fakes.fake_mistral)
    with serve(mistral) as url:
        check = ("integrations", "check", "--config")
        good = headrace(*check, write_config(text.format(url=url, model="mistral-large-latest")))
        bad = headrace(*check, write_config(text.format(url=url, model="mistral-moderation-9")))
    assert (good[0], bad[0]) == (0, 3)
    assert "at judge, $0.10 per million tokens; documents nobody can judge: refuse" in good[1]
    assert "has no model mistral-moderation-9: check [moderation]" in bad[1]
    assert set(mistral.paths()) == {"/v1/models"}


def test_without_integrations_there_is_nothing_to_check(
    headrace: Headrace, write_config: WriteConfig
) -> None:
    assert headrace("integrations", "check", "--config", write_config("")) == (
        0,
        "No integrations are configured.\n",
        "",
    )


def test_the_check_of_everything_has_them_too(
    headrace: Headrace, write_config: WriteConfig, urls: dict[str, str], tmp_path: Path
) -> None:
    _, said, _ = headrace("check", "--json", "--config", write_config(GOOD.format(**urls)))
    names = [result["name"] for result in orjson.loads(said)]
    assert [name for name in names if name.startswith("integration ")] == [
        "integration cohere-main",
        "integration voyage-main",
    ]
