"""The books: who holds what, who waits, and what is ahead of demand. The doors' facade of this room.

An ADD is served from memory and made durable before it returns; one that finds nothing waits in line, first come first
served, and wakes the pool at once.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Any, Final

from eniallocator.careers import Kernel
from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi
from eniallocator.cloud.switch import Switch
from eniallocator.devices import Device, devices
from eniallocator.grants import Grants, Turn
from eniallocator.handover import KubeletSlots
from eniallocator.inventory import Inventory
from eniallocator.ledger import Ledger, to_note
from eniallocator.lifecycle import State
from eniallocator.line import Line
from eniallocator.opening import NOTE_COMPLETE, Opening
from eniallocator.pool import Pool
from eniallocator.reading import Answer, Reading, read
from eniallocator.records import AddressRecord, Change, Drop, EniRecord, LeaseRecord, Put, RoutedAddress, Use
from eniallocator.recover import recover
from eniallocator.routed import Routed
from eniallocator.statement import Statement
from eniallocator.store import Store
from eniallocator.waiting import Ticket, overdue
from eniway import log, metrics, names
from eniway.choice import check_allowed
from eniway.config import NodeConfig
from eniway.errors import BadAnnotation, ConflictError, DeadlineExceeded, InvalidRequest, InvariantBroken, NotReady
from eniway.model import (
    NO_CHOICE,
    UNLIMITED,
    Bandwidth,
    Capacity,
    Card,
    Choice,
    Kind,
    Lease,
    LeaseKey,
    PodRef,
    Sandbox,
    Slot,
    Wish,
)

_log = log.get(__name__)

GATHER_SECONDS: Final = 0.1
"""Changes of the status are told together."""


class _Signal:
    """Wakes whoever waits at the time."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def ring(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None


