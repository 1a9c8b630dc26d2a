"""Messages of rtnetlink(7), both ways: links, addresses, routes, neighbours, rules. IPv4. No socket is touched here.

Names in capitals are the kernel's, from include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour,fib_rules,ip}.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from datapath.netlink import (
    CREATE,
    EXCLUDE,
    NESTED,
    REPLACE,
    Message,
    attribute,
    attributes,
    each_attribute,
    nested,
    number,
    text,
)
from datapath.state import Addr, Neigh, Netns, Route, Rule
from eniway import names
from eniway.model import Mac

RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_RULE: Final = 0x80
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_DELRULE: Final = 33
_GETLINK, _SETLINK, _DELLINKPROP = 18, 19, 109
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWRULE, _GETRULE = 32, 34

_IFINFO: Final = struct.Struct("=BxHiII")
_IFADDR: Final = struct.Struct("=BBBBI")
_RTM: Final = struct.Struct("=BBBBBBBBI")  # rtmsg; fib_rule_hdr has the same shape
_ND: Final = struct.Struct("=BxxxiHBB")

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_TXQLEN, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 4, 5, 13, 18, 20
_IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 26, 27, 28, 29, 37
_IFLA_PROP_LIST, _IFLA_ALT_IFNAME, _IFLA_PERM_ADDRESS = 52, 53, 54
_IFLA_XDP, _IFLA_XDP_FD, _IFLA_XDP_FLAGS, _IFLA_NEW_NETNSID = 43, 1, 3, 45
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET_CONF, _IPV4_DEVCONF_RP_FILTER = 1, 8
_RTEXT_FILTER_SKIP_STATS: Final = 8
_XDP_MODES: Final = {5: 1 << 2, 6: 1 << 1, 7: 1 << 3}
"""IFLA_XDP_{DRV,SKB,HW}_PROG_ID, of which each attached program has one, and XDP_FLAGS_*_MODE to take it off by."""

_IFF_UP: Final = 0x1
_IFF_SET_BY_USERS: Final = 0x80 | 0x100 | 0x200  # NOARP, PROMISC, ALLMULTI

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_RTNH_F_ONLINK, _RTN_UNICAST, _RTN_UNREACHABLE, _RTN_THROW = 4, 1, 7, 9
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_NUD_PERMANENT: Final = 0x80
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL, _FR_ACT_TO_TBL = 6, 10, 15, 16, 21, 1
_FRA_DST, _FRA_IIFNAME, _LOOPBACK = 1, 3, "lo"
"""What a node sends itself comes from lo, to the eyes of a rule."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as RTM_NEWLINK tells of it."""

    index: int
    name: str
    kind: str
    """IFLA_INFO_KIND: "veth", …; empty for hardware."""
    mac: Mac
    permanent_mac: Mac
    """What the hardware says; empty where it says nothing."""
    mtu: int
    txqlen: int
    up: bool
    alias: str
    group: int
    rp_filter: int
    peer_index: int
    """ifindex of a veth's other end, in its own namespace."""
    altnames: tuple[str, ...]
    xdp: tuple[int, ...]
    """Modes in which XDP programs are attached (XDP_FLAGS_*_MODE)."""
    moved: bool
    """Of an RTM_DELLINK: it only went to another namespace."""


# --- links


def get_link(name: str) -> Message:
    """Ask for one link by name. ENODEV: there is none."""
    return Message(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + _NO_STATISTICS)


def get_links() -> Message:
    """Dump all links."""
    return Message(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + _NO_STATISTICS)


_NO_STATISTICS: Final = number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)


def link(payload: bytes) -> Link:
    """Read the payload of an RTM_NEWLINK."""
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    found = attributes(payload[16:])
    kind = attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
    names_ = each_attribute(found.get(_IFLA_PROP_LIST, b""))
    return Link(
        index=index,
        name=_text(found[_IFLA_IFNAME]),
        kind=_text(kind),
        mac=_mac(found.get(_IFLA_ADDRESS, b"")),
        permanent_mac=_mac(found.get(_IFLA_PERM_ADDRESS, b"")),
        mtu=_number(found.get(_IFLA_MTU)),
        txqlen=_number(found.get(_IFLA_TXQLEN)),
        up=bool(flags & _IFF_UP),
        alias=_text(found.get(_IFLA_IFALIAS, b"")),
        group=_number(found.get(_IFLA_GROUP)),
        rp_filter=_rp_filter(found.get(_IFLA_AF_SPEC, b"")),
        peer_index=_number(found.get(_IFLA_LINK)),
        altnames=tuple(_text(data) for kind_, data in names_ if kind_ == _IFLA_ALT_IFNAME),
        xdp=tuple(_XDP_MODES[kind_] for kind_, _ in each_attribute(found.get(_IFLA_XDP, b"")) if kind_ in _XDP_MODES),
        moved=_IFLA_NEW_NETNSID in found,
    )


