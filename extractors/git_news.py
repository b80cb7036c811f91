"""Telling now and then how far something long has got."""

from __future__ import annotations

import time
from collections.abc import Callable

from extractors.base import OnWait

NEWS_EVERY_S = 10.0


def paced(on_wait: OnWait, clock: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """A function that passes on what it is told, every `NEWS_EVERY_S`, as a wait for the next news.

    Nothing is passed on of what takes no longer than that.
    """
    last_s = clock()

    def tell(news: str) -> None:
        nonlocal last_s
        if clock() - last_s >= NEWS_EVERY_S:
            last_s = clock()
            on_wait(news, NEWS_EVERY_S)

    return tell
