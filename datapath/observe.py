"""What the kernel holds of the items that a plan is about.

Looked at is what can be ours and nothing else: links by name, ifalias, MAC or ENI id, routes and rules by protocol
number, addresses and permanent neighbours on those links, members of our sets.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from datapath import ipset, limits, nft, rtnetlink
from datapath.kernel import Kernel
from datapath.netlink import NetlinkError
from datapath.plan.node import rp_filter_path
from datapath.rtnetlink import Link
from datapath.state import (
    TABLE_MAIN,
    Addr,
    Eni,
    Item,
    Mark,
    Member,
    Netns,
    NetState,
    Route,
    Rule,
    Sysctl,
    Veth,
)
from eniway import names
from eniway.model import Card, LeaseKey, Mac

SYSCTL: Final = next(path for path in (Path(names.HOST_SYSCTLS), Path("/proc/sys")) if (path / "net").is_dir())
"""Sysctls of the calling thread's network namespace, whichever mount of procfs they are read by."""
_BORROWERS: Final = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "bridge", "bond", "team"})
"""Kinds of links that are stacked on others and take their MAC."""
_EVERY: Final = (b"",)
"""About all members of a set."""


def lease(  # noqa: C901 -- one step a part of a lease
    kernel: Kernel,
    key: LeaseKey,
    *,
    peer: str,
    card: Card | None,
    addresses: Iterable[IPv4Address],
    limited: bool = True,
) -> NetState:
    """What is there of a lease: its veth, its card if it is exclusive, and what hangs on them in both namespaces.

    ``peer``: name of the pod's end of the veth. ``card``: the exclusive card. ``addresses``: those the lease is about;
    set members for them are looked for. ``limited``: whether its bandwidth is, or may have been before its veth was
    lost: only then an ifb without a veth is looked for.
    """
    inside = _links(kernel, Netns.POD) if kernel.has_pod else []
    items: set[Item] = set()
    devices: dict[Netns, dict[int, str]] = {Netns.NODE: {}, Netns.POD: {}}
    veth = _veth(kernel, key, next((link for link in inside if link.name == peer), None))
    if veth is not None:
        items.add(veth)
        devices[Netns.NODE][kernel.indexes[Netns.NODE, veth.name]] = veth.name
        if veth.peer is not None:
            devices[Netns.POD][kernel.indexes[Netns.POD, veth.peer]] = veth.peer
    if card is not None:
        where, link = Netns.POD, surest(inside, card)
        if link is None or link.alias != card.eni_id:
            # A MAC alone proves nothing in a pod, which can give it to any link.
            at_home = find_card(kernel, card)
            if at_home is not None:
                where, link = Netns.NODE, at_home
        if link is not None:
            items.add(_eni(card, link, where))
            devices[where][link.index] = link.name
    if card is not None:
        items |= limits.observe(kernel, Netns.POD, inside, devices[Netns.POD].values())
    elif veth is not None or limited:
        items |= limits.observe(kernel, Netns.NODE, _found(kernel, names.ifb(key)), devices[Netns.NODE].values())
    if devices[Netns.NODE]:
        found = _routes(kernel, Netns.NODE, names.TABLE_PODS, devices[Netns.NODE])
        items |= {route for route in found if route.dev is not None}
    if devices[Netns.POD]:
        items |= _on_links(kernel, Netns.POD, devices[Netns.POD])
        items |= _routes(kernel, Netns.POD, TABLE_MAIN, devices[Netns.POD])
    return frozenset(items) | _about(kernel, frozenset(addresses))


def shared_card(kernel: Kernel, card: Card) -> NetState:
    """What is there of a card that shared pods leave by; rules and unreachable routes even when it is not here."""
    table = names.eni_table(card.slot)
    items: set[Item] = {rule for rule in _rules(kernel) if rule.table == table}
    devices: dict[int, str] = {}
    link = find_card(kernel, card)
    if link is not None:
        items.add(_eni(card, link, Netns.NODE))
        devices[link.index] = link.name
        items |= _on_links(kernel, Netns.NODE, devices)
    return frozenset(items | _routes(kernel, Netns.NODE, table, devices))


