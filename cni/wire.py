r"""The relay's protocol, version 1: one request and one reply on a connection, all numbers in network order.

request   "EW" version:1 0:1 variables:4 config:4 NAME=VALUE\0… stdin
reply     "EW" version:1 status:1 length:4 stdout

``variables``, ``config`` and ``length`` count the bytes of what follows; ``status`` is the relay's exit status. The
first three bytes mean the same in all versions; the relay treats a reply of another version as no reply.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"EW"
VERSION: Final = 1
LONGEST: Final = 4 << 20
"""Bytes of each part of a message."""
_REQUEST: Final = struct.Struct(">2sBBII")
_REPLY: Final = struct.Struct(">2sBBI")


class BadRequest(ValueError):
    """What came is no request of this version."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the runtime gave to the relay."""

    environment: Mapping[str, str]
    """The variables that begin with CNI_."""
    config: bytes
    """Network configuration, as it stood on stdin."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the relay prints, and its exit status."""

    status: int
    output: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The request on a new connection; BadRequest, or asyncio.IncompleteReadError when the relay went away."""
    magic, version, _zero, variables, config = _REQUEST.unpack(await reader.readexactly(_REQUEST.size))
    if magic != MAGIC or version != VERSION:
        raise BadRequest(
            f"expected a request of protocol version {VERSION}, got {magic!r} {version}: install the relay again"
        )
    if max(variables, config) > LONGEST:
        raise BadRequest(
            f"expected at most {LONGEST} bytes, got {variables} of variables and {config} of configuration"
        )
    text = (await reader.readexactly(variables)).decode("utf-8", "surrogateescape")
    pairs = (variable.partition("=") for variable in text.split("\0") if variable)
    return Request({name: value for name, _, value in pairs}, await reader.readexactly(config))


def request_bytes(request: Request) -> bytes:
    """Inverse of ``read_request``."""
    variables = "".join(f"{name}={value}\0" for name, value in request.environment.items())
    encoded = variables.encode("utf-8", "surrogateescape")
    return _REQUEST.pack(MAGIC, VERSION, 0, len(encoded), len(request.config)) + encoded + request.config


def reply_bytes(reply: Reply) -> bytes:
    """``reply`` as it goes over the wire."""
    return _REPLY.pack(MAGIC, VERSION, reply.status, len(reply.output)) + reply.output
