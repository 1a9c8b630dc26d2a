"""What was asked for once comes once: by the ClientToken, and where that no longer counts by a look at the cloud."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from eniway.model import EniId
from tests.box import virtual_time
from tests.box.mortal import IN_MEMORY, Mortal, Point, mortal, pass_by
from vpcbox.faults import Kind, Rule
from vpcbox.openapi.idempotency import LIFETIME
from vpcbox.world.model import EniType

POOL: dict[str, Any] = {"exclusive_slots": 1, "warm_exclusive": 0, "min_idle_addresses": 0, "max_idle_addresses": 0}


@asynccontextmanager
async def settled(point: Point = pass_by) -> AsyncIterator[Mortal]:
    """An allocator that has looked at the cloud and asks for nothing."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        async with mortal(Path(directory), Random(1), point=point, **POOL) as life:
            await life.live()
            await asyncio.sleep(30.0)
            await life.settle()
            yield life
            await life.kill()


def run(law: Callable[[], Awaitable[None]]) -> None:
    virtual_time.run(law)


def cards(life: Mortal) -> list[EniId]:
    return [EniId(eni.id) for eni in life.cloud.world.enis.values() if eni.type is EniType.SECONDARY]


def test_a_create_is_sent_again_under_its_token() -> None:
    """Its answer is lost, and the look that comes before the next try shows nothing: the token alone knows."""

    async def law() -> None:
        async with settled() as life:
            life.cloud.faults.add(Rule(Kind.LOST_ANSWER, "CreateNetworkInterface", count=1))
            life.cloud.faults.add(Rule(Kind.EMPTY_ANSWER, "DescribeNetworkInterfaces", count=1))
            before = life.cloud.passed.count("CreateNetworkInterface")
            await life.add("web")
            await life.settle()
            assert len(cards(life)) == 1
            assert life.cloud.passed.count("CreateNetworkInterface") == before + 1
            assert not life.cloud.faults.list()

    run(law)


def test_a_card_made_before_tokens_ended_is_found() -> None:
    """The process ends when the Create is done, and is away for longer than the cloud remembers tokens."""

    async def law() -> None:
        lives: list[Mortal] = []

        async def point(what: str) -> None:
            if what == "after CreateNetworkInterface" and lives[0].lives == 1:
                await lives[0].crash()

        async with settled(point) as life:
            lives.append(life)
            add = asyncio.ensure_future(life.add("web"))
            await life.crashed.wait()
            add.cancel()
            (made,) = cards(life)
            await life.kill()
            await asyncio.sleep(LIFETIME + 60.0)
            asked = len(life.cloud.calls)
            await life.live()
            await life.add("web")
            await life.settle()
            assert cards(life) == [made]
            assert "CreateNetworkInterface" not in life.cloud.calls[asked:]

    run(law)


def test_addresses_are_asked_for_again_under_their_token() -> None:
    """The answer to an Assign is lost, also together with the process: no more come than were asked for."""

    async def law() -> None:
        async with settled() as life:
            await life.add("web")
            await life.settle()
            (card,) = cards(life)
            for name, dies in (("api", False), ("job", True)):
                before = len(life.cloud.world.enis[card].secondary_addresses)
                life.cloud.faults.add(Rule(Kind.LOST_ANSWER, "AssignPrivateIpAddresses", count=1))
                if dies:
                    add = asyncio.ensure_future(life.add(name))
                    await asyncio.sleep(1.0)
                    assert not life.cloud.faults.list()
                    add.cancel()
                    await life.kill()
                    await life.live()
                await life.add(name)
                life.check()
                assert len(life.cloud.world.enis[card].secondary_addresses) == before + 1
                await life.settle()

    run(law)


def test_a_stray_of_ours_is_put_to_use() -> None:
    """A card with our tags that no book knows is not made again, and not left lying."""

    async def law() -> None:
        async with settled() as life:
            await life.add("web")
            (made,) = cards(life)
            await life.release("web")
            await life.kill()
            for path in life.cloud.directory.glob("ledger.db*"):
                path.unlink()
            await life.live()
            await life.cloud.until(lambda: bool(life.books.shared_cards()))
            # The sweep's part: the kernel uses none of what was found.
            await life.books.settle_orphans(())
            await life.add("web")
            await life.settle()
            assert cards(life) == [made]

    run(law)
