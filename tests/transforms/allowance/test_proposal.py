"""A budget that does not cover what is planned: what is proposed, and what never is."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.allowances import Budget
from tests.transforms.allowance.test_book import EMPTY, admitted
from tests.transforms.allowance.world import request
from transforms.allowance.checks import Rules, remaining_usd
from transforms.allowance.proposal import Offer, propose

LARGE = Offer("large", "openai", "text-embedding-3-large", Decimal("0.13"), Decimal("0.10"))
SMALL = Offer("small", "openai", "text-embedding-3-small", Decimal("0.02"), Decimal("0.10"))
ELSEWHERE = Offer("elsewhere", "mistral", "mistral-embed", Decimal("0.10"), None)


def test_a_budget_that_covers_the_plan_proposes_nothing() -> None:
    assert propose("acme", 769_230, LARGE, [SMALL], space_has_vectors=False) is None
    assert (
        propose("acme", 10**12, replace(LARGE, remaining_usd=None), [SMALL], space_has_vectors=False) is None
    )


def test_the_best_endpoint_that_the_budget_covers_is_proposed_for_a_new_space() -> None:
    made = propose("acme", 1_000_000, LARGE, [LARGE, ELSEWHERE, SMALL], space_has_vectors=False)
    assert made is not None
    assert (made.configured_usd, made.cheaper, made.cheaper_usd) == (
        Decimal("0.13"),
        ELSEWHERE,
        Decimal("0.10"),
    )
    made = propose("acme", 6_000_000, LARGE, [SMALL], space_has_vectors=False)
    assert made is not None
    assert (made.cheaper, made.cheaper_usd) == (None, None)


@given(st.integers(0, 10**9), st.decimals(0, 100, places=2))
def test_another_model_is_never_proposed_for_a_space_that_has_vectors(
    tokens: int, remaining: Decimal
) -> None:
    made = propose("acme", tokens, replace(LARGE, remaining_usd=remaining), [SMALL], space_has_vectors=True)
    assert (made is None) == (LARGE.usd(tokens) <= remaining)
    assert made is None or made.cheaper is None


@pytest.mark.parametrize(("provider", "left"), [("openai", "0.015"), ("voyage", "0.02"), ("cohere", "0.02")])
def test_what_remains_is_what_the_narrowest_hard_limit_leaves(provider: str, left: str) -> None:
    rules = Rules(
        budgets=(
            Budget(client="acme", monthly_usd=Decimal("0.05")),
            Budget(client="acme", provider="openai", monthly_usd=Decimal("0.025")),
            Budget(client="acme", provider="voyage", monthly_usd=Decimal("0.001"), hard_limit=False),
        )
    )
    book, _ = admitted(EMPTY, request("acme", "0.01", provider="openai"))
    book, _ = admitted(book, request("acme", "0.02", provider="voyage"))
    assert remaining_usd(book, rules, provider) == Decimal(left)
    assert remaining_usd(book, Rules(), provider) is None
