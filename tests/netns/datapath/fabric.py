"""A VPC made of network namespaces: one router that delivers by address, as the real one does.

Each card is a veth whose far end is a port of the router. The router answers every ARP with ee:ff:ff:ff:ff:ff, delivers
each address to its card by a permanent neighbour, drops what comes from an address that is not the card's, and drops
what conntrack finds invalid, as a stateful security group would: both directions of a connection have to take the same
cards. A route entry leads a node's podCIDR to its primary card, which may send from these addresses too.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from pathlib import Path
from typing import TypeVar

from datapath import netns, rtnetlink
from datapath.borders import USUAL, Borders
from datapath.network import Network
from eniway import names
from eniway.model import Card, ContainerId, EniId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot

SERVICE_CIDR = IPv4Network("172.21.0.0/20")
VSWITCH = IPv4Network("10.0.0.0/20")
GATEWAY = IPv4Address("10.0.15.253")
POD_CIDRS = IPv4Network("172.20.0.0/16")
"""Each node has a /24 of it."""

Datagrams = socket.socket
"""Of the namespace class below, ``socket`` is a method."""

_serial = count()


def run(*command: str, given: str = "") -> str:
    """Run a command; its output."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}\n{given}"
    return done.stdout


@dataclass
class Namespace:
    """A network namespace with a name."""

    name: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def ip(self, *lines: str) -> None:
        """Lines of ``ip -batch``."""
        run("ip", "-n", self.name, "-batch", "-", given="\n".join(lines))

    def show(self, *arguments: str) -> str:
        """What ``ip`` prints."""
        return run("ip", "-n", self.name, *arguments)

    def exec(self, *command: str, given: str = "") -> str:
        """Run a program inside."""
        return run("ip", "netns", "exec", self.name, *command, given=given)

    def write(self, path: str, value: str) -> None:
        """Set a sysctl."""
        inside(self, lambda: Path("/proc/sys", path).write_text(value))

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A socket inside."""
        return inside(self, lambda: socket.socket(socket.AF_INET, kind))

    def read(self, path: str) -> str:
        """A sysctl."""
        return inside(self, Path("/proc/sys", path).read_text).strip()

    def nat(self, *rules: str) -> None:
        """Append rules to iptables' nat table."""
        self.exec("iptables-restore", "--noflush", given="\n".join(("*nat", *rules, "COMMIT", "")))

    def udp(self, address: IPv4Address, port: int) -> Datagrams:
        """A bound datagram socket inside."""
        made = self.socket(socket.SOCK_DGRAM)
        made.bind((str(address), port))
        made.settimeout(3)
        return made

    def send(self, source: IPv4Address, destination: IPv4Address, port: int) -> None:
        """Send one datagram from an address."""
        with self.udp(source, 0) as made:
            made.sendto(b"datagram", (str(destination), port))

    def links(self) -> set[str]:
        """Names of all links."""
        return {line.split(":")[1].split("@")[0].strip() for line in self.show("-o", "link").splitlines()}


@dataclass
class Node(Namespace):
    """An instance; ``cards`` by slot, the primary one at 0."""

    network: Network
    address: IPv4Address
    cards: dict[int, Card] = field(default_factory=dict)
    pod_cidr: IPv4Network | None = None
    _routed: Iterator[int] = field(default_factory=lambda: count(1))

    def routed_address(self) -> IPv4Address:
        """A free address of the podCIDR."""
        assert self.pod_cidr is not None
        return self.pod_cidr[next(self._routed)]

    def snapshot(self) -> str:
        """All that eniway could leave behind, as text; without ifindexes, and without what comes and goes by itself."""
        links = self.show("-j", "-d", "link")
        keep = ("ifname", "mtu", "address", "group", "txqlen", "ifalias", "altnames", "flags", "promiscuity")
        rows = [{key: link.get(key) for key in keep} for link in json.loads(links)]
        addresses = [
            (link["ifname"], [(a["local"], a["prefixlen"]) for a in link["addr_info"]])
            for link in json.loads(self.show("-j", "-4", "addr"))
        ]
        parts = [
            *sorted(map(str, rows)),
            *sorted(map(str, addresses)),
            *sorted(self.show("-4", "route", "show", "table", "all").splitlines()),
            self.show("rule"),
            *sorted(self.show("-4", "neigh", "show", "nud", "permanent").splitlines()),
            *sorted(line for line in self.exec("ipset", "save").splitlines() if line.startswith("add")),
            self.exec("sh", "-c", f"nft -s list table ip {names.NFT_TABLE} 2>/dev/null || true"),
        ]
        return "\n".join(parts)

    async def watching(self) -> None:
        """Return once somebody listens for news of links here (RTMGRP_LINK)."""
        while not any(  # noqa: ASYNC110
            line.split()[1:4:2] == ["0", "00000001"] for line in self._netlink_sockets()
        ):
            await asyncio.sleep(0.002)  # a socket that is opened tells nobody

    def _netlink_sockets(self) -> list[str]:
        return inside(self, Path("/proc/thread-self/net/netlink").read_text).splitlines()[1:]


