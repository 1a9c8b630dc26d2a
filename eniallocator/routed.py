"""Routed pods in the books: whether there can be any on this node, and why not.

Two things have to be so: the Node has a podCIDR (of which no lease is left that is of another one, from before the Node
was made anew), and the primary ENI lets addresses pass that are not its own. Both are noted in the ledger: after a
restart neither the API server nor the cloud is asked before a pod is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Final

from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi, Eni
from eniallocator.cloud.errors import ApiError
from eniallocator.insist import Insist
from eniallocator.ledger import to_note
from eniallocator.store import Store
from eniway import log
from eniway.model import Capacity, EniId, Kind

_log = log.get(__name__)

NOTE_POD_CIDR: Final = "pod_cidr"
NOTE_FORWARDS: Final = "forwards"
REFUSED_SECONDS: Final = 60.0
"""How long the cloud is left alone after it refused to turn the source check off."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether routed pods can be served; ``possible`` None: not yet, and nothing is wrong."""

    possible: bool | None
    reason: str
    message: str


class Routed:
    """``learn`` the Node's podCIDR, ``want`` routed pods, ``run`` it.

    ``forwards``: the ledger says that the source check is off. ``expected``: pods of this node may be routed without
    saying so, so it is turned off ahead of the first of them.
    """

    def __init__(
        self,
        *,
        eni_id: EniId,
        cidr: IPv4Network | None,
        forwards: bool,
        expected: bool,
        store: Store,
        cloud: CloudApi,
        clock: Clock,
        random: Random,
        changed: Callable[[], None],
    ) -> None:
        self._eni_id = eni_id
        self._forwards = forwards
        self._expected = expected
        self._wanted = expected
        self._store = store
        self._inventory = store.inventory
        self._cloud = cloud
        self._clock = clock
        self._insist = Insist(clock, random)
        self._changed = changed
        self._asked = cidr is not None
        self._refusal = ""
        self._wake = asyncio.Event()
        self._strays = 0
        """Leases of another podCIDR."""
        if cidr is not None:
            self._inventory.pods.move(cidr)
            self._count_strays()

    @property
    def cidr(self) -> IPv4Network | None:
        """The Node's podCIDR, as far as it is known."""
        return self._inventory.pods.cidr

    async def learn(self, cidr: IPv4Network | None) -> None:
        """What the Node says; None: it has no podCIDR. One that is known stays until there is another."""
        self._asked = True
        if cidr is not None and cidr != self.cidr:
            _log.info("podCIDR", was=str(self.cidr), now=str(cidr))
            self._inventory.pods.move(cidr)
            self._count_strays()
            if self._strays:
                _log.error("the podCIDR changed under running pods", leases=self._strays, now=str(cidr))
            await self._store.note(to_note(NOTE_POD_CIDR, cidr))
        self._wake.set()
        self._changed()

    def seen(self, primary: Eni) -> None:
        """The primary ENI as the cloud shows it now: somebody may have turned its source check on again."""
        if primary.source_dest_check is not None and self._forwards == primary.source_dest_check:
            if self._forwards:
                _log.warning("somebody turned the source check of the primary ENI on again", eni=self._eni_id)
            self._forwards = not primary.source_dest_check
            self._wake.set()
            self._changed()

    def want(self) -> None:
        """A routed pod waits, or one runs."""
        if not self._wanted:
            self._wanted = True
            self._wake.set()

    def released(self) -> None:
        """The lease of a routed pod ended."""
        if self._strays:
            self._count_strays()

    def pick(self, now: float) -> IPv4Address | None:
        """An address, where there can be routed pods and one is free."""
        if self._strays or not self._forwards:
            self.want()
            return None
        return self._inventory.pick_routed(now)

    def standing(self) -> Standing:
        """Whether there can be routed pods."""
        if self.cidr is None:
            if not self._asked:
                return Standing(None, "Starting", "the Node has not been read yet")
            missing = "the Node has no podCIDR; kube-controller-manager assigns one with --allocate-node-cidrs"
            return Standing(False if self._wanted else None, "NoPodCIDR", missing)
        if self._strays:
            message = f"the podCIDR is {self.cidr} now: no routed pod starts before the {self._strays} with an address"
            return Standing(False, "PodCIDRChanged", f"{message} of an earlier one have ended")
        if self._forwards or not self._wanted:
            return Standing(True, "Serving", "")
        if self._refusal:
            return Standing(
                False, "SourceCheck", f"the primary ENI's source check cannot be turned off: {self._refusal}"
            )
        return Standing(None, "Starting", "the primary ENI's source check is being turned off")

    def shortage(self) -> str:
        """Why there is no address for one more pod."""
        standing = self.standing()
        return standing.message or f"the {self._inventory.pods.size} addresses of {self.cidr} are taken"

    def capacity(self, now: float) -> Capacity:
        """Addresses of the podCIDR in the four words; none in service beyond the used where none is handed out."""
        used = sum(lease.kind is Kind.ROUTED for lease in self._inventory.leases.values())
        cooling = self._inventory.cooling_routed(now)
        orphaned = sum(
            self.cidr is not None and address in self.cidr and not self._inventory.is_leased(address)
            for address in self._inventory.pods.unaccounted
        )
        serves = self.standing().possible
        total = self._inventory.pods.size if serves else used + cooling + orphaned
        return Capacity(in_service=total, growable=0, cooling=cooling, orphaned=orphaned, used=used)

    async def run(self) -> None:
        """Turn the source check off where routed pods are wanted, for ever."""
        while True:
            self._wake.clear()
            if self._wanted and self.cidr is not None and not self._forwards:
                await self._turn_off()
            await self._rest()

    async def _rest(self) -> None:
        if not self._refusal:
            await self._wake.wait()
            return
        try:
            async with self._clock.timeout_at(self._clock.monotonic() + REFUSED_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _turn_off(self) -> None:
        try:
            found = await self._insist(lambda: self._cloud.enis(ids=[self._eni_id]))
            if not found or found[0].source_dest_check is not False:
                await self._insist(lambda: self._cloud.stop_source_check(self._eni_id))
        except ApiError as error:
            self._refusal = error.lasting
            _log.error("routed pods have to wait", because=str(error), seconds=REFUSED_SECONDS)
        else:
            _log.info("the primary ENI forwards for routed pods", eni=self._eni_id)
            self._refusal = ""
            self._forwards = True
            await self._store.note(to_note(NOTE_FORWARDS, value=True))
        self._changed()

    def _count_strays(self) -> None:
        cidr = self.cidr
        routed = [lease for lease in self._inventory.leases.values() if lease.kind is Kind.ROUTED]
        self._strays = sum(cidr is not None and lease.address not in cidr for lease in routed)
