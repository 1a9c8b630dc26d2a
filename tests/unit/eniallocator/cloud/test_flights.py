"""Who shares an answer and who does not."""

import asyncio
from collections.abc import Callable

import pytest

from eniallocator.cloud.flights import Flights


class Plane:
    """Waits at the gate, leaves, arrives: each when told."""

    def __init__(self) -> None:
        self.gate, self.air = asyncio.Event(), asyncio.Event()
        self.flown = 0

    async def __call__(self, leave: Callable[[], None]) -> int:
        await self.gate.wait()
        leave()
        await self.air.wait()
        self.flown += 1
        return self.flown


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_who_ask_before_it_leaves_get_one_answer() -> None:
    """And who comes later gets one of his own."""
    flights, plane = Flights(), Plane()
    early = [asyncio.create_task(flights.share("x", plane)) for _ in range(3)]
    await settle()
    plane.gate.set()
    await settle()
    late = asyncio.create_task(flights.share("x", plane))
    await settle()
    plane.air.set()
    assert {await task for task in early} == {1}
    assert await late == 2


async def test_another_question_is_another_flight() -> None:
    """Only the same is shared."""
    flights, plane = Flights(), Plane()
    plane.gate.set()
    plane.air.set()
    assert [await flights.share("x", plane), await flights.share("y", plane)] == [1, 2]


async def test_who_gives_up_leaves_the_others_theirs() -> None:
    """One of them asks in his place."""
    flights, plane = Flights(), Plane()
    first = asyncio.create_task(flights.share("x", plane))
    await settle()
    second = asyncio.create_task(flights.share("x", plane))
    await settle()
    first.cancel()
    await settle()
    plane.gate.set()
    plane.air.set()
    assert await second == 1


async def test_an_error_is_shared_too() -> None:
    """Nobody asks again what was just refused."""
    flights, gate = Flights(), asyncio.Event()

    async def refused(_leave: Callable[[], None]) -> None:
        await gate.wait()
        raise ValueError("no")

    tasks = [asyncio.create_task(flights.share("x", refused)) for _ in range(2)]
    await settle()
    gate.set()
    for task in tasks:
        with pytest.raises(ValueError, match="no"):
            await task
