"""Messages of nftables (include/uapi/linux/netfilter/nf_tables.h) for a map from IPv4 address to packet mark.

A map's elements change with every pod, without a process. The kernel takes changes in transactions (``Netlink.batch``).
No socket here.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

from datapath.netlink import CREATE as _CREATE
from datapath.netlink import Message, attribute, attributes, each_attribute, nested, text
from datapath.state import Mark
from eniway import names

NFNL_SUBSYS_NFTABLES: Final = 10
_NEW, _GET, _DEL = 12, 13, 14
_TABLE, _SET, _ELEMENTS, _ELEMENT = 1, 2, 3, 1
_KEY, _DATA, _VALUE = 1, 2, 1
_NFGEN: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)


def add(item: Mark) -> Message:
    """Put an element in. NetlinkError EBUSY: the address is there with another mark."""
    return _message(_NEW, _key(item.address), nested(_DATA, attribute(_VALUE, struct.pack("=I", item.mark))))


def remove(item: Mark) -> Message:
    """Take an element out. NetlinkError ENOENT: it is not in."""
    return _message(_DEL, _key(item.address))


def get(address: IPv4Address) -> Message:
    """Ask for one element. NetlinkError ENOENT: there is none, or no map."""
    return _message(_GET, _key(address))


def get_all() -> Message:
    """Dump the map. NetlinkError ENOENT: there is none."""
    return Message(NFNL_SUBSYS_NFTABLES << 8 | _GET, _NFGEN + _MAP)


def marks(payload: bytes) -> Iterator[Mark]:
    """Read one payload of an answer."""
    for _, element in each_attribute(attributes(payload[4:]).get(_ELEMENTS, b"")):
        fields = attributes(element)
        (mark,) = struct.unpack("=I", attributes(fields[_DATA])[_VALUE])
        yield Mark(address=IPv4Address(attributes(fields[_KEY])[_VALUE]), mark=mark)


_MAP: Final = text(_TABLE, names.NFT_TABLE) + text(_SET, names.NFT_SOURCES)


def _key(address: IPv4Address) -> bytes:
    return nested(_KEY, attribute(_VALUE, address.packed))


def _message(command: int, *element: bytes) -> Message:
    elements = nested(_ELEMENTS, nested(_ELEMENT, *element))
    flags = _CREATE if command == _NEW else 0
    return Message(NFNL_SUBSYS_NFTABLES << 8 | command, _NFGEN + _MAP + elements, flags)
