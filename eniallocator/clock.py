"""Time as an argument: what the allocator asks of a clock, and the machine's own."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Clock(Protocol):
    """Deadlines are monotonic; only what outlives the process is written down in wall time."""

    def monotonic(self) -> float:
        """Seconds, never running backwards: the scale of every ``deadline`` in this room."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        ...

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        """Cancel what runs inside at the monotonic time ``when`` and raise TimeoutError outside."""
        ...


class SystemClock:
    """The machine's clocks; the monotonic one is also asyncio's."""

    def monotonic(self) -> float:
        """``time.monotonic``."""
        return time.monotonic()

    def wall(self) -> float:
        """``time.time``."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """``asyncio.sleep``."""
        await asyncio.sleep(seconds)

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        """``asyncio.timeout_at``."""
        return asyncio.timeout_at(when)
