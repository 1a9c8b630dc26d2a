"""Hears at once when somebody takes a limit of ours away, on the node or in an exclusive pod.

What was taken only looking can tell: news are hints, some of them of our own making.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from datapath import netns, rtnetlink, tc
from datapath.netlink import each_message
from eniway import names
from eniway.model import LeaseKey

_IFBS: Final = names.IFB_PREFIX.encode()
_GROUPS: Final = rtnetlink.RTMGRP_LINK | tc.RTMGRP_TC


class Guard:
    """Sockets that listen, one on the node (its key is None), one for each exclusive pod that has limits.

    A socket keeps its namespace from ending, so it has to be let go of first when a pod ends.
    """

    def __init__(self) -> None:
        self._sockets: dict[LeaseKey | None, socket.socket] = {}
        self._taken: set[LeaseKey | None] = set()
        self._news = asyncio.Event()

    def hears(self, key: LeaseKey | None) -> bool:
        """Whether there is a socket of that key."""
        return key in self._sockets

    def listen(self, key: LeaseKey | None, events: socket.socket) -> None:
        """Take over a socket of ``opened``."""
        self.forget(key)
        self._sockets[key] = events
        asyncio.get_running_loop().add_reader(events, self._read, key, events)

    def forget(self, key: LeaseKey | None) -> None:
        """Close the socket of that key, if there is one."""
        events = self._sockets.pop(key, None)
        self._taken.discard(key)
        if events is not None:
            asyncio.get_running_loop().remove_reader(events)
            events.close()

    def close(self) -> None:
        """Close all."""
        for key in list(self._sockets):
            self.forget(key)

    async def taken(self) -> LeaseKey | None:
        """The key of a socket that has heard something since it was last returned. For one caller at a time."""
        while not self._taken:
            self._news.clear()
            await self._news.wait()
        return self._taken.pop()

    def _read(self, key: LeaseKey | None, events: socket.socket) -> None:
        try:
            data = events.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: news were lost
            heard = True
        else:
            heard = any(_is_news(kind, flags, payload) for kind, flags, _, payload in each_message(data))
        if heard:
            self._taken.add(key)
            self._news.set()


def opened(where: int | None = None) -> socket.socket:
    """A socket that hears of links and traffic control in the namespace of a descriptor (None: the thread's own)."""
    events = netns.netlink_socket(socket.NETLINK_ROUTE, netns=where, groups=_GROUPS)
    events.setblocking(False)
    return events


def _is_news(kind: int, flags: int, payload: bytes) -> bool:
    if kind in {rtnetlink.RTM_NEWLINK, rtnetlink.RTM_DELLINK}:
        if _IFBS not in payload:  # each pod that comes or goes is several messages, and most have no ifb
            return False
        link = rtnetlink.link(payload)
        return link.name.startswith(names.IFB_PREFIX) and (kind == rtnetlink.RTM_DELLINK or not link.up)
    return tc.touches_ours(kind, flags, payload)
