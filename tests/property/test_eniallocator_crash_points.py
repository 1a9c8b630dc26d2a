"""A crash before and after each write of the ledger and operation of cloud and kernel: the next start puts it right.

Short stories of pods are told once to count their points, and then once for each of them, with a crash there. Whoever
was told of a lease still has it, nobody else has; when the pods have gone, books and cloud agree and nothing is left.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from eniway.config import PodsMayChoose
from eniway.errors import NotReady
from eniway.model import NO_CHOICE, Choice, SecurityGroupId, Wish
from tests.box import virtual_time
from tests.box.mortal import IN_MEMORY, Mortal, mortal

POOL: dict[str, Any] = {"exclusive_slots": 1, "warm_exclusive": 0, "min_idle_addresses": 0, "max_idle_addresses": 0}
SHARED = [f"web-{number}" for number in range(3)]
MOST = 400
PARTS = {"pods": 4, "choices": 3, "routed": 1}
POD_CIDR = IPv4Network("172.20.1.0/24")


async def pods_come(life: Mortal) -> None:
    """Shared ones that need a card, one that needs its own."""
    await asyncio.gather(*(life.add(name) for name in SHARED), life.add("db", slot=3))


async def pods_go(life: Mortal) -> None:
    """Most of them, so that addresses go back, and then all: cards empty out and go back."""
    for name in [*SHARED[1:], "db"]:
        await life.release(name)
    await asyncio.sleep(200.0)
    await life.release(SHARED[0])
    await asyncio.sleep(200.0)


async def pods_come_and_go(life: Mortal) -> None:
    """One after the other."""
    await pods_come(life)
    await pods_go(life)


async def pods_choose(life: Mortal) -> None:
    """A slot's card is replaced for a pod that chose its security groups, and again for the one after it."""
    for name in ("db", "vault", "db-again"):
        await life.add(name, slot=3, choice=choice_of(life, name))
        await life.release(name)


async def pods_are_routed(life: Mortal) -> None:
    """The source check goes off with the first and on after the last, twice."""
    await life.books.learn_pod_cidr(POD_CIDR)
    for name in ("cron", "cron-2"):
        await life.add(name, wish=Wish.ROUTED)
        await life.release(name)
        await asyncio.sleep(60.0)


async def again(life: Mortal, story: str) -> None:
    """What asks again after a crash."""
    match story:
        case "pods":
            for name in [name for name in SHARED if life.cloud.key(name) not in life.told]:
                await life.add(name)
        case "choices" if not life.told:
            await life.add("vault", slot=3, choice=choice_of(life, "vault"))
        case "routed":
            await life.books.learn_pod_cidr(POD_CIDR)
            await life.add("cron-late", wish=Wish.ROUTED)


STORIES = {"pods": pods_come_and_go, "choices": pods_choose, "routed": pods_are_routed}


def choice_of(life: Mortal, name: str) -> Choice:
    """What a pod chose."""
    return Choice(tuple(map(SecurityGroupId, life.cloud.may_choose.security_groups))) if name == "vault" else NO_CHOICE


async def until_crash(life: Mortal, story: Callable[[Mortal], Awaitable[None]]) -> None:
    """Tell ``story`` as far as it gets."""
    task = asyncio.ensure_future(story(life))
    crashed = asyncio.create_task(life.crashed.wait())
    await asyncio.wait([task, crashed], return_when=asyncio.FIRST_COMPLETED)
    for one in (task, crashed):
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError, NotReady):
            await one


async def tell(story: str, crash_at: int | None) -> list[str]:
    """A story, with a crash at that point; the points it passed before."""
    passed: list[str] = []
    lives: list[Mortal] = []

    async def point(what: str) -> None:
        passed.append(what)
        if len(passed) - 1 == crash_at:
            await lives[0].crash()

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        async with mortal(Path(directory), Random(1), point=point, **POOL) as life:
            lives.append(life)
            world = life.cloud.world
            (vpc_id,) = {eni.vpc_id for eni in world.enis.values()}
            life.cloud.may_choose = PodsMayChoose(security_groups=[world.create_security_group("vault", vpc_id).id])
            await life.live()
            await until_crash(life, STORIES[story])
            before = len(passed)
            if crash_at is not None:
                assert life.crashed.is_set(), f"the story has no point {crash_at}"
                await life.kill()
                await life.live()
                await life.settle()
                await again(life, story)
                life.check()
            for key in tuple(life.told):
                await life.release(key.container_id.removeprefix("container-of-"))
            await asyncio.sleep(200.0)
            await life.settle()
            assert life.idle() <= POOL["max_idle_addresses"]
            assert not life.books.leases()
            assert world.enis[life.books.primary.eni_id].source_dest_check
            await life.kill()
            return passed[:before]


@pytest.fixture(scope="module")
def points() -> dict[str, list[str]]:
    return {story: virtual_time.run(partial(tell, story, None)) for story in STORIES}


def test_the_stories_pass_all_there_is(points: dict[str, list[str]]) -> None:
    """Every call that changes the cloud, every operation of the kernel, and the ledger's writes between them."""
    assert {
        f"{when} {what}"
        for when in ("before", "after")
        for what in (
            "write",
            "CreateNetworkInterface",
            "AttachNetworkInterface",
            "DetachNetworkInterface",
            "DeleteNetworkInterface",
            "AssignPrivateIpAddresses",
            "UnassignPrivateIpAddresses",
            "DescribeNetworkInterfaces",
            "wait_card",
            "prepare_card",
            "park_card",
            "retire_card",
        )
    } <= set(points["pods"])
    assert "after ModifyNetworkInterfaceAttribute" in points["routed"]
    assert sum(map(len, points.values())) < MOST


@pytest.mark.parametrize(("story", "part"), [(story, part) for story, parts in PARTS.items() for part in range(parts)])
def test_after_a_crash_at_any_point_the_next_start_finishes_or_undoes(
    points: dict[str, list[str]], story: str, part: int
) -> None:
    """All points of a part, one after the other."""
    for number, what in list(enumerate(points[story]))[part :: PARTS[story]]:
        try:
            virtual_time.run(partial(tell, story, number))
        except Exception as error:
            raise AssertionError(f"a crash at point {number} ({what})") from error
