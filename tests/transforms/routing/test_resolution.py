"""From the tables to the endpoints of a client."""

from __future__ import annotations

import psycopg
import pytest

from schemas.errors import BadConfig, UnknownName
from schemas.integrations import Integration, Limits, Performance
from tests.transforms.routing.world import SPACE, FakeClock, FakeEndpoint, integration
from transforms.postgres import Store
from transforms.routing.breaker import EndpointBreaker, SharedStates
from transforms.routing.chain import Chain
from transforms.routing.endpoint import Endpoint
from transforms.routing.gate import Gate
from transforms.routing.resolution import MAX_ENDPOINTS, Resolver, chain_of
from transforms.routing.session import SharedSession
from transforms.stored_integrations import (
    configured_for,
    integration_of,
    list_integrations,
    load_rows,
    preferred_by,
    write_integrations,
)


def names(chain: tuple[Integration, ...]) -> list[str]:
    return [found.name for found in chain]


def configure(connection: psycopg.Connection, client: str, name: str) -> None:
    connection.execute("INSERT INTO clients VALUES (%s) ON CONFLICT DO NOTHING", [client])
    connection.execute(
        "INSERT INTO client_ai_configuration SELECT %s, integration_id FROM integrations WHERE name = %s"
        " ON CONFLICT (client) DO UPDATE SET embedding_integration_id = EXCLUDED.embedding_integration_id",
        [client, name],
    )


def test_a_file_s_integrations_are_read_back_as_they_were_written(connection: psycopg.Connection) -> None:
    a = integration(
        "a",
        fallback="b",
        url="https://a.example/v1",
        limits=Limits(max_inputs=7),
        performance=Performance(timeout_s=3, max_attempts=2),
        price_usd_per_million_tokens="0.02",
        price_as_of="2026-11-01",
    )
    b = integration(
        "b", weights="fake-embed", model="deployment-1", provider="azure", url="https://b.example"
    )
    for _ in range(2):
        write_integrations(connection, [a, b])
    assert [stored.integration for stored in list_integrations(connection)] == [a, b]
    assert {stored.origin for stored in list_integrations(connection)} == {"file"}


def test_a_changed_file_changes_the_table_and_an_unchanged_one_writes_nothing(
    connection: psycopg.Connection,
) -> None:
    write_integrations(connection, [integration("a"), integration("b")])
    before = {stored.integration.name: stored.updated_at for stored in list_integrations(connection)}
    write_integrations(connection, [integration("a", fallback="b"), integration("b")])
    after = {stored.integration.name: stored.updated_at for stored in list_integrations(connection)}
    assert integration_of(load_rows(connection)["a"]).fallback == "b"
    assert after["a"] > before["a"]
    assert after["b"] == before["b"]
    write_integrations(connection, [integration("a")])
    assert integration_of(load_rows(connection)["a"]).fallback is None


def test_a_file_does_not_take_over_a_row_that_is_looked_after_in_the_table(
    connection: psycopg.Connection,
) -> None:
    connection.execute(
        "INSERT INTO integrations (name, provider, model, api_key) VALUES ('a', 'openai', 'm', 'env:KEY')"
    )
    with pytest.raises(BadConfig, match="a is in the table integrations"):
        write_integrations(connection, [integration("a")])


def test_a_fallback_that_is_nowhere_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(UnknownName, match=r"integrations.a.fallback: there is no integration 'z'"):
        write_integrations(connection, [integration("a", fallback="z")])
    assert not load_rows(connection)


@pytest.mark.parametrize("key", ["sk-live-1234567890", "env:", "env:sk live", "ENV:NAME", "file:", ""])
def test_the_table_takes_no_literal_key(connection: psycopg.Connection, key: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="api_key_is_a_reference"):
        connection.execute(
            "INSERT INTO integrations (name, provider, model, api_key) VALUES ('a', 'openai', 'm', %s)", [key]
        )


def test_a_reader_refuses_a_literal_key_in_one_line_without_it(connection: psycopg.Connection) -> None:
    write_integrations(connection, [integration("a")])
    row = {**load_rows(connection)["a"], "api_key": "sk-live-1234567890"}
    with pytest.raises(BadConfig, match="table integrations, a: api_key: expected a reference") as refused:
        integration_of(row)
    assert "sk-live" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_chain_is_the_configured_one_and_its_fallbacks_in_order(connection: psycopg.Connection) -> None:
    write_integrations(
        connection, [integration("a", fallback="b"), integration("b", fallback="c"), integration("c")]
    )
    assert names(chain_of(load_rows(connection), "a", SPACE)) == ["a", "b", "c"]
    assert names(chain_of(load_rows(connection), "b", SPACE)) == ["b", "c"]


