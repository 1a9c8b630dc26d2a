"""The router of a VPC: a namespace with a port for each card, delivering by address.

What a guest sees (Alibaba Cloud's VPC as measured from instances):
- every ARP request is answered ee:ff:ff:ff:ff:ff, for gateway, neighbours and free addresses alike (proxy_arp on every
  port, with a default route to a sink so that every address is somewhere else), and frames come from ee:ff:ff:ff:ff:ff;
- a packet goes to the card that holds its destination (a /32 route and a permanent neighbour: the guest is not asked);
  to an address that nobody holds it vanishes without a word; broadcasts end at the port;
- a source that is not the card's own is dropped unless the card's source/destination check is off: strict rp_filter
  says exactly this where only the card's own addresses are routed to its port. An ARP request is a packet in this, too;
- the route table sends what no card holds to the card of the longest prefix, at its own MAC whatever the destination
  is, if it is plugged and its check is off; else the packet vanishes, and takes no wider entry: in the kernel's table
  each entry leads to a port or to the sink;
- a card whose namespace dies returns to its instance as a physical NIC would: the veth dies, so it is made anew.
There is no bridge and no connection tracking here: two lookups carry a packet.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from vpcbox.fabric import netns
from vpcbox.fabric.netlink import Namespace, vanished_links
from vpcbox.world.wire import Card, Route

ROUTER_MAC = "ee:ff:ff:ff:ff:ff"
_PORT_SYSCTLS = {  # written to `default`, which every port made later starts from
    "ipv4/conf/default/rp_filter": 1,
    "ipv4/conf/default/proxy_arp": 1,
    "ipv4/conf/default/proxy_arp_pvlan": 1,  # also for addresses behind the port that asks
    "ipv4/conf/default/send_redirects": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/all/rp_filter": 0,  # the maximum of both holds
    "ipv4/ip_forward": 1,
    "ipv6/conf/default/disable_ipv6": 1,
}
_GUEST_SYSCTLS = {  # a namespace starts with the machine's own values; a guest must not depend on them
    "ipv4/ip_forward": 0,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
}

_ENTRY, _NOWHERE = 1, 2  # metrics: of the route table's entries, and of the default route when none of them matches

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Port:
    """The router's end of a card."""

    card: Card
    name: str
    index: int


