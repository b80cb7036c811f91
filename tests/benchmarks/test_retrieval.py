"""The retrieval benchmark says what falls short, and reads judgements as they are written."""

from __future__ import annotations

from pathlib import Path

from benchmarks.retrieval import WANTED, _judgements, misses

GOOD = {**WANTED, "jira_vector_ndcg": 0.41, "jira_hybrid_ndcg": 0.42}


def test_figures_as_wanted_miss_nothing() -> None:
    assert misses(GOOD) == []


def test_each_figure_that_falls_short_is_named() -> None:
    for name, least in WANTED.items():
        assert any(f"wanted {least}" in line for line in misses({**GOOD, name: least - 0.001}))


def test_hybrid_search_must_beat_vector_search_alone() -> None:
    assert len(misses({**GOOD, "jira_hybrid_ndcg": 0.41})) == 1


def test_judgements_are_read_by_query_whatever_the_columns_are_called(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nA-1\tA-2\t2\nA-1\tA-3\t1\nB-1\tB-2\t1\n")
    assert _judgements(path) == {"A-1": {"A-2": 2, "A-3": 1}, "B-1": {"B-2": 1}}
