"""The pool's loop: plan, start what is planned, follow every card.

It acts on what ``plan`` decides and decides nothing itself but when. A change of the books wakes it at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

from eniallocator.careers import Careers, Kernel
from eniallocator.clock import Clock
from eniallocator.cloud.api import CloudApi, Eni
from eniallocator.cloud.errors import ApiError, LimitsDiffer, NotFound, VSwitchFull
from eniallocator.cloud.switch import Calls, Switch
from eniallocator.handover import Handover, KubeletSlots
from eniallocator.idle import Idle
from eniallocator.insist import Insist
from eniallocator.lifecycle import COMING, State
from eniallocator.plan import (
    Assign,
    CardView,
    ClaimSlot,
    CloudOp,
    CreateCard,
    Demand,
    Discard,
    Limits,
    Unassign,
    plan,
    shortage,
    surplus,
)
from eniallocator.reading import Answer
from eniallocator.records import AddressRecord, AssignRecord, Drop, EniRecord, Identity, Put, TypeLimits, Use
from eniallocator.slots import divide
from eniallocator.store import Store
from eniallocator.survey import Survey
from eniallocator.vswitches import VSwitches
from eniallocator.watch import Watch
from eniway import log, names
from eniway.config import NodeConfig
from eniway.errors import NotReady
from eniway.model import NO_CHOICE, Card, Choice, SecurityGroupId, Slot

_log = log.get(__name__)

GATHER_SECONDS: Final = 0.05
"""Changes that nobody waits for are planned for together: a burst of pods is hundreds."""
HOLD_SECONDS: Final = 30.0
"""How long a card is left alone after a call about it was refused."""
BLOCK_SECONDS: Final = 60.0
"""How long no card is created after the cloud refused one for other reasons than a full vSwitch."""
RETRY_SECONDS: Final = 5.0
"""How long nothing new is begun, and what is owed to the ledger waits, after the ledger refused a write."""


class Pool:
    """``run`` it.

    ``wake`` it when demand has changed. ``demand`` says who waits, ``complete`` whether every lease is known,
    ``changed`` is told when time changes anything, ``choice_refused`` that the cloud made no card as a pod chose, and
    why.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        config: NodeConfig,
        limits: TypeLimits | None,
        rebuilt: bool,
        vswitches: VSwitches,
        store: Store,
        cloud: CloudApi,
        kernel: Kernel,
        clock: Clock,
        random: Random,
        new_id: Callable[[], str],
        demand: Callable[[], Demand],
        complete: Callable[[], bool],
        changed: Callable[[], None],
        choice_refused: Callable[[Choice, str], None],
        primary_seen: Callable[[Eni], None],
        kubelet: KubeletSlots,
        switch: Switch,
    ) -> None:
        self._config = config
        self._switch = switch
        self._handover = Handover(kubelet, clock=clock, changed=changed)
        idle, now = config.pool.idle_seconds, clock.monotonic()
        self._idle_addresses, self._idle_cards = Idle(idle, now=now), Idle(idle, now=now)
        self._vswitches = vswitches
        self._store = store
        self._inventory = store.inventory
        self._cloud = cloud
        self._clock = clock
        self._new_id = new_id
        self._demand = demand
        self._changed = changed
        self._choice_refused = choice_refused
        self._refusals: dict[Choice, tuple[float, str]] = {}
        """Until when no card is tried for a choice that was refused, and why."""
        self._busy: set[str] = set()
        """Tokens of cards whose addresses are being changed."""
        self._held: dict[str, float] = {}
        self.late: frozenset[str] = frozenset()
        """Tokens of cards that ought to be in service by now, as of the last plan."""
        self._complete = complete
        self._followed: dict[str, asyncio.Task[None]] = {}
        """Who follows a card, by its token."""
        self._wake = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._blocked_until = 0.0
        self._blocked = ""
        groups = [SecurityGroupId(group) for group in config.security_groups]
        tags = {names.TAG_CLUSTER: config.cluster, names.TAG_INSTANCE: identity.instance_id}
        self._insist = Insist(clock, random)
        self._watch = Watch(cloud, clock)
        self._careers = Careers(
            instance_id=identity.instance_id,
            tags=tags,
            security_groups=groups,
            store=store,
            cloud=cloud,
            kernel=kernel,
            watch=self._watch,
            vswitches=vswitches,
            clock=clock,
            random=random,
            refused=self._refused,
            known=changed,
        )
        self._survey = Survey(
            identity=identity,
            tags=tags,
            groups=groups,
            limits=limits,
            rebuilt=rebuilt,
            vswitches=vswitches,
            store=store,
            cloud=cloud,
            insist=self._insist,
            clock=clock,
            random=random,
            busy=self._busy,
            pressing=lambda: demand().pressing,
            changed=changed,
            follow=self._follow_all,
            primary_seen=primary_seen,
        )

    def wake(self) -> None:
        """Plan again."""
        self._wake.set()

    @property
    def started(self) -> bool:
        """Whether limits, vSwitches and cards have been seen since this process began."""
        return self._survey.compared and self._survey.limits is not None

    def limits(self) -> Limits | None:
        """What may be had now; None before the instance type is known."""
        known = self._survey.limits
        if known is None:
            return None
        now = self._clock.monotonic()
        settings = self._config.pool
        slots = divide(
            enis=known.enis,
            exclusive=None if settings.exclusive_slots == "auto" else settings.exclusive_slots,
            shared_cards=[eni.slot for eni in self._inventory.enis.values() if eni.use is Use.SHARED],
            moving=self._handover.moving,
            taken=self._handover.taken,
        )
        return Limits(
            enis=known.enis,
            addresses_per_eni=known.addresses_per_eni,
            shared_slots=slots.shared,
            exclusive_slots=slots.exclusive,
            offered_slots=slots.offered,
            moving_slots=slots.moving,
            kept_slots=self._handover.kept(now),
            auto=slots.auto,
            min_idle=settings.min_idle_addresses,
            max_idle=settings.max_idle_addresses,
            warm_exclusive=settings.warm_exclusive,
            vswitch=None if self._blocked_until > now else self._vswitches.choose(now),
            halted=self._blocked_until > now,
            refused_choices=frozenset(choice for choice, (until, _) in self._refusals.items() if until > now),
            empty_vswitches=self._vswitches.empty(now),
            scarce_vswitches=self._vswitches.scarce(),
            foreign=self._inventory.foreign_cards,
            releases=self._switch.calls is Calls.ALL,
            complete=self._complete(),
        )

    def want(self, slot: Slot) -> None:
        """A pod has ``slot``, by kubelet's word or its own."""
        self._handover.wanted(slot)

    @property
    def blocked(self) -> str:
        """Why cards could not be made lately, besides the vSwitches; empty: nothing of the kind.

        Said for longer than no card is tried for: the next try shows whether it is over.
        """
        return self._blocked if self._clock.monotonic() < self._blocked_until + BLOCK_SECONDS else ""

    def refusal(self, choice: Choice) -> str:
        """Why the cloud made no card for a choice lately; empty: nothing of the kind. Said as long as ``blocked``."""
        if elsewhere := self._elsewhere(choice):
            return elsewhere
        until, why = self._refusals.get(choice, (0.0, ""))
        return why if self._clock.monotonic() < until + BLOCK_SECONDS else ""

    def _elsewhere(self, choice: Choice) -> str:
        """Why no card of this node can be in the vSwitch of a choice that came before the vSwitches were read."""
        why = "" if choice.vswitch is None else self._vswitches.elsewhere(choice.vswitch)
        return f"{choice.vswitch} {why}" if why else ""

    async def ask_cloud(self) -> Answer:
        """What the cloud shows of our cards at this moment; ApiError."""
        return await self._survey.ask()

    async def settle_with_cloud(self) -> None:
        """Bring the books up to what the cloud shows, as is done every ten minutes; ApiError."""
        await self._survey.settle(await self._survey.ask())

    def card_missing(self, card: Card) -> None:
        """The link of a card in service is not on this node: nothing is handed out of it until it is back."""
        for token, eni in self._inventory.enis.items():
            if eni.eni_id != card.eni_id or eni.state is not State.READY:
                continue
            if eni.use is Use.SHARED:
                self._inventory.kernel_knows.discard(token)
            elif self._inventory.holder_of_card(token) is None:
                # A pod that got it meanwhile has it in its own namespace.
                self._inventory.absent.add(token)
        self._survey.compare_soon()
        if self._group is not None:
            self._follow_all()
        self._changed()

    def card_present(self, card: Card) -> None:
        """It is; a shared one was prepared anew."""
        here = {token for token in self._inventory.absent if self._inventory.enis[token].eni_id == card.eni_id}
        if here:
            self._inventory.absent -= here
            self._changed()

    async def run(self) -> None:
        """Keep the pool for ever."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._watch.run())
            group.create_task(self._pay_debts())
            group.create_task(self._handover.run())
            self._resume()
            group.create_task(self._survey.keep_learning())
            group.create_task(self._survey.keep_comparing())
            while True:
                await self._plan_once()

    # -- planning

    async def _plan_once(self) -> None:
        self._wake.clear()
        now = self._clock.monotonic()
        self._held = {token: until for token, until in self._held.items() if until > now}
        late, next_late = self._inventory.late(self._clock.wall())
        if self._cloud.strained:
            # Another card would wait for the same quota.
            late = frozenset()
        if late != self.late:
            self.late = late
            self._changed()
        awaited, next_awaited = self._inventory.awaited(self._clock.wall())
        limits = self.limits()
        # Not before the cloud's cards have been seen once: what a lost ledger forgot would be created again.
        if limits is not None and self._survey.compared:
            views = self._inventory.views(now, busy=self._busy, held=self._held, late=late, awaited=awaited)
            self._act(views, limits, now)
        times = [
            *self._held.values(),
            *(until for until, _ in self._refusals.values()),
            self._inventory.next_cooled(now),
            self._blocked_until,
            self._blocked_until + BLOCK_SECONDS,
            self._idle_addresses.next(now),
            self._idle_cards.next(now),
        ]
        times += [now + left for left in (next_late, next_awaited) if left is not None]
        later = min((at for at in times if at is not None and at > now), default=now + BLOCK_SECONDS)
        try:
            async with self._clock.timeout_at(later):
                await self._wake.wait()
        except TimeoutError:
            self._changed()
            return
        if not self._demand().pressing:
            await self._clock.sleep(GATHER_SECONDS)

    def _act(self, views: Sequence[CardView], limits: Limits, now: float) -> None:
        """Begin what is to be done now."""
        demand = self._demand()
        addresses, cards = surplus(views, demand, limits)
        elsewhere = {choice for choice in demand.choices.values() if self._elsewhere(choice)}
        limits = replace(
            limits,
            refused_choices={*limits.refused_choices, *elsewhere},
            spare_addresses=self._idle_addresses.spare(addresses, now),
            spare_cards=self._idle_cards.spare(cards, now),
        )
        ops = plan(views, demand, limits) if self._switch.calls is not Calls.NONE else ()
        for op in ops:
            self._start(op)
        if limits.auto:
            filling = {card.slot for card in views if card.slot is not None and card.use is Use.EXCLUSIVE}
            filling |= {op.slot for op in ops if isinstance(op, CreateCard)}
            if self._handover.settle(needed=shortage(views, demand, limits) > 0, filling=filling):
                self._changed()

    def _start(self, op: CloudOp) -> None:
        """Mark ``op`` in the books at once, so that it is not planned again, and set about it."""
        wall = self._clock.wall()
        match op:
            case CreateCard():
                record = EniRecord(
                    token=self._new_id(),
                    use=op.use,
                    state=State.CREATING,
                    slot=op.slot,
                    vswitch_id=op.vswitch_id,
                    since=wall,
                    wanted=op.secondary,
                    choice=op.choice,
                )
                _log.info("card", use=str(op.use), slot=op.slot, state=str(record.state), addresses=op.secondary)
                self._follow(record.token, self._new_card(record.token, self._careers.begin(record)))
            case Assign():
                assign = AssignRecord(self._new_id(), op.token, op.count, wall)
                self._occupy(op.token)
                self._spawn(self._assign(assign, self._store.intend(Put(assign))))
            case Unassign():
                leaving = [replace(self._inventory.addresses[address], leaving=True) for address in op.addresses]
                self._occupy(op.token)
                self._spawn(self._unassign(op.token, leaving, self._store.intend(*map(Put, leaving))))
            case Discard():
                self._give_up(op.token)
            case ClaimSlot():
                self._handover.claim(op.slot)
                self._changed()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None
        return self._group.create_task(work)

    def _occupy(self, token: str) -> None:
        self._busy.add(token)
        self._survey.touch(token)

    def _let_go(self, token: str) -> None:
        self._busy.discard(token)
        self._survey.touch(token)
        self._changed()

    def _resume(self) -> None:
        """Go on where the last process stopped."""
        for assign in tuple(self._inventory.assigns.values()):
            self._occupy(assign.eni)
            self._spawn(self._assign(assign, None))
        leaving: defaultdict[str, list[AddressRecord]] = defaultdict(list)
        for address in self._inventory.addresses.values():
            if address.leaving:
                leaving[address.token].append(address)
        for token, addresses in leaving.items():
            self._occupy(token)
            self._spawn(self._unassign(token, addresses, None))
        self._follow_all()

    # -- cards

    def _follow_all(self) -> None:
        """Follow every card with something to do that nobody follows."""
        for token, eni in tuple(self._inventory.enis.items()):
            if token not in self._followed and not self._careers.at_rest(eni):
                self._follow(token, self._careers.follow(token))

    def _follow(self, token: str, career: Coroutine[Any, Any, None]) -> None:
        self._followed[token] = self._spawn(self._to_its_end(token, career))

    async def _to_its_end(self, token: str, career: Coroutine[Any, Any, None]) -> None:
        try:
            await career
        finally:
            if self._followed.get(token) is asyncio.current_task():
                del self._followed[token]

    async def _new_card(self, token: str, durable: Awaitable[None]) -> None:
        try:
            await durable
        except NotReady as error:
            self._pause(error)
            return
        await self._careers.follow(token)

    def _give_up(self, token: str) -> None:
        """Discard a card, at rest or on its way into service."""
        follower = self._followed.get(token)
        if follower is not None and self._inventory.enis[token].state in COMING:
            # It waits for what is not to come any more.
            follower.cancel()
            follower = None
        discarded = self._discarded(token, self._careers.discard(token), followed=follower is not None)
        if follower is None:
            self._follow(token, discarded)
        else:
            self._spawn(discarded)

    async def _discarded(self, token: str, durable: Awaitable[None], *, followed: bool) -> None:
        await durable
        if not followed:
            await self._careers.follow(token)

    def _refused(self, eni: EniRecord, error: ApiError) -> None:
        """A card was given up: what that says about others."""
        now = self._clock.monotonic()
        if isinstance(error, VSwitchFull):
            self._vswitches.too_few(eni.vswitch_id, asked=1 + eni.wanted, now=now)
        if eni.choice != NO_CHOICE and not isinstance(error, LimitsDiffer):
            # Of what one pod chose, so no reason to refuse others.
            self._refusals = {choice: told for choice, told in self._refusals.items() if told[0] + BLOCK_SECONDS > now}
            self._refusals[eni.choice] = (now + BLOCK_SECONDS, error.lasting)
            _log.error("no card is made as a pod chose", choice=str(eni.choice), because=str(error))
            self._choice_refused(eni.choice, error.lasting)
        elif not isinstance(error, VSwitchFull):
            if isinstance(error, LimitsDiffer):
                self._survey.compare_soon()
            seconds = max(BLOCK_SECONDS, error.patience[0])
            self._block(error, seconds)
            _log.error("no cards can be made for a while", because=str(error), seconds=seconds)
        self._changed()

    def _block(self, error: Exception, seconds: float) -> None:
        self._blocked = error.lasting if isinstance(error, ApiError) else str(error)
        self._blocked_until = self._clock.monotonic() + seconds

    def _pause(self, error: NotReady) -> None:
        """The ledger refuses intents: nothing new for a moment."""
        _log.error("cannot write down what to do, so not doing it", error=str(error))
        self._block(error, RETRY_SECONDS)
        self._changed()

    # -- addresses

    async def _assign(self, assign: AssignRecord, durable: Awaitable[None] | None) -> None:
        eni = self._inventory.enis[assign.eni]
        try:
            if durable is not None:
                await durable
            given = await self._insist(lambda: self._cloud.assign(eni.known_id, assign.count, token=assign.token))
        except NotReady as error:
            self._held[eni.token] = self._clock.monotonic() + RETRY_SECONDS
            self._pause(error)
        except ApiError as error:
            if isinstance(error, VSwitchFull):
                self._vswitches.too_few(eni.vswitch_id, asked=assign.count, now=self._clock.monotonic())
            else:
                self._hold(eni.token)
            await self._store.settle(Drop(assign))
        else:
            _log.info("addresses assigned", eni=eni.eni_id, slot=eni.slot, count=len(given))
            await self._store.settle(Drop(assign), *(Put(AddressRecord(address, eni.token)) for address in given))
        finally:
            self._let_go(eni.token)

    def _still(self, leaving: list[AddressRecord]) -> list[AddressRecord]:
        """Those that are still recorded for their card: what is given back may be another card's before we hear."""
        now = self._inventory.addresses
        return [record for record in leaving if (at := now.get(record.address)) and at.token == record.token]

    async def _unassign(self, token: str, leaving: list[AddressRecord], durable: Awaitable[None] | None) -> None:
        eni = self._inventory.enis[token]
        addresses = [record.address for record in leaving]
        try:
            if durable is not None:
                await durable
            try:
                await self._insist(lambda: self._cloud.unassign(eni.known_id, addresses))
            except NotFound:
                # One that is gone already may have kept the others there: the cloud says which are left.
                seen = await self._insist(lambda: self._cloud.enis(ids=[eni.known_id]))
                left = [address for card in seen for address in card.secondary if address in addresses]
                if left:
                    await self._insist(lambda: self._cloud.unassign(eni.known_id, left))
        except NotReady as error:
            self._pause(error)
        except ApiError:
            # Refused, so nothing was given back.
            self._hold(token)
            await self._store.settle(*(Put(replace(record, leaving=False)) for record in self._still(leaving)))
        else:
            _log.info("addresses given back", eni=eni.eni_id, slot=eni.slot, count=len(leaving))
            await self._store.settle(*map(Drop, self._still(leaving)))
        finally:
            self._let_go(token)

    def _hold(self, token: str) -> None:
        """Leave a card alone for a while, and see whether our picture of it is wrong."""
        self._held[token] = self._clock.monotonic() + HOLD_SECONDS
        self._survey.compare_soon()

    async def _pay_debts(self) -> None:
        while True:
            await self._clock.sleep(RETRY_SECONDS)
            if self._store.owes:
                await self._store.pay()
