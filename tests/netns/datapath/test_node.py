"""What a node and its shared cards need once: made, repaired, undone."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv4Network

import pytest

from datapath.network import Network
from eniway import names
from eniway.errors import DeadlineExceeded, KernelError, NotReady
from tests.netns.datapath.fabric import SERVICE_CIDR, Namespace, Node, Vpc

IP_RECVERR = 11
"""From linux/in.h: an ICMP "host unreachable" becomes an error of the socket."""


def chains(node: Node) -> list[str]:
    """The node's iptables rules, without comments and counters."""
    saved = "\n".join(node.exec("iptables-save", "-t", table) for table in ("mangle", "nat"))
    return [line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


async def test_starting_again_changes_nothing(nodes: tuple[Node, Node]) -> None:
    """A restarted daemon finds its rules, sets and chains, and others' rules stay where they are."""
    node, _ = nodes
    node.nat("-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE")
    before, rules = node.snapshot(), chains(node)
    assert any("-A POSTROUTING -s 192.0.2.0/24" in rule for rule in rules)
    await node.network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
    await node.network.prepare_card(node.cards[1])
    assert (node.snapshot(), chains(node)) == (before, rules)


async def test_starting_repairs_the_chains(nodes: tuple[Node, Node]) -> None:
    """A lost jump is put back, a filled-up chain of ours is as it was."""
    node, _ = nodes
    rules = chains(node)
    node.exec("iptables", "-t", "mangle", "-F", "PREROUTING")
    node.exec("iptables", "-t", "nat", "-A", f"{names.CHAIN_PREFIX}SNAT", "-j", "ACCEPT")
    assert chains(node) != rules
    await node.network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
    assert chains(node) == rules


async def test_a_strict_node_stays_strict_but_for_shared_cards(vpc: Vpc) -> None:
    """conf/all/rp_filter=1 would be stronger than a card's own 0: it is handed down to the links instead."""
    name = vpc.namespace()
    async with Network(path=f"/run/netns/{name}") as network:
        node = vpc.instance(network, name)
        card = vpc.card(node, 1)
        node.write("net/ipv4/conf/all/rp_filter", "1")
        node.write("net/ipv4/conf/eth0/rp_filter", "2")
        node.write("net/ipv4/conf/eth1/rp_filter", "0")
        await network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
        await network.prepare_card(card)
        found = {
            link: node.read(f"net/ipv4/conf/{link}/rp_filter") for link in ("all", "default", "lo", "eth0", "eth1")
        }
    assert found == {"all": "0", "default": "1", "lo": "1", "eth0": "2", "eth1": "0"}


async def test_retiring_a_card_undoes_preparing_it(nodes: tuple[Node, Node]) -> None:
    """The table, the rule and the neighbour go, the card is down; a second time there is nothing to do."""
    node, _ = nodes
    before = node.snapshot()
    await node.network.prepare_card(node.cards[2])
    assert node.snapshot() != before
    for _ in range(2):
        await node.network.retire_card(node.cards[2])
        assert node.snapshot() == before


async def test_retiring_a_card_that_left_clears_what_stayed(nodes: tuple[Node, Node]) -> None:
    """The link took its routes along; the rule and the unreachable route are ours to remove."""
    node, _ = nodes
    node.ip("link del eth1")
    await node.network.retire_card(node.cards[1])
    assert node.show("-o", "rule").count(f"lookup {names.TABLE_PODS}") == 1
    assert str(names.RULE_ENI) not in node.show("rule")
    assert node.show("route", "show", "table", str(names.eni_table(1))) == ""


@pytest.mark.parametrize(
    "broken",
    [
        "link set eth1 down",
        "addr add 192.0.2.1/24 dev eth1",
        "route flush table 1001",
        f"rule del priority {names.RULE_ENI}",
        "neigh flush dev eth1 nud permanent",
        "link set eth1 mtu 1400",
    ],
)
async def test_preparing_a_card_again_repairs_it(nodes: tuple[Node, Node], broken: str) -> None:
    """Whatever somebody did to a shared card is put right."""
    node, _ = nodes
    before = node.snapshot()
    node.ip(broken)
    assert node.snapshot() != before
    await node.network.prepare_card(node.cards[1])
    assert node.snapshot() == before


async def test_a_shared_pod_never_leaves_by_the_wrong_card(nodes: tuple[Node, Node]) -> None:
    """With the card down its table still answers, "unreachable", so the lookup does not go on to the main table."""
    node, _ = nodes
    node.ip("link set eth1 down")
    with pytest.raises(AssertionError, match="No route to host"):
        node.show("route", "get", "192.0.2.1", "mark", hex(names.eni_mark(1)))


async def test_a_card_that_is_not_there_is_not_ready(nodes: tuple[Node, Node]) -> None:
    """Preparing it says so by name."""
    node, _ = nodes
    node.ip("link del eth3")
    with pytest.raises(NotReady, match=node.cards[3].eni_id):
        await node.network.prepare_card(node.cards[3])


async def test_a_node_without_its_primary_card_does_not_start(nodes: tuple[Node, Node]) -> None:
    """Metadata and machine disagree: an error, by name."""
    node, other = nodes
    with pytest.raises(KernelError, match=other.cards[0].eni_id):
        await node.network.start(service_cidr=SERVICE_CIDR, primary=other.cards[0])


async def test_waiting_for_a_card_ends_with_its_link(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """The waiter sleeps until the kernel tells of the card; another card does not wake its caller."""
    node, _ = nodes
    card = node.cards[3]
    node.ip("link del eth3")
    deadline = asyncio.get_running_loop().time() + 60
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(node.network.wait_card(card.mac, deadline=deadline))
        await node.watching()
        vpc.card(node, 4)
        assert not waiting.done()
        vpc.replug(node, card)
    assert node.show("-o", "link", "show", "eth3").startswith(f"{waiting.result()}:")
    assert await node.network.wait_card(card.mac, deadline=deadline) == waiting.result()


async def test_waiting_for_a_card_ends_at_the_deadline(nodes: tuple[Node, Node]) -> None:
    """With an error that names the card."""
    node, _ = nodes
    card = node.cards[3]
    node.ip("link del eth3")
    with pytest.raises(DeadlineExceeded, match=card.mac):
        await node.network.wait_card(card.mac, deadline=asyncio.get_running_loop().time() + 0.05)


async def test_an_address_that_no_pod_has_is_unreachable(nodes: tuple[Node, Node], outside: Namespace) -> None:
    """The VPC leads the whole podCIDR to the node: what is nobody's ends there, and does not go back and forth."""
    node, _ = nodes
    assert node.pod_cidr is not None
    with outside.socket(socket.SOCK_DGRAM) as made:
        made.settimeout(3)
        made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        made.connect((str(node.pod_cidr[200]), 9999))
        made.send(b"anybody?")
        with pytest.raises(OSError, match="No route to host"):
            made.recv(100)


async def test_the_claimed_range_is_the_one_that_was_claimed_last(nodes: tuple[Node, Node]) -> None:
    """A Node that was made anew has another podCIDR; pods' own routes stay."""
    node, _ = nodes
    node.ip(f"route add 172.20.9.9/32 dev eth0 table {names.TABLE_PODS} proto {names.ROUTE_PROTOCOL}")
    before = node.snapshot()
    await node.network.claim_ranges({IPv4Network("172.20.200.0/24")})
    assert "unreachable 172.20.200.0/24 " in node.show("route", "show", "table", str(names.TABLE_PODS))
    assert await node.network.observe_addresses() == {IPv4Address("172.20.9.9")}
    assert node.pod_cidr is not None
    for _ in range(2):
        await node.network.claim_ranges({node.pod_cidr})
        assert node.snapshot() == before
