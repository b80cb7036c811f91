"""Figures of freshness are of the changes that were made, and the site makes them as it was asked."""

from __future__ import annotations

import time

import httpx

from benchmarks.freshness import Latencies
from benchmarks.freshness_site import Site, title
from tests.fakes.serving import serve


def test_a_row_has_shares_of_all_changes_and_counts_those_that_never_came() -> None:
    seen = [number / 100 for number in range(101)]
    row = Latencies(10, 103, seen, [0.5, 0.7], looked_for=3).row("flink", 1.0)
    assert (row["changes"], row["lost"], row["not_found"]) == (103, 2, 1)
    assert (row["seen_p50_s"], row["seen_p95_s"]) == (0.5, 0.95)
    assert 0.5 <= row["found_p50_s"] <= row["found_p95_s"] <= 0.7


def test_where_nothing_was_seen_no_figure_is_made_up() -> None:
    row = Latencies(1, 5, [], [], looked_for=0).row("direct", 1.0)
    assert row["lost"] == 5
    assert row["seen_p95_s"] is None


def test_the_site_changes_issues_at_the_rate_that_was_asked_for() -> None:
    site = Site(3)
    with serve(site.app) as url, httpx.Client(base_url=url) as client:
        assert client.post("/changes", json={"rate": 50, "changes": 10}).json() == {"first": 0}
        deadline = time.monotonic() + 10
        while len(changed_at := client.get("/changes").json()) < 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        found = client.post("/rest/api/3/search/jql", json={"jql": "created >= 0", "fields": ["id"]}).json()
    assert len(changed_at) == 10
    assert 0.1 < changed_at[-1] - changed_at[0] < 5
    assert len(found["issues"]) == 3
    titles = {issue.fields["summary"] for issue in site.jira.issues.values()}
    assert titles == {title(7), title(8), title(9)}


def test_no_two_changes_have_the_same_words() -> None:
    words = [set(title(number).split(": ")[1].split()) for number in range(2000)]
    assert all(not words[0] & other for other in words[1:])
