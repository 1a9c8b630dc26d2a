"""Fixtures: a VPC, two started nodes in it, and an instance that is none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest

from datapath.borders import USUAL, Borders
from datapath.network import Network
from tests.netns.datapath.fabric import GATEWAY, SERVICE_CIDR, VSWITCH, Namespace, Node, Vpc


@pytest.fixture
def vpc() -> Iterator[Vpc]:
    """An empty VPC."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with router() as vpc:
        yield vpc


@contextmanager
def router() -> Iterator[Vpc]:
    """A VPC's router; it and all that was made in the VPC are gone afterwards."""
    made: list[str] = []
    try:
        vpc = Vpc(Namespace(""), made)
        vpc.router = Namespace(vpc.namespace())
        router = vpc.router
        router.ip(f"addr add {GATEWAY}/32 dev lo")
        for path, value in (("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")):
            router.write(f"net/ipv4/{path}", value)
        router.exec("ipset", "create", "legal", "hash:net,iface")
        for chain in ("FORWARD", "INPUT"):
            router.exec("iptables", "-A", chain, "-m", "set", "!", "--match-set", "legal", "src,src", "-j", "DROP")
        router.exec("iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
        yield vpc
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
async def nodes(vpc: Vpc) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, each with eth1 for shared pods, eth2 and eth3 free, and a podCIDR, started.

    Their primary cards are strict: the way back is always the card that a packet comes in by.
    """
    async with AsyncExitStack() as stack:
        yield await boot(vpc, stack), await boot(vpc, stack)


async def boot(vpc: Vpc, stack: AsyncExitStack, borders: Borders = USUAL) -> Node:
    """One such node, for as long as ``stack`` is open."""
    name = vpc.namespace()
    network = await stack.enter_async_context(Network(path=f"/run/netns/{name}", borders=borders))
    node = vpc.instance(network, name)
    for slot in (1, 2, 3):
        node.cards[slot] = vpc.card(node, slot)
    node.write("net/ipv4/conf/eth0/rp_filter", "1")
    await network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
    await network.prepare_card(node.cards[1])
    vpc.route(node)
    assert node.pod_cidr is not None
    await network.claim_ranges({node.pod_cidr})
    return node


@pytest.fixture
def outside(vpc: Vpc) -> Namespace:
    """An instance that is no node."""
    return instance(vpc)


def instance(vpc: Vpc) -> Namespace:
    """An instance with a primary card and no more."""
    name = vpc.namespace()
    node = Namespace(name)
    card = vpc.card(node, 0)
    node.ip(
        f"addr add {card.address}/{VSWITCH.prefixlen} dev eth0",
        "link set eth0 up",
        f"route add default via {GATEWAY} dev eth0",
    )
    return node
