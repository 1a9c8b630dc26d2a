"""The world's work in progress."""

import asyncio

from vpcbox.faults import Faults
from vpcbox.world.tasks import Tasks


async def test_a_change_begun_right_after_the_last_one_of_its_kind_is_carried_out() -> None:
    """One that is begun while it is still under way is dropped: the first sees to it."""
    tasks, loop = Tasks(Faults()), asyncio.get_running_loop()
    running = asyncio.ensure_future(tasks.run())
    await asyncio.sleep(0)
    carried_out: list[str] = []
    done = asyncio.Event()

    async def last() -> None:
        carried_out.append("last")
        done.set()

    async def first() -> None:
        tasks.start("vtb-1", "Pending", last())
        carried_out.append("first")
        # Before anything that waits for the end of this task.
        loop.call_soon(lambda: tasks.start("vtb-1", "Pending", last()))

    tasks.start("vtb-1", "Pending", first())
    async with asyncio.timeout(5):
        await done.wait()
    assert carried_out == ["first", "last"]
    running.cancel()
    await asyncio.wait([running])
