"""Errors cross process borders."""

from __future__ import annotations

import pickle

import pytest

from schemas import errors

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PipelineError)
]

FACTS: dict[type, tuple[object, ...]] = {
    errors.InvalidPayload: ("fields.updated", "a time"),
    errors.LimitReached: ("60 requests a minute are made", 2.5, "requests_per_minute"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling_with_its_facts(kind: type[errors.PipelineError]) -> None:
    error = kind(*FACTS.get(kind, ("what happened",)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.args == error.args


def test_a_rate_limit_says_how_long_to_wait() -> None:
    again = pickle.loads(pickle.dumps(errors.RateLimited("api.example asked us to wait", 12.5)))
    assert again.retry_after_s == 12.5


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_drawn_in_the_tree(kind: type[errors.PipelineError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
