"""The box's time: wall time stretched by a factor, or time that only moves when a test says so."""

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime


class Clock:
    """Box time in seconds since the epoch: starts at wall time and runs ``speed`` times as fast.

    Signatures are made with the caller's own clock, so whoever checks them asks ``wall``, not ``now``.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed: expected a number above 0, got {speed}")
        self.speed = speed
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def now(self) -> float:
        """Box time."""
        return self._wall + (time.monotonic() - self._monotonic) * self.speed

    def wall(self) -> float:
        """The machine's time, as a client that signs a request sees it."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` of box time pass."""
        await asyncio.sleep(seconds / self.speed)


class VirtualClock(Clock):
    """Time for tests: stands still until ``advance``, which wakes sleepers in the order of their deadlines."""

    def __init__(self, start: float = 1_750_000_000.0) -> None:
        super().__init__()
        self._start = self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._asleep = asyncio.Event()

    def now(self) -> float:
        """Virtual time."""
        return self._now

    def wall(self) -> float:
        """The machine's time, moved by as much as the virtual time was."""
        return super().wall() + self._now - self._start

    async def sleep(self, seconds: float) -> None:
        """Wait until ``advance`` has moved the time to ``now + seconds``; nothing to wait for is no wait."""
        if seconds <= 0:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        self._asleep.set()
        await woken

    async def somebody_sleeps(self) -> None:
        """Wait until a task waits for the time to move."""
        if not self._sleepers:
            self._asleep.clear()
        await self._asleep.wait()

    async def advance(self, seconds: float) -> None:
        """Move on by ``seconds``; what wakes on the way runs until it sleeps again."""
        await _settle()
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await _settle()
        self._now = end


async def _settle() -> None:
    """Let every task that can run do so: code of the world awaits nothing but clock and wire."""
    for _ in range(20):
        await asyncio.sleep(0)


def iso(seconds: float) -> str:
    """``2025-06-15T15:06:40Z``: the form of times in the API."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
