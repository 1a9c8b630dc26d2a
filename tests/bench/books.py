"""`python -m tests.bench.books`: figures of the allocator alone, without a box.

Speed of leases and of looks at the books in real time; calls and quotas in virtual time, against the simulator over
real HTTP. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from statistics import median, quantiles

from eniallocator import Books, SystemClock
from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.switch import Switch
from eniallocator.ledger import Ledger
from eniallocator.opening import Opening
from eniallocator.records import Identity, Put, TypeLimits, Use
from eniallocator.vswitches import VSwitches
from eniway import log
from eniway.config import NodeConfig, PoolConfig
from eniway.model import (
    ContainerId,
    InstanceId,
    Kind,
    LeaseKey,
    Mac,
    PodRef,
    PodUid,
    Slot,
    VSwitchId,
)
from tests.bench.figures import Figure, table
from tests.box import virtual_time
from tests.box.allocator_world import NodeWithoutKernel, Rig, rig
from tests.box.mortal import mortal
from tests.box.virtual_time import AllocatorClock, CloudClock, VirtualLoop
from tests.unit.eniallocator.made import eni, primary_of, secondary
from vpcbox.faults import Kind as FaultKind
from vpcbox.faults import Rule
from vpcbox.world.clock import Clock as BoxClock

CARDS, ADDRESSES = 14, 50
HELD = 250
NODES = 150
PER_MINUTE = 60


@asynccontextmanager
async def big_books(directory: Path) -> AsyncIterator[Books]:
    """Fourteen cards with fifty addresses each, in memory and on disk, and nobody to ask."""
    clock, random = SystemClock(), Random(1)
    cards = [eni(0), *(eni(slot) for slot in range(1, CARDS + 1))]
    ledger = await asyncio.to_thread(Ledger.open, directory / "ledger.db")
    firsts = [primary_of(card) for card in cards]
    others = [secondary(card, number) for card in cards for number in range(1, ADDRESSES)]
    await ledger.write(*map(Put, cards), *map(Put, [*firsts, *others]))
    primary = cards[0]
    assert primary.mac is not None
    assert primary.address is not None
    config = NodeConfig(
        cluster="bench",
        vswitches=["vsw-1"],
        security_groups=["sg-1"],
        service_cidr="172.21.0.0/20",
        pool=PoolConfig(exclusive_slots=0, cooldown_seconds=0.0),
    )
    opening = Opening(
        ledger=ledger,
        contents=ledger.contents(),
        identity=Identity(
            InstanceId("i-1"),
            "ecs.g7.32xlarge",
            "cn-box",
            "cn-box-a",
            "vpc-1",
            primary.known_id,
            Mac(primary.mac),
            VSwitchId("vsw-1"),
            primary.address,
            IPv4Network("10.0.0.0/24"),
            primary.address,
        ),
        limits=TypeLimits(CARDS + 1, ADDRESSES),
        vswitches=VSwitches([VSwitchId("vsw-1")], zone="cn-box-a"),
        pod_cidr=None,
        forwards=False,
        opened_by_us=False,
        rebuilt=False,
    )
    cloud = EcsCloud(
        region="cn-box",
        endpoint="http://127.0.0.1:1",
        keys=KeyFiles(directory),
        limiter=Limiter(calls_per_minute=1, clock=clock, random=random),
        clock=clock,
    )
    books = Books(
        opening,
        config=config,
        cloud=cloud,
        kernel=NodeWithoutKernel(clock),
        clock=clock,
        random=random,
        new_id=lambda: "token",
        fell_back=lambda _pod, _why: None,
        refused=lambda _pod, _why: None,
        kubelet=_no_slots,
        switch=Switch(),
    )
    books._inventory.kernel_knows |= {card.token for card in cards if card.use is Use.SHARED}
    try:
        yield books
    finally:
        await books.close()
        cloud.close()


async def _no_slots() -> tuple[Slot, ...]:
    return ()


async def _acquire(books: Books, name: str) -> None:
    key = LeaseKey("eniway", ContainerId(name), "eth0")
    pod = PodRef("default", name, PodUid(name))
    deadline = time.monotonic() + 60
    await books.acquire(key, pod, kind=Kind.SHARED, slot=None, netns=f"/run/netns/{name}", deadline=deadline)
    await books.confirm(key)


async def leases() -> list[Figure]:
    """Durable leases beside 250 held ones, one after the other and many at once; and what a look at the books costs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        async with big_books(Path(directory)) as books:
            await asyncio.gather(*(_acquire(books, f"held-{number}") for number in range(HELD)))
            gc.collect()
            alone: list[float] = []
            for number in range(1000):
                began = time.perf_counter()
                await _acquire(books, f"one-{number}")
                alone.append(time.perf_counter() - began)
                await books.release(LeaseKey("eniway", ContainerId(f"one-{number}"), "eth0"))
            rates: list[float] = []
            for turn in range(10):
                began = time.perf_counter()
                await asyncio.gather(*(_acquire(books, f"many-{turn}-{number}") for number in range(300)))
                rates.append(300 / (time.perf_counter() - began))
                for number in range(300):
                    await books.release(LeaseKey("eniway", ContainerId(f"many-{turn}-{number}"), "eth0"))
            looks: list[float] = []
            for number in range(200):
                await _acquire(books, f"look-{number}")
                began = time.perf_counter()
                books.status()
                looks.append(time.perf_counter() - began)
    return [
        Figure("durable lease, 250 held: p99", quantiles(alone, n=100)[98] * 1e3, "ms", 5.0),
        Figure("durable lease, 250 held: median", median(alone) * 1e3, "ms"),
        Figure("durable leases at once: rate", median(rates), "/s", 2000.0, at_least=True),
        Figure("status of 14 cards with 50 addresses each: median", median(looks) * 1e3, "ms", 1.0),
    ]


