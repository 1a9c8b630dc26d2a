"""What the operator makes of answers of the OpenAPI, over real HTTP with the real SDK."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from eniallocator.clock import SystemClock
from eniallocator.cloud import errors
from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.fleet import Fleet
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.routes import NewEntry, RouteEntry, RouteStatus
from eniallocator.cloud.vpc import VpcRoutes
from eniway.model import InstanceId

NET = IPv4Network("172.20.1.0/24")
NEW = NewEntry(NET, InstanceId("i-1"), "n", "d")
ENTRY = RouteEntry("rte-1", NET, RouteStatus.AVAILABLE, "Custom", ("i-1",))


@contextlib.asynccontextmanager
async def answering(directory: Path, answer: Any) -> AsyncIterator[EcsCloud]:
    """A client of an OpenAPI that says ``answer`` to everything."""

    async def speak(_: web.Request) -> web.Response:
        return web.json_response(answer)

    (directory / "access_key_id").write_text("key")
    (directory / "access_key_secret").write_text("secret")
    app = web.Application()
    app.router.add_route("*", "/", speak)
    clock = SystemClock()
    async with TestServer(app) as server:
        cloud = EcsCloud(
            region="cn-box",
            endpoint=str(server.make_url("")).rstrip("/"),
            keys=KeyFiles(directory),
            limiter=Limiter(calls_per_minute=1000, clock=clock, random=Random(1)),
            clock=clock,
        )
        try:
            yield cloud
        finally:
            cloud.close()


async def test_a_destination_that_is_no_ipv4_network_is_passed_over(tmp_path: Path) -> None:
    """A prefix list or an IPv6 block, made by somebody else: the other entries are as they are."""
    rows: list[dict[str, Any]] = [
        {"DestinationCidrBlock": "pl-bp1somebodys"},
        {"DestinationCidrBlock": "fd00::/64", "RouteEntryId": "rte-6"},
        {"DestinationCidrBlock": "172.20.1.0/24", "RouteEntryId": "rte-4", "Status": "Available", "Type": "Custom"},
    ]
    async with answering(tmp_path, {"RouteEntrys": {"RouteEntry": rows}}) as cloud:
        (entry,) = await VpcRoutes(cloud).entries("vtb-1")
    assert (entry.entry_id, entry.destination, entry.custom) == ("rte-4", NET, True)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda c: VpcRoutes(c).tables("vpc-1"), {"RouterTableList": {"RouterTableListType": [{}]}}),
        (lambda c: VpcRoutes(c).entries("vtb-1"), {"RouteEntrys": {"RouteEntry": [{}]}}),
        (lambda c: VpcRoutes(c).create("vtb-1", [NEW]), {"FailedRouteEntries": [{"DstCidrBlock": "pl-1"}]}),
        (lambda c: VpcRoutes(c).delete("vtb-1", [ENTRY]), {"FailedRouteEntries": [{"DstCidrBlock": "10.0.0.0/8"}]}),
        (lambda c: VpcRoutes(c).instances([InstanceId("i-1")]), {"Instances": {"Instance": [{}]}}),
        (lambda c: Fleet(c).enis("vpc-1"), {"NetworkInterfaceSets": {"NetworkInterfaceSet": [{"Status": []}]}}),
    ],
    ids=["tables", "entries", "create", "delete", "instances", "enis"],
)
async def test_an_answer_that_cannot_be_read_is_an_error_like_another(
    tmp_path: Path, ask: Callable[[EcsCloud], Awaitable[object]], answer: Any
) -> None:
    """It ends no duty of the operator: asked again, and said as trouble."""
    async with answering(tmp_path, answer) as cloud:
        with pytest.raises(errors.Transient, match="not as documented"):
            await ask(cloud)
        assert cloud.trouble is not None
