"""Packets made by hand, and who got them: a path is tried with one packet, and what arrives is what a socket is given.

A TCP segment with SYN, a UDP datagram, an SCTP INIT; the kernel needs no sockets of the protocol for that. Raw sockets
are given a packet behind the namespace's own filters.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.netns.datapath.fabric import Namespace, inside

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
_MARK: Final = b"eniway"
_PATIENCE: Final = 3.0


class Packet(NamedTuple):
    """What identifies a packet."""

    source: str
    destination: str
    protocol: str
    port: int
    from_port: int


@dataclass
class End:
    """A namespace with raw sockets."""

    where: Namespace
    address: IPv4Address
    out: socket.socket
    into: dict[str, socket.socket]


@dataclass
class Prober:
    """Sends from and listens in namespaces; each has an address of its own."""

    ends: dict[str, End] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, where: Namespace, address: IPv4Address) -> None:
        """One more end."""

        def raw(protocol: int) -> socket.socket:
            made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            made.setblocking(False)
            return made

        def opened() -> End:
            return End(where, address, raw(socket.IPPROTO_RAW), {name: raw(n) for name, n in PROTOCOLS.items()})

        self.ends[str(address)] = inside(where, opened)

    def remove(self, address: IPv4Address) -> None:
        """One less."""
        end = self.ends.pop(str(address))
        for made in (end.out, *end.into.values()):
            made.close()

    def send(self, packet: Packet) -> None:
        """From the end that has its source; PermissionError is a drop on the way out."""
        try:
            self.ends[packet.source].out.sendto(made(packet), (packet.destination, 0))
        except PermissionError:
            return

    def arrived(self) -> set[Packet]:
        """All that arrived since the last call. veth delivers before send(2) returns, unless the machine is busy."""
        return {packet for end in self.ends.values() for packet in self._read(end)}

    def try_all(self, packets: Sequence[Packet], *, awaited: Collection[Packet] = ()) -> set[Packet]:
        """Send them; those that arrived. ``awaited`` are given time: what was sent before has come by then, too."""
        self.arrived()
        for packet in packets:
            self.send(packet)
        found = self.arrived()
        listening = [made for end in self.ends.values() for made in end.into.values()]
        deadline = time.monotonic() + _PATIENCE
        while not found.issuperset(awaited) and (left := deadline - time.monotonic()) > 0:
            select.select(listening, [], [], left)
            found |= self.arrived()
        return found & set(packets)

    @staticmethod
    def _read(end: End) -> Iterator[Packet]:
        for name, sock in end.into.items():
            while True:
                try:
                    data = sock.recv(256)
                except BlockingIOError:
                    break
                if not data.endswith(_MARK):
                    continue
                source, destination = data[12:16], data[16:20]
                from_port, port = struct.unpack("!HH", data[20:24])
                yield Packet(str(IPv4Address(source)), str(IPv4Address(destination)), name, port, from_port)


def paths(sources: Iterable[str], destinations: Iterable[str], ports: Iterable[int], from_port: int) -> list[Packet]:
    """From everybody to everybody else, at every port of every protocol."""
    targets, numbers = list(destinations), list(ports)
    return [
        Packet(source, target, protocol, port, from_port)
        for source in sources
        for target in targets
        if source != target
        for protocol in PROTOCOLS
        for port in numbers
    ]


def made(packet: Packet) -> bytes:
    """The packet with its IPv4 header."""
    source, destination = IPv4Address(packet.source).packed, IPv4Address(packet.destination).packed
    number, ports = PROTOCOLS[packet.protocol], struct.pack("!HH", packet.from_port, packet.port)
    match packet.protocol:
        case "TCP":
            body = _summed(ports + struct.pack("!IIHHHH", 1, 0, 0x5002, 8192, 0, 0) + _MARK, 16, source, destination, 6)
        case "UDP":
            length = 8 + len(_MARK)
            body = _summed(ports + struct.pack("!HH", length, 0) + _MARK, 6, source, destination, 17)
        case _:
            # INIT, RFC 9260 section 3.3.2; the mark stands in a parameter that may be passed over.
            mark = struct.pack("!HH", 0x8008, 4 + len(_MARK)) + _MARK
            chunk = struct.pack("!BBHIIHHI", 1, 0, 20 + len(mark), 1, 65535, 1, 1, 1) + mark
            body = ports + bytes(8) + chunk
            body = body[:8] + struct.pack("<I", _crc32c(body)) + body[12:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, number, 0, source, destination)
    return header + body


def _summed(segment: bytes, at: int, source: bytes, destination: bytes, number: int) -> bytes:
    """With the checksum of RFC 1071 over pseudo header and segment."""
    data = source + destination + struct.pack("!BBH", 0, number, len(segment)) + segment
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return segment[:at] + struct.pack("!H", ~total & 0xFFFF) + segment[at + 2 :]


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return table


_TABLE: Final = _table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
