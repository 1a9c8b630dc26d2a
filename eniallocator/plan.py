"""What to ask of the cloud next: a pure function of the books, the demand and the limits.

    shared:     short = waiting + min_idle - (free + arriving); filled up in one call to each card, fullest card first,
                and then with new cards that come with their addresses. Above max_idle the emptiest cards are emptied,
                and given back when empty; of that only what was idle for a while (``spare_addresses``).
    exclusive:  every slot that somebody wants has a card, and ``warm_exclusive`` more are kept ahead; what is more than
                these goes back after a while (``spare_cards``). One that does not arrive goes, and leaves its slot to
                another.
    slots:      where they are not divided once for all, shared pods claim one when their own are full.
    choices:    an exclusive card is as it was made: one that is not what the pod in its slot chose goes, and another is
                made; one that was made for a choice goes when nobody has it or waits for it.
    services:   one secondary address of the primary card for each exclusive slot, ahead of its pod.

A cooling address is not free. What is under way counts as arriving, so planning again while calls are out plans nothing
twice.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from eniallocator.lifecycle import COMING, State
from eniallocator.records import Use
from eniway import names
from eniway.model import NO_CHOICE, Choice, Slot, VSwitchId

MOST_PER_UNASSIGN: Final = 32
"""Addresses in one UnassignPrivateIpAddresses."""


@dataclass(frozen=True, slots=True)
class CardView:
    """A card as planning sees it; the counts are of secondary addresses."""

    token: str
    use: Use
    state: State
    slot: Slot | None
    vswitch_id: VSwitchId
    used: int = 0
    """Leased ones; of an exclusive card: 1 with a lease."""
    free: tuple[IPv4Address, ...] = ()
    """In the order in which they would be handed out."""
    cooling: int = 0
    stuck: int = 0
    """Orphaned, being given back, or not ours."""
    arriving: int = 0
    """Asked for and not here yet."""
    busy: bool = False
    """A call about it is out: nothing else now."""
    held: bool = False
    """It failed a short while ago: leave it alone for now."""
    late: bool = False
    """It ought to be in service by now, and nobody knows when it will be: nothing is expected of it."""
    choice: Choice = NO_CHOICE
    """What it was made for."""
    awaited: bool = False
    """It came a moment ago, and the runtime may be between two ADDs of the pod that chose it."""

    @property
    def total(self) -> int:
        """Secondary addresses it has or is to have."""
        return self.used + len(self.free) + self.cooling + self.stuck + self.arriving

    @property
    def empty(self) -> bool:
        """Nothing on it is, was lately or may be in use."""
        return not (self.used or self.cooling or self.stuck or self.arriving)


@dataclass(frozen=True, slots=True)
class Demand:
    """Who waits."""

    shared: int = 0
    """Pods waiting for an address."""
    slots: frozenset[Slot] = frozenset()
    """Exclusive slots that a pod waits for, or that kubelet has allocated to one on its way."""
    choices: Mapping[Slot, Choice] = field(default_factory=dict)
    """What the pods chose that wait for slots: each of them is in here."""

    @property
    def pressing(self) -> bool:
        """Whether anybody waits."""
        return bool(self.shared or self.slots)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be had, by the instance type, the configuration and the state of the vSwitches."""

    enis: int
    """EniQuantity: the primary card included."""
    addresses_per_eni: int
    """The primary address included."""
    shared_slots: frozenset[Slot]
    exclusive_slots: frozenset[Slot]
    min_idle: int
    max_idle: int
    warm_exclusive: int
    vswitch: VSwitchId | None
    """Where new cards go; None: no card can be made at present."""
    halted: bool = False
    """No card can be made at present, in no vSwitch."""
    refused_choices: Collection[Choice] = frozenset()
    """The cloud will not make such cards at present."""
    empty_vswitches: Collection[VSwitchId] = frozenset()
    """No addresses there at present."""
    scarce_vswitches: Collection[VSwitchId] = frozenset()
    """Few addresses there: one at a time."""
    foreign: int = 0
    """Cards of the instance that are not ours."""
    offered_slots: frozenset[Slot] = frozenset()
    """Those that kubelet knows of."""
    moving_slots: frozenset[Slot] = frozenset()
    """Claimed for shared pods, and not let go by kubelet yet."""
    kept_slots: frozenset[Slot] = frozenset()
    """Claimed lately, and not let go by kubelet."""
    auto: bool = False
    """Shared pods may claim exclusive slots."""
    releases: bool = True
    """Whether anything may be given back at present."""
    complete: bool = True
    """Every lease is known: a card without one that does not arrive is in no pod."""
    spare_addresses: int | None = None
    """Idle for long enough to go back; None: all that are above ``max_idle``."""
    spare_cards: int = 0
    """Exclusive cards above ``warm_exclusive`` that were idle for long enough to go back."""

    @property
    def secondary(self) -> int:
        """Most secondary addresses of a card."""
        return self.addresses_per_eni - 1

    def home(self, choice: Choice) -> VSwitchId | None:
        """The vSwitch for a card of a choice; None where there can be none at present."""
        if choice in self.refused_choices:
            return None
        if choice.vswitch is None:
            return self.vswitch
        return None if self.halted or choice.vswitch in self.empty_vswitches else choice.vswitch


