"""Which documents might answer a query: by meaning from pgvector or FAISS, by words from Postgres full text.

Every function returns documents in order, each with its best chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from transforms.sinks.faiss_index import OpenIndex, search_index
from transforms.spaces import chunk_table, chunks_by_words

CHUNKS_PER_DOCUMENT = 3
"""Chunks asked for at first for each document wanted, since several may be of one document."""
WIDEN = 8
MAX_CHUNKS = 20_000
"""A long document can fill a whole answer with its chunks: then so many times more are asked for, up to a limit."""
MIN_EF_SEARCH, MAX_EF_SEARCH = 200, 1000
"""Breadth of the walk through the graph. As narrow as the answer itself it lost 0.007 nDCG@10 on SciFact; pgvector
allows no more than 1000."""

K1, B = 1.2, 0.75
"""Of BM25 (Robertson & Zaragoza 2009): how fast a repeated word saturates, how much a long chunk is held back."""
MAX_QUERY_CHARS = 10_000
MAX_WORDS = 64
MAX_MATCHES = 5000
"""Matches that bring candidates: those of the query's rarest words. Counting a word's chunks stops here too, so all
commoner words weigh the same; that ranked better than their true frequencies, and bounds the time."""
MAX_RESCORED = 1000
"""Of these candidates, the best by rare words are scored by the common ones as well."""


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """What a document must be to be found; None asks nothing.

    Args:
        since: updated at or after.
        until: updated before.
    """

    source: str | None = None
    kind: str | None = None
    project: str | None = None
    since: datetime | None = None
    until: datetime | None = None


NO_FILTERS = SearchFilters()


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to look.

    Args:
        vector_type: of the space's table, `vector` or `halfvec`.
    """

    space_id: str
    vector_type: str
    client: str
    filters: SearchFilters = NO_FILTERS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document, and the chunk it was found by."""

    document_id: UUID
    row_id: int
    score: float


def by_vector(
    connection: psycopg.Connection, scope: Scope, vector: npt.NDArray[np.float32], limit: int
) -> list[Candidate]:
    """Nearest documents by cosine, from pgvector; inside a transaction.

    The graph is walked on until enough rows pass the filters. pgvector gives up after `hnsw.max_scan_tuples`; a
    search that came back short for that reason is done again without the graph, exactly.
    """
    join, conditions, parameters = _conditions(scope)
    query = sql.SQL(
        "SELECT c.document_id, c.row_id, 1 - (c.embedding <=> %(vector)s::{type}) FROM {table} AS c{join}"
        " WHERE {conditions} ORDER BY c.embedding <=> %(vector)s::{type} LIMIT %(wanted)s"
    ).format(
        type=sql.Identifier(scope.vector_type),
        table=chunk_table(scope.space_id),
        join=join,
        conditions=conditions,
    )
    parameters["vector"] = _literal(vector)
    connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")

    def nearest(wanted: int) -> list[Candidate]:
        breadth = sql.Literal(min(max(wanted, MIN_EF_SEARCH), MAX_EF_SEARCH))
        connection.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(breadth))
        rows = connection.execute(query, {**parameters, "wanted": wanted}).fetchall()
        if len(rows) < wanted:
            connection.execute("SET LOCAL enable_indexscan = off")
            rows = connection.execute(query, {**parameters, "wanted": wanted}).fetchall()
            connection.execute("SET LOCAL enable_indexscan = on")
        return [Candidate(*row) for row in rows]

    return _documents(nearest, limit)


def by_faiss(
    connection: psycopg.Connection,
    scope: Scope,
    index: OpenIndex,
    vector: npt.NDArray[np.float32],
    limit: int,
) -> list[Candidate]:
    """Nearest documents by cosine, from FAISS; what Postgres no longer has is left out."""
    allowed = None
    if scope.filters != NO_FILTERS:
        join, conditions, parameters = _conditions(scope)
        statement = sql.SQL("SELECT c.row_id FROM {table} AS c{join} WHERE {conditions}").format(
            table=chunk_table(scope.space_id), join=join, conditions=conditions
        )
        rows = connection.execute(statement, parameters).fetchall()
        allowed = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    owners = sql.SQL("SELECT document_id, row_id FROM {table} WHERE row_id = ANY(%s)").format(
        table=chunk_table(scope.space_id)
    )

    def nearest(wanted: int) -> list[Candidate]:
        cosines, row_ids = search_index(index, vector[None, :], wanted, allowed)
        found = dict(zip(row_ids[0].tolist(), cosines[0].tolist(), strict=True))
        return [
            Candidate(document_id, row_id, found[row_id])
            for document_id, row_id in connection.execute(owners, (list(found),))
        ]

    return _documents(nearest, limit)


def by_words(connection: psycopg.Connection, scope: Scope, query: str, limit: int) -> list[Candidate]:
    """Documents that have words of the query, by BM25 of their best chunk.

    Postgres ranks without knowing how rare a word is, so the formula is spelled out here. How often a word stands
    in a chunk is had from `ts_rank`: for one word and weights of 1 that is the sum of 1/j^2 for j up to the
    frequency, over pi^2/6, and what is missing to 1 is 1/(frequency + 1/2) over pi^2/6, nearly.
    """
    words = _words(connection, query)
    lookup = _lookup(connection, scope)
    frequencies = _frequencies(connection, lookup, words)
    rare, common = split_by_rarity(frequencies)
    score = _scorer(connection, scope, lookup, frequencies)
    while rare:
        found = _documents(partial(score, rare, common), limit)
        if found:
            return found
        rare, common = (
            common[:1],
            common[1:],
        )  # those stand in chunks of others, or that the filters leave out
    return []


def _scorer(
    connection: psycopg.Connection, scope: Scope, lookup: _Lookup, frequencies: Mapping[str, int]
) -> Callable[[Sequence[str], Sequence[str], int], list[Candidate]]:
    """Gives (rare, common, wanted) -> that many chunks with rare words, best by all words first."""
    chunks, mean_tokens = _corpus(connection, scope)
    join, conditions, parameters = _conditions(scope)
    statement = sql.SQL(_BM25).format(
        table=chunk_table(scope.space_id),
        chunks=lookup.chunks,
        has_word=lookup.has_word,
        gain=_GAIN,
        times=_TIMES,
        join=join,
        conditions=conditions,
    )

    def idfs(words: Sequence[str]) -> list[float]:
        return [inverse_document_frequency(frequencies[word], chunks) for word in words]

    def score(rare: Sequence[str], common: Sequence[str], wanted: int) -> list[Candidate]:
        lookup.say(connection, rare)
        given = {
            "k1": K1,
            "b": B,
            "mean_tokens": mean_tokens,
            "rare": [_as_tsquery(word) for word in rare],
            "rare_idfs": idfs(rare),
            "common": [_as_tsquery(word) for word in common],
            "common_idfs": idfs(common),
            "wanted": wanted,
            "rescored": max(MAX_RESCORED, wanted),
        }
        return [Candidate(*row) for row in connection.execute(statement, parameters | given)]

    return score


_BM25 = """
    WITH found AS (
        SELECT c.row_id, sum({gain}) AS score
        FROM unnest(%(rare)s::tsquery[], %(rare_idfs)s::float8[]) WITH ORDINALITY AS q (word, idf, place)
        JOIN {chunks} AS c ON {has_word} CROSS JOIN LATERAL {times} AS t (tf){join}
        WHERE {conditions}
        GROUP BY c.row_id ORDER BY score DESC, c.row_id LIMIT %(rescored)s
    )
    SELECT c.document_id, c.row_id, found.score + coalesce(common.score, 0) AS score
    FROM found JOIN {table} AS c USING (row_id) CROSS JOIN LATERAL (
        SELECT sum({gain}) AS score
        FROM unnest(%(common)s::tsquery[], %(common_idfs)s::float8[]) AS q (word, idf)
        CROSS JOIN LATERAL {times} AS t (tf)
        WHERE c.search @@ q.word
    ) AS common
    ORDER BY score DESC, row_id LIMIT %(wanted)s
