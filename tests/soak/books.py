"""`python -m tests.soak.books`: an allocator under every fault of the cloud and killed at any await, for long.

Each story has a seed, printed before it begins; ``--seed`` tells it again. What must be so is checked after every step
(``tests.box.mortal``), and when all faults have ended, that books and cloud agree and nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random

from eniallocator.cloud.switch import Calls
from eniway import log
from eniway.config import PodsMayChoose
from eniway.errors import CapacityError, EniwayError, NotReady
from eniway.model import NO_CHOICE, Choice, SecurityGroupId
from tests.box import virtual_time
from tests.box.allocator_world import SECRET
from tests.box.mortal import COOLDOWN, IN_MEMORY, Life, mortal
from vpcbox.faults import Kind, Rule

WRITES = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
]
READS = ["DescribeNetworkInterfaces", "DescribeVSwitches", "DescribeInstanceTypes"]
PODS = 60
Step = Callable[[], Awaitable[None]]


class Story:
    """Random steps of a life."""

    def __init__(self, life: Life, random: Random) -> None:
        self.life = life
        self.random = random
        self.adds: dict[str, asyncio.Task[None]] = {}
        self.steps: dict[str, int] = {}
        self.failures: list[Exception] = []
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    async def tell(self, steps: int) -> None:
        """All of it."""
        await self.life.live()
        try:
            for _ in range(steps):
                await self._step()
                self.life.check()
                assert not self.failures, self.failures
            await self._end()
        finally:
            for task in self.adds.values():
                task.cancel()
            await self.life.kill()

    def weights(self) -> dict[Step, int]:
        """How often each step is taken."""
        return {
            self._add: 60,
            self._delete: 36,
            self._time: 60,
            self._fault: 16,
            self._calm: 14,
            self._kill: 8,
            self._vswitch: 1,
            self._key: 1,
            self._jump: 1,
            self._disk: 1,
            self._turn_switch: 1,
        }

    async def _step(self) -> None:
        weights = self.weights()
        (step,) = self.random.choices(list(weights), list(weights.values()))
        self.steps[step.__name__] = self.steps.get(step.__name__, 0) + 1
        await step()

    async def _add(self) -> None:
        name = f"pod-{self.random.randrange(PODS)}"
        if name in self.adds or name in self.life.names():
            return
        slots = self.life.slots()
        slot = self.random.choice(slots) if slots and self.random.random() < 0.15 else None
        if slot is not None and any(held.card.slot == slot for held in self.life.told.values()):
            slot = None
        within = self.random.choice([0.0, 1.0, 30.0, 200.0])
        groups = self.life.cloud.may_choose.security_groups
        choice = NO_CHOICE
        if slot and groups and self.random.random() < 0.3:
            choice = Choice((SecurityGroupId(self.random.choice(groups)),))
        self.adds[name] = asyncio.create_task(self._one_add(name, slot, within, choice))
        await asyncio.sleep(0)

    async def _one_add(self, name: str, slot: int | None, within: float, choice: Choice) -> None:
        try:
            began = self.life.clock.monotonic()
            released = dict(self.life.released)
            try:
                lease = await self.life.add(name, slot=slot, within=within, choice=choice)
            except (NotReady, CapacityError) as error:
                self.refused[str(error)] += 1
            else:
                self.served[lease.kind] += 1
                for address in {lease.address, lease.service_address} & released.keys():
                    rested = self.life.clock.monotonic() - released[address]
                    assert rested >= COOLDOWN, f"{address} rested for {rested} s, asked for at {began}"
        except (EniwayError, AssertionError) as error:
            self.failures.append(error)
        finally:
            self.adds.pop(name, None)

    async def _delete(self) -> None:
        names = self.life.names()
        for name in self.random.sample(names, min(len(names), self.random.choice([1, 1, 2, 5, PODS]))):
            await self.life.release(name)

    async def _time(self) -> None:
        await asyncio.sleep(self.random.choice([0.0, 0.05, 0.3, 1.0, 3.0, 10.0, 40.0, 90.0]))

    async def _fault(self) -> None:
        count = self.random.choice([1, 1, 2, 4])
        action = self.random.choice(WRITES + READS)
        rules = [
            Rule(Kind.ERROR, action, count=count),
            Rule(Kind.ERROR, action, code="Operation.Conflict", status=403, count=count),
            Rule(Kind.ERROR, action, code="ServiceUnavailable", status=503, count=count),
            Rule(Kind.LOST_ANSWER, self.random.choice(WRITES), count=count),
            Rule(Kind.LOST_ANSWER, self.random.choice(WRITES), code="RequestTimeout", status=504, count=count),
            Rule(Kind.NO_ANSWER, self.random.choice(WRITES), count=count),
            Rule(Kind.EMPTY_ANSWER, "DescribeNetworkInterfaces", count=count),
            Rule(Kind.SLOW, "AttachNetworkInterface", seconds=30.0, count=count),
            Rule(Kind.STOCK_LAG, self.random.choice(self.life.cloud.vswitches), seconds=60.0),
            Rule(Kind.DELAY, action, seconds=self.random.choice([1.0, 8.0, 30.0]), count=count),
            Rule(Kind.STUCK, self.random.choice(["DetachNetworkInterface", "DeleteNetworkInterface"]), count=count),
            Rule(Kind.LOST_ATTACH, "AttachNetworkInterface", count=count),
            Rule(Kind.THROTTLE, action, per_minute=1, count=20),
            Rule(Kind.METADATA_LAG, "*", seconds=30.0),
        ]
        self.life.cloud.faults.add(self.random.choice(rules))

    async def _calm(self) -> None:
        self.life.cloud.faults.clear()
        (self.life.cloud.directory / "access_key_secret").write_text(SECRET)
        self.life.turn_switch(Calls.ALL)
        self.life.clear_disk()
        await asyncio.sleep(self.random.choice([5.0, 60.0]))

    async def _kill(self) -> None:
        for _ in range(self.random.randrange(12)):
            await asyncio.sleep(0)
        await self._restart()

    async def _restart(self) -> None:
        for task in tuple(self.adds.values()):
            task.cancel()
        self.adds.clear()
        await self.life.kill()
        await self._while_dead()
        await asyncio.sleep(self.random.choice([0.0, 0.2, 2.0, 30.0]))
        await self.life.live()

    async def _while_dead(self) -> None:
        """What happens between two lives."""

    async def _vswitch(self) -> None:
        self.life.cloud.faults.add(Rule(Kind.VSWITCH_EMPTY, self.random.choice(self.life.cloud.vswitches)))

    async def _key(self) -> None:
        (self.life.cloud.directory / "access_key_secret").write_text("no-longer-good")

    async def _jump(self) -> None:
        self.life.clock.jumped += self.random.choice([-7200.0, -40.0, 40.0, 7200.0])
        # Written times mean nothing across it.
        self.life.released.clear()

    async def _disk(self) -> None:
        self.life.fill_disk()

    async def _turn_switch(self) -> None:
        self.life.turn_switch(self.random.choice([Calls.NONE, Calls.NO_RELEASES]))

    async def _end(self) -> None:
        """All is well again: pods go, and nothing stays behind."""
        await self._calm()
        if self.adds:
            await asyncio.wait(self.adds.values(), timeout=400.0)
        await self.life.settle()
        for name in self.life.names():
            await self.life.release(name)
        await asyncio.sleep(900.0)
        await self.life.settle()
        assert self.life.idle() <= 10, f"{self.life.idle()} addresses lie idle"


async def story(seed: int, steps: int) -> Story:
    """One story on a rig of its own."""
    random = Random(seed)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        async with mortal(
            Path(directory), Random(f"life {seed}"), exclusive_slots=1, cooldown_seconds=COOLDOWN
        ) as life:
            world = life.cloud.world
            vpc_id = next(iter(world.enis.values())).vpc_id
            group = world.create_security_group("chosen", vpc_id).id
            life.cloud.may_choose = PodsMayChoose(security_groups=[group, "sg-unknown"])
            told = Story(life, random)
            await told.tell(steps)
            return told


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Of a command that tells stories."""
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=500, help="steps of one story")
    parser.add_argument("--seed", type=int, help="tell this one only")
    parser.add_argument("--log", default="error")
    parser.add_argument("--why", type=int, default=0, help="so many of the reasons for refusals are told")
    return parser.parse_args()


