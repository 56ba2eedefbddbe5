"""How soon a context that called tools is expected back."""

from __future__ import annotations

from aiosd.kernel.model import ContextId
from aiosd.server.awaited import Awaited

A, B = ContextId("a"), ContextId("b")


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0
        self.told: list[tuple[ContextId, float]] = []
        self.awaited = Awaited(
            lambda context, within_s: self.told.append((context, round(within_s, 3))),
            {"calculator": 0.25}.get,
            lambda: self.now_ns,
        )

    def takes(self, seconds: float, *names: str, uid: int = 1000) -> None:
        self.awaited.called(A, uid, names)
        self.now_ns += round(seconds * 1e9)
        self.awaited.came_back(A)


def test_an_unknown_tool_takes_a_second_and_a_known_one_what_it_took() -> None:
    clock = Clock()
    clock.awaited.called(A, 1000, ["fetch"])
    clock.awaited.called(B, 1000, ["calculator"])
    clock.awaited.called(B, 1000, ["calculator", "fetch"])
    assert clock.told == [(A, 2.0), (B, 0.5), (B, 2.0)]


def test_what_was_measured_counts_more_the_newer_it_is() -> None:
    clock = Clock()
    clock.takes(4, "calculator")
    assert clock.awaited.expected_s(1000, ["calculator"]) == 4
    clock.takes(2, "calculator")
    assert clock.awaited.expected_s(1000, ["calculator"]) == 3.4


def test_one_that_takes_long_gives_its_slot_to_whoever_needs_it() -> None:
    clock = Clock()
    clock.takes(16, "compile")
    clock.told.clear()
    clock.awaited.called(A, 1000, ["compile"])
    assert clock.told == []


def test_a_lunch_counts_as_a_minute_and_another_uids_times_count_nothing() -> None:
    clock = Clock()
    clock.takes(3600, "ask")
    assert clock.awaited.expected_s(1000, ["ask"]) == 60
    assert clock.awaited.expected_s(1001, ["ask"]) == 1


def test_a_context_that_did_not_wait_is_not_measured() -> None:
    clock = Clock()
    clock.awaited.came_back(A)
    clock.takes(4, "fetch")
    clock.now_ns += 10**12
    clock.awaited.came_back(A)
    assert clock.awaited.expected_s(1000, ["fetch"]) == 4
