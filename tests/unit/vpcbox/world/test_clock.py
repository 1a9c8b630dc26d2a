"""Box time."""

import asyncio
import time

import pytest

from vpcbox.world.clock import Clock, VirtualClock, iso


async def test_a_fast_clock_runs_fast_and_sleeps_short() -> None:
    """At 1000-fold speed ten seconds of the box are over, by its own clock, in ten milliseconds of the machine."""
    clock = Clock(speed=1000)
    before, begun = clock.now(), time.monotonic()
    await clock.sleep(10)
    assert clock.now() - before >= 10
    assert time.monotonic() - begun < 10
    assert abs(clock.wall() - time.time()) < 5


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_clock_must_run(speed: float) -> None:
    """Speed is above 0."""
    with pytest.raises(ValueError, match="speed"):
        Clock(speed)


async def test_virtual_sleepers_wake_in_order_at_their_time() -> None:
    """Each sees the time it slept for, also one that sleeps again on the way."""
    clock = VirtualClock(start=100)
    woke: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woke.append((name, clock.now()))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sleeper("long", 5))
        tasks.create_task(sleeper("twice", 1, 2))
        tasks.create_task(sleeper("late", 11))
        await clock.advance(10)
        assert woke == [("twice", 101), ("twice", 103), ("long", 105)]
        assert clock.now() == 110
        await clock.advance(1)
    assert woke[-1] == ("late", 111)


def test_times_are_shown_as_the_api_does() -> None:
    """UTC, whole seconds, Z."""
    assert iso(1456231584.9) == "2016-02-23T12:46:24Z"
