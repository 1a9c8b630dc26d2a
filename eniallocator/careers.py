"""A card's way through its life: for each state the work that leads on, begun again as often as it takes.

The work of a state that this process did not enter itself (after a restart) or that failed before begins with a look at
the cloud: what was asked for earlier may have been done.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random
from typing import Any, Final, Protocol

from eniallocator import lifecycle
from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi, Eni, EniStatus
from eniallocator.cloud.errors import (
    ApiError,
    LimitsDiffer,
    NotFound,
    QuotaExhausted,
    Refused,
    Throttled,
    VSwitchFull,
    Withheld,
    WrongState,
)
from eniallocator.lifecycle import Event, State, Work
from eniallocator.records import AddressRecord, Change, Drop, EniRecord, Put, Use
from eniallocator.store import Store
from eniallocator.vswitches import VSwitches
from eniallocator.watch import Watch
from eniway import log, names
from eniway.backoff import full_jitter
from eniway.errors import KernelError, NotReady
from eniway.model import Card, InstanceId, Mac, SecurityGroupId, Slot

_log = log.get(__name__)

# First look and pause after an asynchronous call, seconds; how long one wait may last before its call is made again.
ATTACH_LOOK: Final = (3.0, 2.0)
DETACH_LOOK: Final = (2.0, 2.0)
DELETE_LOOK: Final = (1.0, 2.0)
PATIENCE: Final = 120.0

_DESCRIPTION: Final = re.compile(rf"{names.ENI_NAME} (shared|exclusive) slot (\d+) (\S+)")


class Kernel(Protocol):
    """What the books need of the node's kernel."""

    async def wait_card(self, mac: Mac, *, deadline: float) -> int:
        """Index of the card's link, once it is in the host's namespace.

        DeadlineExceeded at ``deadline`` (monotonic).
        """
        ...

    async def prepare_card(self, card: Card) -> object:
        """Make a shared card carry pods; idempotent."""
        ...

    async def retire_card(self, card: Card) -> None:
        """Undo ``prepare_card``; idempotent."""
        ...

    async def park_card(self, card: Card) -> object:
        """Have an exclusive card wait for its pod, clean and left alone by whoever configures links; idempotent."""
        ...


def describe(record: EniRecord) -> str:
    """The Description of a card of ours: enough to know it again when the ledger is lost."""
    return f"{names.ENI_NAME} {record.use} slot {record.slot} {record.token}"


def recognise(description: str) -> tuple[Use, Slot, str] | None:
    """(use, slot, token) of a Description of ours."""
    match = _DESCRIPTION.fullmatch(description)
    return None if match is None else (Use(match[1]), Slot(int(match[2])), match[3])


