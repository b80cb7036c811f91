"""What the table of faults calls right: checks that can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.faults import Row
from benchmarks.ledger_sums import LedgerSums

RIGHT = Row(
    fault="none",
    runs=1,
    said="",
    seconds=1.0,
    documents=2,
    chunks=2,
    lost=0,
    extra=0,
    duplicates=0,
    requests=3,
    in_ledger=3,
    unfinished=0,
    tokens_billed=70,
    tokens_in_ledger=70,
    sums=LedgerSums(canaries=1, tokens_embedded=30, tokens_saved=10, tokens_of_chunks=40),
)
DISTURBED = replace(
    RIGHT,
    fault="workers",
    runs=2,
    in_ledger=5,
    unfinished=1,
    tokens_in_ledger=99,
    sums=replace(RIGHT.sums, canaries=2, tokens_embedded=55),
)


def test_a_run_that_nothing_disturbed_is_right_to_the_token() -> None:
    assert RIGHT.ok
    assert DISTURBED.ok, "what died in its middle is in the ledger as well"
    assert not replace(DISTURBED, fault="none, Prism").ok


@pytest.mark.parametrize("row", [RIGHT, DISTURBED])
@pytest.mark.parametrize(
    "wrong",
    [
        {"runs": 0},
        {"lost": 1},
        {"extra": 1},
        {"duplicates": 1},
        {"requests": 6},
        {"tokens_billed": 100},
    ],
)
def test_a_row_that_is_lost_or_twice_and_a_request_that_nobody_knows_of_are_wrong(
    row: Row, wrong: dict[str, int]
) -> None:
    assert not replace(row, **wrong).ok  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sums",
    [
        {"canaries": 2},
        {"canaries": 0},
        {"tokens_embedded": 31},
        {"tokens_saved": 9},
        {"tokens_of_chunks": 41},
    ],
)
def test_a_token_more_or_less_or_a_second_proof_is_wrong_where_nothing_disturbed_a_run(
    sums: dict[str, int],
) -> None:
    assert not replace(RIGHT, sums=replace(RIGHT.sums, **sums)).ok
