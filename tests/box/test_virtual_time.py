"""What may be relied on of virtual time."""

import asyncio

from tests.box import virtual_time


def test_who_waits_for_the_rest_of_an_interval_sees_its_end() -> None:
    """However little is left, and though a machine's timers may be a nanosecond early: waiting lets time pass."""

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(3100.0)
        for rest in (5e-10, 1e-15):
            for _ in range(3):
                before = loop.time()
                await asyncio.sleep(rest)
                assert before < loop.time() <= before + 1e-9
                assert loop.time() >= before + rest

    virtual_time.run(wait)