class Router:
    """Carries the packets of one box: the world's wire. Namespaces are mounts in `namespaces`, one an instance."""

    def __init__(self, namespaces: Path) -> None:
        """Nothing is made before `open`."""
        self.path = namespaces / "router"
        self._namespaces = namespaces
        self._router: Namespace
        self._instances: dict[str, Namespace] = {}
        self._ports: dict[str, _Port] = {}  # by ENI
        self._table: dict[IPv4Network, str | None] = {}  # the ENI an entry leads to
        self._sink: int
        self._names = (f"port{n}" for n in itertools.count(1))
        self._changing = asyncio.Lock()

    async def open(self, services: tuple[IPv4Address, ...] = ()) -> None:
        """Make the router; it answers to the addresses of `services` itself, whoever listens there."""
        netns.create(self.path)
        netns.set_sysctls(self.path, _PORT_SYSCTLS)
        self._router = await Namespace.open(self.path)
        await self._router.request("link", "set", index=1, state="up")
        for service in services:
            await self._router.request("addr", "add", index=1, address=str(service), prefixlen=32)
        await self._router.request("link", "add", ifname="sink", kind="veth", peer={"ifname": "sink-end"})
        self._sink = await self._router.index("sink")
        await self._router.request("link", "set", index=self._sink, state="up", arp=False)
        await self._router.request("route", "add", dst="0.0.0.0/0", oif=self._sink, scope="link", priority=_NOWHERE)

    async def close(self) -> None:
        """Take the router and all instances' namespaces away."""
        for namespace in (self._router, *self._instances.values()):
            namespace.close()
            netns.destroy(namespace.path)
        self._instances.clear()
        self._ports.clear()

    async def instance(self, instance_id: str) -> Path:
        """Return the network namespace of an instance, made when first asked for."""
        return (await self._instance(instance_id)).path

    async def release(self, instance_id: str) -> None:
        """Forget an instance whose cards are unplugged."""
        namespace = self._instances.pop(instance_id)
        namespace.close()
        netns.destroy(namespace.path)

    async def plug(self, card: Card) -> None:
        """Make the card appear in its instance: down and bare, or configured as by DHCP if it is the primary one."""
        async with self._changing:
            if card.eni_id in self._ports:
                raise OSError(errno.EEXIST, f"{card.eni_id} is plugged")
            await self._plug(card)

    async def unplug(self, eni_id: str) -> None:
        """Take the card away, wherever its near end is by now: a veth ends with either of its ends."""
        async with self._changing:
            port = self._ports.pop(eni_id, None)
            if port is not None:
                await self._aim_all(eni_id)
                await self._router.request("link", "del", index=port.index, ignore=(errno.ENODEV,))

    async def update(self, card: Card) -> None:
        """Obey changed addresses and a changed source/destination check."""
        async with self._changing:
            port = self._ports[card.eni_id]
            self._ports[card.eni_id] = _Port(card, port.name, port.index)
            await self._steer(port.index, card, had=set(port.card.addresses))
            self._check_sources(port.name, card)
            await self._aim_all(card.eni_id)

    async def route(self, table: tuple[Route, ...]) -> None:
        """Obey this route table from now on."""
        async with self._changing:
            new = {route.destination: route.eni_id for route in table}
            for destination in self._table.keys() - new.keys():
                await self._router.request("route", "del", dst=str(destination), priority=_ENTRY, ignore=(errno.ESRCH,))
                del self._table[destination]
            for destination, eni_id in new.items():
                await self._aim(destination, eni_id)
                self._table[destination] = eni_id

    async def run(self) -> None:
        """Hand cards back to their instances when the namespace they were in dies, until cancelled."""
        async for gone in vanished_links(self.path):
            async with self._changing:
                there = await self._router.links() if gone is None else {}
                for port in list(self._ports.values()):
                    if port.index in gone if gone is not None else port.index not in there:
                        await self._hand_back(port)

    async def _hand_back(self, port: _Port) -> None:
        del self._ports[port.card.eni_id]
        try:
            await self._plug(port.card)
        except OSError:  # an instance that dies takes its cards along; the world unplugs them
            self._ports[port.card.eni_id] = port
            await self._aim_all(port.card.eni_id)
            _log.exception("%s was not handed back to %s", port.card.eni_id, port.card.instance_id)
        else:
            _log.info("%s returned to %s", port.card.eni_id, port.card.instance_id)

    async def _instance(self, instance_id: str) -> Namespace:
        if instance_id not in self._instances:
            path = self._namespaces / instance_id
            netns.create(path)
            netns.set_sysctls(path, _GUEST_SYSCTLS)
            namespace = self._instances[instance_id] = await Namespace.open(path)
            await namespace.request("link", "set", index=1, state="up")
        return self._instances[instance_id]

    async def _plug(self, card: Card) -> None:
        instance = await self._instance(card.instance_id)
        name = next(self._names)
        with instance.path.open("rb") as there:
            await self._router.request(
                "link",
                "add",
                kind="veth",
                ifname=name,
                address=ROUTER_MAC,
                mtu=card.mtu,
                state="up",
                peer={"ifname": "eth%d", "address": card.mac, "mtu": card.mtu, "net_ns_fd": there.fileno()},
            )  # eth%d: the kernel takes the lowest free number
        index = await self._router.index(name)
        try:
            await self._router.request("link", "set", index=index, ifalias=card.eni_id)
            await self._steer(index, card, had=set())
            netns.set_sysctls(self.path, {f"ipv4/neigh/{name}/proxy_delay": 0})  # the kernel's own habit is up to 0.8 s
            self._check_sources(name, card)
            if card.primary:
                await _configure(instance, card)
                await self._router.carries(index)
        except OSError:
            await self._router.request("link", "del", index=index, ignore=(errno.ENODEV,))
            raise
        self._ports[card.eni_id] = _Port(card, name, index)
        await self._aim_all(card.eni_id)

    async def _aim_all(self, eni_id: str) -> None:
        """Lead the entries of a card to where they lead now."""
        for destination, hop in self._table.items():
            if hop == eni_id:
                await self._aim(destination, eni_id)

    async def _aim(self, destination: IPv4Network, eni_id: str | None) -> None:
        """Lead an entry to its card by the permanent neighbour that the card's first address is, or nowhere."""
        entry: dict[str, Any] = {"dst": str(destination), "priority": _ENTRY}
        port = self._ports.get(eni_id or "")
        if port is not None and not port.card.source_dest_check:
            gateway = str(port.card.addresses[0])
            try:
                await self._router.request("route", "replace", **entry, oif=port.index, gateway=gateway, flags="onlink")
            except OSError as error:
                if error.errno != errno.ENODEV:  # its namespace has died just now: `run` is about to hear of it
                    raise
            else:
                return
        await self._router.request("route", "replace", **entry, oif=self._sink, scope="link")

    async def _steer(self, index: int, card: Card, *, had: set[IPv4Address]) -> None:
        """Lead the card's addresses to its port, and those it had before nowhere."""
        for address in had - set(card.addresses):
            await self._router.request(
                "route", "del", dst=f"{address}/32", oif=index, scope="link", ignore=(errno.ESRCH,)
            )
            await self._router.request("neigh", "del", dst=str(address), ifindex=index, ignore=(errno.ENOENT,))
        for address in card.addresses:
            await self._router.request(
                "neigh", "replace", dst=str(address), lladdr=card.mac, ifindex=index, state="permanent"
            )
            await self._router.request("route", "replace", dst=f"{address}/32", oif=index, scope="link")

    def _check_sources(self, name: str, card: Card) -> None:
        netns.set_sysctls(self.path, {f"ipv4/conf/{name}/rp_filter": int(card.source_dest_check)})


async def _configure(instance: Namespace, card: Card) -> None:
    """Do what DHCP does on the primary card of an instance: address, mask of the vSwitch, default route."""
    (index,) = [i for i, link in (await instance.links()).items() if link["address"] == card.mac]
    prefix: IPv4Network = card.prefix
    await instance.request("link", "set", index=index, state="up")
    await instance.request(
        "addr",
        "add",
        index=index,
        address=str(card.addresses[0]),
        prefixlen=prefix.prefixlen,
        broadcast=str(prefix.broadcast_address),
    )
    await instance.request("route", "add", dst="0.0.0.0/0", gateway=str(card.gateway), oif=index)
