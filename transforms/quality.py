"""Look at vectors before they are stored: a bad one becomes a dead letter, never a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.documents import DeadLetter, EmbeddedBatch
from schemas.errors import BadVector
from schemas.ids import digest
from schemas.quality import BatchReport, QualityReport
from schemas.spaces import EmbeddingSpace

ZERO_NORM = 1e-6
NORM_TOLERANCE = 1e-2
"""How far from 1 the norm of a vector may be in a normalised space."""


def inspect_vectors(
    vectors: npt.NDArray[np.float32], text_hashes: Sequence[bytes], space: EmbeddingSpace
) -> tuple[QualityReport, dict[int, str]]:
    """Check a batch of vectors.

    Args:
        vectors: float32, (rows, dimensions).
        text_hashes: of the texts they came from, one a row.
    Returns:
        The report, and row -> what is wrong for rows that must not be stored. Duplicates are reported only:
        two texts may well mean, or be cut to, the same tokens.
    """
    rows, dimensions = vectors.shape
    if dimensions != space.dimensions:
        wrong = f"has {dimensions} dimensions, the space {space.dimensions}"
        report = QualityReport(rows, rows, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
        return report, dict.fromkeys(range(rows), wrong)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    finite = np.isfinite(norms)
    zero = finite & (norms < ZERO_NORM)
    bad = dict.fromkeys(np.flatnonzero(~finite).tolist(), "is not finite")
    bad.update(dict.fromkeys(np.flatnonzero(zero).tolist(), "is zero"))
    if space.normalize:
        for row in np.flatnonzero(finite & ~zero & (np.abs(norms - 1) > NORM_TOLERANCE)).tolist():
            bad[row] = f"has norm {norms[row]:.3f} in a normalised space"
    good = norms[finite]
    report = QualityReport(
        vectors=rows,
        wrong_dimension=0,
        not_finite=int(rows - finite.sum()),
        zero=int(zero.sum()),
        duplicates=count_duplicates(vectors[finite & ~zero], np.flatnonzero(finite & ~zero), text_hashes),
        norm_min=float(good.min()) if len(good) else 0.0,
        norm_mean=float(good.mean()) if len(good) else 0.0,
        norm_max=float(good.max()) if len(good) else 0.0,
        norm_std=float(good.std()) if len(good) else 0.0,
    )
    return report, bad


def count_duplicates(
    vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.intp], text_hashes: Sequence[bytes]
) -> int:
    """Vectors that equal, bit for bit, an earlier vector whose text differs."""
    first_text: dict[bytes, bytes] = {}
    counted: set[tuple[bytes, bytes]] = set()
    duplicates = 0
    for vector, row in zip(vectors, rows.tolist(), strict=True):
        key = digest(vector.tobytes())
        text = text_hashes[row]
        if first_text.setdefault(key, text) != text and (key, text) not in counted:
            counted.add((key, text))
            duplicates += 1
    return duplicates


def batch_vectors(chunks: pa.RecordBatch) -> npt.NDArray[np.float32]:
    """The embedding column as float32, (rows, dimensions), without a copy."""
    column = chunks.column("embedding")
    values: npt.NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(len(column), column.type.list_size)


def batch_identity(batch: EmbeddedBatch) -> bytes:
    """As `BatchReport.batch`."""
    records = [document.document.record for document in batch.documents]
    return digest(
        *(part for one in records for part in (one.document_id.bytes, one.observed_at.isoformat().encode()))
    )


def check_batch(
    batch: EmbeddedBatch, space: EmbeddingSpace
) -> tuple[EmbeddedBatch, QualityReport, list[DeadLetter]]:
    """Split a batch into what may be stored and dead letters; a document goes whole."""
    report, bad = inspect_vectors(
        batch_vectors(batch.chunks), batch.chunks.column("text_hash").to_pylist(), space
    )
    if not bad:
        return batch, report, []
    owner = [index for index, document in enumerate(batch.documents) for _ in document.chunks]
    reasons: dict[int, str] = {}
    for row, reason in sorted(bad.items()):
        ordinal = row - owner.index(owner[row])
        reasons.setdefault(owner[row], f"vector of chunk {ordinal} {reason}")
    letters = [
        DeadLetter(
            batch.documents[index].document.record, "quality", BadVector.__name__, reason, BadVector.retriable
        )
        for index, reason in reasons.items()
    ]
    keep = pa.array([index not in reasons for index in owner], pa.bool_())
    good = tuple(document for index, document in enumerate(batch.documents) if index not in reasons)
    return EmbeddedBatch(batch.space_id, good, pc.filter(batch.chunks, keep)), report, letters


class CheckVectors(beam.PTransform):  # type: ignore[misc]
    """`PCollection[EmbeddedBatch]` -> `batches` (only good ones), `reports`, `dead_letters`."""

    def __init__(self, space: EmbeddingSpace) -> None:
        super().__init__()
        self._space = space

    def expand(self, batches: beam.PCollection[EmbeddedBatch]) -> Any:
        check = beam.ParDo(_CheckFn(self._space))
        return batches | "Check" >> check.with_outputs("reports", "dead_letters", main="batches")


class _CheckFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, space: EmbeddingSpace) -> None:
        self._space = space

    def process(self, batch: EmbeddedBatch) -> Iterator[Any]:
        good, report, letters = check_batch(batch, self._space)
        if report.vectors:
            yield beam.pvalue.TaggedOutput("reports", BatchReport(batch_identity(batch), report))
        for letter in letters:
            yield beam.pvalue.TaggedOutput("dead_letters", letter)
        if good.documents:
            yield good
