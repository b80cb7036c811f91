"""What is read of a made-up site is all that it holds, and no step takes fewer requests than the least."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.connector_reading import read_site
from benchmarks.connector_sites import (
    PRODUCTS,
    Holdings,
    Metered,
    Product,
    changed_numbers,
    comments_of,
    is_pull,
    reviews_of,
    site_of,
)
from benchmarks.connectors import least_requests, misses, pipeline_rows, rows_of, served
from benchmarks.readme import section
from tests.fakes.serving import serve

ISSUES = 150


def _found(product: Product) -> tuple[Holdings, dict[str, Any]]:
    site = site_of(product, ISSUES)
    with serve(Metered(site)) as url:
        return site.holds, read_site(product, url)


@pytest.mark.parametrize("product", PRODUCTS)
def test_all_that_a_site_holds_is_read_and_no_step_is_cheaper_than_the_least(product: Product) -> None:
    held, found = _found(product)
    steps = found["steps"]
    records = held.issues
    if product == "github":
        records += held.comments + held.review_comments + held.reviews
    assert steps["read"]["issues"] == steps["look again"]["references"] + 50 == ISSUES
    assert steps["read"]["records"] == steps["census"]["references"] == records
    assert steps["poll of changes"]["issues"] >= found["changed"]["issues"] == 100
    assert (steps["look again"]["records"], steps["look again"]["gone"]) == (100, 0)
    assert [row["step"] for row in rows_of(product, held, found) if row["requests"] < row["least"]] == []
    assert steps["quiet poll"]["free"] == (3 if product == "github" else 0)


def test_the_least_is_the_sum_of_full_answers() -> None:
    held = Holdings(100_000, 20_000, 72_000, 20_660, 20_660, comment_pages=1_100)
    least = {product: least_requests(product, "read", held) for product in PRODUCTS}
    assert least == {
        "jira-cloud": 1_000 + 1_100,
        "jira-data-center": 100,
        "github": 1_000 + 720 + 207 + 200,
    }
    census = [least_requests(product, "census", held) for product in PRODUCTS]
    assert census == [20, 100, least["github"]]
    assert [least_requests(product, "quiet poll", Holdings()) for product in PRODUCTS] == [1, 1, 3]
    assert least_requests("github", "look again", Holdings(100, 20)) == 101


def test_a_tenth_has_comments_a_hundredth_many_and_a_fifth_are_pull_requests() -> None:
    numbers = range(1, 100_001)
    counts = [comments_of(number) for number in numbers]
    assert sum(count > 0 for count in counts) == 10_000
    assert sum(count > 20 for count in counts) == 1_000
    assert sum(map(is_pull, numbers)) == 20_000
    assert all(is_pull(number) for number in numbers if reviews_of(number))


@pytest.mark.parametrize("issues", [1, 99, 1000, 7919 * 2])
def test_as_many_different_issues_are_changed_as_there_are(issues: int) -> None:
    numbers = changed_numbers(issues, 100)
    assert len(set(numbers)) == len(numbers) == min(100, issues)
    assert 1 <= min(numbers) <= max(numbers) <= issues


def test_a_site_is_served_by_a_process_that_ends_with_the_block() -> None:
    with served("jira-cloud", 20) as (url, held):
        assert held.issues == 20
        assert httpx.get(f"{url}/-/counts").json() == {"requests": 0, "free": 0, "bytes": 0}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/-/counts")


def _row(issues: int, requests: int, peak_mib: float) -> dict[str, Any]:
    cost = {"requests": requests, "least": 100, "peak_mib": peak_mib}
    return {"product": "github", "step": "read", "site_issues": issues, **cost}


def test_more_requests_than_needed_and_memory_that_grows_are_named() -> None:
    assert misses([_row(1_000, 300, 80), _row(10_000, 100, 100), _row(100_000, 120, 110)]) == []
    short = misses([_row(10_000, 100, 100), _row(100_000, 125, 111)])
    assert [line.split(" ")[:2] for line in short] == [["github:", "125"], ["github:", "memory"]]


def test_the_readme_shows_each_step_of_the_largest_site_and_the_memory_of_all(tmp_path: Path) -> None:
    step = {"product": "github", "free": 0, "seconds": 2.0, "bytes": 2**20, "least": 90}
    rows = [
        {**step, "step": name, "site_issues": issues, "requests": 100, "peak_mib": peak}
        | {"issues_per_s": 5000.4 if name == "read" else None, "cpu_s": 1.0}
        for issues, peak in ((1000, 80.4), (10_000, 81.0))
        for name in ("read", "quiet poll")
    ]
    cost = {"requests": 9, "seconds": 2.0, "cpu_s": 1.0, "peak_mib": 400.0}
    steps = {"first run": {**cost, "outcomes": {"new": 500}}, "second run": {**cost, "outcomes": {}}}
    figures = {
        "machine": {"cores": 2, "processor": "P", "commit": "c0"},
        "rows": rows,
        "pipeline": pipeline_rows(500, {"steps": steps, "load_average": 0.5}),
    }
    (tmp_path / "connectors.json").write_text(json.dumps(figures))
    lines = section(tmp_path, tmp_path).splitlines()
    assert "| GitHub | 100 / 90 | 100 / 90 | 5,000 | 1.0 | 80, 81 |" in lines
    assert "| first run | 500 | 9 | 2.0 | 1.0 | 250 | 400 |" in lines
    assert "| second run | 0 | 9 | 2.0 | 1.0 |  | 400 |" in lines
