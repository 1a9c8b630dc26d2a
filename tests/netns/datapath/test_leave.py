"""Leaving a node undoes all that the network ever did to it."""

from __future__ import annotations

from dataclasses import replace

from datapath.borders import Borders
from datapath.leave import leave
from datapath.network import Network
from eniway import names
from eniway.model import UNLIMITED, Bandwidth
from tests.netns.datapath.fabric import (
    SERVICE_CIDR,
    VSWITCH,
    Node,
    Vpc,
    exclusive_lease,
    inside,
    key,
    routed_lease,
    shared_lease,
)


def ours(node: Node) -> list[str]:
    """Chains, jumps to them, and sets."""
    saved = [*node.exec("iptables-save").splitlines(), *node.exec("ipset", "save").splitlines()]
    return [line for line in saved if names.CHAIN_PREFIX in line or line.startswith("create")]


async def test_nothing_of_ours_is_left_and_what_others_made_stays(vpc: Vpc) -> None:
    """With links, limits and members of pods of each kind still there; a second time there is nothing to do."""
    name = vpc.namespace()
    async with Network(path=f"/run/netns/{name}", borders=Borders(inside=frozenset({VSWITCH}))) as network:
        node = vpc.instance(network, name)
        for slot in (1, 2, 3):
            node.cards[slot] = vpc.card(node, slot)
        vpc.route(node)
        node.nat("-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE")
        node.exec("iptables", "-P", "FORWARD", "DROP")
        node.ip("rule add priority 700 lookup 700", "route add unreachable 198.51.100.0/24 table 700")
        before, rules = node.snapshot(), node.exec("iptables", "-S", "FORWARD")
        await network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
        await network.prepare_card(node.cards[1])
        await network.park_card(node.cards[3])
        assert node.pod_cidr is not None
        await network.claim_ranges([node.pod_cidr])
        pods = [vpc.pod() for _ in range(3)]
        leases = (
            shared_lease(vpc, node, pods[0]),
            exclusive_lease(vpc, node, pods[1]),
            routed_lease(vpc, node, pods[2]),
        )
        for lease in leases:
            limits = UNLIMITED if lease.service_address else Bandwidth(ingress=10**7, egress=10**7)
            await network.attach(replace(lease, bandwidth=limits))
        # Its pod is gone: the kernel brings a real card home
        vpc.destroy(pods[1], node, names.host_link(key(pods[1])))
        vpc.replug(node, node.cards[2])
        assert ours(node)
    cards = [node.cards[slot] for slot in (1, 2, 3)]
    for _ in range(2):
        assert inside(node, lambda: leave(cards)) == ()
        assert ours(node) == []
        assert node.snapshot() == before
        assert node.exec("iptables", "-S", "FORWARD") == rules
        assert "192.0.2.0/24" in node.exec("iptables-save", "-t", "nat")


async def test_sets_that_others_rules_look_into_are_told_of_and_all_else_goes(vpc: Vpc) -> None:
    """Each with its name; once those rules have gone, they go too."""
    name = vpc.namespace()
    async with Network(path=f"/run/netns/{name}", borders=Borders(inside=frozenset({VSWITCH}))) as network:
        node = vpc.instance(network, name)
        before = node.snapshot()
        await network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
    held = (names.IPSET_PODS, names.IPSET_EXCLUSIVE)
    for each in held:
        node.exec("iptables", "-A", "INPUT", "-m", "set", "--match-set", each, "src", "-j", "ACCEPT")
    told = inside(node, lambda: leave([]))
    assert [line.split(":")[0] for line in told] == [f"ipset {each}" for each in held]
    assert node.snapshot() == before
    assert sorted(line.split()[1] for line in ours(node)) == sorted(held)
    node.exec("iptables", "-F", "INPUT")
    assert inside(node, lambda: leave([])) == ()
    assert ours(node) == []
