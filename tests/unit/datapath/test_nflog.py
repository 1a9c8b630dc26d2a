"""A packet's headers are read as they are; what has no ports gets none, what cannot be read is left out."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from datapath.nflog import Logged, parse

SOURCE, DESTINATION = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def packet(protocol: int, rest: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """An IPv4 packet."""
    first = 0x40 | (20 + len(options)) // 4
    size = 20 + len(options) + len(rest)
    head = struct.pack("!BBHHHBBH", first, 0, size, 1, fragment, 64, protocol, 0)
    return head + SOURCE.packed + DESTINATION.packed + options + rest


@pytest.mark.parametrize("options", [b"", bytes(12)])
@pytest.mark.parametrize("protocol", [6, 17, 132])
def test_the_destination_port_is_read_behind_options_too(protocol: int, options: bytes) -> None:
    """TCP, UDP and SCTP begin alike."""
    read = parse("x", packet(protocol, struct.pack("!HH", 40000, 80), options=options))
    assert read == Logged("x", SOURCE, DESTINATION, protocol, 80)


def test_icmp_has_no_port() -> None:
    """An echo request."""
    assert parse("x", packet(1, b"\x08\0\0\0")) == Logged("x", SOURCE, DESTINATION, 1, 0)


@pytest.mark.parametrize(
    "data", [b"", bytes(19), b"\x60" + bytes(39), packet(6, b"\0"), packet(17, bytes(8), fragment=185)]
)
def test_what_cannot_be_read_is_left_out(data: bytes) -> None:
    """Too short, IPv6, a port cut off, a later fragment."""
    assert parse("x", data) is None
