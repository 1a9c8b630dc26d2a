"""An allocator and a cloud in one process: real HTTP, the real SDK, and the same time for both.

On a loop of virtual time (``tests.box.virtual_time``) that is the loop's, so nothing depends on how fast the machine
is; on any other it is the machine's, running fast.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from unittest.mock import patch

from aiohttp import web

from eniallocator import Books, open_ledger
from eniallocator.clock import Clock
from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.switch import Switch
from eniallocator.ledger import Ledger
from eniway.config import CloudConfig, NodeConfig, PodsMayChoose, PoolConfig
from eniway.errors import DeadlineExceeded, KernelError
from eniway.model import NO_CHOICE, Choice, ContainerId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot, Wish
from eniway.model import Card as PodCard
from tests.box.virtual_time import AllocatorClock, CloudClock, VirtualLoop
from vpcbox.faults import Faults
from vpcbox.metadata.server import application as metadata
from vpcbox.openapi.credentials import Credentials
from vpcbox.openapi.server import application as openapi
from vpcbox.world.clock import Clock as BoxClock
from vpcbox.world.instance_types import load
from vpcbox.world.model import Eni, EniStatus, EniType
from vpcbox.world.wire import Card, Route, Wire
from vpcbox.world.world import World

SPEED = 40.0
KEY, SECRET = "LTAIallocator", "secret-of-the-allocator"


class FastClock:
    """``eniallocator.Clock``, ``SPEED`` times as fast as the machine's."""

    def monotonic(self) -> float:
        return time.monotonic() * SPEED

    def wall(self) -> float:
        return time.time() * SPEED

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / SPEED)

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout_at(when / SPEED)