def node(kernel: Kernel, sysctls: Iterable[str], primary: Link) -> NetState:
    """The node-wide rules, what stands in the borders' tables, and the given sysctls."""
    items: set[Item] = {rule for rule in _rules(kernel) if rule.priority < names.RULE_ENI}
    devices = {primary.index: primary.name}
    for table in (names.TABLE_METADATA, names.TABLE_OUTSIDE):
        items |= _routes(kernel, Netns.NODE, table, devices)
    return frozenset(items | {Sysctl(path=path, value=(SYSCTL / path).read_text().strip()) for path in sysctls})


def rp_filters(kernel: Kernel) -> Mapping[str, int]:
    """rp_filter by link, ``all`` and ``default`` among them; links of pods left out, they have theirs."""
    found = {link.name: link.rp_filter for link in _links(kernel, Netns.NODE) if link.group != names.LINK_GROUP}
    for name in ("all", "default"):
        found[name] = int((SYSCTL / rp_filter_path(name)).read_text())
    return found


def find(kernel: Kernel, wanted: Callable[[Link], bool]) -> Link | None:
    """The first link in the node's namespace that is wanted."""
    return next(filter(wanted, _links(kernel, Netns.NODE)), None)


def find_card(kernel: Kernel, card: Card) -> Link | None:
    """The card's link in the node's namespace."""
    return surest(_links(kernel, Netns.NODE), card)


def surest(links: Iterable[Link], card: Card) -> Link | None:
    """The link that is the card.

    In this order: it bears the ENI id, as it does while in a pod, which may have changed its MAC and given it to
    another link; its hardware has the MAC; it has the MAC.
    """
    return min(
        (link for link in links if may_be(link, card)),
        key=lambda link: (link.alias != card.eni_id, link.permanent_mac != card.mac),
        default=None,
    )


def may_be(link: Link, card: Card) -> bool:
    """Whether a link has anything of the card's."""
    return link.kind not in _BORROWERS and (link.alias == card.eni_id or has_mac(link, card.mac))


def has_mac(link: Link, mac: Mac) -> bool:
    """Whether a link has a MAC, or had it from the beginning, and not from a link beneath it."""
    return link.kind not in _BORROWERS and mac in {link.mac, link.permanent_mac}


def leases(kernel: Kernel) -> Mapping[LeaseKey, str]:
    """Node's end of each lease's veth, or what is left when it is gone, by the key in its ifalias."""
    found = [(LeaseKey.from_alias(link.alias), link) for link in _links(kernel, Netns.NODE)]
    left = {key: link.name for key, link in found if key is not None and link.name == names.ifb(key)}
    return left | {key: link.name for key, link in found if key is not None and link.name == names.host_link(key)}


def ranges(kernel: Kernel) -> NetState:
    """What ends here whether a pod has it or not."""
    return frozenset(_routes(kernel, Netns.NODE, names.TABLE_PODS, {}))


def addresses(kernel: Kernel) -> frozenset[IPv4Address]:
    """Addresses that are routed to pods."""
    links = {link.index: link.name for link in _links(kernel, Netns.NODE)}
    found = _routes(kernel, Netns.NODE, names.TABLE_PODS, links)
    return frozenset(route.destination.network_address for route in found if route.dev is not None)


def routed_to(kernel: Kernel) -> Mapping[LeaseKey, frozenset[IPv4Address]]:
    """Addresses that are routed to each lease's link."""
    keys = {name: key for key, name in leases(kernel).items()}
    links = {kernel.indexes[Netns.NODE, name]: name for name in keys}
    found: dict[LeaseKey, set[IPv4Address]] = {}
    for route in _routes(kernel, Netns.NODE, names.TABLE_PODS, links):
        if route.dev is not None:
            found.setdefault(keys[route.dev], set()).add(route.destination.network_address)
    return {key: frozenset(addresses) for key, addresses in found.items()}


def orphan(kernel: Kernel, key: LeaseKey) -> NetState:
    """What is there, on the node's side, of a lease that nobody knows: its addresses are read off the host routes."""
    found = lease(kernel, key, peer="", card=None, addresses=())
    addresses = {item.destination.network_address for item in found if isinstance(item, Route)}
    link = names.host_link(key)
    pairs = frozenset(item for item in _listed(kernel, names.IPSET_HAIRPIN, [link.encode()]) if item.dev == link)
    return found | _about(kernel, frozenset(addresses | {item.address for item in pairs}))


def members(kernel: Kernel) -> frozenset[Member | Mark]:
    """All members of all our sets, and the marks."""
    return frozenset(_all_listed(kernel, _EVERY)) | marks(kernel)


