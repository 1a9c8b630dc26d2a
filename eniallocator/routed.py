"""Routed pods in the books: whether there can be any on this node, and why not.

Two things have to be so: the Node has a podCIDR (of which no lease is left that is of another one, from before the Node
was made anew), and the primary ENI lets addresses pass that are not its own. Both are noted in the ledger: after a
restart neither the API server nor the cloud is asked before a pod is served.

The source check is turned off for the first routed pod and, where it was us who did so and pods are not routed by
default, on again some minutes after the last. What is noted says never more than is so: that the check is off, after it
was turned off and until it is to be turned on; that we did it, before we do and until it is on again. Where a crash
leaves it off and nobody knows, the next comparison with the cloud sees it, and it goes on again.
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
NOTE_OURS: Final = "forwards_by_us"
REFUSED_SECONDS: Final = 60.0
"""How long the cloud is left alone after it refused to turn the source check off or on."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether routed pods can be served; ``possible`` None: not yet, and nothing is wrong."""

    possible: bool | None
    reason: str
    message: str


class Routed:
    """``learn`` the Node's podCIDR, ``want`` routed pods, ``run`` it.

    ``forwards``: the ledger says that the source check is off, ``ours``: that we turned it off. ``expected``: pods of
    this node may be routed without saying so, so it is turned off ahead of the first of them, and stays off.
    ``idle_seconds``: how long after the last of other pods it is turned on again.
    """

    def __init__(
        self,
        *,
        eni_id: EniId,
        cidr: IPv4Network | None,
        forwards: bool,
        ours: bool,
        expected: bool,
        idle_seconds: float,
        store: Store,
        cloud: CloudApi,
        clock: Clock,
        random: Random,
        changed: Callable[[], None],
    ) -> None:
        self._eni_id = eni_id
        self._forwards = forwards
        self._ours = ours
        self._expected = expected
        self._idle_seconds = idle_seconds
        self._store = store
        self._inventory = store.inventory
        self._cloud = cloud
        self._clock = clock
        self._insist = Insist(clock, random)
        self._changed = changed
        self._asked = cidr is not None
        self._refusal = ""
        self._doubtful = False
        """The cloud showed the source check otherwise than we have it."""
        self._idle_at: float | None = None if self._used else clock.monotonic() + idle_seconds
        """From when on nobody needs it off; None: somebody does."""
        self._wanted = expected or forwards or self._used
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

    @property
    def asked(self) -> bool:
        """Whether it is known which podCIDR the Node has, if any."""
        return self._asked

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
        checks = primary.source_dest_check
        if checks is not None and (checks == self._forwards or (checks and self._ours)):
            # The answer may be older than what we did last: until it is looked at again no routed pod is begun.
            self._forwards, self._doubtful = False, True
            self._wake.set()
            self._changed()

    def want(self) -> None:
        """A routed pod waits."""
        self._idle_at = None
        if not self._wanted:
            self._wanted = True
            self._wake.set()

    def released(self) -> None:
        """The lease of a routed pod ended."""
        if self._strays:
            self._count_strays()
        self._rest_soon()

    def pick(self, now: float) -> IPv4Address | None:
        """An address, where there can be routed pods and one is free."""
        if self._strays or not self._forwards:
            self.want()
            return None
        if (picked := self._inventory.pick_routed(now)) is not None:
            self._idle_at = None
        return picked

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
        """Turn the source check off where routed pods are wanted, and on again where not, for ever."""
        while True:
            self._wake.clear()
            if self._idle_at is not None and self._clock.monotonic() >= self._idle_at:
                self._wanted = self._expected
            if self._doubtful:
                await self._look()
            if self._wanted and self.cidr is not None and not self._forwards:
                await self._turn_off()
            elif not self._wanted and self._forwards and self._ours:
                await self._turn_on()
            await self._rest()

    async def _rest(self) -> None:
        until = self._idle_at if self._wanted and not self._expected else None
        if self._refusal or self._doubtful:
            until = self._clock.monotonic() + REFUSED_SECONDS
        if until is None:
            await self._wake.wait()
            return
        try:
            async with self._clock.timeout_at(until):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _checks(self) -> bool:
        """Whether the cloud lets only the primary ENI's own addresses pass, at this moment."""
        found = await self._insist(lambda: self._cloud.enis(ids=[self._eni_id]))
        return not found or found[0].source_dest_check is not False

    async def _look(self) -> None:
        try:
            checks = await self._checks()
        except ApiError as error:
            self._refused(error)
            return
        self._doubtful, self._refusal = False, ""
        self._forwards = not checks
        if checks and self._ours:
            # Should somebody turn it off, it is not ours to turn on.
            _log.warning("the source check of the primary ENI is on", eni=self._eni_id, routed=self._used)
            self._ours = False
        await self._store.note(to_note(NOTE_FORWARDS, value=self._forwards), to_note(NOTE_OURS, value=self._ours))
        self._changed()

    async def _turn_off(self) -> None:
        try:
            if await self._checks():
                self._ours = await self._store.note(to_note(NOTE_OURS, value=True))
                await self._insist(lambda: self._cloud.check_sources(self._eni_id, on=False))
        except ApiError as error:
            self._refused(error)
        else:
            _log.info("the primary ENI forwards for routed pods", eni=self._eni_id)
            self._refusal = ""
            self._forwards = True
            await self._store.note(to_note(NOTE_FORWARDS, value=True))
            self._rest_soon()
        self._changed()

    async def _turn_on(self) -> None:
        # Before the ledger and the cloud: no pod gets an address from here on.
        self._forwards = False
        if await self._store.note(to_note(NOTE_FORWARDS, value=False)):
            try:
                await self._insist(lambda: self._cloud.check_sources(self._eni_id, on=True))
            except ApiError as error:
                self._refused(error)
                self._doubtful = True
            else:
                _log.info("the primary ENI no longer forwards: no pod is routed", eni=self._eni_id)
                self._refusal = ""
                self._ours = False
                await self._store.note(to_note(NOTE_OURS, value=False))
        else:
            self._doubtful = True
        self._changed()

    def _refused(self, error: ApiError) -> None:
        self._refusal = error.lasting
        _log.error("the source check cannot be changed", because=str(error), seconds=REFUSED_SECONDS)

    @property
    def _used(self) -> bool:
        return any(lease.kind is Kind.ROUTED for lease in self._inventory.leases.values())

    def _rest_soon(self) -> None:
        """Where no pod is routed, let it be for a while: the next may come."""
        if not self._used:
            self._idle_at = self._clock.monotonic() + self._idle_seconds
            self._wake.set()

    def _count_strays(self) -> None:
        cidr = self.cidr
        routed = [lease for lease in self._inventory.leases.values() if lease.kind is Kind.ROUTED]
        self._strays = sum(cidr is not None and lease.address not in cidr for lease in routed)