class NodeWithoutKernel:
    """The box's wire on one side and the allocator's kernel on the other: links are remembered only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.links: dict[Mac, str] = {}
        self.prepared: set[str] = set()
        self.parked: set[str] = set()
        self.in_pods: set[Mac] = set()
        self._news = asyncio.Event()

    async def plug(self, card: Card) -> None:
        self.links[Mac(card.mac)] = card.eni_id
        self.stir()

    async def unplug(self, eni_id: str) -> None:
        self.links = {mac: other for mac, other in self.links.items() if other != eni_id}

    async def update(self, card: Card) -> None:
        """Addresses are not configured here."""

    async def route(self, table: tuple[Route, ...]) -> None:
        """Packets are not carried here."""

    def stir(self) -> None:
        """Something about links has changed."""
        self._news.set()
        self._news = asyncio.Event()

    async def wait_card(self, mac: Mac, *, deadline: float) -> int:
        try:
            async with self._clock.timeout_at(deadline):
                while mac not in self.links or mac in self.in_pods:
                    await self._news.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"no link {mac}") from error
        return 1

    async def prepare_card(self, card: PodCard) -> None:
        if card.mac not in self.links:
            raise KernelError(f"no link {card.mac}")
        self.prepared.add(card.eni_id)

    async def retire_card(self, card: PodCard) -> None:
        self.prepared.discard(card.eni_id)

    async def park_card(self, card: PodCard) -> None:
        if card.mac not in self.links:
            raise KernelError(f"no link {card.mac}")
        self.parked.add(card.eni_id)


@dataclass
class Rig:
    """A cloud, an instance in it, and allocators that come and go on it."""

    world: World
    faults: Faults
    node: NodeWithoutKernel
    instance_id: str
    vswitches: list[str]
    group: str
    endpoint: str
    metadata_url: str
    directory: Path
    become: Callable[[str], None]
    """Let the metadata service take whoever asks for this instance."""
    calls: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    """Those of ``calls`` that were not refused."""
    kubelet_slots: set[Slot] = field(default_factory=set)
    """What kubelet may give away or has given away; as far as a test says so."""
    switch: Switch = field(default_factory=Switch)
    fell_back: list[str] = field(default_factory=list)
    """Pods that got a routed address for want of a shared one, and why."""
    refused: list[str] = field(default_factory=list)
    """Pods that chose what the cloud refused, and why."""
    may_choose: PodsMayChoose = field(default_factory=PodsMayChoose)
    boot_id: str = "boot-1"
    clock: Clock = field(default_factory=FastClock)
    names: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.db"

    def config(self, *, default: Wish = Wish.SHARED, patience: float = 30.0, **pool: float | str) -> NodeConfig:
        return NodeConfig(
            default_network=default.value,
            shared_patience_seconds=patience,
            cluster="box",
            vswitches=self.vswitches,
            security_groups=[self.group],
            pods_may_choose=self.may_choose,
            service_cidr="172.21.0.0/20",
            cloud=CloudConfig(
                endpoint=self.endpoint,
                metadata=self.metadata_url,
                credentials=str(self.directory),
                calls_per_minute=500,
            ),
            pool=PoolConfig(**{"idle_seconds": 10.0, **pool}),  # type: ignore[arg-type]  # counts, seconds, a word
        )

    @contextlib.asynccontextmanager
    async def books(
        self,
        *,
        run: bool = True,
        default: Wish = Wish.SHARED,
        patience: float = 30.0,
        tap: Callable[[Books, EcsCloud], None] | None = None,
        ledger: Path | None = None,
        **pool: float | str,
    ) -> AsyncIterator[Books]:
        """The node's daemon, as far as it concerns the allocator; leaving is a kill."""
        config = self.config(default=default, patience=patience, **pool)
        random = Random(1)
        cloud = EcsCloud(
            region="cn-box",
            endpoint=config.cloud.endpoint,
            keys=KeyFiles(Path(config.cloud.credentials)),
            limiter=Limiter(calls_per_minute=config.cloud.calls_per_minute, clock=self.clock, random=random),
            clock=self.clock,
            switch=self.switch,
        )
        async with Metadata(config.cloud.metadata) as service:
            opening = await open_ledger(
                ledger or self.ledger,
                config=config,
                boot_id=self.boot_id,
                metadata=service,
                clock=self.clock,
                random=random,
            )
        books = Books(
            opening,
            config=config,
            cloud=cloud,
            kernel=self.node,
            clock=self.clock,
            random=random,
            new_id=lambda: f"token-{next(self.names)}",
            fell_back=lambda pod, why: self.fell_back.append(f"{pod}: {why}"),
            refused=lambda pod, why: self.refused.append(f"{pod}: {why}"),
            kubelet=self._slots_of_kubelet,
            switch=self.switch,
        )
        if tap is not None:
            tap(books, cloud)
        task = asyncio.create_task(books.run()) if run else None
        try:
            yield books
        finally:
            if task is not None:
                died = task.done()
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                assert not died
            await books.close()
            cloud.close()

    async def _slots_of_kubelet(self) -> Collection[Slot]:
        return frozenset(self.kubelet_slots)

    def key(self, name: str) -> LeaseKey:
        return LeaseKey("eniway", ContainerId(f"container-of-{name}"), "eth0")

    async def add(
        self,
        books: Books,
        name: str,
        *,
        slot: int | None = None,
        within: float = 200.0,
        uid: str = "",
        wish: Wish = Wish.SHARED,
        choice: Choice = NO_CHOICE,
    ) -> Lease:
        """A whole ADD for a pod."""
        kind = Kind.ROUTED if wish is Wish.ROUTED else Kind.SHARED
        lease = await books.acquire(
            self.key(name),
            PodRef("default", name, PodUid(uid or f"uid-of-{name}")),
            kind=kind if slot is None else Kind.EXCLUSIVE,
            slot=None if slot is None else Slot(slot),
            netns=f"/run/netns/{name}",
            deadline=self.clock.monotonic() + within,
            else_routed=wish is Wish.SHARED_ELSE_ROUTED,
            choice=choice,
        )
        await books.confirm(lease.key)
        return lease

    def cards(self, *, status: EniStatus = EniStatus.IN_USE) -> list[Eni]:
        """Secondary ENIs of the cloud."""
        return [eni for eni in self.world.enis.values() if eni.type is EniType.SECONDARY and eni.status is status]

    async def until(self, holds: Callable[[], bool], *, within: float = 2400.0) -> None:
        """Wait until ``holds``; the state of a cloud has no event a test could await."""
        async with self.clock.timeout_at(self.clock.monotonic() + within):
            while not holds():
                await self.clock.sleep(0.2)

    async def quiet(self) -> None:
        """Wait until the cloud has not been called for a while of box time."""
        seen = -1
        while seen != len(self.calls):
            seen = len(self.calls)
            await self.clock.sleep(16.0)


