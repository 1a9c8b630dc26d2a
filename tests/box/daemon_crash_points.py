"""`python -m tests.box.daemon_crash_points PART PARTS`: a crash of the daemon at each point of a short story of pods.

A point is before and after each write of the ledger, call of the cloud and operation of the kernel, and before each
message of one. The story, from the daemon's start to the last card's way back, is told once to count them and then
once for each of the part's, with a crash there. Whoever was told of a lease still has it, in the kernel too; and when
the pods have gone, books, cloud and kernel are as they were before there were any. Then the ledger is lost under
running pods, with a crash at each point of the way until they are known again. Prints the points that there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from eniway import log
from eniway.errors import NotReady
from tests.box import own_machine, virtual_time
from tests.box.mortal import IN_MEMORY
from tests.box.mortal_daemon import MortalDaemon, mortal_daemon

POOL: dict[str, Any] = {"exclusive_slots": 1, "warm_exclusive": 0, "min_idle_addresses": 0, "max_idle_addresses": 0}
SHARED = ("web-0", "web-1")


async def story(life: MortalDaemon) -> None:
    """A start; one pod of each kind, and a second shared one; and all of them go."""
    await life.live()
    await come(life)
    for name in life.names():
        await life.release(name)
        await asyncio.sleep(40.0)
    await asyncio.sleep(100.0)


async def come(life: MortalDaemon) -> None:
    """All pods."""
    while not life.slots():  # noqa: ASYNC110 -- kubelet tells nobody
        await asyncio.sleep(1.0)
    pods = [life.add(name, routed=False) for name in SHARED]
    await asyncio.gather(*pods, life.add("job", routed=True), life.add("db", slot=life.slots()[0]))


async def tell(life: MortalDaemon, crash_at: int | None) -> None:
    """The story, with a crash there, and what comes after."""
    life.cut(crash_at)
    task = asyncio.ensure_future(story(life))
    crashed = asyncio.create_task(life.crashed.wait())
    await asyncio.wait([task, crashed], return_when=asyncio.FIRST_COMPLETED)
    for one in (task, crashed):
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError, NotReady):
            await one


async def recover(life: MortalDaemon) -> None:
    """The next start, pods that come again, and the end of all."""
    await life.kill()
    await life.live()
    await life.settle()
    for name in set(SHARED) - set(life.names()):
        await life.add(name, routed=False)
    await life.settle()
    for name in life.names():
        await life.release(name)
    await asyncio.sleep(200.0)
    await life.settle()
    assert not life.books.leases()
    assert life.idle() == 0


async def lost(life: MortalDaemon, crash_at: int | None) -> list[str]:
    """The ledger is gone under running pods, and the start that finds it so ends there; the points that it passed."""
    await life.kill()
    life.lose_ledger()
    life.cut(crash_at)
    await life.live()
    crashed, settled = asyncio.create_task(life.crashed.wait()), asyncio.create_task(life.settle())
    await asyncio.wait([crashed, settled], return_when=asyncio.FIRST_COMPLETED)
    points = list(life.passed)
    for one in (crashed, settled):
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one
    life.cut(None)
    if crash_at is not None:
        await life.kill()
        await life.live()
    await life.settle()
    life.check()
    return points


async def all_of(part: int, parts: int) -> list[str]:
    """Points that there are, those of the part tried."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        async with mortal_daemon(Path(directory), Random(1), **POOL) as life:
            await tell(life, None)
            points = list(life.passed)
            await recover(life)
            clean = life.kernel()
            await life.kill()
            for number in range(part, len(points), parts):
                try:
                    await tell(life, number)
                    await recover(life)
                    left = [line for line in life.kernel() if line not in clean]
                    assert not left, f"left in the kernel: {left}"
                    await life.kill()
                except Exception as error:
                    raise AssertionError(f"a crash at point {number}, {points[number]} the first time") from error
            await life.live()
            await come(life)
            await life.settle()
            again = await lost(life, None)
            for number in range(part, len(again), parts):
                try:
                    await lost(life, number)
                except Exception as error:
                    raise AssertionError(f"the ledger lost, then a crash at {number}, {again[number]}") from error
            await life.kill()
            return points + again


def main() -> int:
    """One part of the points."""
    part, parts = map(int, sys.argv[1:3])
    log.configure(os.environ.get("LOG", "critical"))
    logging.getLogger("aliyunsdkcore").setLevel(logging.CRITICAL)
    own_machine.enter()
    sys.stdout.write(json.dumps(virtual_time.run(partial(all_of, part, parts))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
