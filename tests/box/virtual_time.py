"""Time that moves only when nobody is at work: an event loop for long stories in short time.

Threads and sockets do their part in real time, and meanwhile the loop's time stands still. When nothing is left to do
but to wait for a timer, the loop's time is that timer's. Who works outside the loop has to be counted: jobs of
executors are, unless they wait for a handler of this same loop (``answering``), and whatever ``outside`` is told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from vpcbox.world.clock import Clock as BoxClock

START = 1_750_000_020.0
PATIENCE = 20.0
"""Real seconds after which waiting for somebody outside is a bug of the counting."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """``loop.time()`` is virtual."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._working = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """However short a sleep is, time passes in it.

        Who waits for the rest of an interval may be told by rounding of half a step of our clock: were that no time at
        all, or were a timer due a nanosecond early as on a machine's clock, he would wait for the same rest for ever.
        """
        return super().call_at(max(when, math.nextafter(self._now, math.inf)), callback, *args, context=context)

    @property
    def _clock_resolution(self) -> float:
        """Timers due within it are taken for due."""
        return math.ulp(self._now)

    @_clock_resolution.setter
    def _clock_resolution(self, seconds: float) -> None:
        """That of the machine's clock is nothing to us."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    @property
    def busy(self) -> bool:
        """Whether somebody outside is about to do something."""
        return self._working > 0

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        begun = finished = ended = False

        def end() -> None:
            nonlocal ended
            self._working -= not ended
            ended = True

        def finish() -> None:
            nonlocal finished
            finished = True
            # Where who asked for it was cancelled it worked on until now. Else its result comes right after this.
            if future.cancelled():
                end()

        def job() -> Any:
            nonlocal begun
            begun = True
            try:
                return func(*args)
            finally:
                with contextlib.suppress(RuntimeError):
                    self.call_soon_threadsafe(finish)

        self._working += 1
        future: asyncio.Future[Any] = super().run_in_executor(executor, job)
        future.add_done_callback(lambda done: None if done.cancelled() and begun and not finished else end())
        return future

    def outside(self, work: asyncio.Future[Any]) -> None:
        """Time stands still until ``work`` is done."""
        self._working += 1

        def done(_: object) -> None:
            self._working -= 1

        work.add_done_callback(done)

    def awaited(self, does: Callable[..., asyncio.Future[Any]]) -> Callable[..., asyncio.Future[Any]]:
        """``does``, whose result somebody outside brings: time stands still until it is there."""

        def begun(*args: Any, **named: Any) -> asyncio.Future[Any]:
            work = does(*args, **named)
            self.outside(work)
            return work

        return begun

    def counted(self, does: Callable[..., Any]) -> Callable[..., Any]:
        """``does``, a coroutine function of which others do a part: time stands still until it is over."""

        async def counting(*args: Any, **named: Any) -> Any:
            over: asyncio.Future[None] = self.create_future()
            self.outside(over)
            try:
                return await does(*args, **named)
            finally:
                over.set_result(None)

        return counting

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Somebody outside waits for an answer that is being made in here."""
        self._working -= 1
        try:
            yield
        finally:
            self._working += 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if events or timeout == 0:
            return events
        if self._loop.busy or timeout is None:
            began = time.monotonic()
            events = super().select(PATIENCE)
            if not events and time.monotonic() - began >= PATIENCE:
                raise RuntimeError("nobody outside does anything, and nobody in here waits for a timer")
            return events
        self._loop.advance(timeout)
        return []


class AllocatorClock:
    """``eniallocator.Clock`` on the loop's time; the wall clock can be set."""

    def __init__(self) -> None:
        self.jumped = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return START + self.monotonic() + self.jumped

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout_at(when)


class CloudClock(BoxClock):
    """The box's clock on the loop's time. Signatures are made with the machine's time, so ``wall`` is that."""

    def now(self) -> float:
        return START + asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(story: Callable[[], Any]) -> Any:
    """Run a coroutine on a loop of virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())
