"""The kernel as the doors and the books see it: leases go in, links come out. Plan, diff and apply meet here.

The work is synchronous netlink, in a few threads of its own, so it never waits behind a cloud call nor holds the event
loop. Making a pod's veth waits for nothing and is done by one thread: several would only hand the interpreter's lock to
one another, at twice the time for a burst. Callers see to it that one lease or card is worked on by one call at a time.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import Final, Self, TypeVar

from datapath import firewall, kernel, netns, observe, rtnetlink
from datapath.apply import apply
from datapath.diff import Op, diff
from datapath.kernel import Kernel
from datapath.netlink import each_message
from datapath.plan import exclusive, node, routed, shared
from datapath.rtnetlink import Link
from datapath.state import NOTHING, Eni, Netns, NetState, Sysctl, Veth
from eniway import names
from eniway.errors import DeadlineExceeded, InvariantBroken, KernelError, NotReady
from eniway.metrics import DATAPATH_SECONDS
from eniway.model import Card, Kind, Lease, LeaseKey, Mac

_T = TypeVar("_T")
_SLOW_THREADS: Final = 4
"""Most operations at once that wait in the kernel: removing a link or moving a card takes it some 10 ms (RCU)."""

_HOMECOMING_SECONDS: Final = 5.0
"""How long a card may take to come home from a namespace that is gone; a busy kernel takes some 100 ms."""


@dataclass(frozen=True, slots=True)
class PodLink:
    """A link in the pod."""

    name: str
    mac: Mac
    mtu: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a lease looks like from both sides."""

    host_link: str
    pod_links: tuple[PodLink, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """What ``start`` learns once."""

    service_cidr: IPv4Network
    mtu: int
    """Of the primary card; every card of an instance is in the same VPC and gets the same."""


class Network:
    """The node's part of the pod network. Raises KernelError for whatever the kernel refuses.

    ``path``: the node's network namespace, where it is not the process's own.
    """

    def __init__(self, *, path: str = netns.CURRENT) -> None:
        self._quick = ThreadPoolExecutor(1, "datapath", _enter, (path,))
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, "datapath-slow", _enter, (path,))
        self._node: _Node | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quick.shutdown()
        self._slow.shutdown()

    async def start(self, *, service_cidr: IPv4Network, primary: Card) -> None:
        """The state that all pods share: sysctls, the rule to the pods' table, sets and chains. Idempotent; first."""
        mtu = await self._run("start", lambda: _start(primary), slow=True)
        self._node = _Node(service_cidr, mtu)

    async def wait_card(self, mac: Mac, *, deadline: float) -> int:
        """The ifindex of the link with ``mac`` once it is in the node's namespace.

        ``deadline`` is a time of the running loop's clock; DeadlineExceeded after it. Woken by the kernel
        (RTMGRP_LINK).
        """
        link = await self._until(lambda link: mac in {link.permanent_mac, link.mac}, deadline)
        if link is None:
            raise DeadlineExceeded(f"the card {mac} did not appear on this node")
        return link.index

    async def prepare_card(self, card: Card) -> None:
        """Make a card ready to carry shared pods, from whatever is there. NotReady: it is not on this node."""
        mtu = self._started.mtu
        await self._run("prepare_card", lambda: _prepare_card(card, mtu))

    async def retire_card(self, card: Card) -> None:
        """Undo ``prepare_card``. Succeeds when there is nothing left to undo, the card included."""
        mtu = self._started.mtu
        await self._run("retire_card", lambda: _retire_card(card, mtu), slow=True)

    async def claim_ranges(self, cidrs: Collection[IPv4Network]) -> None:
        """Addresses of ``cidrs``, the node's podCIDR, end here: one that no pod has is unreachable. Idempotent."""
        await self._run("claim_ranges", lambda: _claim_ranges(cidrs))

    async def attach(self, lease: Lease) -> Attachment:
        """Bring the pod's side and the node's to what the lease says, from whatever is there.

        NotReady: the lease's card is not on this node.
        """
        known = self._started
        slow = lease.kind is Kind.EXCLUSIVE
        attachment = await self._run("attach", lambda: _attach(lease, known), slow=slow)
        if attachment is None:
            # Its last pod's namespace may have gone with the card in it: the kernel brings it home, a little later.
            deadline = asyncio.get_running_loop().time() + _HOMECOMING_SECONDS
            await self._until(lambda link: observe.is_card(link, lease.card), deadline)
            attachment = await self._run("attach", lambda: _attach(lease, known), slow=slow)
        if attachment is None:
            raise NotReady(f"the card {lease.card.eni_id} ({lease.card.mac}) is not on this node")
        return attachment

    async def check(self, lease: Lease) -> tuple[Op, ...]:
        """What ``attach`` would do: nothing, if all is as planned."""
        known = self._started
        return await self._run("check", lambda: _check(lease, known))

    async def detach(self, lease: Lease) -> None:
        """Remove all that the lease put into the kernel; an exclusive card comes home clean.

        Succeeds when nothing is left to do, and with a namespace that is gone: then the card comes home by itself,
        later.
        """
        mtu = self._started.mtu
        await self._run("detach", lambda: _detach(lease, mtu), slow=True)

    async def observe_leases(self) -> Mapping[LeaseKey, str]:
        """Leases that have a link on the node, with its name: read from the links' ifalias."""
        return await self._run(None, _observe_leases)

    async def observe_addresses(self) -> frozenset[IPv4Address]:
        """Addresses that the node routes to its pods, whoever knows of them."""
        return await self._run(None, _observe_addresses)

    async def remove_orphan(self, key: LeaseKey) -> None:
        """Remove what the node's side holds of a lease that nobody knows."""
        await self._run("remove_orphan", lambda: _remove_orphan(key), slow=True)

    @property
    def _started(self) -> _Node:
        if self._node is None:
            raise InvariantBroken("Network.start has not been called")
        return self._node

    async def _until(self, wanted: Callable[[Link], bool], deadline: float) -> Link | None:
        """The link that is wanted, once it is in the node's namespace; None at ``deadline``."""
        events = await self._run(None, _link_events)
        with events, suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while True:
                    link = await self._run(None, lambda: _find(wanted))
                    if link is not None:
                        return link
                    while not await _concerns(events, wanted):
                        pass
        return None

    async def _run(self, operation: str | None, work: Callable[[], _T], *, slow: bool = False) -> _T:
        """``work`` in a thread; ``slow``: it waits in the kernel.

        A cancelled caller waits for it: when it returns, nobody is at it any more.
        """
        started = time.perf_counter()
        future = asyncio.get_running_loop().run_in_executor(self._slow if slow else self._quick, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        except OSError as error:
            raise KernelError(str(error)) from error
        finally:
            if operation is not None:
                DATAPATH_SECONDS.labels(operation).observe(time.perf_counter() - started)


# --- the work, in a thread


def _start(primary: Card) -> int:
    with kernel.opened() as opened:
        link = observe.find(opened, lambda link: observe.is_card(link, primary))
        if link is None:
            raise KernelError(f"the primary card {primary.eni_id} ({primary.mac}) is not on this node")
        firewall.ensure(opened, primary.address)
        desired = node.node(observe.rp_filters(opened))
        paths = [item.path for item in desired if isinstance(item, Sysctl)]
        apply(opened, diff(observe.node(opened, paths), desired))
        return link.mtu


def _prepare_card(card: Card, mtu: int) -> None:
    with kernel.opened() as opened:
        observed = observe.shared_card(opened, card)
        name = next((item.name for item in observed if isinstance(item, Eni)), None)
        if name is None:
            raise NotReady(f"the card {card.eni_id} ({card.mac}) is not on this node")
        apply(opened, diff(observed, node.shared_card(card, name=name, mtu=mtu)))


def _retire_card(card: Card, mtu: int) -> None:
    with kernel.opened() as opened:
        observed = observe.shared_card(opened, card)
        apply(opened, diff(observed, _home(observed, card, mtu)))


def _claim_ranges(cidrs: Collection[IPv4Network]) -> None:
    with kernel.opened() as opened:
        apply(opened, diff(observe.ranges(opened), routed.ranges(cidrs)))


def _attach(lease: Lease, known: _Node) -> Attachment | None:
    """None: the card is neither in the pod nor on the node."""
    with kernel.opened(lease.netns) as opened:
        if not opened.has_pod:
            raise KernelError(f"the pod's network namespace {lease.netns!r} is gone")
        observed, desired = _observe(opened, lease), _plan(lease, known)
        if lease.kind is Kind.EXCLUSIVE and not _has_card(observed):
            return None
        apply(opened, diff(observed, desired))
    return _attachment(desired)


def _check(lease: Lease, known: _Node) -> tuple[Op, ...]:
    with kernel.opened(lease.netns) as opened:
        return diff(_observe(opened, lease), _plan(lease, known))


def _detach(lease: Lease, mtu: int) -> None:
    with kernel.opened(lease.netns) as opened:
        observed = _observe(opened, lease)
        desired = _home(observed, lease.card, mtu) if lease.kind is Kind.EXCLUSIVE else NOTHING
        apply(opened, diff(observed, desired))


def _observe_leases() -> Mapping[LeaseKey, str]:
    with kernel.opened() as opened:
        return observe.leases(opened)


def _observe_addresses() -> frozenset[IPv4Address]:
    with kernel.opened() as opened:
        return observe.addresses(opened)


def _remove_orphan(key: LeaseKey) -> None:
    with kernel.opened() as opened:
        apply(opened, diff(observe.orphan(opened, key), NOTHING))


# --- what a lease means


def _plan(lease: Lease, known: _Node) -> NetState:
    match lease.kind:
        case Kind.SHARED:
            return shared.shared(lease, mtu=known.mtu)
        case Kind.ROUTED:
            return routed.routed(lease, mtu=known.mtu)
        case Kind.EXCLUSIVE:
            return exclusive.exclusive(lease, mtu=known.mtu, service_cidr=known.service_cidr)


def _observe(opened: Kernel, lease: Lease) -> NetState:
    alone = lease.kind is Kind.EXCLUSIVE
    return observe.lease(
        opened,
        lease.key,
        peer=names.SERVICE_LINK if alone else lease.key.ifname,
        card=lease.card if alone else None,
        addresses=[address for address in (lease.address, lease.service_address) if address is not None],
    )


def _home(observed: NetState, card: Card, mtu: int) -> NetState:
    """A card keeps the name it has at home. One that is nowhere to be seen the kernel is about to bring home."""
    for item in observed:
        if isinstance(item, Eni):
            name = item.name if item.netns is Netns.NODE else f"eth{card.slot}"
            return exclusive.home(card, name=name, mtu=mtu)
    return NOTHING


def _has_card(observed: NetState) -> bool:
    return any(isinstance(item, Eni) for item in observed)


def _attachment(desired: NetState) -> Attachment:
    (veth,) = (item for item in desired if isinstance(item, Veth))
    cards = [item for item in desired if isinstance(item, Eni)]
    links = [PodLink(card.name, card.mac, card.mtu) for card in cards]
    links.append(PodLink(str(veth.peer), veth.peer_mac, veth.peer_mtu))
    return Attachment(veth.name, tuple(links))


# --- events


def _link_events() -> socket.socket:
    events = netns.netlink_socket(socket.NETLINK_ROUTE, groups=rtnetlink.RTMGRP_LINK)
    events.setblocking(False)
    return events


def _find(wanted: Callable[[Link], bool]) -> Link | None:
    with kernel.opened() as opened:
        return observe.find(opened, wanted)


async def _concerns(events: socket.socket, wanted: Callable[[Link], bool]) -> bool:
    """Wait for news of links; True if they may be about the one that is wanted."""
    try:
        data = await asyncio.get_running_loop().sock_recv(events, 1 << 16)
    except OSError:
        return True  # ENOBUFS: news were lost
    return any(
        kind == rtnetlink.RTM_NEWLINK and wanted(rtnetlink.link(payload)) for kind, _, _, payload in each_message(data)
    )


def _enter(path: str) -> None:
    with netns.opened(path) as descriptor:
        netns.enter(descriptor)
