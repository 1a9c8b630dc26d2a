"""Pods bound beyond a node's addresses, and Pending ones while there is room, whatever is killed.

A cluster filled to 95 %. Then, once for each fault, while it lasts: a tenth of the pods is deleted and made anew, and
5 % more is made than there is room for. Each bind is looked at as it comes, not only what is there in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.bench.sight import Sight, watching
from tests.box.scheduling import Scheduling, words

MARKS: Mapping[str, Sequence[float]] = {
    "nothing": (),
    "extender killed x5": (0.1, 0.25, 0.4, 0.6, 0.8),
    "scheduler killed x2": (0.3, 0.6),
    "API server stalled, extender killed x3": (0.2, 0.5, 0.8),
    "extender away 5 s": (0.3,),
}
"""When, as parts of the binds that are to come."""
STALL, AWAY = 1.5, 5.0
"""Seconds."""
PATIENCE = 90.0


class Kept:
    """A process that is started again when it dies, as kubelet does it."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[asyncio.subprocess.Process]]) -> None:
        self._start = start
        self._process: asyncio.subprocess.Process | None = None
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            async with self._start() as self._process:
                self._up.set()
                await self._process.wait()
                self._up.clear()

    async def up(self) -> None:
        """Return when it is."""
        await self._up.wait()

    async def kill(self) -> None:
        """Once it is up."""
        await self.up()
        self._up.clear()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def away(self, seconds: float) -> None:
        """Killed, and not started again before the time is over."""
        self._wanted.clear()
        await self.kill()
        await asyncio.sleep(seconds)
        self._wanted.set()


@dataclass
class Trial:
    """The cluster and what is done to it."""

    cluster: Scheduling
    sight: Sight
    extender: Kept
    scheduler: Kept
    room: int
    random: Random
    count: int = 0

    async def make(self, number: int) -> None:
        names = [f"p{self.count + one:06}" for one in range(number)]
        self.count += number
        await self.cluster.all(map(self.cluster.pod, names))

    async def turn_over(self, number: int) -> None:
        """Delete as many, and make as many, side by side."""
        bound = sorted(key for key, node in self.sight.where.items() if node)
        victims = self.random.sample(bound, number)

        async def one(key: str) -> None:
            await self.delete(key)
            await self.make(1)

        await self.cluster.all(map(one, victims))

    async def delete(self, key: str) -> None:
        await self.cluster.delete(key.partition("/")[2])

    async def under(self, fault: str, *, turnover: int, extra: int) -> int:
        """How many pods were bound beyond, or sleep while there is room."""
        began, before = time.monotonic(), set(self.sight.beyond)
        start, lack = self.sight.binds, self.room - self.sight.bound
        async with asyncio.TaskGroup() as group:
            harm = group.create_task(self._harm(fault, start, turnover + lack))
            await self.turn_over(turnover)
            await self.make(lack + extra)
            with suppress(TimeoutError):
                await self.sight.until(lambda: self.sight.bound >= self.room, seconds=PATIENCE)
            if not harm.done():
                harm.cancel()
        over = len(self.sight.beyond.keys() - before)
        asleep = min(self.sight.pending, max(0, self.room - self.sight.bound))
        said = f"{fault}: {harm.result()}" if not harm.cancelled() else f"{fault}: NOT DONE"
        print(
            f"{said}; {self.sight.binds - start} binds in {time.monotonic() - began:.0f} s, {self.sight.bound} of "
            f"{self.room} places taken, over {over}, Pending with room {asleep}",
            flush=True,
        )
        return over + asleep + harm.cancelled()

    async def back_to(self, bound: int) -> None:
        """Delete who is not bound, and some who are."""
        pending = [key for key, node in self.sight.where.items() if not node]
        placed = sorted(key for key, node in self.sight.where.items() if node)
        await self.cluster.all(map(self.delete, pending))
        await self.cluster.all(map(self.delete, self.random.sample(placed, max(0, len(placed) - bound))))
        await self.sight.until(lambda: len(self.sight.where) <= bound)

    async def _harm(self, fault: str, start: int, binds: int) -> str:
        said = "done"
        for mark in MARKS[fault]:
            await self.sight.until(lambda least=start + int(binds * mark): self.sight.binds >= least)  # type: ignore[misc]
            if fault.startswith("API server"):
                # It would not come up meanwhile
                await self.extender.up()
                with self.cluster.api.stalled():
                    await self.extender.kill()
                    await asyncio.sleep(STALL)
            elif fault.startswith("extender away"):
                before = self.sight.binds
                await self.extender.away(AWAY)
                said = f"{self.sight.binds - before} bound meanwhile"
            elif fault.startswith("extender"):
                await self.extender.kill()
            else:
                await self.scheduler.kill()
        return said


async def faults(cluster: Scheduling, options: argparse.Namespace) -> int:
    """As a part of `python -m tests.bench.scheduler`."""
    each = -(-options.pods // options.nodes)
    room = each * options.nodes
    names = [f"node-{number:05}" for number in range(options.nodes)]
    native = each if options.native else None
    await cluster.all(cluster.node(name, addresses=words(each), native=native) for name in names)
    binds: dict[str, Any] = {"binds": options.binds} if options.binds else {}
    changes: dict[str, Any] = {"bindVerb": "bind"} if options.binds else {}
    if options.ignorable:
        changes["ignorable"] = True
    extender = Kept(lambda: cluster.extender(**binds))
    scheduler = Kept(lambda: cluster.scheduler(**changes))
    bad = 0
    async with watching(cluster, room=each) as sight, asyncio.TaskGroup() as group:
        tasks = [group.create_task(kept.run()) for kept in (extender, scheduler)]
        trial = Trial(cluster, sight, extender, scheduler, room, Random(0))
        began, first = time.monotonic(), room * 95 // 100
        await trial.make(first)
        await sight.until(lambda: sight.bound >= first)
        print(f"{options.nodes} nodes, {first} pods bound in {time.monotonic() - began:.0f} s", flush=True)
        for fault in MARKS:
            bad += await trial.under(fault, turnover=room // 10, extra=room // 20)
            await trial.back_to(first)
        for task in tasks:
            task.cancel()
    return 1 if bad or sight.beyond else 0
