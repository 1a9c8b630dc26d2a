"""A node's podCIDR as its Node has it, over real HTTP."""

import asyncio
import ssl
from ipaddress import IPv4Network
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from eniway.errors import KubeError
from eniway.kube.client import Connection, KubeClient
from eniway.kube.podcidr import PodCidrReader, pod_cidr

CIDR = IPv4Network("172.20.3.0/24")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"podCIDR": "172.20.3.0/24", "podCIDRs": ["172.20.3.0/24"]}, CIDR),
        ({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "172.20.3.0/24"]}, CIDR),
        ({"podCIDR": "172.20.3.0/24"}, CIDR),
        ({"podCIDRs": ["fd00::/64"]}, None),
        ({}, None),
    ],
)
def test_the_ipv4_network_of_a_node(spec: dict[str, Any], found: IPv4Network | None) -> None:
    """Dual-stack clusters list two; a Node may have none yet."""
    assert pod_cidr({"spec": spec}) == found


def test_what_is_no_network_is_an_error_that_names_the_field() -> None:
    """Rather than no address for any pod and no reason."""
    with pytest.raises(KubeError, match=r"spec\.podCIDRs: .*172\.20\.3\.7/24"):
        pod_cidr({"spec": {"podCIDRs": ["172.20.3.7/24"]}})


async def test_the_node_is_asked_until_it_has_a_pod_cidr() -> None:
    """Through errors, and through the time before one is assigned, which is told."""
    asked: list[str] = []
    answers = [
        web.json_response({"message": "tired"}, status=503),
        web.json_response({"spec": {}}),
        web.json_response({"spec": {"podCIDRs": [str(CIDR)]}}),
    ]

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return answers[len(asked) - 1]

    told: list[IPv4Network | None] = []
    done = asyncio.Event()

    async def found(cidr: IPv4Network | None) -> None:
        told.append(cidr)
        if cidr is not None:
            done.set()

    class Hasty(Random):
        """No pause worth waiting for."""

        def uniform(self, a: float, b: float) -> float:
            return min(a, b, 0.001)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        connection = Connection(str(server.make_url("")).rstrip("/"), ssl.create_default_context(), lambda: None)
        async with KubeClient(connection) as client, asyncio.timeout(20):
            reading = asyncio.create_task(PodCidrReader(client, node="n1", found=found, random=Hasty()).run())
            await done.wait()
            reading.cancel()
    assert told == [None, CIDR]
    assert asked == ["/api/v1/nodes/n1"] * 3