"""
_TIMES = sql.SQL(
    "(SELECT 6 / (pi() ^ 2 * greatest(1e-6, 1 - ts_rank('{1,1,1,1}', c.search, q.word))) - 0.5 OFFSET 0)"
)
"""How often word `q` stands in chunk `c`; `OFFSET 0` keeps the planner from computing it twice."""
_GAIN = sql.SQL(
    "q.idf * t.tf * (%(k1)s::float8 + 1) / (t.tf + %(k1)s::float8"
    " * (1 - %(b)s::float8 + %(b)s::float8 * c.tokens / %(mean_tokens)s::float8))"
)


def best_chunks(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best chunk of each document, best first; equal scores in the order of ids, so that a search repeats."""
    best: dict[UUID, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (-c.score, c.document_id, c.row_id)):
        best.setdefault(candidate.document_id, candidate)
    return list(best.values())


def _documents(chunks: Callable[[int], list[Candidate]], limit: int) -> list[Candidate]:
    """The `limit` best documents of `chunks(wanted)`, which is asked for more while too few documents come."""
    wanted = limit * CHUNKS_PER_DOCUMENT
    while True:
        found = chunks(wanted)
        documents = best_chunks(found)
        if len(documents) >= limit or len(found) < wanted or wanted >= MAX_CHUNKS:
            return documents[:limit]
        wanted = min(wanted * WIDEN, MAX_CHUNKS)