@dataclass(frozen=True, slots=True)
class CreateCard:
    """Create an ENI together with ``secondary`` addresses, and attach it."""

    slot: Slot
    use: Use
    vswitch_id: VSwitchId
    secondary: int
    choice: Choice = NO_CHOICE


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a card ``count`` more addresses."""

    token: str
    count: int


@dataclass(frozen=True, slots=True)
class Unassign:
    """Give addresses of a card back to the vSwitch."""

    token: str
    addresses: tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Give a card back, with all its addresses."""

    token: str


@dataclass(frozen=True, slots=True)
class ClaimSlot:
    """Ask kubelet for an exclusive slot, for shared pods."""

    slot: Slot


CloudOp = CreateCard | Assign | Unassign | Discard | ClaimSlot


def plan(cards: Sequence[CardView], demand: Demand, limits: Limits) -> tuple[CloudOp, ...]:
    """The calls to make now; nothing when all is as it should be, or cannot be bettered."""
    places = _Places(cards, limits)
    # In order of urgency: they compete for the places that are left.
    ops: list[CloudOp] = [*_wanted(cards, demand, limits, places)]
    ops += _unfit(cards, demand, limits)
    ops += _never_came(cards, limits)
    ops += _shared(cards, demand, limits, places)
    ops += _warm(cards, demand, limits, places)
    ops += _services(cards, limits)
    taken = {op.token for op in ops if isinstance(op, Assign | Unassign | Discard)}
    ops += [Discard(card.token) for card in cards if card.token not in taken and _misplaced(card, limits)]
    if not limits.releases:
        return tuple(op for op in ops if not isinstance(op, Unassign | Discard))
    return tuple(ops)


def shortage(cards: Sequence[CardView], demand: Demand, limits: Limits) -> int:
    """Addresses for shared pods that are wanted and neither there nor asked for; negative: so many more than wanted."""
    staying = _staying(cards, limits)
    return demand.shared + limits.min_idle - sum(len(card.free) + card.arriving for card in staying)


def surplus(cards: Sequence[CardView], demand: Demand, limits: Limits) -> tuple[int, int]:
    """(addresses, exclusive cards) idle beyond what is kept: what may go back when it stays so."""
    beyond = limits.min_idle - limits.max_idle - shortage(cards, demand, limits)
    return (0 if demand.shared else max(0, beyond)), max(0, _idle_cards(cards, demand, limits) - limits.warm_exclusive)


def _staying(cards: Sequence[CardView], limits: Limits) -> list[CardView]:
    """Shared cards that pods can count on, sooner or later."""
    return [
        card
        for card in cards
        if card.use is Use.SHARED
        and card.slot in limits.shared_slots
        and not card.late
        and (card.state is State.READY or card.state in COMING)
    ]


def _idle_cards(cards: Sequence[CardView], demand: Demand, limits: Limits) -> int:
    """Exclusive cards, coming ones too, that nobody has or waits for, and anybody might."""
    return sum(
        card.use is Use.EXCLUSIVE
        and card.choice == NO_CHOICE
        and card.slot in limits.exclusive_slots
        and card.slot not in demand.slots
        and not (card.used or card.late)
        and (card.state is State.READY or card.state in COMING)
        for card in cards
    )