class Careers:
    """``follow`` takes a card as far as it goes.

    ``refused`` is told of errors that concern more than one card, ``known`` when the kernel got to know a card in
    service.
    """

    def __init__(
        self,
        *,
        instance_id: InstanceId,
        tags: Mapping[str, str],
        security_groups: Sequence[SecurityGroupId],
        store: Store,
        cloud: CloudApi,
        kernel: Kernel,
        watch: Watch,
        vswitches: VSwitches,
        clock: Clock,
        random: Random,
        refused: Callable[[EniRecord, ApiError], None],
        known: Callable[[], None],
    ) -> None:
        self._instance_id = instance_id
        self._tags = tags
        self._security_groups = security_groups
        self._store = store
        self._inventory = store.inventory
        self._cloud = cloud
        self._kernel = kernel
        self._watch = watch
        self._vswitches = vswitches
        self._clock = clock
        self._random = random
        self._refused = refused
        self._known = known
        self._fresh: dict[str, State] = {}
        """The state that this process last took a card to, as long as its work has not been begun."""
        self._work: Mapping[Work, Callable[[EniRecord], Awaitable[None]]] = {
            Work.CREATE: self._create,
            Work.PLACE: self._place,
            Work.ATTACH: self._attach,
            Work.PREPARE: self._prepare,
            Work.RETIRE: self._retire,
            Work.DETACH: self._detach,
            Work.DELETE: self._delete,
        }

    def begin(self, record: EniRecord) -> asyncio.Future[None]:
        """Write the intent to create a card: in memory at once, durable when the future is done."""
        self._fresh[record.token] = State.CREATING
        return self._store.intend(Put(record))

    def discard(self, token: str) -> Awaitable[None]:
        """Take a card that nobody holds out of service: in memory at once. Its career is followed afterwards."""
        return self._step(token, Event.DISCARD)

    def at_rest(self, eni: EniRecord) -> bool:
        """Whether there is nothing to follow.

        Also in service, a shared card has to be made known to the kernel once.
        """
        known = eni.use is not Use.SHARED or eni.state is not State.READY or eni.token in self._inventory.kernel_knows
        return known and lifecycle.WORK[eni.state] is Work.NOTHING

    async def follow(self, token: str) -> None:
        """Do what the card's state waits for until it rests or is gone."""
        delays: dict[type[Exception], Iterator[float]] = {}
        while (eni := self._inventory.enis.get(token)) is not None:
            work = lifecycle.WORK[eni.state]
            if work is Work.NOTHING:
                if self.at_rest(eni):
                    return
                if not await self._prepare_again(eni):
                    again = full_jitter(base=0.1, cap=5.0, random=self._random)
                    await self._clock.sleep(next(delays.setdefault(KernelError, again)))
                continue
            with log.bind(eni=eni.eni_id or f"({token})", slot=eni.slot):
                try:
                    await self._work[work](eni)
                    delays.clear()
                    continue
                except ApiError as error:
                    if isinstance(error, Throttled | Withheld):
                        # Surely not done: nothing to look for before the next try.
                        self._fresh[token] = eni.state
                    if await self._gave_up(eni, error):
                        continue
                    base, cap = error.patience
                    delay = next(delays.setdefault(type(error), full_jitter(base=base, cap=cap, random=self._random)))
                except (KernelError, NotReady) as error:
                    delay = next(delays.setdefault(type(error), full_jitter(base=1.0, cap=10.0, random=self._random)))
                    _log.warning(
                        "a card does not get on; trying again",
                        state=str(eni.state),
                        error=str(error),
                        after=round(delay, 1),
                    )
            await self._clock.sleep(delay)

    async def _prepare_again(self, eni: EniRecord) -> bool:
        """After a restart, or when it was missed: see that the kernel knows a shared card that is in service."""
        try:
            await self._kernel.prepare_card(eni.card)
        except (KernelError, NotReady) as error:
            _log.error("a card in service cannot be prepared", eni=eni.eni_id, slot=eni.slot, error=str(error))
            return False
        self._inventory.kernel_knows.add(eni.token)
        self._known()
        return True

    async def _gave_up(self, eni: EniRecord, error: ApiError) -> bool:
        """Whether ``error`` ends what was tried; the card has taken the next step then."""
        ends = (Refused, QuotaExhausted, LimitsDiffer)
        if eni.state is State.CREATING and isinstance(error, (*ends, VSwitchFull)):
            await self._step(eni.token, Event.REFUSED)
        elif eni.state is State.ATTACHING and isinstance(error, ends):
            await self._step(eni.token, Event.DISCARD)
        else:
            return False
        self._refused(eni, error)
        return True

    def _step(self, token: str, event: Event, *more: Change, **fields: Any) -> Awaitable[None]:
        """Move a card on: in memory at once, on disk when awaited."""
        eni = self._inventory.enis[token]
        state, _ = lifecycle.step(eni.state, event)
        drops = [Drop(self._inventory.addresses[address]) for address in self._inventory.of_card(token)]
        if state is State.GONE:
            assigns = [Drop(assign) for assign in self._inventory.assigns.values() if assign.eni == token]
            self._inventory.kernel_knows.discard(token)
            self._inventory.absent.discard(token)
            self._fresh.pop(token, None)
            _log.info("card gone", eni=eni.eni_id, slot=eni.slot, after=str(eni.state), because=str(event))
            return self._store.settle(*drops, *assigns, Drop(eni))
        if state is State.DELETING:
            # Its addresses and MAC are another card's as soon as the cloud has deleted it, before we hear of that.
            fields |= {"slot": None, "mac": None, "address": None}
            more = (*drops, *more)
        self._fresh[token] = state
        # One that fell back is as late as it was.
        since = eni.since if event in (Event.FELL_BACK, Event.PLACED) else self._clock.wall()
        after = replace(eni, state=state, since=since, **fields)
        _log.info("card", eni=after.eni_id, slot=after.slot, use=str(eni.use), state=str(state), because=str(event))
        freed = () if after.address is None else self._inventory.freed_for(token, after.address)
        return self._store.settle(*freed, Put(after), *more)

    def _is_fresh(self, eni: EniRecord) -> bool:
        """Whether this is the first try in a state that this process entered; true once."""
        if self._fresh.get(eni.token) is not eni.state:
            return False
        del self._fresh[eni.token]
        return True

    def _is_leased(self, eni: EniRecord) -> bool:
        """Pods have it already, before it is in service: leases known again after a lost ledger.

        An exclusive one's link is in its pod and not to be waited for.
        """
        return self._inventory.is_held(eni.token)

    def _patience(self) -> float:
        return self._clock.monotonic() + PATIENCE

    async def _look(self, eni: EniRecord) -> Eni | None:
        """The card as the cloud has it; None also where it is another instance's by now."""
        seen = await self._watch.look(eni.known_id, deadline=self._patience())
        if seen is None or seen.instance_id not in (None, self._instance_id):
            return None
        return seen

    # -- the work of each state

    async def _create(self, eni: EniRecord) -> None:
        vswitch = self._vswitches.known(eni.vswitch_id)
        if vswitch is None:
            raise NotReady(f"the vSwitch {eni.vswitch_id} has not been read yet")
        created = None
        if not self._is_fresh(eni):
            # The answer to an earlier call may have been lost; the ClientToken would find it again, but not for ever.
            tagged = await self._cloud.enis(tags=self._tags)
            created = next((seen for seen in tagged if seen.description == describe(eni)), None)
        if created is None:
            created = await self._cloud.create_eni(
                vswitch_id=eni.vswitch_id,
                security_groups=eni.choice.security_groups or self._security_groups,
                secondary=eni.wanted,
                tags=self._tags,
                name=names.ENI_NAME,
                description=describe(eni),
                token=eni.token,
            )
        await self._step(
            eni.token,
            Event.CREATED,
            *addresses_of(eni.token, created.address, created.secondary),
            eni_id=created.eni_id,
            mac=created.mac,
            address=created.address,
            prefix=vswitch.cidr,
            gateway=vswitch.cidr.broadcast_address - 2,
        )

    async def _place(self, eni: EniRecord) -> None:
        await self._step(eni.token, Event.DISCARD if eni.slot is None else Event.PLACED)

    async def _attach(self, eni: EniRecord) -> None:
        asked = False
        if not self._is_fresh(eni):
            seen = await self._look(eni)
            if self._is_leased(eni):
                # Whatever was seen: one that is leased does not go for a single look, the survey decides.
                await self._step(eni.token, Event.ARRIVED)
                return
            if seen is None:
                await self._step(eni.token, Event.VANISHED)
                return
            asked = seen.status is not EniStatus.AVAILABLE
        if not asked:
            await self._cloud.attach_eni(eni.known_id, self._instance_id)
        seen = await self._arrival(eni)
        if self._is_leased(eni):
            await self._step(eni.token, Event.ARRIVED)
        elif seen is None:
            await self._step(eni.token, Event.VANISHED)
        elif seen.status is EniStatus.AVAILABLE:
            await self._step(eni.token, Event.FELL_BACK)
            raise NotReady(f"the attach of {eni.eni_id} fell back to Available")
        else:
            await self._step(eni.token, Event.ARRIVED)

    async def _arrival(self, eni: EniRecord) -> Eni | None:
        """Wait for InUse and for the link, in whichever order they come; or for what says that neither will."""
        deadline = self._patience()

        async def link() -> None:
            await self._kernel.wait_card(eni.card.mac, deadline=deadline)
            self._watch.hurry(eni.known_id)

        def settled(seen: Eni | None) -> bool:
            return seen is None or seen.status in (EniStatus.IN_USE, EniStatus.AVAILABLE)

        first, pause = ATTACH_LOOK
        # No TaskGroup: of a failure that is caught here, those of 3.11 leave a cancellation that was none, or lose one.
        linked = asyncio.ensure_future(link())
        looked = asyncio.ensure_future(
            self._watch.until(eni.known_id, settled, first=first, pause=pause, deadline=deadline)
        )
        try:
            await asyncio.wait((linked, looked), return_when=asyncio.FIRST_COMPLETED)
            if linked.done():
                linked.result()
            seen = await looked
            if seen is not None and seen.status is EniStatus.IN_USE:
                await linked
            return seen
        finally:
            linked.cancel()
            looked.cancel()
            await asyncio.gather(linked, looked, return_exceptions=True)

    async def _prepare(self, eni: EniRecord) -> None:
        if eni.use is Use.SHARED:
            await self._kernel.prepare_card(eni.card)
            self._inventory.kernel_knows.add(eni.token)
        elif not self._is_leased(eni):
            await self._kernel.park_card(eni.card)
            self._inventory.absent.discard(eni.token)
        await self._step(eni.token, Event.PREPARED)

    async def _retire(self, eni: EniRecord) -> None:
        if eni.use is Use.SHARED:
            await self._kernel.retire_card(eni.card)
            self._inventory.kernel_knows.discard(eni.token)
        await self._step(eni.token, Event.RETIRED)

    async def _detach(self, eni: EniRecord) -> None:
        if not self._is_fresh(eni):
            seen = await self._look(eni)
            if seen is None:
                await self._step(eni.token, Event.VANISHED)
                return
            if seen.status is EniStatus.AVAILABLE:
                await self._step(eni.token, Event.DETACHED)
                return
        try:
            # Also when it is Detaching already: one that is stuck there wants to be asked again.
            await self._cloud.detach_eni(eni.known_id, self._instance_id)
        except NotFound:
            await self._step(eni.token, Event.VANISHED)
            return

        def settled(seen: Eni | None) -> bool:
            return seen is None or seen.status is EniStatus.AVAILABLE

        first, pause = DETACH_LOOK
        seen = await self._watch.until(eni.known_id, settled, first=first, pause=pause, deadline=self._patience())
        await self._step(eni.token, Event.VANISHED if seen is None else Event.DETACHED)

    async def _delete(self, eni: EniRecord) -> None:
        try:
            await self._cloud.delete_eni(eni.known_id)
        except NotFound:
            await self._step(eni.token, Event.VANISHED)
            return
        except WrongState:
            seen = await self._look(eni)
            if seen is None:
                await self._step(eni.token, Event.VANISHED)
                return
            raise
        first, pause = DELETE_LOOK
        await self._watch.until(
            eni.known_id, lambda seen: seen is None, first=first, pause=pause, deadline=self._patience()
        )
        await self._step(eni.token, Event.VANISHED)


def addresses_of(
    token: str, primary: IPv4Address, secondary: Sequence[IPv4Address], *, orphan: bool = False
) -> tuple[Put, ...]:
    """The addresses of a card as changes."""
    return (
        Put(AddressRecord(primary, token, primary=True)),
        *(Put(AddressRecord(address, token, orphan=orphan)) for address in secondary),
    )
