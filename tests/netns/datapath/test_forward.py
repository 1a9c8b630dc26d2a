"""A host whose FORWARD policy is DROP, as container engines set it, still carries its pods."""

from __future__ import annotations

from eniway import names
from tests.conformance.cells import Path
from tests.netns.datapath.fabric import (
    Namespace,
    Node,
    Vpc,
    exclusive_lease,
    instance_address,
    shared_lease,
    talk,
)
from tests.netns.datapath.services import PORT, Service, serve
from tests.netns.datapath.test_sweep import start


async def test_pods_are_forwarded_where_the_policy_is_drop(
    vpc: Vpc, nodes: tuple[Node, Node], outside: Namespace
) -> None:
    """Both ways, to neighbours, to the VPC, and to Services from both kinds of pods."""
    node, _ = nodes
    node.exec("iptables", "-P", "FORWARD", "DROP")
    await start(node)
    first, second, alone = vpc.pod(), vpc.pod(), vpc.pod()
    lease, other = shared_lease(vpc, node, first), shared_lease(vpc, node, second)
    own = exclusive_lease(vpc, node, alone)
    for each in (lease, other, own):
        await node.network.attach(each)
    assert talk(first, second, other.address) == lease.address
    assert talk(first, outside, instance_address(outside)) == lease.address
    assert talk(outside, first, lease.address) == instance_address(outside)
    shared, exclusive = Service(0, lease.address, node.name), Service(1, own.address, node.name)
    serve(node, (shared, exclusive), "iptables")
    assert talk(alone, first, lease.address, dial=(shared.cluster_ip, PORT)) == own.service_address
    port = exclusive.port(Path.NODE_PORT_LOCAL)
    assert talk(outside, alone, own.address, dial=(node.address, port)) == node.address


async def test_only_the_policy_is_overruled(nodes: tuple[Node, Node]) -> None:
    """Where it is ACCEPT nothing is added; else our accept comes after every rule that stands, and once."""
    node, _ = nodes
    own = f"-A FORWARD -j {names.CHAIN_PREFIX}FORWARD"
    others = "-A FORWARD -d 192.0.2.1/32 -j REJECT --reject-with icmp-port-unreachable"
    node.exec("iptables", *others.split())
    assert forward(node) == [others]
    node.exec("iptables", "-P", "FORWARD", "DROP")
    for changed in (True, False):
        assert await start(node) == changed
        assert forward(node) == [others, own]


def forward(node: Node) -> list[str]:
    """The rules of the kernel's FORWARD chain."""
    return [line for line in node.exec("iptables-save", "-t", "filter").splitlines() if line.startswith("-A FORWARD")]