class _Places:
    """Cards that the instance still takes, and where."""

    def __init__(self, cards: Sequence[CardView], limits: Limits) -> None:
        placed = [card for card in cards if card.use is not Use.PRIMARY and card.slot is not None]
        self._left = limits.enis - 1 - limits.foreign - len(placed)
        self._taken = {card.slot for card in placed}
        self._limits = limits

    def take(self, slot: Slot, choice: Choice = NO_CHOICE) -> VSwitchId | None:
        """The vSwitch for a new card in ``slot``; None where there can be none."""
        vswitch = self._limits.home(choice)
        if vswitch is None or self._left <= 0 or slot in self._taken:
            return None
        self._left -= 1
        self._taken.add(slot)
        return vswitch


def _wanted(cards: Sequence[CardView], demand: Demand, limits: Limits, places: _Places) -> Iterator[CloudOp]:
    occupied = {card.slot for card in cards}
    for slot in sorted((demand.slots & limits.exclusive_slots) - occupied):
        choice = demand.choices.get(slot, NO_CHOICE)
        if vswitch := places.take(slot, choice):
            yield CreateCard(slot, Use.EXCLUSIVE, vswitch, 0, choice)


def _unfit(cards: Sequence[CardView], demand: Demand, limits: Limits) -> Iterator[CloudOp]:
    """Exclusive cards that nobody has, and that are nothing for who waits for their slot.

    A card that will do for most stays until one can be made that will do for this pod. One that was made for a choice
    is kept for nobody but the pod that it was made for: whoever comes next chose otherwise as likely as not.
    """
    for card in cards:
        if card.slot is None or not _at_rest(card, limits):
            continue
        asked = demand.choices.get(card.slot)
        if asked is None:
            unfit = card.choice != NO_CHOICE and not card.awaited
        else:
            unfit = not asked.met_by(card.choice, card.vswitch_id) and limits.home(asked) is not None
        if unfit:
            yield Discard(card.token)


def _never_came(cards: Sequence[CardView], limits: Limits) -> Iterator[CloudOp]:
    """Exclusive cards that are late, and bar their slot to another; a shared one's task another slot takes over."""
    for card in cards:
        coming = card.state in COMING and card.state is not State.CREATING
        if limits.complete and card.use is Use.EXCLUSIVE and coming and card.late and card.empty and not card.busy:
            yield Discard(card.token)


def _warm(cards: Sequence[CardView], demand: Demand, limits: Limits, places: _Places) -> Iterator[CloudOp]:
    occupied = {card.slot for card in cards}
    idle = _idle_cards(cards, demand, limits)
    for slot in sorted(limits.exclusive_slots - occupied - demand.slots):
        if idle >= limits.warm_exclusive:
            break
        if vswitch := places.take(slot):
            idle += 1
            yield CreateCard(slot, Use.EXCLUSIVE, vswitch, 0)
    spare = min(limits.spare_cards, idle - limits.warm_exclusive)
    for card in sorted(cards, key=lambda card: -(card.slot or 0)):
        if spare > 0 and _vacant(card, demand, limits) and card.slot in limits.exclusive_slots:
            spare -= 1
            yield Discard(card.token)


def _at_rest(card: CardView, limits: Limits) -> bool:
    """An exclusive card in service that nobody has."""
    return (
        card.use is Use.EXCLUSIVE
        and card.state is State.READY
        and card.empty
        and not (card.busy or card.held)
        and card.slot in limits.exclusive_slots | limits.moving_slots
    )


def _vacant(card: CardView, demand: Demand, limits: Limits) -> bool:
    """One that nobody waits for either, and anybody might."""
    return _at_rest(card, limits) and card.choice == NO_CHOICE and card.slot not in demand.slots


def _shared(cards: Sequence[CardView], demand: Demand, limits: Limits, places: _Places) -> Iterator[CloudOp]:
    staying = _staying(cards, limits)
    short = shortage(cards, demand, limits)
    if short > 0:
        short = yield from _grow(staying, short, limits, places)
        yield from _claim(cards, short, demand, limits)
    elif not demand.shared:
        spare = -short - (limits.max_idle - limits.min_idle)
        if limits.spare_addresses is not None:
            spare = min(spare, limits.spare_addresses)
        yield from _shrink([card for card in staying if card.state is State.READY], spare)


