"""The query path: embed the question in the index's own space, find candidates, fuse their ranks, fetch the hits."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pipelines.candidates import NO_FILTERS, Candidate, Scope, SearchFilters, by_faiss, by_vector, by_words
from schemas.config import Config, Model
from schemas.errors import EmptyText, EngineFailed, Parked, SpaceMismatch, UnknownName
from schemas.spaces import EmbeddingSpace
from schemas.usage import UsageEvent, cost_usd
from transforms.embedders.base import Engine
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.models import space_of
from transforms.embedders.tokenizer import cut
from transforms.postgres import Store, open_store
from transforms.providers.metering import Account
from transforms.sinks.faiss_index import OpenIndex, open_index
from transforms.spaces import chunk_table, space_of_client, vector_type_of
from transforms.usage import write_usage

__all__ = ["Hit", "Index", "Mode", "SearchFilters", "search"]

Mode = Literal["hybrid", "vector", "text"]
Index = Literal["pgvector", "faiss"]

CANDIDATES = 100
"""Documents that each side of a hybrid search brings, at least."""
RRF_K = 10
RRF_WEIGHTS = {"vector": 1.0, "text": 0.7}
"""Reciprocal rank fusion (Cormack et al. 2009), measured on two kinds of documents: see `fuse`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that answers.

    Args:
        score: cosine, BM25 or sum of reciprocal ranks, by mode; comparable within one answer only.
        text: the chunk it was found by, which is `start_char` to `end_char` of the document's text.
        ranks: mode -> 1-based place of the document there.
    """

    document_id: UUID
    key: str
    title: str
    url: str
    kind: str
    source: str
    project: str
    score: float
    text: str
    start_char: int
    end_char: int
    ranks: Mapping[str, int]
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A document with its final score, and where each side had put it.

    Args:
        row_id: of the chunk that the side which ranked it best found it by.
    """

    document_id: UUID
    row_id: int
    score: float
    ranks: Mapping[str, int]


def search(
    config: Config,
    query: str,
    *,
    client: str,
    mode: Mode = "hybrid",
    index: Index = "pgvector",
    limit: int = 10,
    filters: SearchFilters = NO_FILTERS,
) -> list[Hit]:
    """Find documents by meaning, by words, or by both. Reads only, but for the ledger's row of the query.

    Where a client's documents are redacted, the model sees the query redacted, too; Postgres gets its words as they
    are.

    Raises:
        EmptyText: the query has no text.
        UnknownName: nothing of that client is indexed, or no FAISS index was built.
        SpaceMismatch: what is indexed was embedded in another space than the configured model's.
    """
    query = _legible(query)
    store = open_store(config)
    with store.connect() as connection:
        scope, space = find_scope(connection, client, filters)
        vector = opened = None
        if mode != "text":
            check_space(space, space_of(config.model), client)
            if index == "faiss":
                opened = open_index(config.data_dir, space, client)
            redacts = config.privacy.redacts(client, config.model, config.moderation)
            shown = _redacted(query) if redacts else query
            if config.model.is_local:
                vector = embed_query(connection, config.model, shown, client)
            else:
                vector = embed_query_elsewhere(store, config, shown, client)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return find(connection, scope, query, vector, opened, mode, limit)


def find_scope(
    connection: psycopg.Connection, client: str, filters: SearchFilters = NO_FILTERS
) -> tuple[Scope, EmbeddingSpace]:
    """Where a client's documents are searched.

    Raises:
        UnknownName: nothing of that client is indexed.
    """
    space = space_of_client(connection, client)
    filled = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE client = %s)").format(chunk_table(space.space_id)),
        (client,),
    ).fetchone()
    if filled == (False,):
        raise UnknownName(f"the index of client {client!r} is empty: run `headrace run` first")
    return Scope(space.space_id, vector_type_of(connection, space.space_id), client, filters), space


def check_space(indexed: EmbeddingSpace, configured: EmbeddingSpace, client: str) -> None:
    """Refuse to compare vectors of two spaces.

    Raises:
        SpaceMismatch: says what is indexed and what to do.
    """
    if indexed.space_id != configured.space_id:
        raise SpaceMismatch(
            f"client {client!r} is indexed in space {indexed.space_id} ({indexed.model}, {indexed.precision}), the"
            f" configured model has space {configured.space_id} ({configured.model}, {configured.precision}):"
            " set [model] back, run `headrace run` with the new one, or search with --mode text"
        )


def embed_query(
    connection: psycopg.Connection, model: Model, query: str, client: str
) -> npt.NDArray[np.float32]:
    """Vector of a query, float32, (dimensions,); the ledger gets a row, of a failed call too.

    A query longer than the model takes is cut, with a warning in the log.

    Raises:
        EngineFailed: the engine refused or broke.
    """
    engine = load_engine(model)
    (token_ids,) = load_tokenizer(model).encode([engine.space.query_prefix + query])
    limit = engine.space.max_tokens
    if len(token_ids) > limit:
        _log.warning(
            "the query has %d tokens, %s takes %d: the rest is left out", len(token_ids), model.name, limit
        )
        token_ids = cut(token_ids, limit)
    started, error = time.monotonic(), None
    try:
        vectors = engine.run([token_ids])
    except EngineFailed as failure:
        error = type(failure).__name__
        raise
    finally:
        event = _usage_event(engine, len(token_ids), client, time.monotonic() - started, error)
        write_usage(connection, event)
    vector: npt.NDArray[np.float32] = vectors[0]
    return vector