@dataclass
class Vpc:
    """The router and whatever hangs on it."""

    router: Namespace
    made: list[str]
    mtu: int = 1500
    _addresses: Iterator[int] = field(default_factory=lambda: count(10))
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    _assigned: dict[EniId, list[IPv4Address]] = field(default_factory=dict)

    def namespace(self) -> str:
        """Make a namespace; its name."""
        name = f"eniway-t{os.getpid()}-{next(_serial)}"
        run("ip", "netns", "add", name)
        self.made.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def pod(self) -> Namespace:
        """An empty namespace, as a container runtime makes it."""
        return Namespace(self.namespace())

    def address(self) -> IPv4Address:
        """A free address."""
        return VSWITCH[next(self._addresses)]

    def card(self, where: Namespace, slot: int) -> Card:
        """Attach a card; its link appears in ``where``."""
        number = next(self._ids)
        card = Card(
            eni_id=EniId(f"eni-{number:020x}"),
            mac=Mac(f"00:16:3e:00:00:{number:02x}"),
            slot=Slot(slot),
            address=self.address(),
            prefix=VSWITCH,
            gateway=GATEWAY,
        )
        self._plug(where, card)
        self.assign(card, card.address)
        return card

    def replug(self, node: Node, card: Card) -> None:
        """Plug a card's link in again after the kernel destroyed it."""
        self._plug(node, card)
        for address in self._assigned[card.eni_id]:
            self._deliver(card, address)

    def destroy(self, pod: Namespace, node: Namespace, link: str) -> None:
        """Remove a pod's namespace; returns when the kernel has taken its veth ``link`` from the node."""
        with inside(node, lambda: netns.netlink_socket(socket.NETLINK_ROUTE, groups=rtnetlink.RTMGRP_LINK)) as events:
            events.settimeout(10)
            run("ip", "netns", "del", pod.name)
            self.made.remove(pod.name)
            while link in node.links():
                events.recv(1 << 16)

    def assign(self, card: Card, address: IPv4Address | None = None) -> IPv4Address:
        """Give a card one more address."""
        address = address or self.address()
        self._assigned.setdefault(card.eni_id, []).append(address)
        self._deliver(card, address)
        self.router.exec("ipset", "add", "legal", f"{address},{_port(card)}")
        return address

    def route(self, node: Node) -> None:
        """An entry of the route table: a podCIDR of its own leads to the node, which may send from it."""
        node.pod_cidr = list(POD_CIDRS.subnets(new_prefix=24))[next(self._ids)]
        port = _port(node.cards[0])
        self.router.ip(f"route add {node.pod_cidr} via {node.address} dev {port} onlink")
        self.router.exec("ipset", "add", "legal", f"{node.pod_cidr},{port}")

    def _plug(self, where: Namespace, card: Card) -> None:
        port = _port(card)
        self.router.ip(
            f"link add {port} mtu {self.mtu} address {names.FABRIC_MAC} type veth"
            f" peer name eth{card.slot} mtu {self.mtu} address {card.mac} netns {where.name}",
            f"link set {port} up",
        )
        self.router.write(f"net/ipv4/conf/{port}/proxy_arp", "1")
        self.router.write(f"net/ipv4/conf/{port}/send_redirects", "0")
        self.router.write(f"net/ipv4/neigh/{port}/proxy_delay", "0")

    def _deliver(self, card: Card, address: IPv4Address) -> None:
        port = _port(card)
        self.router.ip(
            f"neigh add {address} lladdr {card.mac} dev {port} nud permanent", f"route add {address} dev {port}"
        )

    def instance(self, network: Network, name: str) -> Node:
        """Boot an instance: a primary card with its address and the default route."""
        node = Node(name=name, network=network, address=IPv4Address(0))
        card = self.card(node, 0)
        node.cards[0] = card
        node.address = card.address
        node.ip(
            f"addr add {card.address}/{VSWITCH.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY} dev eth0",
        )
        return node


