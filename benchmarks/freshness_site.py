"""A fake Jira whose issues change at a steady rate, in a process of its own.

    python -m benchmarks.freshness_site 3000

Prints its address as soon as it serves; it ends when its input does. `POST /changes {"rate": 10, "changes": 300}`
begins to change issues, one after the other, and `GET /changes` gives when each was changed, in seconds since 1970. A
change gives its issue a title of its own, `title(number)`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from benchmarks.connector_sites import WORDS, Clock
from tests.fakes.jira import FakeJira
from tests.fakes.serving import serve

PROJECT = "ABC"
AGE = timedelta(days=1)
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def title(number: int) -> str:
    """Of an issue after change `number`: words that no other has, so that a search can tell it from all others."""
    chance = random.Random(number)
    words = ("".join(chance.choices(SYLLABLES, k=3)) for _ in range(6))
    return f"change {number}: {' '.join(words)}"


class Site:
    """Issues, and what was changed in them."""

    def __init__(self, issues: int) -> None:
        clock = Clock()
        self.jira = FakeJira(clock)
        with clock.standing_at(datetime.now(UTC) - AGE):
            self._ids = [
                self.jira.create(PROJECT, summary=f"issue {number}", description=" ".join(WORDS[:8]))
                for number in range(issues)
            ]
        self._changed_at: list[float] = []
        self._work: asyncio.Task[None] | None = None
        routes = [
            Route("/changes", self._begin, methods=["POST"]),
            Route("/changes", self._told, methods=["GET"]),
            Mount("/", self.jira.app),
        ]
        self.app = Starlette(routes=routes)

    async def _begin(self, request: Request) -> JSONResponse:
        asked = await request.json()
        self._work = asyncio.create_task(self._change(float(asked["rate"]), int(asked["changes"])))
        return JSONResponse({"first": len(self._changed_at)})

    async def _change(self, rate: float, changes: int) -> None:
        began = time.monotonic()
        for place in range(changes):
            await asyncio.sleep(max(0.0, began + place / rate - time.monotonic()))
            number = len(self._changed_at)
            self.jira.edit(self._ids[number % len(self._ids)], summary=title(number))
            self._changed_at.append(time.time())

    async def _told(self, request: Request) -> JSONResponse:
        return JSONResponse(self._changed_at)


def main() -> int:
    with serve(Site(int(sys.argv[1])).app) as url:
        print(url, flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