def add_veth(
    name: str, peer: str, *, mac: Mac, peer_mac: Mac, mtu: int, peer_mtu: int, group: int, peer_netns: int
) -> Message:
    """Make a veth pair, the peer born in the namespace of the descriptor ``peer_netns``."""
    other = (
        _IFINFO.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, peer)
        + number(_IFLA_MTU, peer_mtu)
        + attribute(_IFLA_ADDRESS, _mac_bytes(peer_mac))
        + number(_IFLA_NET_NS_FD, peer_netns)
    )
    payload = (
        _IFINFO.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, name)
        + number(_IFLA_MTU, mtu)
        + attribute(_IFLA_ADDRESS, _mac_bytes(mac))
        + number(_IFLA_GROUP, group)
        + nested(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "veth"),
            nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER | NESTED, other)),
        )
    )
    return Message(RTM_NEWLINK, payload, CREATE | EXCLUDE)


def add_ifb(name: str) -> Message:
    """Make an intermediate functional block device. EOPNOTSUPP: this kernel has none (module ifb)."""
    kind = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "ifb"))
    return Message(RTM_NEWLINK, _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + kind, CREATE | EXCLUDE)


def set_link(
    which: int | str,
    *,
    up: bool | None = None,
    pristine: bool = False,
    netns: int | None = None,
    name: str | None = None,
    mac: Mac | None = None,
    mtu: int | None = None,
    alias: str | None = None,
    group: int | None = None,
    txqlen: int | None = None,
    rp_filter: int | None = None,
) -> Message:
    """Change the link of an index or name; the kernel takes the namespace first, then the name, and "up" near the end.

    ``pristine`` clears the flags that users set (promiscuous and such). ``name`` may hold one %d: the first free
    number.
    """
    change = (0 if up is None else _IFF_UP) | (_IFF_SET_BY_USERS if pristine else 0)
    index = which if isinstance(which, int) else 0
    payload = [_IFINFO.pack(0, 0, index, _IFF_UP if up else 0, change)]
    if isinstance(which, str):
        payload.append(text(_IFLA_IFNAME, which))
    if netns is not None:
        payload.append(number(_IFLA_NET_NS_FD, netns))
    if name is not None:
        payload.append(text(_IFLA_IFNAME, name))
    if mac is not None:
        payload.append(attribute(_IFLA_ADDRESS, _mac_bytes(mac)))
    if alias is not None:
        payload.append(attribute(_IFLA_IFALIAS, alias.encode()))
    payload += [
        number(kind, value)
        for kind, value in ((_IFLA_MTU, mtu), (_IFLA_GROUP, group), (_IFLA_TXQLEN, txqlen))
        if value is not None
    ]
    if rp_filter is not None:
        conf = nested(_IFLA_INET_CONF, number(_IPV4_DEVCONF_RP_FILTER, rp_filter))
        payload.append(nested(_IFLA_AF_SPEC, nested(socket.AF_INET, conf)))
    return Message(_SETLINK, b"".join(payload))


def remove_altnames(index: int, altnames: Iterable[str]) -> Message:
    """Take alternative names off a link."""
    listed = nested(_IFLA_PROP_LIST, *(text(_IFLA_ALT_IFNAME, name) for name in altnames))
    return Message(_DELLINKPROP, _IFINFO.pack(0, 0, index, 0, 0) + listed)


def remove_xdp(index: int, mode: int) -> Message:
    """Take the XDP program of one mode off a link. EBUSY: a BPF link holds it there."""
    program = (attribute(_IFLA_XDP_FD, struct.pack("=i", -1)), number(_IFLA_XDP_FLAGS, mode))
    return Message(_SETLINK, _IFINFO.pack(0, 0, index, 0, 0) + nested(_IFLA_XDP, *program))


