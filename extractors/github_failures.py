"""Repositories that could not be read: they keep no other from being read, and are asked again later and later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.errors import (
    BrokenAnswer,
    NotAllowed,
    PartUnread,
    PipelineError,
    QueryRefused,
    SourceTimeout,
    SourceUnavailable,
    WrongAddress,
)

LONGEST_PAUSE = timedelta(minutes=15)
MAX_SAID = 3  # repositories whose failure is told in full

_OUT_OF_ORDER = (SourceTimeout, SourceUnavailable)
_OF_ONE = (WrongAddress, NotAllowed, QueryRefused, *_OUT_OF_ORDER)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Args: times: in a row."""

    error: PipelineError
    times: int
    again_at: datetime


class Failures:
    """Which repositories of a source failed, each with the pause until it is asked again.

    Credentials that nobody accepts, a host that is not reached and a limit without an end are of the whole source:
    they are not held back. Nor is a server out of order, as soon as it is so for two repositories.

    Args:
        interval: between polls, and the first pause.
    """

    def __init__(self, source: str, interval: timedelta, now: Callable[[], datetime]) -> None:
        self._source = source
        self._interval = interval
        self._now = now
        self._known: dict[str, _Failure] = {}
        self._met: dict[str, _Failure] = {}

    def begin(self) -> bool:
        """A reading of all repositories begins; whether one that failed is asked again."""
        self._met = {name: each for name, each in self._known.items() if self._now() < each.again_at}
        return len(self._met) < len(self._known)

    def __contains__(self, repository: str) -> bool:
        """It failed in this reading, or is not asked yet."""
        return repository in self._met

    @contextmanager
    def held_back(self, repository: str) -> Iterator[None]:
        """What goes wrong in the block goes wrong for this repository alone.

        Raises:
            PipelineError: it goes wrong for all.
        """
        try:
            yield
        except _OF_ONE as error:
            if _is_out_of_order(error) and any(_is_out_of_order(each.error) for each in self._met.values()):
                raise
            known = self._known.get(repository)
            times = known.times + 1 if known else 1
            pause = min(self._interval * 2 ** min(times - 1, 20), max(self._interval, LONGEST_PAUSE))
            self._met[repository] = _Failure(error, times, self._now() + pause)

    def end(self, repositories: Sequence[str]) -> None:
        """The reading is over.

        Raises:
            PartUnread: some of `repositories` were not read, the others were.
            PipelineError: as the first, where all of them failed.
        """
        self._known = dict(self._met)
        if not self._known:
            return
        if all(name in self._known for name in repositories):
            raise next(iter(self._known.values())).error
        raise PartUnread(_said(self._source, self._known))


@contextmanager
def naming(repository: str) -> Iterator[None]:
    """A refusal in the block says which repository it was about."""
    try:
        yield
    except NotAllowed as error:
        raise NotAllowed(_named(error, repository)) from None


def _named(error: PipelineError, repository: str) -> str:
    line = str(error)
    return line if repository.lower() in line.lower() else f"{line} (repository {repository})"


def _is_out_of_order(error: PipelineError) -> bool:
    return isinstance(error, _OUT_OF_ORDER) and not isinstance(error, BrokenAnswer)


def _said(source: str, failures: Mapping[str, _Failure]) -> str:
    """One line, which names each repository."""
    lines = [_named(failure.error, name) for name, failure in failures.items()]
    others = list(failures)[MAX_SAID:]
    more = [f'source "{source}": {len(others)} more, such as {others[0]}'] if others else []
    return "; ".join([*lines[:MAX_SAID], *more])
