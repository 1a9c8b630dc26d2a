"""What the cloud is asked regularly: limits of the instance type, stock of the vSwitches, whether its picture is ours.

Limits and vSwitches are noted in the ledger, so that a restart with the cloud away knows them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from random import Random
from typing import Final

from eniallocator import reclaim
from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi, Eni
from eniallocator.cloud.errors import ApiError, Transient
from eniallocator.insist import Insist
from eniallocator.ledger import to_note
from eniallocator.reading import Answer, confront, read
from eniallocator.records import Identity, TypeLimits
from eniallocator.store import Store
from eniallocator.vswitches import VSwitches
from eniway import log
from eniway.backoff import full_jitter
from eniway.model import SecurityGroupId

_log = log.get(__name__)

COMPARE_SECONDS: Final = 600.0
LEARN_SECONDS: Final = 600.0
"""Between two readings of the vSwitches, when nothing is short."""
STALE_SECONDS: Final = 300.0
"""An answer is not compared by when it has become so old."""
PRESSED_SECONDS: Final = 60.0
"""A pod that waited so short a while ago waits still: the runtime is between two ADDs of it."""
SHORT_SECONDS: Final = 30.0
"""The same at first, while a vSwitch is benched; longer each time, for all nodes of the cluster ask."""

NOTE_LIMITS: Final = "limits"
NOTE_VSWITCHES: Final = "vswitches"


class Survey:
    """Two loops, ``keep_learning`` and ``keep_comparing``.

    ``follow`` is called when there are new cards in the books, ``primary_seen`` with the instance's own card as the
    cloud has it.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        tags: dict[str, str],
        groups: Collection[SecurityGroupId],
        limits: TypeLimits | None,
        rebuilt: bool,
        vswitches: VSwitches,
        store: Store,
        cloud: CloudApi,
        insist: Insist,
        clock: Clock,
        random: Random,
        busy: Collection[str],
        pressing: Callable[[], bool],
        changed: Callable[[], None],
        follow: Callable[[], None],
        primary_seen: Callable[[Eni], None],
    ) -> None:
        self._identity = identity
        self._tags = tags
        self._groups = groups
        self._rebuilt = rebuilt
        self._vswitches = vswitches
        self._store = store
        self._inventory = store.inventory
        self._cloud = cloud
        self._insist = insist
        self._clock = clock
        self._random = random
        self._busy = busy
        self._pressing = pressing
        self._changed = changed
        self._follow = follow
        self._primary_seen = primary_seen
        self._again = asyncio.Event()
        self._touched: dict[object, set[str]] = {}
        """For each who asks the cloud."""
        self.limits = limits
        self.compared = False
        """Whether the cloud's cards have been seen since this process began."""

    def compare_soon(self) -> None:
        """An error says that our picture is wrong."""
        self._again.set()

    def touch(self, token: str) -> None:
        """Addresses of a card are being changed by us: an answer that is under way may be older."""
        for touched in self._touched.values():
            touched.add(token)

    async def keep_learning(self) -> None:
        """Read the limits, and the vSwitches for ever, more often while one is empty, most while pods wait for it."""
        await self._read_type()
        await self._read_vswitches()
        self._changed()
        read_at, spread, interval = self._clock.monotonic(), self._spread(), SHORT_SECONDS
        pressed_at = -PRESSED_SECONDS
        while True:
            await self._clock.sleep(5.0)
            now = self._clock.monotonic()
            if self._pressing():
                pressed_at = now
            short = self.limits is None or bool(self._vswitches.empty(now))
            if not short or now - pressed_at < PRESSED_SECONDS:
                interval = SHORT_SECONDS
            if now - read_at < spread * (interval if short else LEARN_SECONDS):
                continue
            if self.limits is None:
                await self._read_type()
            await self._read_vswitches()
            self._changed()
            read_at, spread, interval = self._clock.monotonic(), self._spread(), min(LEARN_SECONDS, 2 * interval)

    def _spread(self) -> float:
        return self._random.uniform(0.8, 1.2)

    async def keep_comparing(self) -> None:
        """Compare books and cloud at once, then every ten minutes and when asked."""
        while not self._vswitches.all_known():
            await self._clock.sleep(1.0)
        delays = full_jitter(base=1.0, cap=30.0, random=self._random)
        while not await self._compare_once():
            await self._clock.sleep(next(delays))
        while True:
            self._again.clear()
            at = self._clock.monotonic() + self._spread() * COMPARE_SECONDS
            try:
                async with self._clock.timeout_at(at):
                    await self._again.wait()
                # Asked for by an error: soon, not at once, or one error would follow the other.
                await self._clock.sleep(5.0)
            except TimeoutError:
                pass
            await self._compare_once()

    async def _read_type(self) -> None:
        try:
            answer = await self._insist(lambda: self._cloud.instance_type(self._identity.instance_type))
        except ApiError as error:
            _log.error("the limits of the instance type cannot be read", error=str(error), hint=error.hint)
            return
        limits = TypeLimits(answer.enis, answer.addresses_per_eni)
        if limits != self.limits:
            self.limits = limits
            await self._store.note(to_note(NOTE_LIMITS, limits))

    async def _read_vswitches(self) -> None:
        vpc_id = self._identity.vpc_id
        try:
            read = await self._insist(lambda: self._cloud.vswitches(vpc_id))
        except ApiError as error:
            _log.error("the vSwitches cannot be read", error=str(error), hint=error.hint)
            return
        for vswitch_id in self._vswitches.learn(read, now=self._clock.monotonic()):
            _log.error("a configured vSwitch is not in this node's VPC", vswitch=vswitch_id, vpc=vpc_id)
        if not self._vswitches.usable():
            _log.error("no configured vSwitch is in this node's zone", zone=self._identity.zone)
        await self._store.note(to_note(NOTE_VSWITCHES, self._vswitches.all_known()))

    async def _compare_once(self) -> bool:
        """Bring the books up to what the cloud shows; whether it could be asked and believed."""
        try:
            answer = await self.ask(insisting=True)
        except ApiError:
            return False
        return await self.settle(answer)

    async def ask(self, *, insisting: bool = False) -> Answer:
        """What the cloud shows of our cards; the books of the moment it returns may be compared by it. ApiError.

        ``insisting``: again and again where a quota is used up.
        """
        before = dict(self._inventory.enis)
        asking, touched = object(), set(self._busy)
        self._touched[asking] = touched
        try:
            # Each is insisted on: under a quota that others use up, both would never get through in one go.
            attached = await self._once(insisting, lambda: self._cloud.enis(instance_id=self._identity.instance_id))
            asked = self._clock.monotonic()
            tagged = await self._once(insisting, lambda: self._cloud.enis(tags=self._tags))
        finally:
            del self._touched[asking]
        if self._clock.monotonic() - asked > STALE_SECONDS:
            raise Transient("DescribeNetworkInterfaces", "Late", "the answers lie too far apart to be compared by")
        return Answer(attached, tagged, before, frozenset(touched))

    async def _once(self, insisting: bool, call: Callable[[], Awaitable[tuple[Eni, ...]]]) -> tuple[Eni, ...]:
        return await self._insist(call) if insisting else await call()

    async def settle(self, answer: Answer) -> bool:
        """Bring the books up to ``answer``, which came this moment; whether it is to be believed."""
        books = read(self._inventory, self._identity, offered=frozenset(), owes=False)
        findings = confront(books, answer)
        if findings is None:
            _log.error(
                "the cloud does not show this instance's own primary ENI: not believed", eni=self._identity.primary_eni
            )
            return False
        self._primary_seen(next(eni for eni in answer.attached if eni.eni_id == self._identity.primary_eni))
        await self._remedy(findings)
        return True

    async def _remedy(self, findings: reclaim.Findings) -> None:
        self._tell(findings)
        self._inventory.foreign_cards = findings.foreign_cards
        if findings.foreign_addresses is not None:
            # After a lost ledger they are taken for ours.
            self._inventory.foreign_addresses = 0 if self._rebuilt else len(findings.foreign_addresses)
        wall = self._clock.wall()
        changes = reclaim.remedies(
            findings, self._inventory, self._vswitches, groups=self._groups, rebuilt=self._rebuilt, wall=wall
        )
        # In memory at once: whatever the planner does next, it does knowing of these cards.
        durable = self._store.settle(*changes)
        self.compared = True
        await durable
        self._rebuilt = False
        self._follow()
        self._changed()

    def _tell(self, findings: reclaim.Findings) -> None:
        """A line for each card that is lost or has lost addresses, with the pods that are cut off by it."""
        if findings.differ:
            _log.warning(
                "books and cloud differ",
                vanished=len(findings.vanished),
                returned=[self._inventory.enis[token].eni_id for token in findings.returned],
                strays=[eni.eni_id for eni in findings.strays],
                gained=[str(address) for _, address in findings.gained],
                missing=[str(address) for address in findings.missing],
            )
        leases = self._inventory.leases.values()
        for token in findings.vanished:
            eni = self._inventory.enis[token]
            pods = [str(held.pod) for held in leases if held.token == token]
            _log.error("a card is no longer at this instance", eni=eni.eni_id, slot=eni.slot, pods=pods)
        cut_off: defaultdict[str, list[str]] = defaultdict(list)
        for held in leases:
            for address in held.addresses:
                if address in findings.missing:
                    cut_off[self._inventory.addresses[address].token].append(f"{held.pod} ({address})")
        for token, pods in cut_off.items():
            eni = self._inventory.enis[token]
            _log.error("a card no longer has addresses of its pods", eni=eni.eni_id, slot=eni.slot, pods=pods)
