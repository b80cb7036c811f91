"""Totals from a part: which documents are cut to see how long they are, and how sure the sums are."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.documents import SourceRecord

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.96
"""Standard errors that hold the truth with that confidence."""
SAMPLE_BYTES = 256 * 2**20
"""Of payloads held in memory."""
LARGEST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A sum, and the interval that holds it with 95 % confidence; where all was counted the three are one."""

    value: int
    low: int
    high: int

    def __add__(self, other: Estimate) -> Estimate:
        """Sum of two, whose errors are independent."""
        value = self.value + other.value
        below = math.hypot(self.value - self.low, other.value - other.low)
        above = math.hypot(self.high - self.value, other.high - other.value)
        return Estimate(value, max(0, math.floor(value - below)), math.ceil(value + above))

    def times(self, scale: float) -> Estimate:
        """Of so many times as much of the same."""
        return Estimate(round(self.value * scale), math.floor(self.low * scale), math.ceil(self.high * scale))


def counted(value: int) -> Estimate:
    """What was counted, not estimated."""
    return Estimate(value, value, value)


class Sample:
    """Some of a stream of records: the largest, and a random part of all others, each as likely as any other.

    A few giants have a large share of all text; cut for certain, they are no question of chance. Which ones are kept
    depends on the stream alone, so that the same source gives the same plan. A fifth of the records are giants, and
    at most half of the bytes.

    Args:
        most: records kept.
    """

    def __init__(self, most: int, max_bytes: int = SAMPLE_BYTES) -> None:
        self.others: list[SourceRecord] = []
        self.others_seen = 0
        self.others_bytes = 0
        self._most_largest = round(most * LARGEST_SHARE)
        self._most_others = most - self._most_largest
        self._max_bytes = max_bytes / 2
        self._largest: list[tuple[int, int, SourceRecord]] = []
        self._offered = 0
        self._kept_largest = 0
        self._kept_others = 0
        self._chance = random.Random(0)  # noqa: S311 - picks a sample

    @property
    def largest(self) -> list[SourceRecord]:
        """Those taken for certain."""
        return [record for _, _, record in self._largest]

    def offer(self, record: SourceRecord) -> None:
        """The next record of the stream."""
        self._offered += 1
        heapq.heappush(self._largest, (len(record.payload), self._offered, record))
        self._kept_largest += len(record.payload)
        while len(self._largest) > self._most_largest or self._kept_largest > self._max_bytes:
            size, _, smallest = heapq.heappop(self._largest)
            self._kept_largest -= size
            self._offer_to_others(smallest)

    def _offer_to_others(self, record: SourceRecord) -> None:
        self.others_seen += 1
        self.others_bytes += len(record.payload)
        if len(self.others) < self._most_others:
            self.others.append(record)
            self._kept_others += len(record.payload)
        elif (place := self._chance.randrange(self.others_seen)) < self._most_others:
            self._kept_others += len(record.payload) - len(self.others[place].payload)
            self.others[place] = record
        while self._kept_others > self._max_bytes and len(self.others) > 1:
            self._drop_one()

    def _drop_one(self) -> None:
        """A part of a random part is one, too; from now on it is no larger."""
        dropped = self.others.pop(self._chance.randrange(len(self.others)))
        self._kept_others -= len(dropped.payload)
        self._most_others = len(self.others)


def total(part: Sequence[int], part_bytes: Sequence[int], records: int, payload_bytes: int) -> Estimate:
    """The sum over all records of what was counted of a random part, by its ratio to the size of the payloads.

    Longer payloads have longer texts, so the error is that of the ratio, much smaller than that of a mean
    (Cochran, "Sampling Techniques", 3rd edition, 6.4 and 6.5).

    Args:
        part: counted, of each record of the part.
        part_bytes: size of each of their payloads.
        records: all there are, those of the part included.
        payload_bytes: of all of them.
    """
    if len(part) >= records:
        return counted(sum(part))
    if not part or not sum(part_bytes):
        return counted(0)
    ratio = sum(part) / sum(part_bytes)
    value = round(ratio * payload_bytes)
    if len(part) == 1:
        return Estimate(value, 0, 2 * value)
    squares = sum((count - ratio * size) ** 2 for count, size in zip(part, part_bytes, strict=True))
    variance = squares / (len(part) - 1)
    error = records * math.sqrt(variance / len(part) * (1 - len(part) / records))
    return Estimate(
        value, max(sum(part), round(value - NORMAL_QUANTILE * error)), round(value + NORMAL_QUANTILE * error)
    )
