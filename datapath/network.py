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

from datapath import conntrack, firewall, guard, kernel, limits, netns, news, observe, rtnetlink
from datapath.apply import apply
from datapath.borders import USUAL, Borders
from datapath.diff import Op, diff, mend
from datapath.guard import Guard
from datapath.kernel import Kernel
from datapath.marking import Marking
from datapath.netlink import each_message
from datapath.news import News
from datapath.plan import bandwidth, exclusive, node, routed, shared
from datapath.rtnetlink import Link
from datapath.state import NOTHING, Direction, Eni, Mark, Member, Netns, NetState, Route, Sysctl, Tbf, Veth
from datapath.tc import Queue
from datapath.words import told
from eniway import names
from eniway.errors import DeadlineExceeded, InvariantBroken, KernelError, NotReady
from eniway.metrics import DATAPATH_SECONDS
from eniway.model import UNLIMITED, Card, Kind, Lease, LeaseKey, Mac

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
    metadata: bool
    """Pods may ask the metadata service."""


class Network:
    """The node's part of the pod network. Raises KernelError for whatever the kernel refuses.

    ``path``: the node's network namespace, where it is not the process's own. ``borders``: what pods may reach.
    """

    def __init__(self, *, path: str = netns.CURRENT, borders: Borders = USUAL) -> None:
        self._borders = borders
        self._homes: list[kernel.Home] = []
        self._quick = ThreadPoolExecutor(1, "datapath", _enter, (path, self._homes))
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, "datapath-slow", _enter, (path, self._homes))
        self._node: _Node | None = None
        self._cards: set[Mac] = set()
        """Those on the node that a change is news of."""
        self._news = News(self._cards)
        self._guard = Guard()
        self._marking = Marking()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quick.shutdown()
        self._slow.shutdown()
        for home in self._homes:
            home.close()
        self._news.close()
        self._guard.close()

    async def start(self, *, service_cidr: IPv4Network, primary: Card) -> bool:
        """The state that all pods share: sysctls, the rule to the pods' table, sets and chains. Before all else.

        Again in each sweep: it writes only what is missing or wrong, and returns whether anything was. What it hands
        down to the cards' rp_filter ``prepare_card`` takes back, so that comes after it.
        """
        if not self._news.listens:
            self._news.listen(*await self._run(None, news.opened))
        mtu, changed = await self._run("start", lambda: _start(primary, self._borders, self._marking), slow=True)
        self._node = _Node(service_cidr, mtu, self._borders.metadata)
        self._cards.add(primary.mac)
        return changed

    async def changed(self) -> None:
        """Return once a card's link came, went or changed, or a rule, table or jump of ours went, since the last call.

        Links of pods, and cards on their way into a pod, are not news. For one caller at a time, who waits a little
        before acting: news come in swarms, and some are of our own making.
        """
        await self._news.changed()

    async def wait_card(self, mac: Mac, *, deadline: float) -> int:
        """The ifindex of the link with ``mac`` once it is in the node's namespace.

        ``deadline`` is a time of the running loop's clock; DeadlineExceeded after it. Woken by the kernel
        (RTMGRP_LINK).
        """
        link = await self._until(lambda link: observe.has_mac(link, mac), deadline)
        if link is None:
            raise DeadlineExceeded(f"the card {mac} did not appear on this node")
        return link.index

    async def prepare_card(self, card: Card) -> bool:
        """Make a card ready to carry shared pods, from whatever is there; whether there was anything to do.

        NotReady: it is not on this node.
        """
        mtu = self._started.mtu
        self._cards.add(card.mac)
        return bool(await self._run("prepare_card", lambda: _preparing(card, mtu, act=True)))

    async def retire_card(self, card: Card) -> None:
        """Undo ``prepare_card``. Succeeds when there is nothing left to undo, the card included."""
        mtu = self._started.mtu
        self._cards.discard(card.mac)
        await self._run("retire_card", lambda: _retire_card(card, mtu), slow=True)

    async def claim_ranges(self, cidrs: Collection[IPv4Network]) -> None:
        """Addresses of ``cidrs``, the node's podCIDR, end here: one that no pod has is unreachable. Idempotent."""
        await self._run("claim_ranges", lambda: _claim_ranges(cidrs))

    async def park_card(self, card: Card) -> bool:
        """Make sure that a card that waits for a pod is clean: down, nothing on it; whether there was anything to do.

        NotReady: it is not on this node, or in a pod.
        """
        mtu = self._started.mtu
        self._cards.add(card.mac)
        return bool(await self._run("park_card", lambda: _parking(card, mtu, act=True)))

    async def attach(self, lease: Lease) -> Attachment:
        """Bring the pod's side and the node's to what the lease says, from whatever is there.

        NotReady: the lease's card is not on this node.
        """
        known = self._started
        slow = lease.kind is Kind.EXCLUSIVE
        brought = await self._run("attach", lambda: _bring(lease, known, diff), slow=slow)
        if brought is None:
            # Its last pod's namespace may have gone with the card in it: the kernel brings it home, a little later.
            deadline = asyncio.get_running_loop().time() + _HOMECOMING_SECONDS
            await self._until(lambda link: observe.may_be(link, lease.card), deadline)
            brought = await self._run("attach", lambda: _bring(lease, known, diff), slow=slow)
        if brought is None:
            raise _not_here(lease.card)
        await self._mind(lease)
        _, desired = brought
        return _attachment(desired)

    async def repair(self, lease: Lease) -> tuple[Op, ...]:
        """Do what ``check`` says, and return it. NotReady: the lease's card is not on this node."""
        known = self._started
        brought = await self._run("repair", lambda: _bring(lease, known, mend), slow=lease.kind is Kind.EXCLUSIVE)
        if brought is None:
            raise _not_here(lease.card)
        await self._mind(lease)
        ops, _ = brought
        return ops

    async def check(self, lease: Lease) -> tuple[Op, ...]:
        """What is missing or wrong of what ``attach`` did. What the pod did besides, in its own namespace, is not."""
        known = self._started
        return await self._run("check", lambda: _check(lease, known))

    async def detach(self, lease: Lease) -> None:
        """Remove all that the lease put into the kernel, and what it knows of its connections; a card comes home clean.

        Succeeds when nothing is left to do, and with a namespace that is gone: then the card comes home by itself,
        later.
        """
        mtu = self._started.mtu
        self._guard.forget(lease.key)
        await self._run("detach", lambda: _detach(lease, mtu), slow=True)

    async def limits_touched(self) -> LeaseKey | None:
        """Return once somebody may have touched a pod's limits: an exclusive one's lease; None: any other's.

        For one caller at a time. Some news are of our own making: ``repair`` tells.
        """
        return await self._guard.taken()

    async def queues(self, lease: Lease) -> Mapping[Direction, Queue]:
        """How the pod's buckets are doing, by direction as the pod sees it; nothing of what has no limit."""
        mtu = self._started.mtu
        return await self._run(None, lambda: _queues(lease, mtu))

    async def observe_leases(self) -> Mapping[LeaseKey, str]:
        """Leases that have a link on the node, with its name: read from the links' ifalias."""
        return await self._run(None, _observe_leases)

    async def observe_addresses(self) -> frozenset[IPv4Address]:
        """Addresses that the node routes to its pods, whoever knows of them."""
        return await self._run(None, _observe_addresses)

    async def observe_routed(self) -> Mapping[LeaseKey, frozenset[IPv4Address]]:
        """The same for each lease that has a link on the node, read from the links' ifalias."""
        return await self._run(None, _observe_routed)

    async def remove_orphan(self, key: LeaseKey) -> None:
        """Remove what the node's side holds of a lease that nobody knows."""
        await self._run("remove_orphan", lambda: _remove_orphan(key), slow=True)

    async def check_node(self, primary: Card, cidrs: Collection[IPv4Network]) -> tuple[str, ...]:
        """What ``start`` and ``claim_ranges`` would put right."""
        return await self._run(None, lambda: _check_node(primary, self._borders, self._marking, cidrs), slow=True)

    async def check_card(self, card: Card, *, parked: bool) -> tuple[str, ...]:
        """What ``prepare_card``, or ``park_card`` of a card that is to be ``parked``, would put right; NotReady too."""
        mtu = self._started.mtu
        ops = await self._run(None, lambda: (_parking if parked else _preparing)(card, mtu, act=False))
        return tuple(map(told, ops))

    async def check_lease(self, lease: Lease) -> tuple[str, ...]:
        """As ``check``, in words."""
        return tuple(map(told, await self.check(lease)))

    async def stale(self, leases: Callable[[], Collection[Lease]]) -> frozenset[Member | Mark]:
        """Members of our sets, and marks, that belong to none of ``leases()``, which is asked after the kernel."""
        found = await self._run(None, _members)
        held = {address for lease in leases() for address in _addresses(lease)}
        return frozenset(item for item in found if item.address not in held)

    async def prune(self, leases: Callable[[], Collection[Lease]]) -> int:
        """Remove members of our sets that belong to no lease; how many.

        ``leases``: all there are, intended ones included. It is asked after the kernel, because a lease is in the books
        before it is in the kernel, and again at the end: one that came in between gets back what was taken from it.
        """
        known = self._started
        stale = await self.stale(leases)
        if stale:
            await self._run("prune", lambda: _apply(diff(stale, NOTHING)))
            gone = {item.address for item in stale}
            late = [lease for lease in leases() if gone.intersection(_addresses(lease))]
            planned = frozenset(
                item for lease in late for item in _plan(lease, known) if isinstance(item, Member | Mark)
            )
            await self._run(None, lambda: _apply(diff(NOTHING, planned)))
        return len(stale)

    async def _mind(self, lease: Lease) -> None:
        """Listen in an exclusive pod while it has limits, and on a node that has had a pod with limits there."""
        if lease.bandwidth == UNLIMITED:
            self._guard.forget(lease.key)
        elif lease.kind is not Kind.EXCLUSIVE:
            if not self._guard.hears(None):
                self._guard.listen(None, await self._run(None, guard.opened))
        elif not self._guard.hears(lease.key):
            self._guard.listen(lease.key, await self._run(None, lambda: _listening(lease.netns)))

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


