"""What a backfill keeps to, whatever runs it: its plan, its room, and that indexes are built after the load.

A plan is kept when the load begins and holds until all is done: what is spent after a stop counts as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import orjson
import psycopg

from pipelines.ingest import processing_of
from pipelines.plan import Plan
from pipelines.room import refuse_what_does_not_fit
from schemas.config import Config
from schemas.errors import PlanExceeded
from schemas.ids import digest
from schemas.spaces import EmbeddingSpace
from transforms.backfills import keep_plan, note_finished, open_plan
from transforms.usage import tokens_since


@dataclass(frozen=True, slots=True)
class Backfill:
    """A load that was planned and is not done.

    Args:
        clients: whose tokens count.
        max_tokens: that may be embedded from `planned_at` on; None for no limit.
        plan: that was made now; None where one of an earlier start holds.
    """

    client: str
    clients: tuple[str, ...]
    space_id: str
    planned_at: datetime
    max_tokens: int | None
    plan: Plan | None

    def spent_tokens(self, connection: psycopg.Connection) -> int:
        """Tokens embedded since the plan was made, failed and repeated calls included."""
        return tokens_since(connection, self.clients, self.space_id, self.planned_at)

    def check(self, connection: psycopg.Connection) -> None:
        """Compare what was spent with the plan. A runner asks after each slice, or now and then.

        Raises:
            PlanExceeded: more was embedded than the plan allows.
        """
        if self.max_tokens is None:
            return
        spent = self.spent_tokens(connection)
        if spent > self.max_tokens:
            raise PlanExceeded(
                f"{spent:,} tokens were embedded since the plan of {self.planned_at:%Y-%m-%d %H:%M:%S} UTC, which"
                f" allows {self.max_tokens:,}: what was stored stays; `headrace plan` says what is left, and"
                " `headrace backfill --yes` goes on without a limit"
            )

    def finish(self, connection: psycopg.Connection) -> None:
        """All was loaded and indexed: the next backfill makes a plan of its own."""
        note_finished(connection, self.client, self.space_id)


def begin(
    connection: psycopg.Connection,
    config: Config,
    space: EmbeddingSpace,
    plan: Callable[[], Plan],
    without_limit: bool = False,
) -> Backfill:
    """The backfill that goes on, or a new one, whose plan is made and kept.

    Args:
        plan: makes one; asked only where none is kept.
        without_limit: nobody minds what it takes.
    Raises:
        PlanExceeded: there is no telling how much a source holds, or more was spent already.
        NotEnoughMemory, NoRoom: there is no room for the indexes.
    """
    definition = _definition(config, space)
    kept = open_plan(connection, config.client, space.space_id, definition)
    made = None
    if kept is None:
        made = plan()
        if made.open_ended and not without_limit:
            raise PlanExceeded(
                f"source {', '.join(made.open_ended)} does not say how much it holds, and was read in part: run"
                " `headrace backfill --exact` to read all of it first, or `headrace backfill --yes` to do without a"
                " limit"
            )
        refuse_what_does_not_fit(made.indexes)
        keep_plan(
            connection,
            config.client,
            space.space_id,
            definition,
            made.planned_at,
            made.max_tokens,
            orjson.dumps(dataclasses.asdict(made), default=str),
        )
    clients = {source.client or config.client for source in config.sources}
    source_of_limit = kept or made
    assert source_of_limit is not None
    begun = Backfill(
        client=config.client,
        clients=tuple(sorted(clients)),
        space_id=space.space_id,
        planned_at=source_of_limit.planned_at,
        max_tokens=None if without_limit else source_of_limit.max_tokens,
        plan=made,
    )
    begun.check(connection)
    return begun


def _definition(config: Config, space: EmbeddingSpace) -> bytes:
    return digest(
        *(
            digest(
                source.name.encode(),
                (source.client or config.client).encode(),
                processing_of(
                    source,
                    config.chunking,
                    space,
                    config.privacy.redacts(source.client or config.client, config.model, config.moderation),
                    config.moderation,
                ),
            )
            for source in sorted(config.sources, key=lambda source: source.name)
        )
    )
