"""A cloud on loopback with instances, a route table and the operator's client of it; time runs fast for all alike."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from random import Random

from aiohttp import web

from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.vpc import VpcRoutes
from eniallocator.routes import NodeRoute
from eniway.model import InstanceId
from tests.box.allocator_world import KEY, SECRET, SPEED, FastClock
from vpcbox.faults import Faults
from vpcbox.openapi.credentials import Credentials
from vpcbox.openapi.server import application as openapi
from vpcbox.world.clock import Clock as BoxClock
from vpcbox.world.instance_types import load
from vpcbox.world.model import RouteEntry, RouteType
from vpcbox.world.route_table import RouteTable
from vpcbox.world.routing import Unwanted, Wanted
from vpcbox.world.wire import NoWire
from vpcbox.world.world import World


@dataclass
class RouteWorld:
    """A VPC, its instances, and who asks for what."""

    world: World
    faults: Faults
    vpc_id: str
    vswitch_id: str
    group_id: str
    endpoint: str
    directory: Path
    calls: list[str] = field(default_factory=list)
    clock: FastClock = field(default_factory=FastClock)

    @property
    def table(self) -> RouteTable:
        return self.world.route_table(self.world.vpcs[self.vpc_id].route_table_id)

    @property
    def custom(self) -> dict[str, RouteEntry]:
        """The entries somebody made, by destination."""
        entries = self.table.entries.values()
        return {str(entry.destination): entry for entry in entries if entry.type is RouteType.CUSTOM}

    async def instance(self, name: str) -> InstanceId:
        made = await self.world.create_instance(name, "ecs.g7.large", self.vswitch_id, [self.group_id])
        return InstanceId(made.id)

    async def nodes(self, count: int) -> list[NodeRoute]:
        """Nodes with an instance and a /24 each."""
        return [
            NodeRoute(f"node-{n}", IPv4Network((0xAC140000 + (n << 8), 24)), await self.instance(f"node-{n}"))
            for n in range(count)
        ]

    async def add(self, *destinations: str, instance_id: str) -> RouteEntry:
        """Entries that somebody made by hand, in force; the first of them."""
        wanted = [Wanted(self.table.id, IPv4Network(destination), instance_id) for destination in destinations]
        made = self.world.routing.create(wanted, around_vswitches=True)
        await self.quiet()
        first = made[0]
        assert isinstance(first, RouteEntry), first
        return self.table.entries[first.id]

    async def remove(self, entry: RouteEntry) -> None:
        """An entry, taken away by somebody."""
        self.world.routing.delete([Unwanted(self.table.id, entry.id)])
        await self.quiet()

    async def quiet(self) -> None:
        while self.table.changing:  # noqa: ASYNC110 -- the world tells the wire, not its readers
            await asyncio.sleep(0.01)

    def cloud(self) -> EcsCloud:
        limiter = Limiter(calls_per_minute=1000, clock=self.clock, random=Random(1))
        return EcsCloud(
            region="cn-box",
            endpoint=self.endpoint,
            keys=KeyFiles(self.directory),
            limiter=limiter,
            clock=self.clock,
        )

    @contextlib.contextmanager
    def api(self) -> Iterator[VpcRoutes]:
        cloud = self.cloud()
        try:
            yield VpcRoutes(cloud)
        finally:
            cloud.close()


@contextlib.asynccontextmanager
async def route_world(directory: Path, *, speed: float = SPEED) -> AsyncIterator[RouteWorld]:
    """Serve it on loopback. Instances take no time to make."""
    clock = BoxClock(speed)
    faults = Faults()
    world = World(clock, NoWire(), Random(7), load(), faults=faults)
    vpc = world.create_vpc("box", IPv4Network("10.0.0.0/16"))
    vswitch = world.create_vswitch("nodes", vpc.id, IPv4Network("10.0.0.0/20"))
    group = world.create_security_group("box", vpc.id)
    credentials = Credentials(clock)
    credentials.add(KEY, SECRET)
    (directory / "access_key_id").write_text(KEY)
    (directory / "access_key_secret").write_text(SECRET)
    calls: list[str] = []

    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        calls.append(request.query.get("Action", "?"))
        return await handler(request)

    app = openapi(world, credentials, faults)
    app.middlewares.append(count)
    runner = web.AppRunner(app)
    await runner.setup()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.run())
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            endpoint = f"http://{host}:{port}"
            yield RouteWorld(world, faults, vpc.id, vswitch.id, group.id, endpoint, directory, calls)
        finally:
            await runner.cleanup()
            running.cancel()
