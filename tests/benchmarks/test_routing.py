"""The benchmark of what stands before an endpoint adds up, and fails beyond a twentieth of embedding here."""

from __future__ import annotations

import pytest

from benchmarks.routing import shares_of, verdict

SPENT = {
    "embedding": 100.0,
    "routing": 1.0,
    "limits": 0.5,
    "cache": 0.25,
    "redaction": 2.0,
    "cache in postgres": 1.25,
}


def test_routing_limits_cache_and_redaction_are_counted_together() -> None:
    found = shares_of(SPENT)
    assert found["overhead_share"] == 0.0375
    assert found["overhead_share_with_cache_in_postgres"] == 0.0475
    assert found["shares"]["redaction"] == 0.02


@pytest.mark.parametrize(("redaction", "missed"), [(2.25, 0), (2.27, 1), (3.25, 1), (3.27, 2)])
def test_more_than_five_percent_fails_with_either_cache(
    redaction: float, missed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(shares_of(SPENT | {"redaction": redaction})) == bool(missed)
    assert capsys.readouterr().out.count("wanted at most 0.05") == missed
