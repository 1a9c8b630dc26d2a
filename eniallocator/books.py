"""The books: who holds what, who waits, and what is ahead of demand. The doors' facade of this room.

An ADD is served from memory and made durable before it returns; one that finds nothing waits in line, first come first
served, and wakes the pool at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from eniallocator import publish
from eniallocator.careers import Kernel
from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi
from eniallocator.conditions import Conditions
from eniallocator.devices import Device, devices
from eniallocator.inventory import Inventory
from eniallocator.ledger import Ledger
from eniallocator.lifecycle import State
from eniallocator.opening import Opening
from eniallocator.plan import CardView, Demand, Limits
from eniallocator.pool import Pool
from eniallocator.records import AddressRecord, Drop, EniRecord, LeaseRecord, Put, Use
from eniallocator.store import Store
from eniallocator.waiting import Outlook, Ticket, overdue
from eniway import log, metrics
from eniway.config import NodeConfig
from eniway.errors import ConflictError, DeadlineExceeded, InvalidRequest, InvariantBroken, NotReady
from eniway.model import Capacity, Card, Kind, Lease, LeaseKey, PodRef, Slot, VSwitchId

_log = log.get(__name__)


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

    Deadlines are monotonic times of ``clock``.
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
    ) -> None:
        self._config = config
        self._identity = opening.identity
        self._ledger: Ledger = opening.ledger
        self._cloud = cloud
        self._kernel = kernel
        self._clock = clock
        self._inventory = Inventory(
            opening.contents,
            cooldown=config.pool.cooldown_seconds,
            wall=clock.wall(),
            now=clock.monotonic(),
        )
        self._queue: list[Ticket] = []
        self._wanted: set[Slot] = set()
        self._store = Store(self._inventory, self._ledger, changed=self._changed)
        self._vswitches = opening.vswitches
        self._pool = Pool(
            identity=opening.identity,
            config=config,
            limits=opening.limits,
            rebuilt=opening.rebuilt,
            vswitches=self._vswitches,
            store=self._store,
            cloud=cloud,
            kernel=kernel,
            clock=clock,
            random=random,
            new_id=new_id,
            demand=self._demand,
            changed=self._changed,
        )
        self._serving = False
        self._devices_signal = _Signal()
        self._status_signal = _Signal()
        self._last_devices: tuple[Device, ...] = ()
        self._conditions = Conditions()
        self._changed()

    # -- leases

    async def acquire(
        self, key: LeaseKey, pod: PodRef, *, kind: Kind, slot: Slot | None, netns: str, deadline: float
    ) -> Lease:
        """A lease for ``key``, durable; the same one when asked again.

        Waits for an address or card. Raises at ``deadline``: VSwitchExhausted or SlotsExhausted where there is none to
        be had, DeadlineExceeded where there may be one later; NotReady when the ledger cannot be written; ConflictError
        when the key belongs to another pod.
        """
        started = self._clock.monotonic()
        if (held := self._inventory.leases.get(key)) is not None:
            return await self._again(held, pod, kind)
        if any(ticket.key == key for ticket in self._queue):
            raise NotReady(f"an ADD for {key.alias} is waiting already")
        self._check_slot(kind, slot)
        if kind is Kind.EXCLUSIVE and slot is not None:
            await self._send_home(slot, pod, deadline)
        ticket = Ticket(key, pod, kind, slot, netns, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._changed()
        try:
            async with self._clock.timeout_at(deadline):
                await asyncio.wait([ticket.granted])
        except TimeoutError:
            pass
        finally:
            if ticket in self._queue:
                self._queue.remove(ticket)
                self._pool.wake()
        if not ticket.granted.done():
            raise overdue(ticket, self._inventory, self._outlook(), waited=self._clock.monotonic() - started)
        record, durable = ticket.granted.result()
        lease = self._inventory.lease_of(record)
        await durable
        metrics.LEASE_WAIT_SECONDS.labels(kind.value).observe(self._clock.monotonic() - started)
        return lease

    async def confirm(self, key: LeaseKey) -> None:
        """The kernel has what the lease says."""
        if (held := self._inventory.leases.get(key)) is not None and not held.confirmed:
            await self._store.settle(Put(replace(held, confirmed=True)))

    def is_confirmed(self, key: LeaseKey) -> bool:
        """Whether the kernel was done once."""
        held = self._inventory.leases.get(key)
        return held is not None and held.confirmed

    async def release(self, key: LeaseKey) -> None:
        """End a lease.

        Its addresses cool down, an exclusive card is free again at once. One that the cloud took away under the pod is
        forgotten: the VPC no longer delivers it here. None of that key is no error.
        """
        for ticket in self._queue:
            if ticket.key == key and not ticket.granted.done():
                ticket.granted.set_exception(NotReady(f"{key.alias} was released while its ADD was waiting"))
        if (held := self._inventory.leases.get(key)) is None:
            return
        ending = [address for address in held.addresses if held.kind is not Kind.EXCLUSIVE or address != held.address]
        known = [self._inventory.addresses[address] for address in ending]
        gone = [record for record in known if record.orphan]
        cooling = [record for record in known if not record.orphan]
        self._inventory.cool([record.address for record in cooling], self._clock.monotonic())
        wall = self._clock.wall()
        await self._store.settle(
            Drop(held), *map(Drop, gone), *(Put(replace(record, released=wall)) for record in cooling)
        )

    def lease(self, key: LeaseKey) -> Lease | None:
        """The lease of that key; None too as long as its card is not known in full."""
        held = self._inventory.leases.get(key)
        return None if held is None else self._told(held)

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
        """A shared card is not on this node.

        Nothing is handed out of it until it can be prepared again, and the cloud is asked about it soon.
        """
        self._pool.card_missing(card)

    @property
    def primary(self) -> Card:
        """The instance's own card."""
        return self._inventory.primary().card

    async def settle_orphans(self, in_use: Collection[object]) -> None:
        """After a lost ledger.

        The kernel uses ``in_use`` and no other address; the others found on our cards may be handed out.
        """
        wall = self._clock.wall()
        freed: list[AddressRecord] = [
            replace(record, orphan=False, released=wall)
            for record in self._inventory.addresses.values()
            if record.orphan and record.address not in in_use and not self._inventory.is_leased(record.address)
        ]
        if freed:
            self._inventory.cool([record.address for record in freed], self._clock.monotonic())
            await self._store.settle(*map(Put, freed))

    # -- slots

    def want_slot(self, slot: Slot) -> None:
        """A pod will come for this slot: have its card attached."""
        self._wanted.add(slot)
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
        return devices(self._inventory.enis.values(), held, limits)

    async def devices_changed(self) -> None:
        """Return at the next change of ``devices()``."""
        await self._devices_signal.wait()

    # -- what others get to know

    def capacity(self) -> Mapping[str, Capacity]:
        """Of ``slots`` and ``addresses``, in the four words."""
        return self._capacity(self._views())

    def status(self) -> dict[str, Any]:
        """The status of this node's NodeNetwork."""
        views = self._views()
        capacity = self._capacity(views)
        outlook = self._outlook()
        return publish.node_network(
            identity=self._identity,
            vswitches=[VSwitchId(vswitch.vswitch_id) for vswitch in self._vswitches.usable()],
            enis=self._inventory.enis.values(),
            cards={view.token: view for view in views},
            capacity=capacity,
            conditions=self._conditions.judge(
                started=self._pool.started,
                addresses=publish.free(capacity["addresses"]),
                shortage=outlook.shortage,
                obstacle=outlook.obstacle,
                trouble=self._cloud.trouble,
                wall=self._clock.wall(),
            ),
        )

    async def status_changed(self) -> None:
        """Return when ``status()`` may have changed."""
        await self._status_signal.wait()

    async def run(self) -> None:
        """Keep cards and addresses ahead of demand, for ever."""
        await self._pool.run()

    async def close(self) -> None:
        """Write what is to be written and let go of the ledger."""
        await asyncio.to_thread(self._ledger.close)

    # -- inside

    async def _again(self, held: LeaseRecord, pod: PodRef, kind: Kind) -> Lease:
        if held.pod.uid != pod.uid or held.kind is not kind:
            raise ConflictError(
                f"{held.key.alias} is a lease of {held.pod} ({held.pod.uid}, {held.kind}),"
                f" not of {pod} ({pod.uid}, {kind})"
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
        if kind is Kind.SHARED:
            return
        if slot is None:
            raise InvalidRequest("an exclusive pod needs the slot that kubelet allocated, and there is none")
        known = [device.slot for device in self.devices()]
        if known and slot not in known:
            raise InvalidRequest(f"slot {slot} is none of this node's exclusive slots {known}")

    async def _send_home(self, slot: Slot, pod: PodRef, deadline: float) -> None:
        """End the lease of an earlier sandbox of the same pod on ``slot``, once its card's link is back in the host.

        That it is back proves that the old network namespace has gone. Another pod's lease is not touched: it is waited
        for.
        """
        while (eni := self._inventory.in_slot(slot)) is not None and eni.use is Use.EXCLUSIVE:
            held = self._inventory.holder_of_card(eni.token)
            if held is None or held.pod.uid != pod.uid:
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
                    pod=str(pod),
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

    def _serve(self) -> None:
        """Give to those in line, in order. Two kinds of tickets do not stand in each other's way."""
        shared_are_out = False
        limits = self._pool.limits() if self._queue else None
        shared_slots = None if limits is None else limits.shared_slots
        for ticket in tuple(self._queue):
            if ticket.granted.done() or (ticket.kind is Kind.SHARED and shared_are_out):
                continue
            record = self._grant(ticket, shared_slots)
            if record is None:
                shared_are_out = shared_are_out or ticket.kind is Kind.SHARED
                continue
            self._queue.remove(ticket)
            ticket.granted.set_result((record, self._store.intend(Put(record))))

    def _grant(self, ticket: Ticket, shared_slots: Collection[Slot] | None) -> LeaseRecord | None:
        now = self._clock.monotonic()
        service = None
        if ticket.kind is Kind.SHARED:
            picked = self._inventory.pick_shared(now, shared_slots)
        else:
            assert ticket.slot is not None
            eni = self._inventory.in_slot(ticket.slot)
            service = self._inventory.pick_service(now)
            usable = (
                eni is not None
                and eni.use is Use.EXCLUSIVE
                and eni.state is State.READY
                and eni.address is not None
                and service is not None
                and self._inventory.holder_of_card(eni.token) is None
            )
            picked = (eni, eni.address) if usable and eni is not None and eni.address is not None else None
        if picked is None:
            return None
        card, address = picked
        return LeaseRecord(
            key=ticket.key,
            pod=ticket.pod,
            kind=ticket.kind,
            netns=ticket.netns,
            token=card.token,
            address=address,
            service_address=service,
            confirmed=False,
            since=self._clock.wall(),
        )

    def _demand(self) -> Demand:
        waiting = [ticket for ticket in self._queue if not ticket.granted.done()]
        slots = {ticket.slot for ticket in waiting if ticket.kind is Kind.EXCLUSIVE and ticket.slot is not None}
        return Demand(
            shared=sum(ticket.kind is Kind.SHARED for ticket in waiting),
            slots=frozenset(slots | self._wanted),
        )

    def _outlook(self) -> Outlook:
        limits = self._pool.limits()
        trouble = self._cloud.trouble
        unread = "" if self._vswitches.all_known() else "the vSwitches"
        if limits is None:
            unread = f"the limits of {self._identity.instance_type}"
        return Outlook(
            unread=unread,
            blocked=self._pool.blocked if limits is not None and limits.vswitch is None else "",
            vswitches=self._no_vswitch(),
            starved=", ".join(sorted(self._starved(limits))),
            addresses=self.capacity()["addresses"],
            shared_slots=0 if limits is None else len(limits.shared_slots),
            instance_type=self._identity.instance_type,
            trouble="" if trouble is None else trouble.message,
        )

    def _starved(self, limits: Limits | None) -> set[VSwitchId]:
        if limits is None:
            return set()
        shared = (view for view in self._views() if view.use is Use.SHARED and view.total < limits.secondary)
        return {view.vswitch_id for view in shared if view.vswitch_id in limits.empty_vswitches}

    def _no_vswitch(self) -> str:
        configured = f"{', '.join(self._config.vswitches)} of zone {self._identity.zone}"
        if not self._vswitches.usable():
            return f"no vSwitch to take addresses from: expected one of {configured} in the VPC {self._identity.vpc_id}"
        if self._vswitches.choose(self._clock.monotonic()) is None:
            return f"no free address in {configured}"
        return ""

    def _capacity(self, views: tuple[CardView, ...]) -> dict[str, Capacity]:
        limits = self._pool.limits()
        stock = self._vswitches.stock(self._clock.monotonic())
        return {
            "slots": publish.slot_capacity(views, limits),
            "addresses": publish.address_capacity(views, limits, stock=stock),
        }

    def _views(self) -> tuple[CardView, ...]:
        return self._inventory.views(self._clock.monotonic())