def marks(kernel: Kernel) -> frozenset[Mark]:
    """All of them; none where somebody took the map away."""
    try:
        payloads = kernel.sets.dump(nft.get_all())
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return frozenset()
    return frozenset(mark for payload in payloads for mark in nft.marks(payload))


# --- parts


def _links(kernel: Kernel, where: Netns) -> list[Link]:
    found = [rtnetlink.link(payload) for payload in kernel.routes[where].dump(rtnetlink.get_links())]
    kernel.indexes.update({(where, link.name): link.index for link in found})
    return found


def _found(kernel: Kernel, name: str) -> list[Link]:
    """The node's link of a name, if it is there."""
    try:
        (payload,) = kernel.routes[Netns.NODE].call(rtnetlink.get_link(name))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
        return []
    link = rtnetlink.link(payload)
    kernel.indexes[Netns.NODE, name] = link.index
    return [link]


def _veth(kernel: Kernel, key: LeaseKey, inside: Link | None) -> Veth | None:
    name = names.host_link(key)
    host = next(iter(_found(kernel, name)), None)
    if host is None:
        return None
    # Two ends of a pair name each other's ifindex.
    paired = inside is not None and (inside.peer_index, inside.index) == (host.index, host.peer_index)
    other = inside if inside is not None and paired else None
    return Veth(
        name=name,
        peer=other.name if other else None,
        mac=host.mac,
        peer_mac=other.mac if other else Mac(""),
        mtu=host.mtu,
        peer_mtu=other.mtu if other else 0,
        alias=host.alias,
        group=host.group,
        rp_filter=host.rp_filter,
        up=host.up and (other is None or other.up),
    )


def _eni(card: Card, link: Link, where: Netns) -> Eni:
    return Eni(
        eni_id=card.eni_id,
        netns=where,
        name=link.name,
        mac=link.mac,
        mtu=link.mtu,
        alias=link.alias,
        group=link.group,
        txqlen=link.txqlen,
        up=link.up,
        rp_filter=link.rp_filter,
        altnames=link.altnames,
        xdp=link.xdp,
    )


def _on_links(kernel: Kernel, where: Netns, devices: Mapping[int, str]) -> set[Item]:
    """Addresses and permanent neighbours of ``devices`` (name by ifindex)."""
    from_kernel = kernel.routes[where]
    addresses = map(rtnetlink.address, from_kernel.dump(rtnetlink.get_addresses()))
    items: set[Item] = {
        Addr(netns=where, dev=devices[index], address=address) for index, address in addresses if index in devices
    }
    for payload in from_kernel.dump(rtnetlink.get_neighbours()):
        neighbour = rtnetlink.neighbour(payload, netns=where, devices=devices)
        if neighbour is not None:
            items.add(neighbour)
    return items


def _routes(kernel: Kernel, where: Netns, table: int, devices: Mapping[int, str]) -> set[Route]:
    try:
        payloads = kernel.routes[where].dump(rtnetlink.get_routes(table))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return set()
    found = (rtnetlink.route(payload, netns=where, devices=devices) for payload in payloads)
    return {route for route in found if route is not None and route.table == table}


def _rules(kernel: Kernel) -> set[Rule]:
    found = (rtnetlink.rule(payload) for payload in kernel.routes[Netns.NODE].dump(rtnetlink.get_rules()))
    return {rule for rule in found if rule is not None}


def _about(kernel: Kernel, addresses: frozenset[IPv4Address]) -> frozenset[Member | Mark]:
    listed = _all_listed(kernel, [address.packed for address in addresses])
    marks = {mark for address in addresses for mark in _marks(kernel, address)}
    return frozenset(item for item in listed if item.address in addresses) | marks


def _marks(kernel: Kernel, address: IPv4Address) -> Iterator[Mark]:
    try:
        payloads = kernel.sets.call(nft.get(address))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return
    for payload in payloads:
        yield from nft.marks(payload)


def _all_listed(kernel: Kernel, about: Collection[bytes]) -> Iterator[Member]:
    for name in (names.IPSET_PODS, names.IPSET_EXCLUSIVE, names.IPSET_HAIRPIN):
        yield from _listed(kernel, name, about)


def _listed(kernel: Kernel, name: str, about: Collection[bytes]) -> Iterator[Member]:
    for payload in kernel.sets.dump(ipset.list_members(name)):
        yield from ipset.members(payload, about=about)