def _start(primary: Card, borders: Borders, marking: Marking) -> tuple[int, bool]:
    """MTU of the primary card, and whether anything was changed."""
    with kernel.opened() as opened:
        link = _primary(opened, primary)
        written = marking.ensure(opened, borders) | firewall.ensure(opened, primary.address, borders)
        ops = _starting(opened, link, primary, borders)
        apply(opened, ops)
        return link.mtu, written or bool(ops)


def _check_node(primary: Card, borders: Borders, marking: Marking, cidrs: Collection[IPv4Network]) -> tuple[str, ...]:
    with kernel.opened() as opened:
        wanting = (*firewall.wanting(opened, primary.address, borders), *marking.wanting())
        ops = _starting(opened, _primary(opened, primary), primary, borders)
        ops += diff(observe.ranges(opened), routed.ranges(cidrs))
        return (*wanting, *map(told, ops))


def _primary(opened: Kernel, primary: Card) -> Link:
    link = observe.find_card(opened, primary)
    if link is None:
        raise KernelError(f"the primary card {primary.eni_id} ({primary.mac}) is not on this node")
    return link


def _starting(opened: Kernel, link: Link, primary: Card, borders: Borders) -> tuple[Op, ...]:
    desired = node.node(observe.rp_filters(opened)) | node.borders(borders, primary, name=link.name)
    paths = [item.path for item in desired if isinstance(item, Sysctl)]
    return diff(observe.node(opened, paths, link), desired)


