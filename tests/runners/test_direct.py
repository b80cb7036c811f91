"""A step that fails says what is wrong, whenever in its life it fails."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pytest

from runners.direct import run_bounded
from schemas.errors import BadConfig


class Failing(beam.DoFn):  # type: ignore[misc]
    def __init__(self, when: str) -> None:
        self._when = when

    def _fail(self, when: str) -> None:
        if when == self._when:
            raise BadConfig("a setting is wrong: set it right")

    def setup(self) -> None:
        self._fail("setup")

    def start_bundle(self) -> None:
        self._fail("start_bundle")

    def process(self, element: int) -> Iterator[int]:
        self._fail("process")
        yield element

    def finish_bundle(self) -> None:
        self._fail("finish_bundle")


@pytest.mark.parametrize("when", ["setup", "start_bundle", "process", "finish_bundle"])
def test_the_error_is_the_steps_own_without_the_name_of_the_step(when: str) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        pipeline | beam.Create([1]) | beam.ParDo(Failing(when))

    with pytest.raises(BadConfig) as caught:
        run_bounded(build)
    assert str(caught.value) == "a setting is wrong: set it right"
