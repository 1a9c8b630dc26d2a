"""A cloud on loopback: real HTTP, the real SDK; time stands still unless a test moves it."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

from vpcbox.faults import Faults
from vpcbox.metadata.server import application as metadata
from vpcbox.openapi.credentials import Credentials
from vpcbox.openapi.ram import Ram
from vpcbox.openapi.server import LONGEST_LINE
from vpcbox.openapi.server import application as openapi
from vpcbox.world.clock import VirtualClock
from vpcbox.world.instance_types import load
from vpcbox.world.model import Instance
from vpcbox.world.wire import NoWire
from vpcbox.world.world import Latency, World

KEY = "LTAItestkey"
SECRET = "testsecret"


@dataclass
class Box:
    """A world with its services, and ways to talk to them."""

    clock: VirtualClock
    world: World
    faults: Faults
    credentials: Credentials
    ram: Ram
    vpc_id: str
    vswitch_id: str
    small_vswitch_id: str  # 12 addresses
    group_id: str
    instance: Instance  # ecs.g7.xlarge: 4 ENIs, 15 addresses each
    hardened: Instance
    http: ClientSession
    endpoint: str = ""
    metadata_url: str = ""
    asks: dict[str, str | None] = field(default_factory=dict)  # which instance the metadata service takes a caller for

    def client(self, key: str = KEY, secret: str = SECRET, token: str | None = None) -> AcsClient:
        """The official SDK, V1; with a token of a session's key."""
        key_pair: Any = {"ak": key, "secret": secret}
        credential = {"credential": StsTokenCredential(key, secret, token)} if token else key_pair
        client = AcsClient(region_id="cn-box", auto_retry=False, timeout=10, connect_timeout=5, **credential)
        client.add_endpoint("cn-box", "Ecs", self.endpoint)
        client.add_endpoint("cn-box", "Vpc", self.endpoint)
        return client

    async def call(self, action: str, /, *, version: str = "2014-05-26", **params: object) -> dict[str, Any]:
        """Any Action through the official SDK; lists become Name.1, Name.2; raises its ServerException."""
        request = CommonRequest(domain=self.endpoint, version=version, action_name=action)
        request.set_method("POST")
        request.set_protocol_type("http")
        for name, value in params.items():
            if isinstance(value, list):
                for n, item in enumerate(value, 1):
                    request.add_query_param(f"{name}.{n}", item)
            else:
                request.add_query_param(name.replace("__", "."), value)
        answer: dict[str, Any] = json.loads(await asyncio.to_thread(self.client().do_action_with_exception, request))
        return answer

    async def send(self, request: Any, client: AcsClient | None = None) -> dict[str, Any]:
        """A request object of the SDK."""
        client = client or self.client()
        answer: dict[str, Any] = json.loads(await asyncio.to_thread(client.do_action_with_exception, request))
        return answer

    async def create(self, **params: Any) -> str:
        """A new ENI's id."""
        given = {"VSwitchId": self.vswitch_id, "SecurityGroupId": self.group_id, **params}
        return str((await self.call("CreateNetworkInterface", **given))["NetworkInterfaceId"])

    async def attach(self, eni_id: str) -> str:
        """The ENI, attached to the instance."""
        await self.call("AttachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=self.instance.id)
        await self.clock.advance(10)
        return eni_id

    async def eni(self, eni_id: str) -> dict[str, Any] | None:
        """The ENI as the API describes it."""
        answer = await self.call("DescribeNetworkInterfaces", NetworkInterfaceId=[eni_id])
        return next(iter(answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]), None)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK hands the environment's proxies even to loopback."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    """A VPC with two vSwitches and two instances. Create and Assign take no time; attach and the like do."""
    clock = VirtualClock()
    faults = Faults()
    credentials = Credentials(clock)
    credentials.add(KEY, SECRET)
    world = World(clock, NoWire(), random.Random(7), load(), faults=faults, latency=Latency(create=0.0, assign=0.0))
    vpc = world.create_vpc("box", IPv4Network("10.0.0.0/16"))
    vswitch = world.create_vswitch("pods", vpc.id, IPv4Network("10.0.16.0/20"))
    small = world.create_vswitch("small", vpc.id, IPv4Network("10.0.0.0/28"))
    group = world.create_security_group("default", vpc.id)
    asks: dict[str, str | None] = {}

    def instance_of(address: IPv4Address) -> str | None:
        return asks.get(str(address))

    async with ClientSession() as http, contextlib.AsyncExitStack() as stack:
        running = asyncio.create_task(world.run())
        await asyncio.sleep(0)
        instance = await world.create_instance("node-1", "ecs.g7.xlarge", vswitch.id, [group.id], ram_role="node-role")
        hardened = await world.create_instance("node-2", "ecs.g6.large", vswitch.id, [group.id], http_tokens="required")
        ram = Ram()
        api = await _serve(openapi(world, credentials, faults, ram), stack)
        meta = await _serve(metadata(world, instance_of, credentials), stack)
        yield Box(
            clock=clock,
            world=world,
            faults=faults,
            credentials=credentials,
            ram=ram,
            vpc_id=vpc.id,
            vswitch_id=vswitch.id,
            small_vswitch_id=small.id,
            group_id=group.id,
            instance=instance,
            hardened=hardened,
            http=http,
            endpoint=api,
            metadata_url=f"http://{meta}/latest",
            asks=asks,
        )
        running.cancel()
        await asyncio.wait([running])


async def _serve(app: web.Application, stack: contextlib.AsyncExitStack) -> str:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, max_line_size=LONGEST_LINE)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"{host}:{port}"
