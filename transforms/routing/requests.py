"""One request to one endpoint of a chain: accounted for, and its breaker and its gate learn from what comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.errors import BadAnswer, ProviderTimeout, ProviderUnavailable
from transforms.providers.accounting import Accounts, Asking
from transforms.providers.base import Purpose, Reply, price_asked
from transforms.providers.metering import Operation
from transforms.routing.endpoint import Endpoint

PASSING = (ProviderUnavailable, ProviderTimeout, BadAnswer)
"""Failures after which the same request may be answered."""


@dataclass(frozen=True, slots=True)
class Requests(Accounts):
    """Makes requests for one client."""

    def make(
        self,
        endpoint: Endpoint,
        texts: Sequence[str],
        purpose: Purpose,
        tokens: int,
        operation: Operation,
        attempt: int,
        pause: Callable[[float], None],
    ) -> Reply:
        """Ask an endpoint once.

        Args:
            tokens: of the texts, as counted here.
            attempt: 1 for the first request with these texts.
        Raises:
            PipelineError: as `Accounts.ask` and `Provider.embed`.
        """
        with endpoint.gate.passing(pause):
            provider = endpoint.provider
            asking = _asking(endpoint, operation, len(texts), tokens, attempt)
            try:
                reply = self.ask(asking, lambda: provider.embed(texts, purpose))
            except PASSING as error:
                endpoint.breaker.note_failure(error)
                raise
        endpoint.gate.note_answer()
        endpoint.breaker.note_answer()
        return reply

    def check_room(self, endpoint: Endpoint, tokens: int) -> None:
        """Pass if there is allowance for a request of so many tokens.

        Raises:
            LimitReached, LimitTooSmall, BudgetUsedUp: there is none.
            SinkUnavailable: the accounts cannot be reached.
        """
        asking = _asking(endpoint, "embed_documents", 1, tokens)
        self.allowance.release(self.allowance.reserve(self.estimate(asking)))


def _asking(endpoint: Endpoint, operation: Operation, inputs: int, tokens: int, attempt: int = 1) -> Asking:
    info = endpoint.provider.info
    return Asking(endpoint.integration, info.model, price_asked(info), operation, inputs, tokens, attempt)
