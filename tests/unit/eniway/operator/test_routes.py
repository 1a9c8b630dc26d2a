"""The duty of the leader that keeps routes, over a cloud on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec
import pytest

from eniallocator.routes import NodeRoute
from eniway.config import NodeConfig
from eniway.kube.client import KubeClient
from eniway.kube.events import ObjectRef, Recorder
from eniway.kube.reflector import Reflector
from eniway.kube.views import Node, NodeNetwork
from eniway.operator.routes import Routes
from tests.box.route_world import RouteWorld, route_world
from vpcbox.faults import Kind, Rule

CONFIG = NodeConfig(cluster="box", vswitches=["vsw-1"], security_groups=["sg-1"], service_cidr="172.21.0.0/20")


class Copy:
    """A reflector of objects that do not change."""

    generation = 1

    def __init__(self, items: Mapping[str, Any]) -> None:
        self.items = items

    async def changed(self, _since: int) -> None:
        await asyncio.Event().wait()


class Server:
    """Remembers the paths that were written to."""

    def __init__(self) -> None:
        self.written: asyncio.Queue[str] = asyncio.Queue()

    async def request(self, _method: str, path: str, **_: Any) -> dict[str, Any]:
        self.written.put_nowait(path)
        return {}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[RouteWorld]:
    async with route_world(tmp_path) as made:
        yield made


def node(want: NodeRoute) -> Node:
    spec = {"podCIDR": str(want.destination), "providerID": f"cn-box.{want.instance_id}"}
    return msgspec.convert({"metadata": {"name": want.node}, "spec": spec}, Node)


@contextlib.asynccontextmanager
async def leading(routes: Routes) -> AsyncIterator[None]:
    task = asyncio.ensure_future(routes.run())
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- the cloud counts calls and tells nobody
        await asyncio.sleep(0.01)


async def test_what_an_earlier_leadership_knew_is_told_by_no_later_one(cloud: RouteWorld) -> None:
    """The route went while somebody else led, and the cloud is too busy to say so: nothing is known, nothing told."""
    (want,) = await cloud.nodes(1)
    server = Server()
    with cloud.api() as api:
        routes = Routes(
            CONFIG,
            region="cn-box",
            vpc=cloud.vpc_id,
            api=api,
            client=cast("KubeClient", server),
            nodes=cast("Reflector[Node]", Copy({want.node: node(want)})),
            networks=cast("Reflector[NodeNetwork]", Copy({})),
            recorder=cast("Recorder", None),
            about=ObjectRef("v1", "Lease", "lock", "kube-system"),
            clock=cloud.clock,
            random=Random(1),
        )
        async with leading(routes):
            assert await server.written.get() == f"/api/v1/nodes/{want.node}/status"
        await cloud.quiet()
        await cloud.remove(cloud.custom[str(want.destination)])
        cloud.faults.add(Rule(Kind.ERROR, "DescribeRouteEntryList", code="Throttling.User", status=400))
        asked = len(cloud.calls)
        async with leading(routes):
            await until(lambda: cloud.calls[asked:].count("DescribeRouteEntryList") >= 3)
        assert server.written.empty()