def _preparing(card: Card, mtu: int, *, act: bool) -> tuple[Op, ...]:
    with kernel.opened() as opened:
        observed = observe.shared_card(opened, card)
        name = next((item.name for item in observed if isinstance(item, Eni)), None)
        if name is None:
            raise _not_here(card)
        ops = diff(observed, node.shared_card(card, name=name, mtu=mtu))
        if act:
            apply(opened, ops)
        return ops


def _retire_card(card: Card, mtu: int) -> None:
    with kernel.opened() as opened:
        observed = observe.shared_card(opened, card)
        apply(opened, diff(observed, _home(observed, card, mtu)))


def _claim_ranges(cidrs: Collection[IPv4Network]) -> None:
    with kernel.opened() as opened:
        apply(opened, diff(observe.ranges(opened), routed.ranges(cidrs)))


def _parking(card: Card, mtu: int, *, act: bool) -> tuple[Op, ...]:
    with kernel.opened() as opened:
        observed = observe.shared_card(opened, card)
        if not _has_card(observed):
            raise _not_here(card)
        ops = diff(observed, _home(observed, card, mtu))
        if act:
            apply(opened, ops)
        return ops


def _bring(
    lease: Lease, known: _Node, compare: Callable[[NetState, NetState], tuple[Op, ...]]
) -> tuple[tuple[Op, ...], NetState] | None:
    """Carry out what ``compare`` finds; that, and what was planned. None: the card is neither in the pod nor here."""
    with kernel.opened(lease.netns) as opened:
        if not opened.has_pod:
            raise KernelError(f"the pod's network namespace {lease.netns!r} {opened.missing}")
        observed, desired = _observe(opened, lease), _plan(lease, known)
        if lease.kind is Kind.EXCLUSIVE and not _has_card(observed):
            return None
        ops = compare(observed, desired)
        apply(opened, ops)
    return ops, desired


