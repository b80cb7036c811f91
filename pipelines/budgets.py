"""Limits and budgets, what is spent of them, and what to propose where one does not cover a plan."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg

from pipelines.volume import SourceVolume
from schemas.allowances import Budget, RateLimit
from schemas.config import Config
from transforms.allowance.book import Book, day_nano, month_nano, usd_of
from transforms.allowance.checks import Rules, remaining_usd
from transforms.allowance.ledger import book_of_ledger
from transforms.allowance.proposal import Offer, Proposal, propose
from transforms.allowance.rules import Rule, drop_rules, read_rows, read_rules, set_rule, write_file_rules
from transforms.postgres import open_store
from transforms.providers.base import price_of
from transforms.stored_integrations import list_integrations, preferred_by


def read_budgets(config: Config, client: str | None) -> list[dict[str, Any]]:
    """A row for each client and provider with a limit or a budget, and what the ledger says is spent.

    Args:
        client: None for all.
    Raises:
        BadConfig: a row of the tables is not valid.
    """
    clients = None if client is None else [client]
    now = datetime.now(UTC)
    with open_store(config).connect_plainly() as connection:
        write_file_rules(connection, config)
        rates = {_key(row.rule): row for row in read_rows(connection, RateLimit, clients)}
        budgets = {_key(row.rule): row for row in read_rows(connection, Budget, clients)}
        keys = sorted(rates.keys() | budgets.keys())
        books = {owner: book_of_ledger(connection, owner, now) for owner in {owner for owner, _ in keys}}
    rows = []
    for owner, provider in keys:
        rate, budget = rates.get((owner, provider)), budgets.get((owner, provider))
        rows.append(
            {
                "client": owner,
                "provider": provider,
                "spent_usd": usd_of(month_nano(books[owner], provider)),
                **_budget_columns(budget.rule if budget else None),
                "spent_today_usd": usd_of(day_nano(books[owner], provider)),
                **_rate_columns(rate.rule if rate else None),
                "from": " and ".join(sorted({row.origin for row in (rate, budget) if row is not None})),
            }
        )
    return rows


def _key(rule: RateLimit | Budget) -> tuple[str, str]:
    return rule.client or "", rule.provider


def _budget_columns(budget: Budget | None) -> dict[str, Any]:
    return {
        "monthly_usd": budget and budget.monthly_usd,
        "alert_threshold": budget and budget.alert_threshold,
        "hard_limit": budget and budget.hard_limit,
    }


def _rate_columns(rate: RateLimit | None) -> dict[str, Any]:
    return {
        "cost_per_day_usd": rate and rate.cost_per_day_usd,
        "requests_per_minute": rate and rate.requests_per_minute,
        "tokens_per_hour": rate and rate.tokens_per_hour,
    }


def change_budget(
    config: Config, client: str, provider: str, budget: Mapping[str, Any], rate: Mapping[str, Any]
) -> None:
    """Change the rules of a client and provider in the tables; what is not given stays.

    Args:
        budget: fields of `Budget`.
        rate: fields of `RateLimit`.
    Raises:
        BadConfig: the file has rules for them.
        ValidationError: a value is out of its range, or a budget without an amount.
    """
    with open_store(config).connect_plainly() as connection, connection.transaction():
        write_file_rules(connection, config)
        if budget:
            set_rule(connection, _changed(connection, Budget, client, provider, budget))
        if rate:
            set_rule(connection, _changed(connection, RateLimit, client, provider, rate))


def _changed(
    connection: psycopg.Connection, kind: type[Rule], client: str, provider: str, given: Mapping[str, Any]
) -> Rule:
    rows = read_rows(connection, kind, [client])
    stored = next((row.rule for row in rows if row.rule.provider == provider), None)
    before = stored.model_dump() if stored else {"client": client, "provider": provider}
    return kind.model_validate({**before, **given})


def remove_budget(config: Config, client: str, provider: str) -> None:
    """Delete what the tables say of a client and provider.

    Raises:
        UnknownName: they say nothing.
    """
    with open_store(config).connect_plainly() as connection:
        drop_rules(connection, client, provider)


def proposals(
    connection: psycopg.Connection, config: Config, space_id: str, volumes: tuple[SourceVolume, ...]
) -> tuple[Proposal, ...]:
    """For each client whose budgets do not cover its sources: what to do instead, if anything.

    An endpoint that nobody has priced is not proposed. The configured one has a price: see `remote_cost`.
    """
    if config.model.integration is None:
        return ()
    clients = sorted({volume.client for volume in volumes})
    made = (
        _proposal(
            connection,
            config.model.integration,
            client,
            space_id,
            sum(volume.tokens.high for volume in volumes if volume.client == client),
        )
        for client in clients
    )
    return tuple(one for one in made if one is not None)


def _proposal(
    connection: psycopg.Connection, integration: str, client: str, space_id: str, tokens: int
) -> Proposal | None:
    rules = read_rules(connection, client)
    if not rules.budgets:
        return None
    book = book_of_ledger(connection, client, datetime.now(UTC))
    offers = _offers(connection, book, rules)
    wanted = preferred_by(connection, client) or sorted(
        offers, key=lambda name: offers[name].usd_per_million_tokens, reverse=True
    )
    others = [offers[name] for name in wanted if name in offers and name != integration]
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM indexed_documents WHERE space_id = %s)", [space_id]
    ).fetchone()
    return propose(client, tokens, offers[integration], others, space_has_vectors=bool(found and found[0]))


def _offers(connection: psycopg.Connection, book: Book, rules: Rules) -> dict[str, Offer]:
    return {
        one.name: Offer(
            one.name,
            one.provider,
            one.model,
            price.usd_per_million_tokens,
            remaining_usd(book, rules, one.provider),
        )
        for one in (stored.integration for stored in list_integrations(connection))
        if (price := price_of(one)) is not None
    }