class Books:
    """Open with ``eniallocator.opening.open_ledger`` first; then everything but ``run`` answers without the cloud.

    Deadlines are monotonic times of ``clock``. ``fell_back`` is told of each pod that got a routed address because
    there was no shared one, and why, ``refused`` of each that waits and chose what the cloud refuses; ``kubelet``
    tells which slots it may give away or has given away.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        config: NodeConfig,
        cloud: CloudApi,
        kernel: Kernel,
        clock: Clock,
        random: Random,
        new_id: Callable[[], str],
        fell_back: Callable[[PodRef, str], None],
        refused: Callable[[PodRef, str], None],
        kubelet: KubeletSlots,
        switch: Switch,
    ) -> None:
        self._config = config
        self._identity = opening.identity
        self._ledger: Ledger = opening.ledger
        self._rebuilt = opening.rebuilt
        self._recovered = asyncio.Event()
        """All leases are known again that can be; ``_rebuilt`` stays until none that is unknown is in use."""
        if not opening.rebuilt:
            self._recovered.set()
        self._kernel = kernel
        self._clock = clock
        self._inventory = Inventory(
            opening.contents,
            cooldown=config.pool.cooldown_seconds,
            wall=clock.wall(),
            now=clock.monotonic(),
        )
        self._wanted: set[Slot] = set()
        self._store = Store(self._inventory, self._ledger, changed=self._changed)
        self._line = Line(self._store, clock=clock, changed=self._changed, left=self._plan_again)
        self._fell_back = fell_back
        self._refused = refused
        self._vswitches = opening.vswitches
        self._routed = Routed(
            eni_id=opening.identity.primary_eni,
            cidr=opening.pod_cidr,
            forwards=opening.forwards,
            ours=opening.opened_by_us,
            idle_seconds=config.pool.idle_seconds,
            expected=config.default_wish is not Wish.SHARED,
            store=self._store,
            cloud=cloud,
            clock=clock,
            random=random,
            changed=self._changed,
        )
        self._pool = Pool(
            identity=opening.identity,
            config=config,
            limits=opening.limits,
            rebuilt=opening.rebuilt,
            vswitches=opening.vswitches,
            store=self._store,
            cloud=cloud,
            kernel=kernel,
            clock=clock,
            random=random,
            new_id=new_id,
            demand=lambda: self._line.demand(self._wanted),
            complete=lambda: not self._rebuilt,
            changed=self._changed,
            choice_refused=self._choice_refused,
            primary_seen=self._routed.seen,
            kubelet=kubelet,
            switch=switch,
        )
        self._statement = Statement(
            identity=opening.identity,
            config=config,
            inventory=self._inventory,
            pool=self._pool,
            routed=self._routed,
            vswitches=opening.vswitches,
            cloud=cloud,
            clock=clock,
        )
        self._grants = Grants(
            self._inventory,
            self._routed,
            clock=clock,
            shortage=lambda: self._statement.outlook().shortage,
        )
        self._serving = False
        self._devices_signal = _Signal()
        self._status_signal = _Signal()
        self._last_devices: tuple[Device, ...] = ()
        self._changed()

    # -- leases

    async def acquire(
        self,
        key: LeaseKey,
        pod: PodRef,
        *,
        kind: Kind,
        slot: Slot | None,
        netns: str,
        deadline: float,
        else_routed: bool = False,
        bandwidth: Bandwidth = UNLIMITED,
        choice: Choice = NO_CHOICE,
    ) -> Lease:
        """A lease for ``key``, durable; the same one when asked again.

        Waits for an address or card. ``else_routed``: a shared pod takes a routed address where no shared one can be
        had. ``bandwidth`` is noted in a lease that is new. ``choice``: an exclusive pod's card is as it says, else as
        the node's are; BadAnnotation where the configuration does not allow it or no card of this node can be so.
        Raises at ``deadline``: a CapacityError where there is none to be had, DeadlineExceeded where there may be one
        later; NotReady when the ledger cannot be written; ConflictError when the key belongs to another pod.
        """
        started = self._clock.monotonic()
        if (held := self._inventory.leases.get(key)) is not None:
            return await self._again(held, pod, {kind, Kind.ROUTED} if else_routed else {kind})
        if self._line.has(key):
            raise NotReady(f"an ADD for {key.alias} is waiting already")
        self._check_slot(kind, slot)
        self._check_choice(choice)
        routed_at = started + self._config.shared_patience_seconds if else_routed else None
        granted: asyncio.Future[tuple[LeaseRecord, asyncio.Future[None]]] = asyncio.get_running_loop().create_future()
        ticket = Ticket(key, pod, kind, slot, netns, routed_at, bandwidth, granted, choice)
        if kind is Kind.EXCLUSIVE and slot is not None:
            self._pool.want(slot)

        async def sent_home() -> None:
            if kind is Kind.EXCLUSIVE and slot is not None:
                await self._send_home(slot, ticket, deadline)

        # In line before a former sandbox lets go: a card that was made for this pod's choice would be given back.
        if not await self._line.stand(ticket, deadline=deadline, first=sent_home):
            waited, refusal = self._clock.monotonic() - started, self._pool.refusal(choice)
            raise overdue(ticket, self._inventory, self._statement.outlook(), waited=waited, refusal=refusal)
        record, durable = ticket.granted.result()
        lease = self._inventory.lease_of(record)
        await durable
        metrics.LEASE_WAIT_SECONDS.labels(lease.kind.value).observe(self._clock.monotonic() - started)
        if lease.kind is not kind:
            metrics.ROUTED_INSTEAD.inc()
            self._fell_back(pod, f"{lease.address} of the podCIDR, for want of a shared address: {ticket.why_routed}")
        return lease

    async def confirm(self, key: LeaseKey) -> None:
        """The kernel has what the lease says. Not waited for: a sweep would find it out."""
        if (held := self._inventory.leases.get(key)) is not None and not held.confirmed:
            self._store.record(Put(replace(held, confirmed=True)))

    def limit(self, key: LeaseKey, bandwidth: Bandwidth) -> Lease | None:
        """Note a lease's bandwidth; the lease then. What a crash loses of it the pod's annotations say again."""
        if (held := self._inventory.leases.get(key)) is not None and held.bandwidth != bandwidth:
            self._store.record(Put(replace(held, bandwidth=bandwidth)))
        return self.lease(key)

    async def release(self, key: LeaseKey) -> None:
        """End a lease.

        Its addresses cool down, an exclusive card is free again at once. One that the cloud took away under the pod is
        forgotten: the VPC no longer delivers it here. None of that key is no error.
        """
        self._line.turn_away(key, f"{key.alias} was released while its ADD was waiting")
        if (held := self._inventory.leases.get(key)) is None:
            return
        await self._store.settle(Drop(held), *self._rested(held))
        if held.kind is Kind.ROUTED:
            self._routed.released()

    def lease(self, key: LeaseKey) -> Lease | None:
        """The lease of that key; None too as long as its card is not known in full."""
        held = self._inventory.leases.get(key)
        return None if held is None else self._told(held)

    def since(self, key: LeaseKey) -> float | None:
        """When a lease began, in seconds since the epoch; None without one."""
        held = self._inventory.leases.get(key)
        return None if held is None else held.since

    def leases(self) -> Sequence[Lease]:
        """All leases, but of cards that are not known in full."""
        told = map(self._told, self._inventory.leases.values())
        return [lease for lease in told if lease is not None]

    def cards(self) -> Sequence[Card]:
        """The primary card and those in service."""
        return [eni.card for eni in self._inventory.enis.values() if eni.state is State.READY]

    def shared_cards(self) -> Sequence[Card]:
        """Those in service for shared pods."""
        return [eni.card for eni in self._in_service(Use.SHARED)]

    def idle_exclusive_cards(self) -> Sequence[Card]:
        """Those in service that wait for a pod."""
        idle = [eni for eni in self._in_service(Use.EXCLUSIVE) if self._inventory.holder_of_card(eni.token) is None]
        return [eni.card for eni in idle]

    def card_missing(self, card: Card) -> None:
        """The link of a card in service is not on this node.

        Nothing is handed out of it until it is here again, and the cloud is asked about it soon.
        """
        self._pool.card_missing(card)

    def card_present(self, card: Card) -> None:
        """It is; of a shared card that is known by its being prepared."""
        self._pool.card_present(card)

    @property
    def primary(self) -> Card:
        """The instance's own card."""
        return self._inventory.primary().card

    async def recover(
        self, sandboxes: Collection[Sandbox], routed_to: Mapping[LeaseKey, Collection[IPv4Address]]
    ) -> int:
        """After a lost ledger: leases of running pods; how many.

        ``sandboxes``: living ones; ``routed_to``: the addresses that the kernel routes to each.
        """
        recovered = 0
        for sandbox, changes in recover(sandboxes, routed_to, self._inventory, wall=self._clock.wall()):
            _log.warning("a lease is known again", pod=str(sandbox.pod), container=sandbox.key.container_id)
            await self._store.settle(*changes)
            recovered += 1
        if self._pool.started and self._routed.asked:
            self._recovered.set()
        return recovered

    def is_recovered(self) -> bool:
        """Whether all leases are known again that can be: at once, but after a lost ledger."""
        return self._recovered.is_set()

    async def recovered(self) -> None:
        """Return when they are."""
        await self._recovered.wait()

    async def settle_orphans(self, in_use: Collection[object]) -> None:
        """After a lost ledger.

        The kernel uses ``in_use`` and no other address; the others found on our cards may be handed out. With none in
        use all leases are known, which is noted: until then each start takes the ledger for a lost one.
        """
        if not in_use:
            self._recovered.set()
        wall = self._clock.wall()
        freed: list[AddressRecord] = [
            replace(record, orphan=False, released=wall)
            for record in self._inventory.addresses.values()
            if record.orphan and record.address not in in_use and not self._inventory.is_leased(record.address)
        ]
        if freed:
            self._inventory.cool([record.address for record in freed], self._clock.monotonic())
            await self._store.settle(*map(Put, freed))
        if self._rebuilt and not in_use and self._pool.started:
            self._rebuilt = False
            await self._store.note(to_note(NOTE_COMPLETE, value=True))

    # -- routed pods

    @property
    def pod_cidr(self) -> IPv4Network | None:
        """The Node's podCIDR, as far as it is known."""
        return self._routed.cidr

    async def learn_pod_cidr(self, cidr: IPv4Network | None) -> None:
        """What the Node says; None: it has none. Another than before is not used while a lease of that one lives."""
        await self._routed.learn(cidr)

    def account(self, addresses: Collection[IPv4Address]) -> None:
        """The kernel routes ``addresses`` to pods: those that no lease knows of are not handed out."""
        unknown = frozenset(address for address in addresses if not self._inventory.is_leased(address))
        if unknown != self._inventory.pods.unaccounted:
            self._inventory.pods.unaccounted = unknown
            self._changed()

    # -- for whoever compares

    def reading(self) -> Reading:
        """All of the books, frozen."""
        offered = frozenset(device.slot for device in self.devices() if device.healthy)
        return read(self._inventory, self._identity, offered=offered, owes=self._store.owes)

    async def ask_cloud(self) -> Answer:
        """What the cloud shows of our cards, to be compared with ``reading()`` of this very moment; CloudError."""
        return await self._pool.ask_cloud()

    async def settle_with_cloud(self) -> None:
        """Bring the books up to what the cloud shows now, as is done every ten minutes; CloudError."""
        await self._pool.settle_with_cloud()

    # -- slots

    def want_slot(self, slot: Slot) -> None:
        """A pod will come for this slot: have its card attached."""
        self._wanted.add(slot)
        self._pool.want(slot)
        self._changed()

    def devices(self) -> Sequence[Device]:
        """The exclusive slots, those in use always among them; from the ledger alone at the start."""
        limits = self._pool.limits()
        if limits is None:
            return ()
        held = {
            self._inventory.enis[lease.token].slot
            for lease in self._inventory.leases.values()
            if lease.kind is Kind.EXCLUSIVE
        }
        return devices(self._inventory.enis.values(), held, limits, absent=self._inventory.absent | self._pool.late)

    async def devices_changed(self) -> None:
        """Return at the next change of ``devices()``."""
        await self._devices_signal.wait()

    # -- what others get to know

    def capacity(self) -> Mapping[str, Capacity]:
        """Of ``slots``, ``addresses``, ``services`` and ``routed``, in the four words."""
        return self._statement.capacity()

    def status(self) -> dict[str, Any]:
        """The status of this node's NodeNetwork."""
        return self._statement.status()

    async def status_changed(self) -> None:
        """Return when ``status()`` may have changed: a moment after, since a burst of pods is many changes."""
        await self._status_signal.wait()
        await self._clock.sleep(GATHER_SECONDS)

    def wake(self) -> None:
        """Something that the books do not see has changed: what may be asked of the cloud."""
        self._changed()

    async def run(self) -> None:
        """Keep cards and addresses ahead of demand, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._routed.run())
            group.create_task(self._pool.run())

    async def close(self) -> None:
        """Write what is to be written and let go of the ledger."""
        await asyncio.to_thread(self._ledger.close)

    # -- inside

    async def _again(self, held: LeaseRecord, pod: PodRef, kinds: Collection[Kind]) -> Lease:
        if held.pod.uid != pod.uid or held.kind not in kinds:
            raise ConflictError(
                f"{held.key.alias} is a lease of {held.pod} ({held.pod.uid}, {held.kind}),"
                f" not of {pod} ({pod.uid}, {' or '.join(sorted(kinds))})"
            )
        lease = self._told(held)
        if lease is None:
            raise NotReady(f"the card of {held.key.alias} is not known in full yet")
        await self._store.flush()
        return lease

    def _told(self, held: LeaseRecord) -> Lease | None:
        try:
            return self._inventory.lease_of(held)
        except InvariantBroken as error:
            # One lease that contradicts the books keeps nobody else's from being served.
            _log.error("a lease is passed over", pod=str(held.pod), container=held.key.container_id, error=str(error))
            return None

    def _in_service(self, use: Use) -> list[EniRecord]:
        return [eni for eni in self._inventory.enis.values() if eni.use is use and eni.state is State.READY]

    def _check_slot(self, kind: Kind, slot: Slot | None) -> None:
        if kind is not Kind.EXCLUSIVE:
            return
        if slot is None:
            raise InvalidRequest("an exclusive pod needs the slot that kubelet allocated, and there is none")
        known = [device.slot for device in self.devices()]
        if known and slot not in known:
            raise InvalidRequest(f"slot {slot} is none of this node's exclusive slots {known}")

    def _check_choice(self, choice: Choice) -> None:
        check_allowed(choice, self._config.pods_may_choose)
        if choice.vswitch is not None and (why_not := self._vswitches.elsewhere(choice.vswitch)):
            raise BadAnnotation(f"annotation {names.ANNOTATION_VSWITCH}: {choice.vswitch} {why_not}")

    def _choice_refused(self, choice: Choice, why: str) -> None:
        for ticket in self._line.waiting():
            if ticket.choice == choice:
                self._refused(ticket.pod, f"no ENI with {choice}: {why}")

    async def _send_home(self, slot: Slot, ticket: Ticket, deadline: float) -> None:
        """End the lease of an earlier sandbox of the same pod on ``slot``, once its card's link is back in the host.

        That it is back proves that the old network namespace has gone. Another pod's lease is not touched: it is waited
        for.
        """
        while (eni := self._inventory.in_slot(slot)) is not None and eni.use is Use.EXCLUSIVE:
            held = self._inventory.holder_of_card(eni.token)
            if held is None or held.pod.uid != ticket.pod.uid or held.key == ticket.key:
                return
            try:
                await self._kernel.wait_card(eni.card.mac, deadline=deadline)
            except DeadlineExceeded as error:
                raise DeadlineExceeded(
                    f"the ENI of slot {slot} is still in the pod's former sandbox {held.key.container_id}"
                ) from error
            if self._inventory.leases.get(held.key) == held:
                _log.info(
                    "taken over from a former sandbox of the pod",
                    pod=str(ticket.pod),
                    slot=slot,
                    container=held.key.container_id,
                )
                await self.release(held.key)

    def _changed(self) -> None:
        """After any change of the books: serve who waits, wake the pool, tell the others."""
        if self._serving:
            return
        self._serving = True
        try:
            self._serve()
        finally:
            self._serving = False
        self._wanted = {slot for slot in self._wanted if not self._is_ready(slot)}
        self._pool.wake()
        devices = tuple(self.devices())
        if devices != self._last_devices:
            self._last_devices = devices
            self._devices_signal.ring()
        self._status_signal.ring()

    def _is_ready(self, slot: Slot) -> bool:
        eni = self._inventory.in_slot(slot)
        return eni is not None and eni.state is State.READY

    def _plan_again(self) -> None:
        self._pool.wake()

    def _serve(self) -> None:
        if not self._line:
            return
        limits = self._pool.limits()
        # After the first shared pod that gets nothing no other gets anything, so what may come is counted once.
        turn = Turn(
            now=self._clock.monotonic(),
            shared_slots=None if limits is None else limits.shared_slots,
            coming=functools.cache(self._statement.coming),
        )
        self._line.serve(self._grants, turn)

    def _rested(self, held: LeaseRecord) -> list[Change]:
        """Let the addresses of an ended lease cool down; an exclusive card's own needs none, nor one that is gone."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        if held.kind is Kind.ROUTED:
            self._inventory.cool([held.address], now)
            return [Put(RoutedAddress(held.address, wall))]
        ending = [address for address in held.addresses if held.kind is not Kind.EXCLUSIVE or address != held.address]
        known = [self._inventory.addresses[address] for address in ending]
        self._inventory.cool([record.address for record in known if not record.orphan], now)
        return [Drop(record) if record.orphan else Put(replace(record, released=wall)) for record in known]