class _Arrivals:
    """When calls arrived, in their order: a loop that watched for them would keep the senders' threads from running."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        self.times.append(time.perf_counter())
        yield


async def call_sent() -> list[Figure]:
    """From an ADD that finds nothing to the Create's arrival at the OpenAPI."""
    spans: list[float] = []
    for _ in range(50):
        arrivals = _Arrivals()
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            async with (
                rig(
                    Path(directory),
                    box_clock=BoxClock(40.0),
                    own_clock=SystemClock(),
                    answering=arrivals.one,
                ) as cloud,
                cloud.books(exclusive_slots=0, min_idle_addresses=0) as books,
            ):
                await cloud.until(lambda: books._pool.started, within=30.0)
                await asyncio.sleep(0.1)
                began = time.perf_counter()
                await cloud.add(books, "web")
                spans.append(arrivals.times[cloud.calls.index("CreateNetworkInterface")] - began)
    return [
        Figure("short pool to cloud call received: worst of 50", max(spans) * 1e3, "ms", 20.0),
        Figure("short pool to cloud call received: median", median(spans) * 1e3, "ms"),
    ]


async def calls_for_pods() -> list[Figure]:
    """Every pod of a type with 8 ENIs of 30 addresses at once from zero, and then as many that come and go."""
    count = 7 * 29
    with tempfile.TemporaryDirectory() as directory:
        async with mortal(
            Path(directory), Random(1), instance_type="ecs.g7.4xlarge", exclusive_slots=0, idle_seconds=300.0
        ) as life:
            await life.live()
            await asyncio.gather(*(life.add(f"web-{number}") for number in range(count)))
            at_once = len(life.cloud.calls)
            said = Counter(life.cloud.calls)
            for number in range(100, count):
                await life.release(f"web-{number}")
            await asyncio.sleep(900.0)
            before = Counter(life.cloud.calls)
            for turn in range(12):
                if turn == 2:
                    before = Counter(life.cloud.calls)
                for number in range(50):
                    await life.release(f"web-{number}")
                    await life.add(f"web-{number}")
                await asyncio.sleep(40.0 + turn)
            churn = Counter(life.cloud.calls) - before
            await life.kill()
    writes = sum(number for action, number in churn.items() if not action.startswith("Describe"))
    beside = ", ".join(f"{number} {action}" for action, number in sorted(said.items()))
    return [
        Figure(f"calls a pod, {count} at once from zero", at_once / count, "", 0.15, beside=beside),
        Figure("calls for 500 pods that come and go", writes, "", 0.0),
    ]


