"""What to say where a budget cannot pay for the configured endpoint: a cheaper one, for a new space.

Proposed, never taken: a space that has vectors keeps its model, and another model is another space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Offer:
    """An endpoint that a client may use.

    Args:
        remaining_usd: of the client's budgets for its provider, this month; None where there is no hard limit.
    """

    integration: str
    provider: str
    model: str
    usd_per_million_tokens: Decimal
    remaining_usd: Decimal | None

    def usd(self, tokens: int) -> Decimal:
        """What so many tokens take."""
        return self.usd_per_million_tokens * tokens / 1_000_000

    def can_pay(self, tokens: int) -> bool:
        """Whether the budget covers that."""
        return self.remaining_usd is None or self.usd(tokens) <= self.remaining_usd


@dataclass(frozen=True, slots=True)
class Proposal:
    """A budget does not cover what is planned.

    Args:
        configured_usd: that the configured endpoint takes.
        cheaper: an endpoint that the budget covers; None where there is none, or the space has vectors already.
        cheaper_usd: that it takes.
    """

    client: str
    tokens: int
    configured: Offer
    configured_usd: Decimal
    cheaper: Offer | None
    cheaper_usd: Decimal | None


def propose(
    client: str, tokens: int, configured: Offer, others: Sequence[Offer], space_has_vectors: bool
) -> Proposal | None:
    """What to say of `tokens` to be embedded; None where the budget covers them.

    Args:
        others: that the client may use, best first; the first that the budget covers is proposed.
    """
    if configured.can_pay(tokens):
        return None
    cheaper = next((one for one in others if one.can_pay(tokens) and one != configured), None)
    if space_has_vectors or cheaper is None:
        return Proposal(client, tokens, configured, configured.usd(tokens), None, None)
    return Proposal(client, tokens, configured, configured.usd(tokens), cheaper, cheaper.usd(tokens))
