"""A worker process that spends what it is granted: `python -m tests.transforms.allowance.spender '<json>'`.

It tells what it does on standard output, a line at a time: `ready`, then `done <granted>` at the end; `under way`
before it hangs for ever in the middle of a request, if that is asked for.
"""

from __future__ import annotations

import json
import random
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal

from schemas.errors import BudgetUsedUp, LimitReached
from tests.transforms.allowance.world import Clock, World, bill, request
from transforms.postgres import Store


class RealTime(Clock):
    """Goes on by itself."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)


def main(kind: str, dsn: str, client: str, usd: str, seed: int, hang: str) -> None:
    store = Store(dsn)
    allowance = World(kind, store, "", RealTime()).worker()
    chance = random.Random(seed)
    granted = 0
    with store.connect_plainly() as ledger:
        print("ready", flush=True)
        sys.stdin.readline()
        while True:
            try:
                reservation = allowance.reserve(request(client, usd))
            except LimitReached as error:
                time.sleep(min(error.retry_after_s, 0.01) * chance.random())
                continue
            except BudgetUsedUp:
                break
            granted += 1
            billed = Decimal(usd) * chance.choice([1, 1, 1, Decimal("0.5")])
            if chance.random() < 0.2:
                allowance.release(reservation)
                continue
            if hang == "before the ledger":
                _hang()
            bill(ledger, reservation, datetime.now(UTC), 100, billed)
            if hang == "after the ledger":
                _hang()
            allowance.settle(reservation, 100, billed)
    print("done", granted, flush=True)
    allowance.close()


def _hang() -> None:
    print("under way", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
