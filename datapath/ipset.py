"""Messages of ipset (include/uapi/linux/netfilter/ipset/ip_set.h): sets, and their members one by one. No socket here.

Members change with every pod, without a process. EXCLUDE is never set, so adding what is there and removing what is not
there succeed. The node's own few sets have Members; sets of thousands have Elements, many in one message.

Others' sets have names of any bytes: what is not UTF-8 in them is kept as it is (surrogateescape, PEP 383).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from datapath.netlink import NET_BYTEORDER, Message, attribute, attributes, each_attribute, nested, text
from datapath.state import Member

NFNL_SUBSYS_IPSET: Final = 6
_CREATE, _DESTROY, _FLUSH, _LIST, _ADD, _DEL = 2, 3, 4, 7, 9, 10
_NFGEN: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)
_PROTOCOL: Final = attribute(1, b"\6")  # version 6: Linux 2.6.39 and later

_SETNAME, _TYPENAME, _REVISION, _FAMILY, _DATA, _ADT = 2, 3, 4, 5, 7, 8
_CADT_FLAGS, _IFACE, _IP, _ADDRESS_IPV4 = 8, 23, 1, 1
_CIDR, _PORT, _PROTO, _LINENO, _HASHSIZE, _MAXELEM, _ADDRESS_IPV6 = 3, 4, 7, 9, 18, 19, 2
_NOMATCH: Final = 1 << 2
_BATCH: Final = 512
"""Elements in a message: each takes up to 60 bytes, and an attribute ends at 64 KiB."""
_SMALL: Final = 64
"""Buckets that a set starts with; it grows by itself."""
_AS_IS: Final = "surrogateescape"
BUSY: Final = 4100
"""IPSET_ERR_BUSY: something still refers to the set."""


@dataclass(frozen=True, slots=True)
class Set:
    """A set; ``revision`` is the oldest of its type in the kernel that can do what is asked."""

    name: str
    type: str
    revision: int
    family: int = socket.AF_INET
    most: int = 0
    """Elements it may grow to; 0: as the kernel has it, 65536."""


class Element(NamedTuple):
    """A member of a hash:ip, hash:ip,port or hash:net set."""

    address: bytes
    """Packed, of either family."""
    protocol: int = 0
    port: int = 0
    prefix: int = 0
    """0: not a network (none can be that wide)."""
    nomatch: bool = False
    """An exception of a wider network."""


def create(made: Set) -> Message:
    """Make a set; nothing happens if it is there as described. EEXIST: it is there otherwise."""
    options = _big(_HASHSIZE, _SMALL) + _big(_MAXELEM, made.most) if made.most else b""
    return _message(
        _CREATE,
        made.name,
        text(_TYPENAME, made.type)
        + attribute(_REVISION, bytes([made.revision]))
        + attribute(_FAMILY, bytes([made.family]))
        + nested(_DATA, options),
    )


def add(item: Member) -> Message:
    """Put a member in, if it is not in."""
    return _message(_ADD, item.set, nested(_DATA, _element(item)))


def remove(item: Member) -> Message:
    """Take a member out, if it is in."""
    return _message(_DEL, item.set, nested(_DATA, _element(item)))


def destroy(name: str) -> Message:
    """Take a set away. NetlinkError ENOENT: there is none; BUSY: a rule looks into it."""
    return _message(_DESTROY, name, b"")


def flush(name: str) -> Message:
    """Take all members out of a set."""
    return _message(_FLUSH, name, b"")


def add_elements(name: str, elements: Iterable[Element]) -> Iterator[Message]:
    """Put elements in, hundreds in a message."""
    return _each_batch(_ADD, name, elements)


def remove_elements(name: str, elements: Iterable[Element]) -> Iterator[Message]:
    """Take elements out, those that are in."""
    return _each_batch(_DEL, name, elements)


def list_sets() -> Message:
    """Dump all sets."""
    return Message(NFNL_SUBSYS_IPSET << 8 | _LIST, _NFGEN + _PROTOCOL)


def each_element(payload: bytes) -> Iterator[Element]:
    """Elements in one payload of a dump; a large set is told in several."""
    for _, entry in each_attribute(attributes(payload[4:]).get(_ADT, b"")):
        yield _read(attributes(entry))


def set_name(payload: bytes) -> str:
    """Which set a payload of a dump is about."""
    return _decoded(attributes(payload[4:]).get(_SETNAME, b""))


def shown(name: str) -> str:
    """A name for a message, in UTF-8."""
    return name.encode(errors=_AS_IS).decode(errors="backslashreplace")


def set_family(payload: bytes) -> int | None:
    """AF_INET or AF_INET6; None where a payload only goes on with a large set."""
    told = attributes(payload[4:]).get(_FAMILY)
    return told[0] if told else None


def _decoded(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors=_AS_IS)


def _read(fields: dict[int, bytes]) -> Element:
    address = next(iter(attributes(fields[_IP]).values()))
    (flags,) = struct.unpack("!I", fields.get(_CADT_FLAGS, bytes(4)))
    (port,) = struct.unpack("!H", fields.get(_PORT, bytes(2)))
    return Element(
        address, fields.get(_PROTO, b"\0")[0], port, fields.get(_CIDR, b"\0")[0], nomatch=bool(flags & _NOMATCH)
    )


def _each_batch(command: int, name: str, elements: Iterable[Element]) -> Iterator[Message]:
    whole = list(elements)
    for start in range(0, len(whole), _BATCH):
        data = b"".join(nested(_DATA, _encoded(element)) for element in whole[start : start + _BATCH])
        yield _message(command, name, nested(_ADT, data) + _big(_LINENO, 0))


def _encoded(element: Element) -> bytes:
    kind = _ADDRESS_IPV4 if len(element.address) == 4 else _ADDRESS_IPV6
    data = nested(_IP, attribute(kind | NET_BYTEORDER, element.address))
    if element.protocol:
        data += attribute(_PROTO, bytes([element.protocol]))
        data += attribute(_PORT | NET_BYTEORDER, struct.pack("!H", element.port))
    if element.prefix:
        data += attribute(_CIDR, bytes([element.prefix]))
    return data + (_big(_CADT_FLAGS, _NOMATCH) if element.nomatch else b"")


def _big(kind: int, value: int) -> bytes:
    return attribute(kind | NET_BYTEORDER, struct.pack("!I", value))


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
    name = _decoded(found.get(_SETNAME, b""))
    for _, entry in each_attribute(found.get(_ADT, b"")):
        if not any(part in entry for part in about):
            continue
        fields = attributes(entry)
        dev = fields.get(_IFACE)
        yield Member(
            set=name,
            address=IPv4Address(attributes(fields[_IP])[_ADDRESS_IPV4]),
            dev=_decoded(dev) if dev else None,
        )


def _element(item: Member) -> bytes:
    element = nested(_IP, attribute(_ADDRESS_IPV4 | NET_BYTEORDER, item.address.packed))
    return element + text(_IFACE, item.dev) if item.dev else element


def _message(command: int, name: str, rest: bytes) -> Message:
    encoded = name.encode(errors=_AS_IS) + b"\0"
    return Message(NFNL_SUBSYS_IPSET << 8 | command, _NFGEN + _PROTOCOL + attribute(_SETNAME, encoded) + rest)