def remove_link(index: int) -> Message:
    """Delete a link; of a veth, both ends."""
    return Message(RTM_DELLINK, _IFINFO.pack(0, 0, index, 0, 0))


# --- addresses


def get_addresses() -> Message:
    """Dump the IPv4 addresses."""
    return Message(_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0))


def address(payload: bytes) -> tuple[int, IPv4Interface]:
    """(ifindex, address) of an RTM_NEWADDR."""
    _, length, _, _, index = _IFADDR.unpack_from(payload)
    found = attributes(payload[8:])
    return index, IPv4Interface((found.get(2) or found[1], length))  # IFA_LOCAL, else IFA_ADDRESS


def add_address(item: Addr, index: int) -> Message:
    """Give a link an address; nothing happens if it has it."""
    return Message(_NEWADDR, _address(item, index), CREATE | REPLACE)


def remove_address(item: Addr, index: int) -> Message:
    """Take an address off a link. EADDRNOTAVAIL: it has none such."""
    return Message(_DELADDR, _address(item, index))


def _address(item: Addr, index: int) -> bytes:
    packed = item.address.packed
    header = _IFADDR.pack(socket.AF_INET, item.address.network.prefixlen, 0, _SCOPE_UNIVERSE, index)
    return header + attribute(2, packed) + attribute(1, packed)


# --- routes


def get_routes(table: int) -> Message:
    """Dump the routes of ours in a table. ENOENT: there is no such table yet."""
    header = _RTM.pack(socket.AF_INET, 0, 0, 0, table if table < 256 else 0, names.ROUTE_PROTOCOL, 0, 0, 0)
    return Message(_GETROUTE, header + number(_RTA_TABLE, table))


def route(payload: bytes, *, netns: Netns, devices: Mapping[int, str]) -> Route | None:
    """Read an RTM_NEWROUTE; None if it is not ours or has next hops of a kind we never set."""
    family, length, _, _, table, protocol, _, kind, flags = _RTM.unpack_from(payload)
    found = attributes(payload[12:])
    index = _number(found.get(_RTA_OIF))
    if family != socket.AF_INET or protocol != names.ROUTE_PROTOCOL:
        return None
    if kind not in {_RTN_UNICAST, _RTN_UNREACHABLE, _RTN_THROW}:
        return None
    if kind == _RTN_UNICAST and index not in devices:
        return None
    gateway, source = found.get(_RTA_GATEWAY), found.get(_RTA_PREFSRC)
    return Route(
        netns=netns,
        table=_number(found.get(_RTA_TABLE)) or table,
        destination=IPv4Network((found.get(_RTA_DST, bytes(4)), length)),
        dev=devices[index] if kind == _RTN_UNICAST else None,
        gateway=IPv4Address(gateway) if gateway else None,
        onlink=bool(flags & _RTNH_F_ONLINK),
        source=IPv4Address(source) if source else None,
        metric=_number(found.get(_RTA_PRIORITY)),
        throws=kind == _RTN_THROW,
    )


def set_route(item: Route, index: int) -> Message:
    """Add a route or put it in the place of the one with its destination, table and metric."""
    return Message(_NEWROUTE, _route(item, index), CREATE | REPLACE)


def remove_route(item: Route, index: int) -> Message:
    """Remove a route. ESRCH: there is none such."""
    return Message(_DELROUTE, _route(item, index))


def _route(item: Route, index: int) -> bytes:
    kind = _RTN_UNICAST if item.dev else _RTN_THROW if item.throws else _RTN_UNREACHABLE
    scope = _SCOPE_UNIVERSE if item.gateway or not item.dev else _SCOPE_LINK
    flags = _RTNH_F_ONLINK if item.onlink else 0
    header = _RTM.pack(socket.AF_INET, item.destination.prefixlen, 0, 0, 0, names.ROUTE_PROTOCOL, scope, kind, flags)
    parts = [header, number(_RTA_TABLE, item.table)]
    if item.destination.prefixlen:
        parts.append(attribute(_RTA_DST, item.destination.network_address.packed))
    if item.dev:
        parts.append(number(_RTA_OIF, index))
    if item.gateway:
        parts.append(attribute(_RTA_GATEWAY, item.gateway.packed))
    if item.source:
        parts.append(attribute(_RTA_PREFSRC, item.source.packed))
    if item.metric:
        parts.append(number(_RTA_PRIORITY, item.metric))
    return b"".join(parts)