def embed_query_elsewhere(store: Store, config: Config, query: str, client: str) -> npt.NDArray[np.float32]:
    """As `embed_query`, by the endpoints of a remote model; each request is a row of the ledger.

    Raises:
        EngineFailed: the query is refused.
        Parked: no endpoint can be asked now; says what can be done without one.
        SetupError: none can before a person changes something.
    """
    from transforms.providers.engine import open_remote_engine  # client libraries and a vocabulary
    from transforms.providers.inputs import RemoteWords

    space = space_of(config.model)
    asked = RemoteWords().cut(space.query_prefix + query, space.max_tokens)
    if len(asked.text) < len(space.query_prefix + query):
        _log.warning("the query is longer than %d tokens: the rest is left out", space.max_tokens)
    account = Account(client, None, space.space_id)
    with closing(open_remote_engine(config.model, "query", store, account, config.allowance)) as engine:
        try:
            vector: npt.NDArray[np.float32] = engine.run([asked])[0]
        except Parked as parked:
            raise Parked(
                f"{parked}; --mode text searches by words and asks none", parked.retry_after_s
            ) from None
    return vector


def find(
    connection: psycopg.Connection,
    scope: Scope,
    query: str,
    vector: npt.NDArray[np.float32] | None,
    opened: OpenIndex | None,
    mode: Mode,
    limit: int,
) -> list[Hit]:
    """Candidates of each side, fused and fetched; inside a transaction.

    Args:
        vector: of the query; None in mode `text`.
        opened: the FAISS index to ask; None asks pgvector.
    """
    depth = max(CANDIDATES, limit) if mode == "hybrid" else limit
    sides: dict[str, list[Candidate]] = {}
    if vector is not None and opened is not None:
        sides["vector"] = by_faiss(connection, scope, opened, vector, depth)
    elif vector is not None:
        sides["vector"] = by_vector(connection, scope, vector, depth)
    if mode != "vector":
        sides["text"] = by_words(connection, scope, query, depth)
    return _hits(connection, scope, fuse(sides)[:limit])


def fuse(sides: Mapping[str, Sequence[Candidate]]) -> list[Found]:
    """One order from several, best first; a single one keeps its scores.

    Several are joined by reciprocal rank fusion: cosines and BM25 have no common scale, so only places count. Equal
    weights and the customary k = 60 let the weaker side pull the better one down on issues; these constants gain on
    both sides alone, on issues (where vectors are the better side) as on abstracts (where words are).
    """
    places: dict[UUID, dict[str, int]] = defaultdict(dict)
    for side, candidates in sides.items():
        for place, candidate in enumerate(candidates, start=1):
            places[candidate.document_id][side] = place

    def found(document_id: UUID, ranks: dict[str, int]) -> Found:
        best = min(ranks, key=lambda side: ranks[side])
        chunk = sides[best][ranks[best] - 1]
        fused = sum(RRF_WEIGHTS[side] / (RRF_K + place) for side, place in ranks.items())
        return Found(document_id, chunk.row_id, fused if len(sides) > 1 else chunk.score, ranks)

    together = [found(document_id, ranks) for document_id, ranks in places.items()]
    return sorted(together, key=lambda item: (-item.score, item.document_id))


def _hits(connection: psycopg.Connection, scope: Scope, found: Sequence[Found]) -> list[Hit]:
    query = sql.SQL(
        "SELECT d.document_id, d.key, d.title, d.url, d.kind, d.source, d.project, d.updated_at, c.text,"
        " c.start_char, c.end_char FROM {} AS c JOIN documents AS d USING (document_id)"
        " WHERE c.row_id = ANY(%s) AND d.deleted_at IS NULL"
    ).format(chunk_table(scope.space_id))
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = {row["document_id"]: row for row in cursor.execute(query, ([item.row_id for item in found],))}
    return [
        Hit(**rows[item.document_id], score=item.score, ranks=item.ranks)
        for item in found
        if item.document_id in rows
    ]


def _usage_event(engine: Engine, tokens: int, client: str, seconds: float, error: str | None) -> UsageEvent:
    return UsageEvent(
        event_id=uuid4(),
        client=client,
        run_id=None,
        provider=engine.facts.provider,
        operation="embed_query",
        model=engine.space.model,
        space_id=engine.space.space_id,
        inputs=1,
        tokens=tokens,
        tokens_reported=None,
        cost_usd=cost_usd(tokens, engine.facts.price),
        machine_seconds=seconds * engine.facts.threads,
        latency_s=seconds,
        occurred_at=datetime.now(UTC),
        error_type=error,
    )


def _redacted(query: str) -> str:
    from transforms.redaction import redact_text  # slow to load: others need not wait

    return redact_text(query)[0]


def _legible(query: str) -> str:
    """The query without what Postgres and tokenizers refuse: NUL, and bytes of the command line that are no UTF-8."""
    legible = query.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    if not legible.strip():
        raise EmptyText("the query is empty: write what to look for")
    return legible
