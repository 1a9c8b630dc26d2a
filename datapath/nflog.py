"""Packets that rules log to a group of this program's (include/uapi/linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from datapath import netns
from datapath.netlink import NET_BYTEORDER, NETLINK_NETFILTER, Message, Netlink, attribute, attributes, each_message

_SUBSYS_ULOG: Final = 4
_PACKET, _CONFIG = _SUBSYS_ULOG << 8, _SUBSYS_ULOG << 8 | 1
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT, _BIND, _COPY_PACKET = 1, 2, 4, 1, 2
_PAYLOAD, _PREFIX = 9, 10
_BYTES: Final = 128
"""Of each packet: its headers."""
_CENTISECONDS: Final = 20
"""How long the kernel collects packets before it tells of them."""
_RECEIVE: Final = 1 << 17
_PORTS: Final = {6, 17, 132}
"""Protocols whose header begins with two ports."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A packet, as its headers say; ``port``: of the destination, 0 where there is none."""

    prefix: str
    source: IPv4Address
    destination: IPv4Address
    protocol: int
    port: int


def listener(group: int, path: str | None = None) -> socket.socket:
    """A socket that is told of a group's packets in a namespace (None: the thread's own), not blocking.

    OSError EPERM: another program has the group. Closing it may wait for the kernel to free rules: not on the loop.
    """
    if path is None:
        made = netns.netlink_socket(NETLINK_NETFILTER)
    else:
        with netns.opened(path) as opened:
            made = netns.netlink_socket(NETLINK_NETFILTER, netns=opened)
    head = struct.pack("!BBH", socket.AF_UNSPEC, 0, group)
    try:
        asking = Netlink(made)
        asking.call(Message(_CONFIG, head + attribute(_CFG_CMD, bytes([_BIND]))))
        mode = attribute(_CFG_MODE, struct.pack("!IBx", _BYTES, _COPY_PACKET))
        asking.call(Message(_CONFIG, head + mode))
        timeout = attribute(_CFG_TIMEOUT | NET_BYTEORDER, struct.pack("!I", _CENTISECONDS))
        asking.call(Message(_CONFIG, head + timeout))
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def receive(listening: socket.socket) -> Iterator[Logged]:
    """IPv4 packets of one datagram; none if there is none, or if the kernel had to leave some out."""
    try:
        data = listening.recv(_RECEIVE)
    except OSError:
        return
    for kind, _, _, payload in each_message(data):
        if kind == _PACKET:
            fields = attributes(payload[4:])
            logged = parse(fields.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace"), fields.get(_PAYLOAD, b""))
            if logged is not None:
                yield logged


def parse(prefix: str, packet: bytes) -> Logged | None:
    """An IPv4 packet (RFC 791) that begins so; None: it is none, or a fragment that has no ports."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    protocol, start = packet[9], (packet[0] & 0xF) * 4
    (fragment,) = struct.unpack_from("!H", packet, 6)
    if fragment & 0x1FFF:
        return None
    port = 0
    if protocol in _PORTS:
        if len(packet) < start + 4:
            return None
        (port,) = struct.unpack_from("!H", packet, start + 2)
    return Logged(prefix, IPv4Address(packet[12:16]), IPv4Address(packet[16:20]), protocol, port)
