"""Hears at once when somebody else changes what all pods stand on: cards, our routing rules, our tables and chains.

What was changed only looking can tell: news are hints, some of them of our own making. Programs that speak nf_tables to
the kernel (nft, iptables-nft) are heard of; iptables-legacy tells nobody.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Collection
from typing import Final

from datapath import netns, observe, rtnetlink
from datapath.netlink import NETLINK_NETFILTER, attributes, each_message
from datapath.nft import NFNL_SUBSYS_NFTABLES
from eniway import names
from eniway.model import Mac

_NFTABLES: Final = 1 << 6
"""NFNLGRP_NFTABLES, the seventh group, as bind(2) takes it."""
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 4 << 20
"""One commit of a large ruleset tells of thousands of rules before anybody can read."""
_DELTABLE, _DELRULE = (NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (2, 8))
_ELEMENTS: Final = {NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (12, 14)}
_TABLE, _CHAIN = 1, 2
_TABLES: Final = {names.NFT_TABLE, "nat", "filter", "mangle"}
"""Where chains of ours are."""
_OWN: Final = names.NFT_TABLE.encode() + b"\0"
_HINTS: Final = (_OWN, struct.pack("=H", _DELTABLE), struct.pack("=H", _DELRULE))
_PREFIX: Final = names.CHAIN_PREFIX.encode()


def opened() -> tuple[socket.socket, socket.socket]:
    """Sockets that hear of links and rules, and of nf_tables, in the calling thread's namespace."""
    routes = netns.netlink_socket(socket.NETLINK_ROUTE, groups=rtnetlink.RTMGRP_LINK | rtnetlink.RTMGRP_IPV4_RULE)
    tables = netns.netlink_socket(NETLINK_NETFILTER, groups=_NFTABLES)
    tables.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    for made in (routes, tables):
        made.setblocking(False)
    return routes, tables


class News:
    """``cards``: those on the node that a change is news of; they may change."""

    def __init__(self, cards: Collection[Mac]) -> None:
        self._cards = cards
        self._sockets: tuple[socket.socket, ...] = ()
        self._heard = asyncio.Event()

    @property
    def listens(self) -> bool:
        """Whether it has sockets."""
        return bool(self._sockets)

    def listen(self, routes: socket.socket, tables: socket.socket) -> None:
        """Take over sockets of ``opened``."""
        self._sockets = (routes, tables)
        loop = asyncio.get_running_loop()
        loop.add_reader(routes, self._read_routes, routes)
        loop.add_reader(tables, self._read_tables, tables)

    def close(self) -> None:
        """Close them."""
        for made in self._sockets:
            asyncio.get_running_loop().remove_reader(made)
            made.close()
        self._sockets = ()

    async def changed(self) -> None:
        """Return once there were news since the last call."""
        await self._heard.wait()
        self._heard.clear()

    def _read_routes(self, events: socket.socket) -> None:
        data = _received(events)
        # Each pod's links are a dozen messages, read here only as far as they might be about a card.
        macs = [bytes.fromhex(mac.replace(":", "")) for mac in self._cards]
        if data is None or any(
            _is_news(kind, payload, self._cards)
            for kind, _, _, payload in each_message(data)
            if kind == rtnetlink.RTM_DELRULE or any(mac in payload for mac in macs)
        ):
            self._heard.set()

    def _read_tables(self, events: socket.socket) -> None:
        data = _received(events)
        if data is None or (
            any(hint in data for hint in _HINTS)
            and any(is_ours(kind, payload) for kind, _, _, payload in each_message(data))
        ):
            self._heard.set()


def is_ours(kind: int, payload: bytes) -> bool:
    """Whether a message of nf_tables tells that something of ours went, or of any change of our own table.

    A table that we have chains in was deleted, or, in a chain that is not ours, a rule that leads to one of ours. Of
    our own table, which the daemon alone changes, all but the elements of its map.
    """
    if kind in _ELEMENTS:
        return False
    if kind == _DELRULE and _PREFIX in payload:
        return not attributes(payload[4:]).get(_CHAIN, b"").startswith(_PREFIX)
    if kind == _DELTABLE:
        return attributes(payload[4:]).get(_TABLE, b"").rstrip(b"\0").decode() in _TABLES
    return _OWN in payload and attributes(payload[4:]).get(_TABLE) == _OWN


def _is_news(kind: int, payload: bytes, cards: Collection[Mac]) -> bool:
    """Whether a message is of a rule of ours that went, or of a card, unless that went into a pod."""
    if kind == rtnetlink.RTM_DELRULE:
        return rtnetlink.rule(payload) is not None
    if kind not in {rtnetlink.RTM_NEWLINK, rtnetlink.RTM_DELLINK}:
        return False
    link = rtnetlink.link(payload)
    return not link.moved and any(observe.has_mac(link, mac) for mac in cards)


def _received(events: socket.socket) -> bytes | None:
    """One datagram; None: some were lost."""
    try:
        return events.recv(1 << 16)
    except BlockingIOError:
        return b""
    except OSError:
        return None  # ENOBUFS
