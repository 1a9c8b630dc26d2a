"""rtnetlink of one network namespace: requests by pyroute2, and the links that vanish as events."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError

from vpcbox.fabric import netns

_RTMGRP_LINK = 1
_RTM_DELLINK = 17
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_RECEIVE_BUFFER = 1 << 20


def _socket(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    if groups:
        opened.bind((0, groups))
        opened.setblocking(False)
    return opened


class Namespace:
    """Links, addresses, routes and neighbours of a network namespace. Refusals of the kernel are OSErrors."""

    def __init__(self, path: Path, requests: AsyncIPRoute) -> None:
        """Use `open`."""
        self.path = path
        self._requests = requests

    @classmethod
    async def open(cls, path: Path) -> Namespace:
        """Open the namespace mounted at `path`; it stays alive until `close`."""
        requests = AsyncIPRoute(use_socket=netns.made_inside(path, lambda: _socket(0)))
        await requests.setup_endpoint()
        return cls(path, requests)

    def close(self) -> None:
        """Let go of the namespace."""
        self._requests.close()

    async def request(self, table: str, verb: str, /, *, ignore: tuple[int, ...] = (), **fields: Any) -> None:
        """Ask for a change: table is link, addr, route or neigh; answers with a number in `ignore` are fine, too."""
        try:
            await getattr(self._requests, table)(verb, **fields)
        except NetlinkError as error:
            if error.code not in ignore:
                raise OSError(error.code, f"{table} {verb} {fields} in {self.path.name}: {error}") from error

    async def links(self) -> dict[int, dict[str, Any]]:
        """Return name, address (MAC) and whether it is up of each link, by index."""
        for _ in range(5):
            try:
                return {
                    link["index"]: {
                        "name": link.get_attr("IFLA_IFNAME"),
                        "address": link.get_attr("IFLA_ADDRESS"),
                        "up": bool(link["flags"] & 1),
                    }
                    async for link in await self._requests.get_links()
                }
            except NetlinkError as error:  # a dump during which something changed says so, and is asked for again
                if error.code != errno.EINTR:
                    raise OSError(error.code, f"links of {self.path.name}: {error}") from error
        raise OSError(errno.EINTR, f"links of {self.path.name}: the list changed during each of 5 readings")

    async def carries(self, index: int) -> None:
        """Wait until a link whose two ends are up sends packets: for a moment it drops them still.

        From Linux 6.8 the first question makes the kernel do what it has put off, so there is no second one.
        """
        for _ in range(1000):
            (link,) = [link async for link in await self._requests.get_links(index)]
            if link.get_attr("IFLA_OPERSTATE") == "UP":
                return
            await asyncio.sleep(0.002)
        raise OSError(errno.ENETDOWN, f"link {index} of {self.path.name} did not come up")

    async def index(self, name: str) -> int:
        """Return the index of a link by its name."""
        try:
            (index,) = await self._requests.link_lookup(ifname=name)
        except ValueError:
            raise OSError(errno.ENODEV, f"no link {name} in {self.path.name}") from None
        return int(index)


async def vanished_links(path: Path) -> AsyncIterator[set[int] | None]:
    """Yield the indexes of links that are gone, as they go; None when the kernel had to drop events."""
    loop = asyncio.get_running_loop()
    with netns.made_inside(path, lambda: _socket(_RTMGRP_LINK)) as events:
        yield None  # listening from here on: what went before is for the reader to see
        while True:
            try:
                batch = await loop.sock_recv(events, 1 << 16)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
                continue
            if gone := _deleted(batch):
                yield gone


def _deleted(batch: bytes) -> set[int]:
    gone: set[int] = set()
    offset = 0
    while offset + _HEADER.size <= len(batch):
        length, kind, _, _, _ = _HEADER.unpack_from(batch, offset)
        if kind == _RTM_DELLINK:
            family, _, index, _, _ = _IFINFO.unpack_from(batch, offset + _HEADER.size)
            if family == socket.AF_UNSPEC:  # a port leaving a bridge sends one, too, in family AF_BRIDGE
                gone.add(index)
        offset += max((length + 3) & ~3, _HEADER.size)
    return gone
