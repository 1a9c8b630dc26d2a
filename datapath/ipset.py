"""Messages of ipset (include/uapi/linux/netfilter/ipset/ip_set.h): sets, and their members one by one. No socket here.

Members change with every pod, without a process. EXCLUDE is never set, so adding what is there replaces it (and its
mark) and removing what is not there succeeds.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from datapath.netlink import NET_BYTEORDER, Message, attribute, attributes, each_attribute, nested, text
from datapath.state import Member

NFNL_SUBSYS_IPSET: Final = 6
_CREATE, _LIST, _ADD, _DEL = 2, 7, 9, 10
_NFGEN: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)
_PROTOCOL: Final = attribute(1, b"\6")  # version 6: Linux 2.6.39 and later

_SETNAME, _TYPENAME, _REVISION, _FAMILY, _DATA, _ADT = 2, 3, 4, 5, 7, 8
_CADT_FLAGS, _SKBMARK, _IFACE, _IP, _ADDRESS_IPV4 = 8, 27, 23, 1, 1
_WITH_SKBINFO: Final = 1 << 6


@dataclass(frozen=True, slots=True)
class Set:
    """A set; ``revision`` is the oldest of its type in the kernel that can do what is asked."""

    name: str
    type: str
    revision: int
    skbinfo: bool = False
    """Members carry a packet mark for ``-j SET --map-mark``."""


def create(made: Set) -> Message:
    """Make a set; nothing happens if it is there as described. EEXIST: it is there otherwise."""
    options = attribute(_CADT_FLAGS | NET_BYTEORDER, struct.pack("!I", _WITH_SKBINFO)) if made.skbinfo else b""
    return _message(
        _CREATE,
        made.name,
        text(_TYPENAME, made.type)
        + attribute(_REVISION, bytes([made.revision]))
        + attribute(_FAMILY, bytes([socket.AF_INET]))
        + nested(_DATA, options),
    )


def add(item: Member) -> Message:
    """Put a member in; one that is there takes the new mark."""
    mark = attribute(_SKBMARK | NET_BYTEORDER, struct.pack("!II", *item.mark)) if item.mark else b""
    return _message(_ADD, item.set, nested(_DATA, _element(item), mark))


def remove(item: Member) -> Message:
    """Take a member out, if it is in."""
    return _message(_DEL, item.set, nested(_DATA, _element(item)))


def list_members(name: str) -> Message:
    """Dump a set. ENOENT: there is none such."""
    return _message(_LIST, name, b"")


def members(payload: bytes, *, about: Collection[bytes]) -> Iterator[Member]:
    """Read one payload of the dump, passing over entries in which none of the byte strings occurs.

    A pod is a few of hundreds, or not there yet: looking at the bytes first is far faster than reading them all.
    """
    if not any(part in payload for part in about):
        return
    found = attributes(payload[4:])
    name = found.get(_SETNAME, b"").rstrip(b"\0").decode()
    for _, entry in each_attribute(found.get(_ADT, b"")):
        if not any(part in entry for part in about):
            continue
        fields = attributes(entry)
        mark, dev = fields.get(_SKBMARK), fields.get(_IFACE)
        yield Member(
            set=name,
            address=IPv4Address(attributes(fields[_IP])[_ADDRESS_IPV4]),
            dev=dev.rstrip(b"\0").decode() if dev else None,
            mark=struct.unpack("!II", mark) if mark else None,
        )


def _element(item: Member) -> bytes:
    element = nested(_IP, attribute(_ADDRESS_IPV4 | NET_BYTEORDER, item.address.packed))
    return element + text(_IFACE, item.dev) if item.dev else element


def _message(command: int, name: str, rest: bytes) -> Message:
    return Message(NFNL_SUBSYS_IPSET << 8 | command, _NFGEN + _PROTOCOL + text(_SETNAME, name) + rest)
