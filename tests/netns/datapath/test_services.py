"""Pods and Services: the node translates as kube-proxy does (iptables mode, rules written by hand here)."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from eniway.model import Lease
from tests.netns.datapath.fabric import (
    Namespace,
    Node,
    Vpc,
    exclusive_lease,
    instance_address,
    routed_lease,
    shared_lease,
    talk,
)

VIP = IPv4Address("172.21.3.4")
NODE_PORT = 30080


def cluster_ip(node: Node, backend: IPv4Address) -> None:
    """ClusterIP: who calls the VIP gets the backend; a backend that calls itself is masqueraded."""
    node.nat(
        f"-A PREROUTING -d {VIP}/32 -p tcp --dport 80 -s {backend}/32 -j MARK --set-xmark 0x4000/0x4000",
        f"-A PREROUTING -d {VIP}/32 -p tcp --dport 80 -j DNAT --to-destination {backend}:8080",
        f"-A OUTPUT -d {VIP}/32 -p tcp --dport 80 -j DNAT --to-destination {backend}:8080",
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
    )


def node_port(node: Node, backend: IPv4Address, *, local: bool) -> None:
    """NodePort: with externalTrafficPolicy Cluster everything is masqueraded, with Local nothing."""
    mark = f"-A PREROUTING -d {node.address}/32 -p tcp --dport {NODE_PORT} -j MARK --set-xmark 0x4000/0x4000"
    node.nat(
        *(() if local else (mark,)),
        f"-A PREROUTING -d {node.address}/32 -p tcp --dport {NODE_PORT} -j DNAT --to-destination {backend}:8080",
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
    )


async def attached(vpc: Vpc, node: Node, kind: str) -> tuple[Namespace, Lease]:
    """A pod of a kind on a node."""
    pod = vpc.pod()
    match kind:
        case "shared":
            lease = shared_lease(vpc, node, pod)
        case "routed":
            lease = routed_lease(vpc, node, pod)
        case _:
            lease = exclusive_lease(vpc, node, pod, slot=3 if kind == "other exclusive" else 2)
    await node.network.attach(lease)
    return pod, lease


@pytest.mark.parametrize("far", [False, True], ids=["same node", "other node"])
@pytest.mark.parametrize("kind", ["shared", "other exclusive", "routed"])
@pytest.mark.parametrize("client_kind", ["shared", "exclusive", "routed"])
async def test_a_service_sees_the_pod_that_calls_it(
    vpc: Vpc, nodes: tuple[Node, Node], client_kind: str, kind: str, far: bool
) -> None:
    """Nothing is masqueraded: each shows its address, an exclusive pod that of its Service link."""
    near, other = nodes
    client, lease = await attached(vpc, near, client_kind)
    server, backend = await attached(vpc, other if far else near, kind)
    cluster_ip(near, backend.address)
    assert talk(client, server, backend.address, dial=(VIP, 80)) == (lease.service_address or lease.address)


@pytest.mark.parametrize("kind", ["shared", "exclusive", "routed"])
async def test_a_pod_reaches_itself_by_its_service(vpc: Vpc, nodes: tuple[Node, Node], kind: str) -> None:
    """The one call in the cluster that needs the node's address."""
    near, _ = nodes
    pod, lease = await attached(vpc, near, kind)
    cluster_ip(near, lease.address)
    assert talk(pod, pod, lease.address, dial=(VIP, 80)) == near.address


@pytest.mark.parametrize("far", [False, True], ids=["same node", "other node"])
@pytest.mark.parametrize("kind", ["shared", "exclusive", "routed"])
async def test_a_node_reaches_a_service(vpc: Vpc, nodes: tuple[Node, Node], kind: str, far: bool) -> None:
    """By ClusterIP, with its own address."""
    near, other = nodes
    server, backend = await attached(vpc, other if far else near, kind)
    cluster_ip(near, backend.address)
    assert talk(near, server, backend.address, dial=(VIP, 80)) == near.address


@pytest.mark.parametrize("far", [False, True], ids=["same node", "other node"])
@pytest.mark.parametrize("kind", ["shared", "exclusive", "routed"])
async def test_a_node_port_carries_foreign_clients_to_any_pod(
    vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace, kind: str, far: bool
) -> None:
    """With externalTrafficPolicy Cluster the backend sees the node that was called."""
    near, other = nodes
    server, backend = await attached(vpc, other if far else near, kind)
    node_port(near, backend.address, local=False)
    assert talk(outside, server, backend.address, dial=(near.address, NODE_PORT)) == near.address


@pytest.mark.parametrize("kind", ["shared", "routed"])
async def test_a_local_node_port_shows_the_client_to_a_pod_on_a_veth(
    vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace, kind: str
) -> None:
    """With externalTrafficPolicy Local the reply leaves by the card the connection came in by, not by the pod's."""
    near, _ = nodes
    server, backend = await attached(vpc, near, kind)
    node_port(near, backend.address, local=True)
    client = instance_address(outside)
    assert talk(outside, server, backend.address, dial=(near.address, NODE_PORT)) == client


async def test_a_local_node_port_shows_the_node_to_an_exclusive_pod(
    vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace
) -> None:
    """The VPC would drop the client's address on the way from the node to the pod's card."""
    near, _ = nodes
    server, backend = await attached(vpc, near, "exclusive")
    node_port(near, backend.address, local=True)
    assert talk(outside, server, backend.address, dial=(near.address, NODE_PORT)) == near.address


@pytest.mark.parametrize("kind", ["shared", "other exclusive", "routed"])
@pytest.mark.parametrize("client_kind", ["shared", "routed"])
async def test_a_pod_on_a_veth_keeps_its_address_through_its_nodes_node_port(
    vpc: Vpc, nodes: tuple[Node, Node], client_kind: str, kind: str
) -> None:
    """kube-proxy's masquerade mark is taken off pods whose packet leaves the node."""
    near, other = nodes
    client, lease = await attached(vpc, near, client_kind)
    server, backend = await attached(vpc, other, kind)
    node_port(near, backend.address, local=False)
    assert talk(client, server, backend.address, dial=(near.address, NODE_PORT)) == lease.address