@contextlib.asynccontextmanager
async def rig(
    directory: Path,
    *,
    instance_type: str = "ecs.g7.xlarge",
    pods: str = "10.0.16.0/24",
    box_clock: BoxClock | None = None,
    own_clock: Clock | None = None,
    wire: Wire | None = None,
    answering: Callable[[], AbstractContextManager[None]] | None = None,
) -> AsyncIterator[Rig]:
    """A VPC with one instance, served on loopback. ``wire``: carries the packets.

    ``own_clock``: the allocator's; ``answering``: entered while a call is answered. None: what is the loop's.
    """
    virtual = loop if isinstance(loop := asyncio.get_running_loop(), VirtualLoop) else None
    clock = box_clock or (BoxClock(SPEED) if virtual is None else CloudClock())
    own = own_clock or (FastClock() if virtual is None else AllocatorClock())
    answered = answering or (contextlib.nullcontext if virtual is None else virtual.answering)
    faults = Faults()
    node = NodeWithoutKernel(own)
    world = World(clock, wire or node, Random(7), load(), faults=faults)
    vpc = world.create_vpc("box", IPv4Network("10.0.0.0/16"))
    nodes = world.create_vswitch("nodes", vpc.id, IPv4Network("10.0.0.0/20"))
    first = world.create_vswitch("pods-1", vpc.id, IPv4Network(pods))
    second = world.create_vswitch("pods-2", vpc.id, IPv4Network("10.0.32.0/20"))
    group = world.create_security_group("box", vpc.id)
    instance = await world.create_instance("node-1", instance_type, nodes.id, [group.id])
    credentials = Credentials(clock)
    credentials.add(KEY, SECRET)
    (directory / "access_key_id").write_text(KEY)
    (directory / "access_key_secret").write_text(SECRET)
    calls: list[str] = []
    passed: list[str] = []
    who = [instance.id]

    def become(instance_id: str) -> None:
        who[0] = instance_id

    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        calls.append(request.query.get("Action", "?"))
        with answered():
            answer = await handler(request)
        if answer.status < 300:
            passed.append(request.query.get("Action", "?"))
        return answer

    api = openapi(world, credentials, faults)
    api.middlewares.append(count)
    async with contextlib.AsyncExitStack() as stack:
        if virtual is not None:
            # Else an hour may pass while a ledger is opened: until somebody's next timer.
            stack.enter_context(patch.object(Ledger, "write", virtual.awaited(Ledger.write)))
        group_of_tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = group_of_tasks.create_task(world.run())
        async with _served(api) as endpoint, _served(metadata(world, lambda _: who[0])) as metadata_url:
            yield Rig(
                world,
                faults,
                node,
                instance.id,
                [first.id, second.id],
                group.id,
                endpoint,
                metadata_url,
                directory,
                become,
                calls,
                passed,
                clock=own,
            )
        running.cancel()


@contextlib.asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def disk_has_what_memory_has(books: Books) -> None:
    """By a moment at which memory stands still while the disk catches up; bounded, for a pool may be at work."""
    for _ in range(20):
        memory = _in_memory(books)
        await books._store.flush()
        if memory == _in_memory(books):
            break
    disk = books._ledger.contents()
    assert (set(disk.enis), set(disk.addresses), set(disk.leases)) == memory


def _in_memory(books: Books) -> tuple[set[object], set[object], set[object]]:
    memory = books._inventory
    return set(memory.enis.values()), set(memory.addresses.values()), set(memory.leases.values())


def condition(books: Books, kind: str) -> tuple[bool, str]:
    (found,) = (condition for condition in books.status()["conditions"] if condition["type"] == kind)
    return found["status"] == "True", found["reason"]