def inverse_document_frequency(frequency: int, chunks: int) -> float:
    """How much a word tells that stands in `frequency` of `chunks` chunks; positive even if it is in all."""
    return math.log1p((max(chunks, frequency) - frequency + 0.5) / (frequency + 0.5))


def split_by_rarity(frequencies: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The rarest words with at most `MAX_MATCHES` matches together, but always one; and the others.

    A word that matches nothing is in neither.
    """
    rare: list[str] = []
    common: list[str] = []
    matches = 0
    for word, frequency in sorted(frequencies.items(), key=lambda item: (item[1], item[0])):
        matches += frequency
        if frequency:
            (common if rare and matches > MAX_MATCHES else rare).append(word)
    return rare, common


@dataclass(frozen=True, slots=True)
class _Lookup:
    """How chunks with a word are found.

    Args:
        chunks: what they are read from, as `c`.
        has_word: whether `c` has the word `q`, which is the `place`-th of those last said.
        is_told: whether `chunks` has to be told the words beforehand.
    """

    chunks: sql.Composable
    has_word: sql.Composable
    is_told: bool

    def say(self, connection: psycopg.Connection, words: Sequence[str]) -> None:
        """These are looked for from now on, until the transaction ends."""
        if self.is_told:
            connection.execute(
                "SELECT set_config('headrace.words', %s::tsquery[]::text, true)",
                [list(map(_as_tsquery, words))],
            )


def _lookup(connection: psycopg.Connection, scope: Scope) -> _Lookup:
    """In the space's index of words; for a role under row security, which may not ask that, in its client's own."""
    row = connection.execute(
        "SELECT row_security_active(%s)", [chunk_table(scope.space_id).as_string(connection)]
    ).fetchone()
    if row == (True,):
        view = chunks_by_words(scope.space_id, scope.client)
        return _Lookup(view, sql.SQL("c.place = q.place"), is_told=True)
    return _Lookup(chunk_table(scope.space_id), sql.SQL("c.search @@ q.word"), is_told=False)


def _words(connection: psycopg.Connection, query: str) -> list[str]:
    """The query's words, stemmed."""
    row = connection.execute(
        "SELECT tsvector_to_array(to_tsvector('english', %s))", (query[:MAX_QUERY_CHARS],)
    ).fetchone()
    return row[0][:MAX_WORDS] if row else []


def _frequencies(connection: psycopg.Connection, lookup: _Lookup, words: Sequence[str]) -> dict[str, int]:
    """How many chunks have each word, of all that we may see."""
    lookup.say(connection, words)
    statement = sql.SQL(
        "SELECT (SELECT count(*) FROM (SELECT FROM {} AS c WHERE {} LIMIT %s) AS matching)"
        " FROM unnest(%s::tsquery[]) WITH ORDINALITY AS q (word, place) ORDER BY place"
    ).format(lookup.chunks, lookup.has_word)
    counts = connection.execute(statement, (MAX_MATCHES, [_as_tsquery(word) for word in words]))
    return {word: count for word, (count,) in zip(words, counts, strict=True)}


def _corpus(connection: psycopg.Connection, scope: Scope) -> tuple[int, float]:
    """Chunks in the space, and their mean length in tokens."""
    row = connection.execute(
        "SELECT sum(chunks), sum(tokens_embedded)::float8 / nullif(sum(chunks), 0) FROM indexed_documents"
        " WHERE space_id = %s",
        (scope.space_id,),
    ).fetchone()
    chunks, mean_tokens = row if row else (None, None)
    return int(chunks or 0), max(1.0, mean_tokens or 1.0)


def _as_tsquery(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _literal(vector: npt.NDArray[np.float32]) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _conditions(scope: Scope) -> tuple[sql.Composable, sql.Composable, dict[str, Any]]:
    """Join, condition and parameters for chunks `c` in scope; `documents` is joined only if a filter needs it."""
    filters = scope.filters
    conditions: list[sql.Composable] = [sql.SQL("c.client = %(client)s")]
    parameters: dict[str, Any] = {"client": scope.client}
    for name in ("source", "kind", "project"):
        value = getattr(filters, name)
        if value is not None:
            conditions.append(sql.SQL("d.{} = {}").format(sql.Identifier(name), sql.Placeholder(name)))
            parameters[name] = value
    if filters.since is not None:
        conditions.append(sql.SQL("d.updated_at >= %(since)s"))
        parameters["since"] = filters.since
    if filters.until is not None:
        conditions.append(sql.SQL("d.updated_at < %(until)s"))
        parameters["until"] = filters.until
    join = sql.SQL(" JOIN documents AS d USING (document_id)" if len(conditions) > 1 else "")
    return join, sql.SQL(" AND ").join(conditions), parameters
