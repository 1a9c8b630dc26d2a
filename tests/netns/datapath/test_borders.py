"""What pods may reach, and whose address they have outside the VPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address

import pytest

from datapath.borders import USUAL, Borders
from datapath.network import Network
from eniway import names
from eniway.model import Lease
from tests.netns.datapath.fabric import (
    POD_CIDRS,
    SERVICE_CIDR,
    VSWITCH,
    Namespace,
    Node,
    Vpc,
    boot,
    exclusive_lease,
    instance_address,
    routed_lease,
    shared_lease,
    talk,
)

METADATA = IPv4Address(names.METADATA_SERVICE)
INTERNET = IPv4Address("203.0.113.5")
TRANSLATED = Borders(inside=frozenset({VSWITCH, POD_CIDRS}))
LeaseOf = Callable[[Vpc, Node, Namespace], Lease]
KINDS = (shared_lease, routed_lease, exclusive_lease)
every_kind = pytest.mark.parametrize("lease_of", KINDS)


@pytest.fixture
async def node(vpc: Vpc, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    """A node with the borders of the test's parameter, in a VPC that leads to the metadata service and to the world."""
    vpc.router.ip(f"addr add {METADATA}/32 dev lo", f"addr add {INTERNET}/32 dev lo")
    async with AsyncExitStack() as stack:
        yield await boot(vpc, stack, request.param)


def with_borders(borders: Borders) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("node", [borders], indirect=True, ids=[""])


async def pod_of(vpc: Vpc, node: Node, lease_of: LeaseOf) -> tuple[Namespace, Lease]:
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    await node.network.attach(lease)
    return pod, lease


@with_borders(USUAL)
async def test_pods_do_not_reach_the_metadata_service(vpc: Vpc, node: Node) -> None:
    """They are told so at once; the node itself reaches it."""
    assert talk(node, vpc.router, METADATA) == node.address
    for lease_of in KINDS:
        pod, _ = await pod_of(vpc, node, lease_of)
        with pytest.raises(OSError, match="No route to host"):
            talk(pod, vpc.router, METADATA)


@with_borders(USUAL)
@every_kind
async def test_no_service_leads_to_the_metadata_service(vpc: Vpc, node: Node, lease_of: LeaseOf) -> None:
    """Somebody may make an EndpointSlice of it: what counts is where the packet goes in the end."""
    pod, _ = await pod_of(vpc, node, lease_of)
    node.nat(f"-A PREROUTING -d 172.21.0.9/32 -p tcp --dport 80 -j DNAT --to-destination {METADATA}:8080")
    with pytest.raises(OSError, match="No route to host"):
        talk(pod, vpc.router, METADATA, dial=(IPv4Address("172.21.0.9"), 80))


@with_borders(Borders(metadata=True))
@every_kind
async def test_pods_may_be_let_through_to_it(vpc: Vpc, node: Node, lease_of: LeaseOf) -> None:
    """With their own address."""
    pod, lease = await pod_of(vpc, node, lease_of)
    assert talk(pod, vpc.router, METADATA) == lease.address


@with_borders(USUAL)
@every_kind
async def test_pods_keep_their_address_outside(vpc: Vpc, node: Node, lease_of: LeaseOf) -> None:
    """Without translation."""
    pod, lease = await pod_of(vpc, node, lease_of)
    assert talk(pod, vpc.router, INTERNET) == lease.address


@with_borders(TRANSLATED)
@every_kind
async def test_pods_on_veths_take_the_nodes_address_outside(
    vpc: Vpc, node: Node, outside: Namespace, lease_of: LeaseOf
) -> None:
    """By the primary card; inside the VPC and at the cloud's own services they keep theirs."""
    cloud = IPv4Address("100.100.2.136")
    vpc.router.ip(f"addr add {cloud}/32 dev lo")
    pod, lease = await pod_of(vpc, node, lease_of)
    abroad = lease.address if lease_of is exclusive_lease else node.address
    for protocol in ("tcp", "udp"):
        assert talk(pod, vpc.router, INTERNET, protocol=protocol) == abroad
        assert talk(pod, vpc.router, cloud, protocol=protocol) == lease.address
    assert talk(pod, outside, instance_address(outside)) == lease.address


@with_borders(TRANSLATED)
@every_kind
async def test_a_client_outside_is_answered_by_the_card_it_called(vpc: Vpc, node: Node, lease_of: LeaseOf) -> None:
    """What it began is not translated."""
    pod, lease = await pod_of(vpc, node, lease_of)
    assert talk(vpc.router, pod, lease.address, source=INTERNET) == INTERNET


@with_borders(TRANSLATED)
async def test_other_borders_take_the_place_of_those_before(vpc: Vpc, node: Node) -> None:
    """A daemon that starts with another configuration leaves nothing of the last one's."""
    pod, lease = await pod_of(vpc, node, shared_lease)
    async with Network(path=node.path, borders=Borders(metadata=True)) as network:
        await network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
    assert talk(pod, vpc.router, INTERNET) == talk(pod, vpc.router, METADATA) == lease.address
    assert len(node.show("rule").splitlines()) == len(("local", "pods", "eth1", "main", "default"))


@with_borders(TRANSLATED)
async def test_what_looks_outside_before_translation_may_be_inside(vpc: Vpc, node: Node, outside: Namespace) -> None:
    """A Service's external address that kube-proxy leads to a pod of the VPC: the pod's own address and card."""
    pod, lease = await pod_of(vpc, node, shared_lease)
    server = instance_address(outside)
    node.nat(f"-A PREROUTING -d 198.51.100.9/32 -p tcp --dport 80 -j DNAT --to-destination {server}:8080")
    assert talk(pod, outside, server, dial=(IPv4Address("198.51.100.9"), 80)) == lease.address
