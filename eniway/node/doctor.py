"""`eniway doctor` on the node: takes the readings, and has the daemon mend by its own ways. Decides nothing.

What is wrong is looked at again a moment later, because not all can be asked at one instant. To mend is to do now
what the sweep, the survey of the cloud and the start do by themselves sooner or later, and then to look again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, TypeVar

from datapath.network import Network
from datapath.state import Member
from deviceplugin.podresources import PodResources
from eniallocator.books import Books
from eniallocator.reading import Reading, confront
from eniway import log, names
from eniway.errors import EniwayError, KernelError, NotReady
from eniway.model import EniId, Lease
from eniway.node import surroundings
from eniway.node.diagnosis import Difference, Host, Kernel, Kubelet, Mend, Party, diagnose, lasting
from eniway.node.sweep import Sweeper, is_namespace

_T = TypeVar("_T")
_log = log.get(__name__)
_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds between looks: a second one at all that differs, further ones while there is any that passes as a rule."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and who could not be asked, with the reason."""

    differences: tuple[Difference, ...]
    unread: tuple[tuple[Party, str], ...]
    left: frozenset[tuple[str, str]] | None = None
    """After mending: (name, of) of those that are still there, or may be; None: nothing was to be mended."""

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "differences": [self._told(one) for one in self.differences],
            "unread": [{"party": party, "why": why} for party, why in self.unread],
        }

    def _told(self, one: Difference) -> dict[str, Any]:
        said = dict(one.said)
        return {
            "difference": one.name,
            "of": one.of,
            "means": one.entry.means,
            "since": one.since,
            **{party: said.get(party) for party in Party},
            "fix": one.entry.remedy if one.entry.mend is not None else None,
            "byHand": one.entry.remedy if one.entry.mend is None else None,
            "mended": None if self.left is None else (one.name, one.of) not in self.left,
        }


