"""Judge texts patiently: packed into requests, some at once, tried again where that may help. Knows no Beam."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from schemas.errors import (
    BadAnswer,
    BudgetUsedUp,
    InputRefused,
    LimitReached,
    LimitTooSmall,
    PipelineError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from schemas.integrations import Integration
from schemas.usage import Price
from transforms.background import Discarded
from transforms.providers.accounting import Accounts, Asking
from transforms.providers.moderation import Judged, Verdict

MAX_INPUTS = 32
"""Texts in a request; how many it may hold is documented nowhere."""
MAX_REQUEST_CHARS = 60_000
MAX_WAIT_S = 120.0
"""For one request, over all attempts and limits."""
LONGEST_RETRY_WAIT_S = 20.0

PASSING = (RateLimited, LimitReached, ProviderUnavailable, ProviderTimeout, BadAnswer)
WAITING = (RateLimited, LimitReached)
"""Of these, what is no failure."""


class Judge(Protocol):
    """Asks a moderation endpoint, once for each call; may be used by several threads."""

    integration: Integration
    model: str

    def judge(self, texts: Sequence[str]) -> Judged:
        """A verdict for each text. Raises: as `Provider.embed`."""
        ...


@dataclass(frozen=True, slots=True)
class Input:
    """A text to be judged, and its tokens as counted here."""

    text: str
    tokens: int


Finding = Verdict | PipelineError
"""The error says why nobody judged a text."""


def packed(inputs: Sequence[Input]) -> Iterator[Sequence[Input]]:
    """Inputs in order, cut into what one request may hold; a longer one goes alone."""
    start = chars = 0
    for end, one in enumerate(inputs):
        if end - start == MAX_INPUTS or (end > start and chars + len(one.text) > MAX_REQUEST_CHARS):
            yield inputs[start:end]
            start, chars = end, 0
        chars += len(one.text)
    if start < len(inputs):
        yield inputs[start:]


class Moderator:
    """Finds a verdict for every text, or why there is none.

    Once a request was given up the next ones have a single attempt each until one is answered: an endpoint that is
    down holds up a run once, not at every request.

    Args:
        accounts: of every request, answered or failed.
        price: of judging.
        wait: (stop, seconds) -> whether `stop` is set; called for every pause.
    """

    def __init__(
        self,
        judge: Judge,
        accounts: Accounts,
        price: Price,
        wait: Callable[[Event, float], bool] = Event.wait,
    ) -> None:
        self._judge = judge
        self._accounts = accounts
        self._price = price
        self._wait = wait
        self._stop = Event()
        self._performance = judge.integration.performance
        self._is_down = False
        self._threads = ThreadPoolExecutor(self._performance.max_concurrency, "moderate")

    @property
    def appetite(self) -> int:
        """Texts at which all of its threads have something to do."""
        return MAX_INPUTS * self._performance.max_concurrency

    def findings(self, inputs: Sequence[Input]) -> list[Finding]:
        """What is found of each text, in order.

        Raises:
            SetupError: the endpoint cannot be asked before a person changes something.
            SinkUnavailable: its calls cannot be written down.
        """
        stop = self._stop = Event()
        try:
            batches = list(self._threads.map(partial(self._judged, stop), packed(inputs)))
        except BaseException:  # of one batch, or Ctrl-C: the others need not go on
            stop.set()
            raise
        return [finding for batch in batches for finding in batch]

    def close(self) -> None:
        """End what still waits."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _judged(self, stop: Event, batch: Sequence[Input]) -> list[Finding]:
        try:
            verdicts = self._patiently(stop, batch)
        except InputRefused as error:
            if len(batch) == 1:
                return [error]
            half = len(batch) // 2
            return self._judged(stop, batch[:half]) + self._judged(stop, batch[half:])
        except (*PASSING, BudgetUsedUp, LimitTooSmall) as error:
            self._is_down = True
            return [error] * len(batch)
        self._is_down = False
        return list(verdicts)

    def _patiently(self, stop: Event, batch: Sequence[Input]) -> tuple[Verdict, ...]:
        attempts = Retrying(
            retry=retry_if_exception_type(PASSING),
            stop=_GivesUp(1 if self._is_down else self._performance.max_attempts),
            wait=_wait_s,
            sleep=partial(self._pause, stop),
            reraise=True,
        )
        for attempt in attempts:
            with attempt:
                return self._asked(batch, attempt.retry_state.attempt_number)
        raise AssertionError("tenacity raises what the last attempt did")

    def _pause(self, stop: Event, seconds: float) -> None:
        if self._wait(stop, seconds):
            raise Discarded

    def _asked(self, batch: Sequence[Input], attempt: int) -> tuple[Verdict, ...]:
        judge, texts = self._judge, [one.text for one in batch]
        tokens = sum(one.tokens for one in batch)
        asking = Asking(judge.integration, judge.model, self._price, "moderate", len(batch), tokens, attempt)
        return self._accounts.ask(asking, lambda: judge.judge(texts)).verdicts


class _GivesUp:
    """After so many failures, or when the next wait would make them too long; limits met are no failures."""

    def __init__(self, attempts: int) -> None:
        self._left = attempts

    def __call__(self, state: RetryCallState) -> bool:
        if not isinstance(_error(state), WAITING):
            self._left -= 1
        return self._left <= 0 or state.idle_for + state.upcoming_sleep > MAX_WAIT_S


_BACKOFF = wait_random_exponential(multiplier=0.5, max=LONGEST_RETRY_WAIT_S)


def _wait_s(state: RetryCallState) -> float:
    error = _error(state)
    asked = error.retry_after_s if isinstance(error, WAITING) else None
    return _BACKOFF(state) if asked is None else asked + _BACKOFF(state) / 10


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