def _claim(cards: Sequence[CardView], short: int, demand: Demand, limits: Limits) -> Iterator[CloudOp]:
    """Slots of exclusive use for ``short`` addresses: empty ones first, then those of cards that nobody has.

    Only for pods that wait is the last one claimed: else as many stay as are to be warm.
    """
    if not limits.auto or limits.vswitch is None or limits.secondary <= 0:
        return
    by_slot = {card.slot: card for card in cards}
    # On their way to shared use, or theirs already with the exclusive card not gone yet.
    coming = limits.moving_slots | {
        slot for slot in limits.shared_slots if slot in by_slot and by_slot[slot].use is Use.EXCLUSIVE
    }
    short -= len(coming) * limits.secondary
    there = sorted(limits.exclusive_slots - limits.kept_slots - demand.slots)
    can = [slot for slot in there if slot not in by_slot and slot <= names.MARK_SLOTS]
    can += [slot for slot in there if slot in by_slot and _vacant(by_slot[slot], demand, limits)]
    left = len(can) - (0 if demand.shared else limits.warm_exclusive)
    for slot in can[: max(0, left)]:
        if short <= 0:
            return
        short -= limits.secondary
        yield ClaimSlot(slot)


def _grow(staying: Sequence[CardView], short: int, limits: Limits, places: _Places) -> Generator[CloudOp, None, int]:
    """Calls for ``short`` more addresses; returns how many of them cannot be had in the slots there are."""
    if limits.secondary <= 0:
        # A type with one address a card carries no shared pods.
        return 0
    fullest_first = sorted(staying, key=lambda card: (-card.used, card.slot or 0))
    for card in fullest_first:
        room = _room(card, limits)
        if card.state is not State.READY or card.busy or room <= 0 or short <= 0:
            continue
        count = _batch(min(room, short), card.vswitch_id, limits)
        short -= count
        yield Assign(card.token, count)
        # The rest of a scarce batch is asked for when this one is answered.
        if card.vswitch_id in limits.scarce_vswitches:
            return 0
    # Cards on their way, or with a call out, will take some of it soon: that is cheaper than another card.
    short -= sum(max(0, _room(card, limits)) for card in staying if card.state is not State.READY or card.busy)
    for slot in sorted(limits.shared_slots):
        if short <= 0:
            return 0
        if vswitch := places.take(slot):
            count = _batch(min(short, limits.secondary), vswitch, limits)
            short -= count
            yield CreateCard(slot, Use.SHARED, vswitch, count)
            if vswitch in limits.scarce_vswitches:
                return 0
    return short


def _shrink(ready: Sequence[CardView], excess: int) -> Iterator[CloudOp]:
    for card in sorted(ready, key=lambda card: (card.used + card.cooling, -(card.slot or 0))):
        if excess < 0 or card.busy or card.held:
            continue
        if card.empty and len(card.free) <= excess:
            excess -= len(card.free)
            yield Discard(card.token)
        elif leaving := card.free[: min(excess, MOST_PER_UNASSIGN)]:
            excess -= len(leaving)
            yield Unassign(card.token, leaving)


def _services(cards: Sequence[CardView], limits: Limits) -> Iterator[CloudOp]:
    for card in cards:
        if card.use is not Use.PRIMARY or card.busy or card.held:
            continue
        short = len(limits.exclusive_slots) - card.used - len(card.free) - card.arriving
        # As many again may lie idle, or each cooldown would cost a call.
        excess = len(card.free) - 2 * len(limits.exclusive_slots)
        if short > 0 and (room := _room(card, limits)) > 0:
            yield Assign(card.token, _batch(min(short, room), card.vswitch_id, limits))
        elif excess > 0:
            yield Unassign(card.token, card.free[: min(excess, MOST_PER_UNASSIGN)])


def _misplaced(card: CardView, limits: Limits) -> bool:
    """A card that has nobody on it and no business where it is.

    Lost, or in a slot that the configuration gave to the other use.
    """
    if card.busy or not card.empty:
        return False
    if card.state is State.LOST:
        return True
    own = {Use.SHARED: limits.shared_slots, Use.EXCLUSIVE: limits.exclusive_slots | limits.moving_slots}.get(card.use)
    return card.state is State.READY and own is not None and card.slot not in own


def _room(card: CardView, limits: Limits) -> int:
    if card.held or card.vswitch_id in limits.empty_vswitches:
        return 0
    return limits.secondary - card.total


def _batch(count: int, vswitch_id: VSwitchId, limits: Limits) -> int:
    return 1 if vswitch_id in limits.scarce_vswitches else count