@contextmanager
def standing() -> Iterator[Vpc]:
    """An empty VPC, gone at the end with all namespaces that were made in it."""
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


async def boot(vpc: Vpc, stack: AsyncExitStack, borders: Borders = USUAL) -> Node:
    """A started node with eth1 for shared pods, eth2 and eth3 free, and a podCIDR, while ``stack`` is open."""
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


def _port(card: Card) -> str:
    return f"p{int(card.eni_id.removeprefix('eni-'), 16)}"


def shared_lease(vpc: Vpc, node: Node, pod: Namespace, *, slot: int = 1) -> Lease:
    """A lease of a fresh secondary address of a shared card."""
    card = node.cards[slot]
    return Lease(key=key(pod), pod=REF, kind=Kind.SHARED, netns=pod.path, card=card, address=vpc.assign(card))


def exclusive_lease(vpc: Vpc, node: Node, pod: Namespace, *, slot: int = 2) -> Lease:
    """A lease of a card, with a secondary address of the primary one for Services."""
    card = node.cards[slot]
    return Lease(
        key=key(pod),
        pod=REF,
        kind=Kind.EXCLUSIVE,
        netns=pod.path,
        card=card,
        address=card.address,
        service_address=vpc.assign(node.cards[0]),
    )


def routed_lease(_vpc: Vpc, node: Node, pod: Namespace) -> Lease:
    """A lease of a fresh address of the node's podCIDR."""
    address = node.routed_address()
    return Lease(key=key(pod), pod=REF, kind=Kind.ROUTED, netns=pod.path, card=node.cards[0], address=address)


def key(pod: Namespace) -> LeaseKey:
    """The lease key of a pod's eth0."""
    return LeaseKey(names.CNI_NETWORK, ContainerId(pod.name), "eth0")


REF = PodRef("default", "pod", PodUid("uid"))


_T = TypeVar("_T")


def inside(where: Namespace, work: Callable[[], _T]) -> _T:
    """Run ``work`` in a namespace."""
    with netns.opened(where.path) as descriptor, netns.entered(descriptor):
        return work()


def instance_address(instance: Namespace) -> IPv4Address:
    """The address on an instance's eth0."""
    (link,) = json.loads(instance.show("-j", "-4", "addr", "show", "dev", "eth0"))
    return IPv4Address(link["addr_info"][0]["local"])


def talk(
    client: Namespace,
    server: Namespace,
    address: IPv4Address,
    *,
    dial: tuple[IPv4Address, int] | None = None,
    protocol: str = "tcp",
    source: IPv4Address | None = None,
) -> IPv4Address:
    """Exchange a word each way by TCP or UDP; the client's address as the server saw it.

    The server listens on ``address``, port 8080; the client calls ``dial`` if that is somewhere else, from ``source``
    if it has several addresses.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    host, port = dial or (address, 8080)
    with closing(server.socket(kind)) as listener, closing(client.socket(kind)) as made:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), 8080))
        listener.settimeout(3)
        made.settimeout(3)
        if source is not None:
            made.bind((str(source), 0))
        if protocol == "udp":
            made.connect((str(host), port))
            made.send(b"question")
            asked, peer = listener.recvfrom(100)
            assert asked == b"question"
            listener.sendto(b"answer", peer)
            assert made.recv(100) == b"answer"
            return IPv4Address(peer[0])
        listener.listen()
        made.connect((str(host), port))
        accepted, (seen, _) = listener.accept()
        with closing(accepted):
            accepted.settimeout(3)
            made.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert made.recv(100) == b"answer"
            return IPv4Address(seen)