def test_fallbacks_that_go_round_in_a_circle_are_refused(connection: psycopg.Connection) -> None:
    write_integrations(
        connection, [integration("a", fallback="b"), integration("b", fallback="c"), integration("c")]
    )
    connection.execute(
        "UPDATE integrations SET fallback_integration_id = (SELECT integration_id FROM integrations"
        " WHERE name = 'b') WHERE name = 'c'"
    )
    with pytest.raises(BadConfig, match="circle: a -> b -> c -> b"):
        chain_of(load_rows(connection), "a", SPACE)


def test_fallbacks_without_an_end_are_refused(connection: psycopg.Connection) -> None:
    """A search that finds all of them down asks each."""
    far = [integration(f"e{n}", fallback=f"e{n + 1}") for n in range(MAX_ENDPOINTS)]
    write_integrations(connection, [*far, integration(f"e{MAX_ENDPOINTS}")])
    assert len(chain_of(load_rows(connection), "e1", SPACE)) == MAX_ENDPOINTS
    with pytest.raises(BadConfig, match="e0 has more than 15 fallbacks"):
        chain_of(load_rows(connection), "e0", SPACE)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"weights": "other-embed"}, "the space is of 'fake-embed'"),
        ({"dimensions": 32}, "gives 32 dimensions"),
    ],
)
def test_a_fallback_of_another_space_is_refused(
    connection: psycopg.Connection, other: dict[str, object], why: str
) -> None:
    write_integrations(connection, [integration("a", fallback="b"), integration("b", **other)])
    with pytest.raises(BadConfig, match=why):
        chain_of(load_rows(connection), "a", SPACE)


def test_a_client_s_own_row_goes_before_the_file_and_is_noticed_after_five_minutes(
    database: Store, connection: psycopg.Connection
) -> None:
    write_integrations(connection, [integration("a"), integration("own")])
    clock, session = FakeClock(), SharedSession(database)
    resolve = Resolver(session, SPACE, "acme", "a", clock.monotonic_s)
    assert names(resolve()) == ["a"]
    configure(connection, "acme", "own")
    clock.time_s = 299
    assert names(resolve()) == ["a"]
    clock.time_s = 300
    assert names(resolve()) == ["own"]
    assert configured_for(connection, "acme") == "own"
    assert configured_for(connection, "another") is None
    session.close()


def test_a_change_that_cannot_be_followed_leaves_the_chain_as_it_was_and_is_said_once(
    database: Store, connection: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    write_integrations(connection, [integration("a", fallback="b"), integration("b")])
    clock, session = FakeClock(), SharedSession(database)
    states = SharedStates(session, clock.now, clock.monotonic_s)
    opened: list[FakeEndpoint] = []

    def build(found: Integration) -> Endpoint:
        opened.append(FakeEndpoint())
        return Endpoint(found, lambda wanted: opened[-1], EndpointBreaker(states, found.name), Gate(1))

    chain = Chain(Resolver(session, SPACE, "acme", "a", clock.monotonic_s), build)
    first = chain.endpoints()
    connection.execute("UPDATE integrations SET dimensions = 99 WHERE name = 'b'")
    for later_s in (300, 600, 601):
        clock.time_s = later_s
        assert chain.endpoints() == first
    assert len([line for line in caplog.messages if "gives 99 dimensions" in line]) == 1
    connection.execute("UPDATE integrations SET dimensions = NULL WHERE name = 'b'")
    clock.time_s = 1000
    assert chain.endpoints()[0] is first[0], "what did not change is not opened anew"
    assert chain.endpoints()[1] is not first[1]
    chain.close()
    assert all(provider.closed for provider in opened)
    session.close()


def test_preferences_come_best_first(connection: psycopg.Connection) -> None:
    write_integrations(connection, [integration("a"), integration("b")])
    connection.execute("INSERT INTO clients VALUES ('acme')")
    connection.execute(
        "INSERT INTO client_ai_preferences SELECT 'acme', CASE name WHEN 'b' THEN 1 ELSE 2 END, integration_id"
        " FROM integrations"
    )
    assert preferred_by(connection, "acme") == ["b", "a"]