class Doctor:
    """``relay``: where the image has it; ``install`` writes the runtime's files, in a thread."""

    def __init__(
        self,
        books: Books,
        network: Network,
        sweeper: Sweeper,
        kubelet: PodResources,
        *,
        relay: Path,
        install: Callable[[], None],
    ) -> None:
        self._books = books
        self._network = network
        self._sweeper = sweeper
        self._kubelet = kubelet
        self._relay = relay
        self._install = install
        self._turn = asyncio.Lock()

    async def look(self) -> Report:
        """What differs, and lasts."""
        async with self._turn:
            return await self._look()

    async def mend(self) -> Report:
        """Mend what can be mended; what was found, and what of it is left."""
        async with self._turn:
            found = await self._look()
            failed = [failure for way in Mend if (failure := await self._mend(way, found)) is not None]
            after = await self._look()
            known = {(one.name, one.of) for one in found.differences}
            new = tuple(one for one in after.differences if (one.name, one.of) not in known)
            silent = {party for party, _ in after.unread}
            unseen = [one for one in found.differences if any(party in silent for party, _ in one.said)]
            left = frozenset((str(one.name), one.of) for one in (*after.differences, *unseen))
            return Report((*found.differences, *new), (*after.unread, *failed), left)

    async def _mend(self, way: Mend, found: Report) -> tuple[Party, str] | None:
        """Go ``way`` if anything found needs it; what failed."""
        wanted = [one for one in found.differences if one.entry.mend is way]
        if not wanted:
            return None
        _log.warning(
            "mending what the doctor found", by=str(way), differences=[f"{one.name} {one.of}" for one in wanted]
        )
        party, go = self._ways()[way]
        try:
            await go()
        except EniwayError as error:
            return party, f"mending failed: {error}"
        return None

    def _ways(self) -> Mapping[Mend, tuple[Party, Callable[[], Awaitable[object]]]]:
        return {
            Mend.SWEEP: (Party.KERNEL, self._sweeper.sweep),
            Mend.CLOUD: (Party.CLOUD, self._books.settle_with_cloud),
            Mend.FILES: (Party.HOST, self._write_files),
        }

    async def _write_files(self) -> None:
        try:
            await asyncio.to_thread(self._install)
        except OSError as error:
            raise NotReady(f"the runtime's files cannot be written: {error}") from error

    async def _look(self) -> Report:
        report = await self._once()
        for number, pause in enumerate(_PAUSES):
            if not any(number == 0 or one.entry.passes for one in report.differences):
                break
            await asyncio.sleep(pause)
            later = await self._once()
            report = replace(later, differences=lasting(report.differences, later.differences))
        return report

    async def _once(self) -> Report:
        unread: list[tuple[Party, str]] = []

        async def asked(party: Party, question: Awaitable[_T]) -> _T | None:
            try:
                return await question
            except EniwayError as error:
                unread.append((party, str(error)))
                return None

        cloud = await asked(Party.CLOUD, self._books.ask_cloud())
        # Of the moment at which the answer came.
        ledger = self._books.reading()
        if cloud is not None and confront(ledger, cloud) is None:
            unread.append((Party.CLOUD, f"it does not show this instance's own {ledger.identity.primary_eni}"))
        kernel = await asked(Party.KERNEL, self._look_at_kernel(ledger))
        kubelet = await asked(Party.KUBELET, self._ask_kubelet())
        host = await asked(Party.HOST, surroundings.files(self._relay)) or Host()
        host = replace(host, kube_proxy=await asked(Party.KUBE_PROXY, surroundings.kube_proxy()))
        found = diagnose(ledger, kernel, kubelet, cloud, host, trusted=self._sweeper.trusted)
        return Report(found, tuple(unread))

    async def _ask_kubelet(self) -> Kubelet:
        return Kubelet(await self._kubelet.active(), await self._kubelet.allocatable())

    async def _look_at_kernel(self, ledger: Reading) -> Kernel:
        network, cidr = self._network, self._books.pod_cidr
        paths = {held.netns for held in ledger.leases}
        alive = await asyncio.to_thread(lambda: frozenset(filter(is_namespace, paths)))
        node = await network.check_node(self._books.primary, () if cidr is None else (cidr,))
        cards, absent = await self._look_at_cards()
        done = {held.key for held in ledger.leases if held.confirmed}
        leases = [lease for lease in self._books.leases() if lease.key in done and lease.netns in alive]
        return Kernel(
            alive=alive,
            links=await network.observe_leases(),
            routed=frozenset(await network.observe_addresses()),
            routed_to=await network.observe_routed(),
            members=await self._look_at_sets(),
            node=node,
            cards=cards,
            leases={lease.key: await self._look_at_lease(lease) for lease in leases},
            absent=absent,
        )

    async def _look_at_cards(self) -> tuple[Mapping[EniId, tuple[str, ...]], frozenset[EniId]]:
        """What is wrong with each card, and those that are not here."""
        found: dict[EniId, tuple[str, ...]] = {}
        absent: set[EniId] = set()
        for cards, parked in ((self._books.shared_cards, False), (self._books.idle_exclusive_cards, True)):
            for card in cards():
                try:
                    wrong = await self._network.check_card(card, parked=parked)
                except NotReady:
                    wrong = ()
                    absent.add(card.eni_id)
                # One that was taken meanwhile is not compared.
                if card in cards():
                    found[card.eni_id] = wrong
        return found, frozenset(absent & found.keys())

    async def _look_at_lease(self, lease: Lease) -> tuple[str, ...]:
        try:
            return await self._network.check_lease(lease)
        except KernelError as error:
            return (f"cannot be looked at: {error}",)

    async def _look_at_sets(self) -> Mapping[IPv4Address, frozenset[str]]:
        found: defaultdict[IPv4Address, set[str]] = defaultdict(set)
        try:
            for member in await self._network.stale(self._books.leases):
                found[member.address].add(member.set if isinstance(member, Member) else names.NFT_SOURCES)
        except KernelError:
            # A set is missing: that is the node's difference.
            return {}
        return {address: frozenset(sets) for address, sets in found.items()}
