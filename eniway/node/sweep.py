"""Compare books and kernel, repair what differs, count it.

First what all pods stand on: node-wide rules, sets, chains and settings, and the cards. Then four differences, and
what is done about each:

1. a lease whose sandbox is gone (its netns path is no namespace any more): a DEL that never came, or that came while
   the daemon was away. Released.
2. a host link that carries a lease key nobody holds: an ADD that was undone half-way. Removed, unless the books were
   lost and rebuilt: then it may well be a running pod's, and it ends with its sandbox anyhow. While there is none such,
   addresses found on our cards without a lease are nobody's and go back into service. Of books that were lost, leases
   of running pods are made again from what the runtime remembers of its ADDs.
3. a confirmed lease whose links, routes or set members are not as planned: somebody else's hand, a unit that flushed
   rules. Brought back.
4. an address that is routed to a pod and leased to nobody: not handed out as long as that is so. And what of the
   podCIDR no pod has is unreachable, as it was made when the podCIDR was learnt.

The comparison is pure; the sweeper acts through the doors' own per-lease order, so that it never works on a lease that
an ADD or DEL is working on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from eniway import log, metrics
from eniway.errors import EniwayError, NotReady
from eniway.model import Card, Lease, LeaseKey, Sandbox

_log = log.get(__name__)
_GATHER_SECONDS: Final = 1.0


class Held(Protocol):
    """A lease, or the ledger's record of it."""

    @property
    def key(self) -> LeaseKey:
        """Whose it is."""
        ...

    @property
    def netns(self) -> str:
        """Path of the pod's network namespace."""
        ...


_Held = TypeVar("_Held", bound=Held)


@dataclass(frozen=True, slots=True)
class Findings(Generic[_Held]):
    """What a sweep has to do."""

    released: tuple[LeaseKey, ...]
    orphaned: tuple[LeaseKey, ...]
    checked: tuple[_Held, ...]
    """Leases in good standing: their kernel state is to be compared with the plan."""


def compare(*, leases: Collection[_Held], alive: Collection[str], links: Mapping[LeaseKey, str]) -> Findings[_Held]:
    """What differs between books (``leases``), sandboxes (``alive``: netns paths) and kernel (``links``)."""
    living = set(alive)
    held = {lease.key for lease in leases}
    return Findings(
        released=tuple(lease.key for lease in leases if lease.netns not in living),
        orphaned=tuple(key for key in links if key not in held),
        checked=tuple(lease for lease in leases if lease.netns in living),
    )


def is_namespace(path: str, *, nsfs: int | None = None) -> bool:
    """Whether ``path`` is a network namespace held open by its mount: a file of the nsfs device.

    A path whose mount went away but whose file stayed is an ordinary file, as a half-finished teardown leaves it.
    """
    device = Path("/proc/self/ns/net").stat().st_dev if nsfs is None else nsfs
    try:
        return Path(path).stat().st_dev == device
    except OSError:
        return False


class Books(Protocol):
    """The books' part of a sweep."""

    @property
    def primary(self) -> Card:
        """The instance's own card."""
        ...

    def shared_cards(self) -> Sequence[Card]:
        """Cards that carry shared pods."""
        ...

    def idle_exclusive_cards(self) -> Sequence[Card]:
        """Exclusive cards that no pod has."""
        ...

    def card_missing(self, card: Card) -> None:
        """Its link is not on this node."""
        ...

    def card_present(self, card: Card) -> None:
        """It is."""
        ...

    def leases(self) -> Sequence[Lease]:
        """All leases, confirmed or not."""
        ...

    def lease(self, key: LeaseKey) -> Lease | None:
        """The lease of ``key``."""
        ...

    async def confirm(self, key: LeaseKey) -> None:
        """The kernel is done."""
        ...

    async def release(self, key: LeaseKey) -> None:
        """The kernel is undone."""
        ...

    async def recover(
        self, sandboxes: Collection[Sandbox], routed_to: Mapping[LeaseKey, Collection[IPv4Address]]
    ) -> int:
        """Leases of living ``sandboxes`` that the books lost."""
        ...

    async def settle_orphans(self, in_use: Collection[object]) -> None:
        """Addresses without a lease that are not ``in_use`` go back into service."""
        ...

    def account(self, addresses: Collection[IPv4Address]) -> None:
        """Addresses that the kernel routes to pods."""
        ...

    @property
    def pod_cidr(self) -> IPv4Network | None:
        """The Node's podCIDR, where it is known."""
        ...


