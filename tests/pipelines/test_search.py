"""A search finds what was asked for, in the space that was indexed, and nobody else's documents."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import candidates
from pipelines.candidates import Candidate, best_chunks, by_words, inverse_document_frequency, split_by_rarity
from pipelines.search import RRF_K, RRF_WEIGHTS, Hit, Index, SearchFilters, find_scope, fuse, search
from schemas.config import Chunking, Config, Model, Postgres
from schemas.documents import Document, Format, Kind, SourceRecord, Tombstone
from schemas.errors import EmptyText, SpaceMismatch, UnknownName
from transforms.chunk import chunk_document
from transforms.embed_buffer import embed_documents
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.word_memo import WordMemo
from transforms.postgres import Store
from transforms.sinks.faiss_index import update_index
from transforms.sinks.pgvector import write_batch
from transforms.sinks.tombstones import apply_tombstones
from transforms.spaces import build_vector_index, register_space

MODEL = Model(threads=2)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXTS = {
    "WEIR-1": "The sluice gate jams when the river freezes over.",
    "WEIR-2": "Turbine bearings overheat at full load in summer.",
    "WEIR-3": "Invoice export writes the wrong currency for Norway.",
    "WEIR-4": "Users cannot log in after resetting their password.",
    "WEIR-5": "Error E4711 is printed by the governor at start.",
    "WEIR-6": "The fish ladder camera sends no pictures at night.",
}
INDEXES: tuple[Index, ...] = ("pgvector", "faiss")
ON_BOTH = pytest.mark.parametrize("index", INDEXES)


@dataclass(frozen=True)
class Place:
    """A filled database with its configuration."""

    config: Config
    connection: psycopg.Connection

    def keys(self, query: str, **options: object) -> list[str]:
        return [hit.key for hit in self.hits(query, **options)]

    def hits(self, query: str, **options: object) -> list[Hit]:
        return search(self.config, query, **{"client": "acme", **options})  # type: ignore[arg-type]


def document(key: str, text: str, client: str = "acme", kind: Kind = Kind.ISSUE, days: int = 0) -> Document:
    record = SourceRecord(client, "jira", Format.JIRA_FLAT, kind, key, text.encode(), NOON + timedelta(days))
    return Document(
        record, key, key.partition("-")[0], text.partition("\n")[0], text, url=f"https://x.invalid/{key}"
    )


def write(connection: psycopg.Connection, *documents: Document) -> None:
    engine, words = load_engine(MODEL), WordMemo(load_tokenizer(MODEL))
    register_space(connection, engine.space, "vector", documents[0].record.client)
    chunked = [chunk_document(doc, words, Chunking(), 256) for doc in documents]
    batch, _, _ = embed_documents(engine, chunked, {}, MODEL.max_batch_tokens)
    write_batch(connection, batch, b"processing")


def refresh(place: Place) -> None:
    update_index(
        place.connection, place.config.data_dir, load_engine(MODEL).space, "acme", place.config.faiss
    )


@pytest.fixture
def place(
    database: Store, connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.setenv("HEADRACE_SEARCH_TEST_DSN", database.dsn)
    config = Config(
        client="acme", data_dir=tmp_path, model=MODEL, postgres=Postgres(dsn="env:HEADRACE_SEARCH_TEST_DSN")
    )
    write(connection, *(document(key, text) for key, text in TEXTS.items()))
    build_vector_index(connection, load_engine(MODEL).space.space_id)
    filled = Place(config, connection)
    refresh(filled)
    return filled


@ON_BOTH
def test_meaning_finds_what_shares_no_word(place: Place, index: Index) -> None:
    assert place.keys("ice blocks the lock", mode="vector", index=index)[0] == "WEIR-1"
    assert place.keys("accounts with forgotten credentials", mode="vector", index=index)[0] == "WEIR-4"


def test_both_indexes_give_the_same_answer(place: Place) -> None:
    for query in TEXTS.values():
        answers = [place.hits(query, mode="vector", index=index) for index in INDEXES]
        assert [hit.key for hit in answers[0]] == [hit.key for hit in answers[1]]
        assert [hit.score for hit in answers[0]] == pytest.approx([hit.score for hit in answers[1]], abs=1e-5)


def test_words_find_an_error_code(place: Place) -> None:
    assert place.keys("E4711", mode="text") == ["WEIR-5"]
    assert place.keys("what does E4711 mean?")[0] == "WEIR-5"


def test_any_word_of_the_query_is_enough_and_rarer_words_weigh_more(place: Place) -> None:
    write(place.connection, *(document(f"MORE-{n}", f"The governor reports number {n}.") for n in range(20)))
    assert place.keys("governor currency unicorn", mode="text", limit=1) == ["WEIR-3"]


def test_a_query_of_stop_words_finds_nothing_by_words_alone(place: Place) -> None:
    assert place.keys("the of and", mode="text") == []
    assert len(place.keys("the of and")) == len(TEXTS)


def test_a_hit_says_what_it_is_and_where_to_read_it(place: Place) -> None:
    hit = place.hits("sluice gate jams")[0]
    assert (hit.key, hit.kind, hit.source, hit.project) == ("WEIR-1", "issue", "jira", "WEIR")
    assert (hit.title, hit.url) == (TEXTS["WEIR-1"], "https://x.invalid/WEIR-1")
    assert hit.text == TEXTS["WEIR-1"][hit.start_char : hit.end_char]
    assert (hit.updated_at, hit.ranks) == (NOON, {"vector": 1, "text": 1})


def test_a_document_is_found_once_however_many_of_its_chunks_answer(place: Place) -> None:
    long = "\n\n".join(f"The sluice gate jams when the river freezes over, case {n}." for n in range(200))
    write(place.connection, document("LONG-1", long))
    refresh(place)
    for index in INDEXES:
        for mode in ("vector", "text", "hybrid"):
            keys = place.keys("sluice gate jams in ice", mode=mode, index=index, limit=3)
            assert len(keys) == len(set(keys))
            assert {"LONG-1", "WEIR-1"} <= set(keys)


@ON_BOTH
def test_filters_leave_only_what_they_ask_for(place: Place, index: Index) -> None:
    write(
        place.connection,
        document("WEIR-7", "Ice on the river.", kind=Kind.PULL),
        document("DAM-1", "Ice on the dam.", days=10),
    )
    refresh(place)

    def keys(mode: str, **filters: object) -> set[str]:
        chosen = SearchFilters(**filters)  # type: ignore[arg-type]
        return set(place.keys("ice river dam", mode=mode, index=index, filters=chosen))

    for mode in ("vector", "text", "hybrid"):
        assert keys(mode, kind="pull") == {"WEIR-7"}
        assert keys(mode, project="DAM") == {"DAM-1"}
        assert keys(mode, since=NOON + timedelta(days=10)) == {"DAM-1"}
        assert "DAM-1" not in keys(mode, until=NOON + timedelta(days=10))
        assert keys(mode, source="elsewhere") == set()
        assert keys(mode, source="'; DROP TABLE documents; --") == set()


@ON_BOTH
def test_another_clients_documents_are_never_found(place: Place, index: Index) -> None:
    write(place.connection, document("SECRET-1", TEXTS["WEIR-1"], client="rival"))
    for mode in ("vector", "text", "hybrid"):
        assert "SECRET-1" not in place.keys(TEXTS["WEIR-1"], mode=mode, index=index, limit=100)


@ON_BOTH
def test_a_deleted_document_is_not_found_even_before_the_index_is_updated(place: Place, index: Index) -> None:
    gone = Tombstone("acme", "jira", Kind.ISSUE, "WEIR-1", NOON + timedelta(days=1), "deleted")
    apply_tombstones(place.connection, [gone])
    for mode in ("vector", "text", "hybrid"):
        assert "WEIR-1" not in place.keys(TEXTS["WEIR-1"], mode=mode, index=index)


def test_an_unknown_client_is_named_and_told_what_to_do(place: Place) -> None:
    with pytest.raises(UnknownName, match=r"'nobody'.*headrace run"):
        place.hits("ice", client="nobody")


def test_an_empty_index_is_no_empty_answer(place: Place) -> None:
    register_space(place.connection, load_engine(MODEL).space, "vector", "newcomer")
    with pytest.raises(UnknownName, match=r"empty.*headrace run"):
        place.hits("ice", client="newcomer")


def test_vectors_of_another_space_are_not_searched_but_words_are(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(load_engine(MODEL).space, precision="int8")
    monkeypatch.setattr("pipelines.search.space_of", lambda model: other)
    for mode in ("vector", "hybrid"):
        with pytest.raises(SpaceMismatch, match=f"{other.space_id}.*--mode text"):
            place.hits("ice", mode=mode)
    assert place.keys("E4711", mode="text") == ["WEIR-5"]


def usage(place: Place) -> list[tuple[object, ...]]:
    return place.connection.execute(
        "SELECT client, operation, input_count, tokens, error_type FROM ai_usage_tracking"
    ).fetchall()


def test_each_embedded_query_has_one_row_in_the_ledger(place: Place) -> None:
    place.hits("ice", mode="text")
    assert usage(place) == []
    place.hits("ice", mode="hybrid")
    assert usage(place) == [("acme", "embed_query", 1, 3, None)]


def test_a_query_too_long_for_the_model_is_cut_and_the_log_says_so(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert place.keys("sluice gate jams " * 2000)[0] == "WEIR-1"
    assert "takes 256" in caplog.text
    assert usage(place)[0][3] == 256


@pytest.mark.parametrize("query", ["", "  \n", "\0"])
def test_an_empty_query_is_refused(place: Place, query: str) -> None:
    with pytest.raises(EmptyText):
        place.hits(query)


@pytest.mark.parametrize(
    "query",
    [
        "it's a \\ 'quote' & | ! ( ) <-> :*",
        "C:\\gate\\jams",
        "\udcff gate",
        "a\0b gate",
        "%s %(k1)s",
        "🧊" * 50,
    ],
)
def test_a_hostile_query_is_only_words(place: Place, query: str) -> None:
    for mode in ("vector", "text", "hybrid"):
        place.hits(query, mode=mode)


def test_a_commoner_word_is_scored_even_when_it_brings_no_candidates(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MAX_MATCHES", 1)
    scope, _ = find_scope(place.connection, "acme")
    with place.connection.transaction():
        rare = by_words(place.connection, scope, "E4711", 5)[0]
        both = by_words(place.connection, scope, "E4711 start print", 5)[0]
    assert rare.document_id == both.document_id
    assert both.score > rare.score


def test_a_commoner_word_brings_candidates_where_the_rare_ones_are_all_out_of_scope(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MAX_MATCHES", 1)
    for number in range(3):
        write(place.connection, document(f"TIDE-{number}", "Tides of the river"))
    filters = SearchFilters(project="TIDE")
    found = place.hits("E4711 camera river", mode="text", filters=filters)
    assert {hit.key for hit in found} == {"TIDE-0", "TIDE-1", "TIDE-2"}


def test_the_score_by_words_is_bm25(place: Place) -> None:
    write(place.connection, document("TIDE-1", "tide tide tide tide tide and nothing else"))
    scope, _ = find_scope(place.connection, "acme")
    with place.connection.transaction():
        (found,) = by_words(place.connection, scope, "tides", 5)
    lengths = dict(place.connection.execute("SELECT d.key, i.tokens_embedded FROM indexed_documents AS i"
                                            " JOIN documents AS d USING (document_id)"))  # fmt: skip
    k1, b, tf = candidates.K1, candidates.B, 5
    norm = 1 - b + b * lengths["TIDE-1"] * len(lengths) / sum(lengths.values())
    expected = inverse_document_frequency(1, len(lengths)) * tf * (k1 + 1) / (tf + k1 * norm)
    assert found.score == pytest.approx(expected, rel=0.01)


def test_common_words_bring_no_candidates_beside_rare_ones() -> None:
    limit = candidates.MAX_MATCHES
    assert split_by_rarity({"a": limit, "b": 5, "c": 0, "d": limit - 5}) == (["b", "d"], ["a"])
    assert split_by_rarity({"a": limit}) == (["a"], [])
    assert split_by_rarity({"c": 0}) == split_by_rarity({}) == ([], [])


IDS = [UUID(int=n) for n in range(30)]
RANKING = st.lists(st.sampled_from(IDS), unique=True).map(
    lambda ids: [Candidate(document_id, document_id.int, 1 - n / 100) for n, document_id in enumerate(ids)]
)


@given(vector=RANKING, text=RANKING)
def test_fusion_keeps_every_document_once_and_rewards_agreement(
    vector: list[Candidate], text: list[Candidate]
) -> None:
    fused = fuse({"vector": vector, "text": text})
    assert sorted(item.document_id for item in fused) == sorted({c.document_id for c in (*vector, *text)})
    assert [item.score for item in fused] == sorted((item.score for item in fused), reverse=True)
    if vector and text and vector[0].document_id == text[0].document_id:
        assert fused[0].document_id == vector[0].document_id
        assert fused[0].score == pytest.approx(sum(RRF_WEIGHTS.values()) / (RRF_K + 1))


@given(RANKING)
def test_a_single_side_keeps_its_order_and_scores(ranking: list[Candidate]) -> None:
    assert [(item.document_id, item.score) for item in fuse({"vector": ranking})] == [
        (c.document_id, c.score) for c in ranking
    ]


@given(st.lists(st.tuples(st.sampled_from(IDS[:5]), st.integers(0, 50), st.integers(0, 3))))
def test_a_document_is_represented_by_its_best_chunk(chunks: list[tuple[UUID, int, int]]) -> None:
    best = best_chunks(Candidate(document_id, row, score) for document_id, row, score in chunks)
    assert len({c.document_id for c in best}) == len(best)
    for candidate in best:
        assert candidate.score == max(score for owner, _, score in chunks if owner == candidate.document_id)
