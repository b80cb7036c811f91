"""What flows is written and read back whole, and its size is known without writing it."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import numpy as np
import pytest
from apache_beam.coders import Coder

from extractors.base import Page
from pipelines.coders import PickledCoder, estimated_bytes
from schemas.documents import Chunk, ChunkedDocument, DeadLetter, Document, Format, Kind, SourceRecord
from schemas.ids import text_hash
from schemas.spaces import EmbeddingSpace
from transforms.embed_buffer import pack_batch

AT = datetime(2026, 1, 1, tzinfo=UTC)
SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, 384, 64)
RECORD = SourceRecord("acme", "s", Format.JIRA_ISSUE, Kind.ISSUE, "1", b"{" + b"x" * 9000 + b"}", AT, AT)
DOCUMENT = Document(RECORD, "MILL-1", "MILL", "The gate jams", "The gate jams. " * 300)
CHUNKS = tuple(
    Chunk(n, f"The gate {n}", text_hash(f"The gate {n}"), 0, 9, np.arange(64, dtype=np.int32))
    for n in range(40)
)
CHUNKED = ChunkedDocument(DOCUMENT, CHUNKS, 2000, 0)
BATCH = pack_batch(SPACE, [CHUNKED], np.ones((len(CHUNKS), 384), np.float32))
LARGE = [
    Page(records=(RECORD,) * 20),
    (RECORD,) * 20,
    RECORD,
    DOCUMENT,
    CHUNKED,
    BATCH,
    DeadLetter(RECORD, "embed", "EngineFailed", "it broke", True),
]


@pytest.mark.parametrize("value", LARGE, ids=lambda value: type(value).__name__)
def test_sizes_are_known_within_a_factor_of_two(value: object) -> None:
    distinct = (
        pickle.dumps(value) if not isinstance(value, Page | tuple) else b"x" * 20 * len(pickle.dumps(RECORD))
    )
    assert len(distinct) / 2 < estimated_bytes(value) < 2 * len(distinct)


def test_what_was_written_is_read_back_whole() -> None:
    coder = PickledCoder()
    assert coder.decode(coder.encode(RECORD)) == RECORD
    again = coder.decode(coder.encode(BATCH))
    assert again.chunks.equals(BATCH.chunks)
    assert again.documents[0].document == DOCUMENT


def test_the_coder_of_another_process_is_the_same() -> None:
    coder = PickledCoder()
    proto = coder.to_runner_api(None)
    assert Coder.from_runner_api(proto, None) == coder
    assert len(proto.spec.payload) < 200  # its name, not its code


def test_looking_at_an_element_does_not_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> bytes:
        raise AssertionError("it was pickled to learn its size")

    monkeypatch.setattr("pipelines.coders.pickle.dumps", refuse)
    assert PickledCoder().get_impl().estimate_size(BATCH) > BATCH.chunks.nbytes