class Network(Protocol):
    """The kernel's part of a sweep."""

    async def start(self, *, service_cidr: IPv4Network, primary: Card) -> bool:
        """The state that all pods share; whether anything was not as planned."""
        ...

    async def prepare_card(self, card: Card) -> bool:
        """A shared card's table, rule and settings; NotReady: it is not here."""
        ...

    async def park_card(self, card: Card) -> bool:
        """An idle exclusive card, clean and down; NotReady: it is not here."""
        ...

    async def observe_leases(self) -> Mapping[LeaseKey, str]:
        """Lease keys that host links carry, with the links' names."""
        ...

    async def observe_addresses(self) -> Collection[IPv4Address]:
        """Addresses that are routed to pods."""
        ...

    async def observe_routed(self) -> Mapping[LeaseKey, Collection[IPv4Address]]:
        """The same for each lease key that a host link carries."""
        ...

    async def claim_ranges(self, cidrs: Collection[IPv4Network]) -> None:
        """What of ``cidrs`` no pod has is unreachable."""
        ...

    async def remove_orphan(self, key: LeaseKey) -> None:
        """Remove the host side of a lease nobody holds."""
        ...

    async def repair(self, lease: Lease) -> Sequence[object]:
        """Put back what is missing or wrong of ours; what that was."""
        ...

    async def prune(self, leases: Callable[[], Collection[Lease]]) -> int:
        """Remove members of our sets that belong to none of ``leases()``; how many."""
        ...

    async def detach(self, lease: Lease) -> None:
        """Undo a lease."""
        ...

    async def changed(self) -> None:
        """Return when somebody else changed our cards' links or our rules."""
        ...


