"""Netlink framing: messages, attributes, acknowledgements, dumps (Documentation/userspace-api/netlink/intro.rst).

Packed by hand because a pod's ADD consists of little else: encoding and decoding cost a tenth of what a general library
takes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

NETLINK_NETFILTER: Final = 12
"""uapi/linux/netlink.h; Python's socket module does not name it."""
ACK: Final = 0x4
ECHO: Final = 0x8
REPLACE: Final = 0x100
EXCLUDE: Final = 0x200
CREATE: Final = 0x400
_REQUEST: Final = 0x1
_DUMP: Final = 0x300
_INTERRUPTED: Final = 0x10
_ACK_CAPPED: Final = 0x100
_ACK_HAS_ATTRIBUTES: Final = 0x200

_ERROR: Final = 2
_DONE: Final = 3
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11

_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_GET_STRICT_CHK: Final = 12

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
NESTED: Final = 0x8000
NET_BYTEORDER: Final = 0x4000

_RECEIVE: Final = 1 << 17
_DUMP_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Message:
    """Type, flags beyond NLM_F_REQUEST and NLM_F_ACK, and what follows the netlink header."""

    type: int
    payload: bytes
    flags: int = 0


class NetlinkError(OSError):
    """The kernel's refusal: errno, and its own words where it has any."""


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A 32 bit unsigned number in host order."""
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """Attributes inside an attribute."""
    return attribute(kind | NESTED, b"".join(attributes))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of the attributes that stand one after the other in ``data``."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + 3 & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The same as a mapping, where types do not repeat."""
    return dict(each_attribute(data))


def each_message(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of the messages in one datagram."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += length + 3 & ~3


class Netlink:
    """A netlink socket that asks and waits for the answer. Not for several threads at once.

    The kernel works inside send(2): the answers are there when it returns.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0
        # The last is known from Linux 4.20 on; without it dumps are longer, no more.
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            try:
                sock.setsockopt(_SOL_NETLINK, option, 1)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:
                    raise
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 5, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def call(self, *messages: Message) -> list[bytes]:
        """Send ``messages`` in one system call; payloads that come back. NetlinkError at the first one refused.

        Messages after a refused one are carried out all the same.
        """
        first = self._sequence + 1
        self._send(messages, flags=ACK)
        return self._answers(set(range(first, self._sequence + 1)))

    def batch(self, subsystem: int, *messages: Message) -> None:
        """Send ``messages`` as one transaction of an nfnetlink subsystem: all are carried out, or none.

        NetlinkError: the first refusal.
        """
        edge = struct.pack("=BB", socket.AF_UNSPEC, 0) + struct.pack("!H", subsystem)
        parts = [self._packed(Message(_BATCH_BEGIN, edge), flags=0)]
        first = self._sequence
        parts += (self._packed(message, flags=ACK) for message in messages)
        waiting = set(range(first + 1, self._sequence + 1))
        self._socket.send(b"".join((*parts, self._packed(Message(_BATCH_END, edge), flags=0))))
        self._answers(waiting, whole=first)

    def _answers(self, waiting: set[int], *, whole: int | None = None) -> list[bytes]:
        """Payloads until all that are waited for are acknowledged, or the refusal of the ``whole`` batch."""
        replies: list[bytes] = []
        refused: NetlinkError | None = None
        while waiting:
            for kind, flags, sequence, payload in each_message(self._socket.recv(_RECEIVE)):
                if kind == _ERROR and sequence == whole:
                    waiting.clear()  # what its parts would be told is not told
                elif sequence not in waiting:
                    continue
                if kind == _ERROR:
                    waiting.discard(sequence)
                    refused = refused or _refusal(flags, payload)
                else:
                    replies.append(payload)
        if refused is not None:
            raise refused
        return replies

    def dump(self, message: Message) -> list[bytes]:
        """All payloads that answer a dump; asked again when the kernel says that the list changed underway."""
        for _ in range(_DUMP_ATTEMPTS):
            payloads, interrupted = self._dump(message)
            if not interrupted:
                return payloads
        raise NetlinkError(errno.EINTR, "the list kept changing while it was read")

    def _dump(self, message: Message) -> tuple[list[bytes], bool]:
        self._send((message,), flags=_DUMP)
        payloads: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, payload in each_message(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _INTERRUPTED)
                if kind in {_ERROR, _DONE}:
                    refused = _refusal(flags, payload)
                    if refused is not None:
                        raise refused
                    return payloads, interrupted
                payloads.append(payload)

    def _send(self, messages: tuple[Message, ...], *, flags: int) -> None:
        self._socket.send(b"".join([self._packed(message, flags=flags) for message in messages]))

    def _packed(self, message: Message, *, flags: int) -> bytes:
        self._sequence += 1
        size = 16 + len(message.payload)
        header = _HEADER.pack(size, message.type, _REQUEST | flags | message.flags, self._sequence, 0)
        return header + message.payload + b"\0" * (-size % 4)


def _refusal(flags: int, payload: bytes) -> NetlinkError | None:
    """The error in an NLMSG_ERROR or NLMSG_DONE; None for success."""
    (code,) = struct.unpack_from("=i", payload)
    if code >= 0:
        return None
    words = os.strerror(-code)
    if flags & _ACK_HAS_ATTRIBUTES and flags & _ACK_CAPPED:
        said = attributes(payload[20:]).get(1)
        if said:
            words = f"{words}: {said.rstrip(bytes(1)).decode(errors='replace')}"
    return NetlinkError(-code, words)