# --- neighbours


def get_neighbours() -> Message:
    """Dump the IPv4 neighbours."""
    return Message(_GETNEIGH, _ND.pack(socket.AF_INET, 0, 0, 0, 0))


def neighbour(payload: bytes, *, netns: Netns, devices: Mapping[int, str]) -> Neigh | None:
    """Read an RTM_NEWNEIGH; None unless it is a permanent one of ``devices``."""
    _, index, state, _, _ = _ND.unpack_from(payload)
    if state != _NUD_PERMANENT or index not in devices:
        return None
    found = attributes(payload[12:])
    return Neigh(netns=netns, dev=devices[index], address=IPv4Address(found[1]), mac=_mac(found.get(2, b"")))


def set_neighbour(item: Neigh, index: int) -> Message:
    """Add or replace a permanent neighbour."""
    payload = _ND.pack(socket.AF_INET, index, _NUD_PERMANENT, 0, 0)
    payload += attribute(1, item.address.packed) + attribute(2, _mac_bytes(item.mac))
    return Message(_NEWNEIGH, payload, CREATE | REPLACE)


def remove_neighbour(item: Neigh, index: int) -> Message:
    """Remove a neighbour. ENOENT: there is none such."""
    return Message(_DELNEIGH, _ND.pack(socket.AF_INET, index, 0, 0, 0) + attribute(1, item.address.packed))


# --- rules


def get_rules() -> Message:
    """Dump the IPv4 rules."""
    return Message(_GETRULE, _RTM.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))


def rule(payload: bytes) -> Rule | None:
    """Read an RTM_NEWRULE; None if it is not ours."""
    length = payload[1]
    found = attributes(payload[12:])
    if found.get(_FRA_PROTOCOL) != bytes([names.ROUTE_PROTOCOL]):
        return None
    destination = found.get(_FRA_DST)
    return Rule(
        priority=_number(found.get(_FRA_PRIORITY)),
        table=_number(found.get(_FRA_TABLE)),
        mark=_number(found.get(_FRA_FWMARK)),
        mask=_number(found.get(_FRA_FWMASK)),
        destination=IPv4Network((destination, length)) if destination else None,
        own=_text(found.get(_FRA_IIFNAME, b"")) == _LOOPBACK,
    )


def add_rule(item: Rule) -> Message:
    """Add a rule. EEXIST: it is there."""
    return Message(_NEWRULE, _rule(item), CREATE | EXCLUDE)


def remove_rule(item: Rule) -> Message:
    """Remove a rule. ENOENT: there is none such."""
    return Message(RTM_DELRULE, _rule(item))


def _rule(item: Rule) -> bytes:
    length = item.destination.prefixlen if item.destination else 0
    parts = [
        _RTM.pack(socket.AF_INET, length, 0, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0),
        number(_FRA_PRIORITY, item.priority),
        number(_FRA_TABLE, item.table),
        attribute(_FRA_PROTOCOL, bytes([names.ROUTE_PROTOCOL])),
    ]
    if item.mask:
        parts += (number(_FRA_FWMARK, item.mark), number(_FRA_FWMASK, item.mask))
    if item.destination:
        parts.append(attribute(_FRA_DST, item.destination.network_address.packed))
    if item.own:
        parts.append(text(_FRA_IIFNAME, _LOOPBACK))
    return b"".join(parts)


# --- values


def _mac(data: bytes) -> Mac:
    return Mac(data.hex(":"))


def _mac_bytes(mac: Mac) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "little" if _LITTLE else "big") if data else 0


_LITTLE: Final = struct.pack("=H", 1) == b"\1\0"


def _rp_filter(af_spec: bytes) -> int:
    conf = attributes(attributes(af_spec).get(socket.AF_INET, b"")).get(_IFLA_INET_CONF, b"")
    values = conf[4 * (_IPV4_DEVCONF_RP_FILTER - 1) :][:4]  # an array, one place a setting
    return _number(values)