async def one_quota_for_all() -> list[Figure]:
    """150 nodes start at once with one pod each, under a quota of 60 calls a minute for each Action."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        async with rig(
            root,
            box_clock=CloudClock(),
            own_clock=AllocatorClock(),
            answering=loop.answering,
            pods="10.0.48.0/20",
        ) as cloud:
            return await _fleet(cloud, root)


async def _fleet(cloud: Rig, root: Path) -> list[Figure]:
    nodes = next(iter(cloud.world.vswitches))
    actions = ["CreateNetworkInterface", "AttachNetworkInterface", "AssignPrivateIpAddresses"]
    actions += ["DescribeNetworkInterfaces", "DescribeVSwitches", "DescribeInstanceTypes"]
    for action in actions:
        cloud.faults.add(Rule(FaultKind.THROTTLE, action, per_minute=PER_MINUTE))
    served: list[float] = []
    all_served = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        fleet: list[Books] = []
        for number in range(NODES):
            instance = await cloud.world.create_instance(f"node-{number}", "ecs.g7.xlarge", nodes, [cloud.group])
            cloud.become(instance.id)
            own = root / str(number)
            own.mkdir()
            fleet.append(
                await stack.enter_async_context(
                    cloud.books(run=False, ledger=own / "ledger.db", exclusive_slots=0, min_idle_addresses=1)
                )
            )
        began = cloud.clock.monotonic()

        async def node(books: Books, number: int) -> None:
            running = asyncio.create_task(books.run())
            await cloud.add(books, f"web-{number}", within=7200.0)
            served.append(cloud.clock.monotonic() - began)
            if len(served) == NODES:
                all_served.set()
            await all_served.wait()
            running.cancel()
            await asyncio.wait([running])

        await asyncio.gather(*(node(books, number) for number, books in enumerate(fleet)))
    # What had to be asked, at the pace that the quota allows for the Action most asked for.
    passed = Counter(cloud.passed)
    ideal = max(passed.values()) / PER_MINUTE * 60.0
    beside = ", ".join(f"{number} {action}" for action, number in sorted(passed.items()))
    return [
        Figure("150 nodes under one quota: time ÷ what the quota allows", max(served) / ideal, "", 1.2, beside=beside),
        Figure(
            "150 nodes under one quota: last pod served after", max(served), "s", beside=f"first {min(served):.0f} s"
        ),
    ]


MEMORY = """
import asyncio, tempfile, eniway.node.app
from pathlib import Path
from tests.bench.books import big_books, _acquire, HELD
async def hold():
    with tempfile.TemporaryDirectory() as directory:
        async with big_books(Path(directory)) as books:
            await asyncio.gather(*(_acquire(books, f"held-{n}") for n in range(HELD)))
            print([line for line in open("/proc/self/status") if line.startswith("VmRSS")][0].split()[1])
asyncio.run(hold())
"""


def memory() -> Figure:
    """A process with all of the daemon's modules, the simulator's beside them, and 250 leases."""
    run = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    return Figure("memory at 250 leases, the simulator's modules included", int(run.stdout) / 1024, "MiB", 100.0)


def main() -> int:
    """All, or those whose name is given."""
    log.configure("error")
    logging.disable(logging.CRITICAL)
    real: dict[str, Callable[[], Awaitable[list[Figure]]]] = {"leases": leases, "call": call_sent}
    virtual: dict[str, Callable[[], Awaitable[list[Figure]]]] = {"pods": calls_for_pods, "quota": one_quota_for_all}
    asked = sys.argv[1:] or [*real, *virtual, "memory"]
    figures: list[Figure] = []
    for name in asked:
        if name in real:
            figures += asyncio.run(_awaited(real[name]))
        elif name in virtual:
            figures += virtual_time.run(virtual[name])
        else:
            figures.append(memory())
    sys.stdout.write(table(figures) + "\n")
    return 0 if all(figure.holds for figure in figures) else 1


async def _awaited(measure: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await measure()


if __name__ == "__main__":
    sys.exit(main())