def tell(what: str, story: Callable[[int, int], Awaitable[Story]], options: argparse.Namespace) -> int:
    """Stories until all steps are done; each with a seed of its own, printed before it begins."""
    log.configure(options.log)
    logging.getLogger("aliyunsdkcore").setLevel(logging.CRITICAL)
    seeds = [options.seed] if options.seed is not None else range(time.time_ns() % 10**6, 10**9)
    done = 0
    for seed in seeds:
        sys.stdout.write(f"{what}: seed {seed}, {options.each} steps\n")
        sys.stdout.flush()
        told = virtual_time.run(partial(story, seed, options.each))
        done += options.each
        sys.stdout.write(f"  {told.life.lives} lives, {len(told.life.cloud.calls)} calls, {told.steps}\n")
        sys.stdout.write(f"  served {dict(told.served)}, refused {told.refused.total()}\n")
        for why, times in told.refused.most_common(options.why):
            sys.stdout.write(f"  {times}: {why}\n")
        if done >= options.steps:
            break
    sys.stdout.write(f"{what}: {done} steps held\n")
    return 0


def main() -> int:
    """Stories of an allocator."""
    return tell("books", story, arguments(argparse.ArgumentParser(description=__doc__)))


if __name__ == "__main__":
    sys.exit(main())
