"""How much an endpoint is given at once."""

from __future__ import annotations

import threading

import pytest

from tests.transforms.routing.world import FakeClock
from transforms.background import Discarded
from transforms.routing.gate import Gate


def test_no_more_pass_at_once_than_may() -> None:
    gate, inside, most, lock = Gate(3), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with gate.passing(lambda duration_s: None):
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 3


def test_a_429_halves_what_may_pass_and_answers_bring_it_back_one_by_one() -> None:
    clock = FakeClock()
    gate = Gate(8, clock.monotonic_s)
    widths = []
    for _ in range(3):
        gate.note_limited(1.0)
        clock.time_s += 10
        widths.append(gate.width)
    assert widths == [4, 2, 1]
    for _ in range(40):
        gate.note_answer()
    assert gate.width == 8


def test_429s_of_requests_that_were_under_way_together_count_once() -> None:
    clock = FakeClock()
    gate = Gate(8, clock.monotonic_s)
    for _ in range(8):
        gate.note_limited(2.0)
    assert gate.width == 4
    assert gate.closed_for_s() == pytest.approx(2.0)


def test_waits_that_are_not_told_grow_and_end_at_half_a_minute() -> None:
    clock = FakeClock()
    gate, longest = Gate(1, clock.monotonic_s), 0.0
    for _ in range(200):
        wait_s = gate.note_limited(None)
        assert 0 <= wait_s <= 30
        longest = max(longest, wait_s)
        clock.time_s += wait_s + 0.001
    assert longest > 5


def test_waiting_for_room_ends_when_the_work_is_not_wanted_any_more() -> None:
    gate = Gate(1)

    def stop(duration_s: float) -> None:
        raise Discarded

    with gate.passing(stop), pytest.raises(Discarded), gate.passing(stop):
        raise AssertionError("there was no room")
    with gate.passing(stop):
        pass