class Sweeper:
    """Runs sweeps.

    ``turn(key)`` is the doors' order of requests for one lease; ``trusted``: the books know of every lease there is;
    ``remembered``: attachments by the runtime's memory. ``mended`` hears what was wrong with a lease.
    """

    def __init__(
        self,
        books: Books,
        network: Network,
        *,
        service_cidr: IPv4Network,
        turn: Callable[[LeaseKey], AbstractAsyncContextManager[None]],
        trusted: bool,
        remembered: Callable[[], Collection[Sandbox]],
        alive: Callable[[str], bool] = is_namespace,
        mended: Callable[[Lease, Sequence[object]], None] = lambda _lease, _wrong: None,
    ) -> None:
        self._books = books
        self._network = network
        self._service_cidr = service_cidr
        self._turn = turn
        self._trusted = trusted
        self._remembered = remembered
        self._alive = alive
        self._mended = mended
        self._sweeping = asyncio.Lock()

    @property
    def trusted(self) -> bool:
        """Whether a link without a lease is nobody's: the books know of every lease there is."""
        return self._trusted

    async def due(self, seconds: float) -> None:
        """Return when it is time for the next sweep: after ``seconds``, or soon after somebody else's hand was seen."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._network.changed()
                # One restart of a network service is many changes.
                await asyncio.sleep(_GATHER_SECONDS)

    async def sweep(self) -> int:
        """One sweep, after the one under way; the number of repairs.

        An error over one card or lease is logged and does not keep the others waiting.
        """
        async with self._sweeping:
            return await self._sweep()

    async def _sweep(self) -> int:
        repairs = await self._foundations()
        links = await self._network.observe_leases()
        if not self._trusted:
            repairs += await self._recover()
        leases = self._books.leases()
        living = await asyncio.to_thread(lambda: [lease.netns for lease in leases if self._alive(lease.netns)])
        findings = compare(leases=leases, alive=living, links=links)
        for key in findings.released:
            repairs += await self._one("lease", key, self._release)
        if not findings.orphaned:
            # What books that were lost did not know has ended.
            self._trusted = True
            await self._books.settle_orphans(())
        if self._trusted:
            for key in findings.orphaned:
                repairs += await self._one("link", key, self._remove)
            repairs += self._count("set member", await self._network.prune(self._books.leases))
        for lease in findings.checked:
            repairs += await self._one("datapath", lease.key, self._mend)
        await self.sweep_ranges()
        return repairs

    async def _recover(self) -> int:
        """Leases that lost books do not know; a pod whose card has not been seen yet is for the next sweep."""

        def living() -> list[Sandbox]:
            return [sandbox for sandbox in self._remembered() if self._alive(sandbox.netns)]

        found = await asyncio.to_thread(living)
        return self._count("lost lease", await self._books.recover(found, await self._network.observe_routed()))

    async def sweep_ranges(self) -> None:
        """The podCIDR's part, also when another one was learnt."""
        self._books.account(await self._network.observe_addresses())
        await self._network.claim_ranges(() if self._books.pod_cidr is None else (self._books.pod_cidr,))

    async def _foundations(self) -> int:
        """Node-wide state, then cards: what all settings of links ask for is handed down to the cards by it."""
        wrong = await self._network.start(service_cidr=self._service_cidr, primary=self._books.primary)
        repairs = self._count("node", wrong)
        for cards, put in (
            (self._books.shared_cards, self._network.prepare_card),
            (self._books.idle_exclusive_cards, self._network.park_card),
        ):
            for card in cards():
                # Retired or leased while another card was worked on.
                if card not in cards():
                    continue
                try:
                    repairs += self._count("card", await put(card))
                except NotReady as error:
                    _log.warning("a card's link is not here", eni=card.eni_id, slot=card.slot, error=str(error))
                    self._books.card_missing(card)
                except EniwayError as error:
                    _log.warning("a card could not be put right", eni=card.eni_id, slot=card.slot, error=str(error))
                else:
                    self._books.card_present(card)
        return repairs

    @staticmethod
    def _count(what: str, number: int) -> int:
        if number:
            metrics.SWEEP_REPAIRS.labels(what).inc(number)
            _log.warning("a difference was repaired", what=what, number=int(number))
        return int(number)

    async def _one(self, what: str, key: LeaseKey, work: Callable[[LeaseKey], Awaitable[bool]]) -> bool:
        lease = self._books.lease(key)
        fields = {} if lease is None else {"pod": lease.pod, "eni": lease.card.eni_id, "address": lease.address}
        with log.bind(container=key.container_id, **fields):
            try:
                async with self._turn(key):
                    repaired = await work(key)
            except EniwayError as error:
                _log.warning("a difference could not be repaired", what=what, error=str(error))
                return False
            self._count(what, repaired)
        return repaired

    async def _release(self, key: LeaseKey) -> bool:
        lease = self._books.lease(key)
        if lease is None or self._alive(lease.netns):
            return False
        await self._network.detach(lease)
        await self._books.release(key)
        return True

    async def _remove(self, key: LeaseKey) -> bool:
        # An ADD that came after the comparison holds a lease now.
        if self._books.lease(key) is not None:
            return False
        await self._network.remove_orphan(key)
        return True

    async def _mend(self, key: LeaseKey) -> bool:
        lease = self._books.lease(key)
        if lease is None or not self._alive(lease.netns):
            return False
        wrong = await self._network.repair(lease)
        if wrong:
            _log.warning("a pod's network was not as planned", wrong=[str(part) for part in wrong][:10])
            self._mended(lease, wrong)
        # An ADD whose daemon died between kernel and books, and whose runtime kept the sandbox, is done by now.
        await self._books.confirm(key)
        return bool(wrong)
