"""How often the OpenAPI is called, by a clock that moves only when somebody sleeps."""

import asyncio
from contextlib import AbstractAsyncContextManager
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eniallocator.cloud.limiter import MINUTE, SPREAD, Limiter

START = 600.0


class SleepersClock:
    """Sleeping is what makes time pass."""

    def __init__(self) -> None:
        self.now = START
        self.jump = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.jump

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        raise NotImplementedError


def limiter(most: int) -> tuple[Limiter, SleepersClock]:
    clock = SleepersClock()
    return Limiter(calls_per_minute=most, clock=clock, random=Random(1)), clock


@given(st.integers(1, 20), st.integers(1, 100), st.lists(st.floats(0, 90), max_size=20))
def test_no_minute_sees_more_calls_than_allowed(most: int, calls: int, pauses: list[float]) -> None:
    """Whatever the pace of the callers."""

    async def run() -> None:
        limits, clock = limiter(most)
        minutes: dict[int, int] = {}
        for number in range(calls):
            if number < len(pauses):
                await clock.sleep(pauses[number])
            await limits.admit("A")
            minute = int(clock.now // MINUTE)
            minutes[minute] = minutes.get(minute, 0) + 1
        assert max(minutes.values()) <= most

    asyncio.run(run())


async def test_actions_do_not_stand_in_each_others_way() -> None:
    """Quotas are per Action."""
    limits, clock = limiter(1)
    await limits.admit("A")
    await limits.admit("B")
    assert clock.now == START


async def test_a_throttled_action_rests_until_the_next_minute_and_others_go_on() -> None:
    """Not a moment less, and not everybody at its first second."""
    limits, clock = limiter(60)
    clock.now += 20
    limits.throttled("A")
    await limits.admit("B")
    assert clock.now == START + 20
    await limits.admit("A")
    assert START + MINUTE < clock.now <= START + MINUTE + SPREAD


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
async def test_a_wall_clock_that_jumps_costs_a_minute_at_most(jump: float) -> None:
    """Set back or forward while an Action rests."""
    limits, clock = limiter(60)
    limits.throttled("A")
    clock.jump = jump
    before = clock.now
    await limits.admit("A")
    assert clock.now - before <= 2 * (MINUTE + SPREAD)
