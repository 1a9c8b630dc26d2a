"""Pods have no IPv6 addresses but those of their links, and what they could do by these is for policies to say, too."""

from __future__ import annotations

import socket
from contextlib import closing

from eniway import names
from eniway.model import Kind
from networkpolicy import render
from networkpolicy.change import Held, follow, repair
from networkpolicy.model import Model
from networkpolicy.place import Place
from networkpolicy.render import EMPTY
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.netns.datapath.fabric import Namespace, Node, Vpc, inside
from tests.netns.networkpolicy.cluster import Member, cluster
from tests.netns.networkpolicy.test_ends import DENY
from tests.property.networkpolicy.worlds import lease, namespace, pod, policy, view


async def test_ipv6_is_written_and_read_back_alike(vpc: Vpc) -> None:
    """Sets of every kind, neighbour discovery let through, and all of it taken away again."""
    model = Model(6)
    model.put_namespace(view(NamespaceView, namespace("x", {})))
    ports = {"containers": [{"ports": [{"name": "web", "containerPort": 80}]}]}
    for name, address in (("a", "fd00::1"), ("b", "fd00::2")):
        given = pod("x", name, uid=name, labels={"pod": name}, spec=ports, phase="Running", ips=["10.0.0.1", address])
        model.put_pod(view(PodView, given))
        if name == "a":
            model.attach(lease(given, "10.0.0.1"))
    blocks = [{"ipBlock": {"cidr": "::/0", "except": ["fd00::/16"]}}, {"ipBlock": {"cidr": "fd01::/16"}}]
    rules = [
        {"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}, *blocks], "ports": [{"port": "web"}, {"port": 81}]}
    ]
    model.put_policy(view(PolicyView, policy("x", "p", {"podSelector": {}, "ingress": rules})))
    layout = render.node(model.endpoints.values(), 6)
    assert any("ipv6-icmp" in rule for chain in layout.chains.values() for rule in chain)
    place = Place(vpc.router.path, family=6)
    place.apply(follow(EMPTY, Held(), layout, {}, model.members))
    held, sets = place.observe()
    members = {name: list(model.members(ref)) for name, ref in layout.sets.items()}
    assert not repair(held, sets, layout, members)
    assert (
        sum(map(len, members.values())) == 6
    )  # b, its port, two halves, an exception, a network; none of a, by its lease
    place.apply(repair(held, sets, EMPTY, {}))
    held, sets = place.observe()
    assert not held.chains
    assert not held.jumps
    assert not sets


End = tuple[Namespace, str, str]
"""A namespace, a link there, and the address that ``end`` gave it."""
PORT = 8080
EVERYBODY = "ff02::1"


def end(where: Namespace, link: str, number: int) -> End:
    """One more address of a link's own, known to be nobody else's."""
    address = f"fe80::e:{number}"
    where.ip(f"addr add {address}/64 dev {link} nodad")
    return where, link, address


def passes(sender: End, receiver: End, *, to: str | None = None) -> bool:
    """Whether a datagram arrives, once the sender has found out the receiver's address on the link anew."""
    (source, out, _), (target, into, address) = sender, receiver

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind(("::", PORT, 0, socket.if_nametoindex(into)))
        made.settimeout(0.3)
        return made

    def send() -> None:
        with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as made:
            try:
                made.sendto(b"datagram", (to or address, PORT, 0, socket.if_nametoindex(out)))
            except PermissionError:
                return  # dropped in the sender's own namespace

    for where, link in ((source, out), (target, into)):
        where.show("-6", "neigh", "flush", "dev", link)
    with closing(inside(target, bound)) as listening:
        inside(source, send)
        try:
            return listening.recv(100) == b"datagram"
        except TimeoutError:
            return False


def on_node(member: Member) -> str:
    """The node's end of a pod's veth."""
    return names.host_link(member.lease.key)


async def test_a_default_deny_leaves_no_way_by_ipv6(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """By the addresses of links and to groups: for both kinds of link, out to the node and the wire, and in."""
    async with cluster(vpc, nodes) as made:
        node = nodes[0]
        shared = await made.start("x/shared", Kind.SHARED, 0)
        alone = await made.start("x/alone", Kind.EXCLUSIVE, 0, slot=2)
        port = f"p{int(alone.lease.card.eni_id.removeprefix('eni-'), 16)}"
        pod, veth = end(shared.netns, "eth0", 1), end(node, on_node(shared), 2)
        card, wire = end(alone.netns, "eth0", 3), end(vpc.router, port, 4)
        second, service = end(alone.netns, names.SERVICE_LINK, 5), end(node, on_node(alone), 6)
        ways = [(pod, veth, None), (pod, veth, EVERYBODY), (second, service, None), (second, service, EVERYBODY)]
        ways += [(card, wire, None), (card, wire, EVERYBODY), (wire, card, None), (wire, card, EVERYBODY)]

        def tried() -> list[bool]:
            return [passes(sender, receiver, to=to) for sender, receiver, to in ways]

        assert all(tried())
        made.policy("deny", DENY)
        await made.in_force()
        assert not any(tried())
        assert passes(veth, pod)  # from the pod's own node
        assert passes(service, second)
        blocks = [{"ipBlock": {"cidr": "fe80::/10"}}, {"ipBlock": {"cidr": "ff00::/8", "except": ["ff02::/16"]}}]
        ports = [{"protocol": "UDP", "port": PORT}]
        rule = {"ingress": [{"from": blocks, "ports": ports}], "egress": [{"to": blocks, "ports": ports}]}
        made.policy("links", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], **rule})
        await made.in_force()
        # A datagram to a group comes in by the sender's address, which is allowed.
        assert tried() == [to is None or sender is wire for sender, _, to in ways]
        made.clear()
        await made.in_force()
        assert all(tried())


async def test_rules_for_pods_and_ipv4_networks_let_no_ipv6_in(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """All of IPv4 is not all; a rule without peers is for both."""
    async with cluster(vpc, nodes) as made:
        shared = await made.start("x/shared", Kind.SHARED, 0)
        pod, veth = end(shared.netns, "eth0", 1), end(nodes[0], on_node(shared), 2)
        for peers, allowed in (
            ([{"podSelector": {}}, {"namespaceSelector": {}}], False),
            ([{"ipBlock": {"cidr": "0.0.0.0/0"}}], False),
            ([{"ipBlock": {"cidr": "::/0"}}], True),
            ([], True),
        ):
            spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers}]}
            made.policy("p", spec)
            await made.in_force()
            assert passes(pod, veth) is allowed, peers