def _check(lease: Lease, known: _Node) -> tuple[Op, ...]:
    with kernel.opened(lease.netns) as opened:
        return mend(_observe(opened, lease), _plan(lease, known))


def _detach(lease: Lease, mtu: int) -> None:
    with kernel.opened(lease.netns) as opened:
        observed = _observe(opened, lease)
        desired = _home(observed, lease.card, mtu) if lease.kind is Kind.EXCLUSIVE else NOTHING
        apply(opened, diff(observed, desired))
        # Not before: what comes for a pod whose links are still there makes its connection known again.
        conntrack.forget(opened.sets, _addresses(lease))


def _listening(pod: str) -> socket.socket:
    with netns.opened(pod) as descriptor:
        return guard.opened(descriptor)


def _queues(lease: Lease, mtu: int) -> Mapping[Direction, Queue]:
    planned = [item for item in bandwidth.bandwidth(lease, mtu=mtu) if isinstance(item, Tbf)]
    with kernel.opened(lease.netns) as opened:
        reachable = [item for item in planned if item.netns in opened.routes]
        return {bandwidth.direction(item): queue for item in reachable if (queue := limits.queue(opened, item))}


def _observe_leases() -> Mapping[LeaseKey, str]:
    with kernel.opened() as opened:
        return observe.leases(opened)


def _observe_addresses() -> frozenset[IPv4Address]:
    with kernel.opened() as opened:
        return observe.addresses(opened)


def _observe_routed() -> Mapping[LeaseKey, frozenset[IPv4Address]]:
    with kernel.opened() as opened:
        return observe.routed_to(opened)


def _remove_orphan(key: LeaseKey) -> None:
    with kernel.opened() as opened:
        observed = observe.orphan(opened, key)
        apply(opened, diff(observed, NOTHING))
        conntrack.forget(
            opened.sets, {item.destination.network_address for item in observed if isinstance(item, Route)}
        )


def _members() -> frozenset[Member | Mark]:
    with kernel.opened() as opened:
        return observe.members(opened)


def _apply(ops: Collection[Op]) -> None:
    with kernel.opened() as opened:
        apply(opened, ops)


# --- what a lease means


def _plan(lease: Lease, known: _Node) -> NetState:
    return _connection(lease, known) | bandwidth.bandwidth(lease, mtu=known.mtu)


def _connection(lease: Lease, known: _Node) -> NetState:
    match lease.kind:
        case Kind.SHARED:
            return shared.shared(lease, mtu=known.mtu)
        case Kind.ROUTED:
            return routed.routed(lease, mtu=known.mtu)
        case Kind.EXCLUSIVE:
            return exclusive.exclusive(lease, mtu=known.mtu, service_cidr=known.service_cidr, metadata=known.metadata)


def _observe(opened: Kernel, lease: Lease) -> NetState:
    alone = lease.kind is Kind.EXCLUSIVE
    return observe.lease(
        opened,
        lease.key,
        peer=names.SERVICE_LINK if alone else lease.key.ifname,
        card=lease.card if alone else None,
        addresses=_addresses(lease),
        # A pod that has no limit and no veth yet, as most at their ADD, has nothing to be looked for.
        limited=lease.bandwidth != UNLIMITED or not opened.has_pod,
    )


def _addresses(lease: Lease) -> list[IPv4Address]:
    return [address for address in (lease.address, lease.service_address) if address is not None]


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


def _not_here(card: Card) -> NotReady:
    return NotReady(f"the card {card.eni_id} ({card.mac}) is not on this node")


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
    told_of = await _received(events)
    return told_of is None or any(
        kind == rtnetlink.RTM_NEWLINK and wanted(rtnetlink.link(payload)) for kind, payload in told_of
    )


async def _received(events: socket.socket) -> list[tuple[int, bytes]] | None:
    """Type and payload of the next messages; None: some were lost."""
    try:
        data = await asyncio.get_running_loop().sock_recv(events, 1 << 16)
    except OSError:
        return None  # ENOBUFS
    return [(kind, payload) for kind, _, _, payload in each_message(data)]


def _enter(path: str, homes: list[kernel.Home]) -> None:
    with netns.opened(path) as descriptor:
        netns.enter(descriptor)
    homes.append(kernel.keep())
