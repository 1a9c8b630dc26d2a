"""Laws of the plan, over any books, demand and limits."""

from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

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
)
from eniallocator.records import Use
from eniallocator.slots import divide
from eniway.model import NO_CHOICE, Choice, SecurityGroupId, Slot, VSwitchId

VSWITCHES = [VSwitchId("vsw-1"), VSwitchId("vsw-2")]
CHOICES = [NO_CHOICE, Choice((SecurityGroupId("sg-1"),)), Choice(vswitch=VSwitchId("vsw-2"))]
AT_REST_OR_COMING = [State.READY, *sorted(COMING), State.DRAINING, State.DETACHING, State.LOST]


@st.composite
def limits_of(draw: st.DrawFn) -> Limits:
    enis = draw(st.integers(1, 8))
    some = st.frozensets(st.integers(1, 8).map(Slot), max_size=3)
    slots = divide(enis=enis, exclusive=draw(st.none() | st.integers(0, 8)), moving=draw(some), taken=draw(some))
    least = draw(st.integers(0, 6))
    return Limits(
        enis=enis,
        addresses_per_eni=draw(st.integers(1, 12)),
        shared_slots=slots.shared,
        exclusive_slots=slots.exclusive,
        offered_slots=slots.offered,
        moving_slots=slots.moving,
        auto=slots.auto,
        min_idle=least,
        max_idle=draw(st.integers(least, 12)),
        warm_exclusive=draw(st.integers(0, 4)),
        vswitch=draw(st.none() | st.sampled_from(VSWITCHES)),
        empty_vswitches=draw(st.frozensets(st.sampled_from(VSWITCHES))),
        scarce_vswitches=draw(st.frozensets(st.sampled_from(VSWITCHES))),
        foreign=draw(st.integers(0, 2)),
        complete=draw(st.booleans()),
        halted=draw(st.booleans()),
        refused_choices=draw(st.frozensets(st.sampled_from(CHOICES[1:]))),
    )


def addresses(slot: int, count: int) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(0x0A000000 + slot * 256 + number) for number in range(count))


@st.composite
def cards_of(draw: st.DrawFn, limits: Limits) -> list[CardView]:
    """The primary card and some in distinct slots, each within the type's limits."""
    cards = []
    for slot in range(limits.enis):
        if slot and not draw(st.booleans()):
            continue
        use = draw(st.sampled_from([Use.SHARED, Use.EXCLUSIVE])) if slot else Use.PRIMARY
        left = limits.secondary
        counts = []
        for _ in range(5):
            counts.append(draw(st.integers(0, left)) if use is not Use.EXCLUSIVE else 0)
            left -= counts[-1]
        used, free, cooling, stuck, arriving = counts
        cards.append(
            CardView(
                token=f"card-{slot}",
                use=use,
                state=draw(st.sampled_from(AT_REST_OR_COMING)) if slot else State.READY,
                slot=Slot(slot),
                vswitch_id=draw(st.sampled_from(VSWITCHES)),
                used=draw(st.integers(0, 1)) if use is Use.EXCLUSIVE else used,
                free=addresses(slot, free),
                cooling=cooling,
                stuck=stuck,
                arriving=arriving,
                busy=draw(st.booleans()),
                held=draw(st.booleans()),
                late=draw(st.booleans()),
                choice=draw(st.sampled_from(CHOICES)) if use is Use.EXCLUSIVE else NO_CHOICE,
                awaited=draw(st.booleans()),
            )
        )
    return cards


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[CardView], Demand, Limits]:
    limits = draw(limits_of())
    cards = draw(cards_of(limits))
    slots = draw(st.frozensets(st.integers(0, limits.enis).map(Slot)))
    choices = {slot: draw(st.sampled_from(CHOICES)) for slot in sorted(slots) if draw(st.booleans())}
    return cards, Demand(shared=draw(st.integers(0, 40)), slots=slots, choices=choices), limits


def done(cards: list[CardView], ops: tuple[CloudOp, ...]) -> list[CardView]:
    """The books after every call has succeeded."""
    by_token = {card.token: card for card in cards}
    fresh = max((int(card.free[-1]) for card in cards if card.free), default=0x0B000000) + 1
    for op in ops:
        match op:
            case CreateCard():
                new = tuple(IPv4Address(fresh + number) for number in range(op.secondary))
                fresh += op.secondary
                by_token[f"new-{op.slot}"] = CardView(
                    f"new-{op.slot}", op.use, State.READY, op.slot, op.vswitch_id, free=new, choice=op.choice
                )
            case Assign():
                card = by_token[op.token]
                new = tuple(IPv4Address(fresh + number) for number in range(op.count))
                fresh += op.count
                by_token[op.token] = replace(card, free=(*card.free, *new))
            case Unassign():
                card = by_token[op.token]
                by_token[op.token] = replace(card, free=tuple(set(card.free) - set(op.addresses)))
            case Discard():
                del by_token[op.token]
    return list(by_token.values())


def claimed(limits: Limits, ops: tuple[CloudOp, ...]) -> Limits:
    """The limits after kubelet has let go of every slot that was claimed."""
    slots = {op.slot for op in ops if isinstance(op, ClaimSlot)}
    return replace(limits, shared_slots=limits.shared_slots | slots, exclusive_slots=limits.exclusive_slots - slots)


def under_way(cards: list[CardView], ops: tuple[CloudOp, ...]) -> list[CardView]:
    """The books while every call is out."""
    by_token = {card.token: card for card in cards}
    for op in ops:
        match op:
            case CreateCard():
                by_token[f"new-{op.slot}"] = CardView(
                    f"new-{op.slot}", op.use, State.CREATING, op.slot, op.vswitch_id, arriving=op.secondary
                )
            case Assign():
                card = by_token[op.token]
                by_token[op.token] = replace(card, busy=True, arriving=card.arriving + op.count)
            case Unassign():
                card = by_token[op.token]
                left = tuple(set(card.free) - set(op.addresses))
                by_token[op.token] = replace(card, busy=True, free=left, stuck=card.stuck + len(op.addresses))
            case Discard():
                by_token[op.token] = replace(by_token[op.token], state=State.DRAINING)
    return list(by_token.values())


@given(worlds())
def test_limits_are_never_exceeded(world: tuple[list[CardView], Demand, Limits]) -> None:
    """No card more than the type takes, no address more than a card takes, no slot twice."""
    cards, demand, limits = world
    ops = plan(cards, demand, limits)
    created = [op for op in ops if isinstance(op, CreateCard)]
    placed = [card for card in cards if card.use is not Use.PRIMARY]
    if created:
        assert len(placed) + len(created) + limits.foreign + 1 <= limits.enis
    slots = [op.slot for op in created]
    assert len(set(slots)) == len(slots)
    assert not set(slots) & {card.slot for card in cards}
    for new in created:
        assert new.vswitch_id == limits.home(new.choice)
        chosen = NO_CHOICE if new.use is Use.SHARED else demand.choices.get(new.slot, NO_CHOICE)
        assert new.choice == chosen
        assert new.secondary <= limits.secondary
        assert new.slot in (limits.shared_slots if new.use is Use.SHARED else limits.exclusive_slots)
    totals = {card.token: card.total for card in cards}
    for op in ops:
        if isinstance(op, Assign):
            assert 0 < op.count <= limits.secondary - totals[op.token]


@given(worlds())
def test_nothing_in_use_is_given_back(world: tuple[list[CardView], Demand, Limits]) -> None:
    """Only free addresses are unassigned, only cards with nobody on them discarded, and neither while a call is out."""
    cards, demand, limits = world
    by_token = {card.token: card for card in cards}
    for op in plan(cards, demand, limits):
        match op:
            case Unassign():
                assert set(op.addresses) <= set(by_token[op.token].free)
                assert 0 < len(op.addresses) <= 32
                assert not by_token[op.token].busy
            case ClaimSlot():
                assert limits.auto
                assert op.slot in limits.exclusive_slots - demand.slots
                assert not any(card.slot == op.slot and (card.used or card.use is Use.SHARED) for card in cards)
            case Discard():
                card = by_token[op.token]
                assert card.use is not Use.PRIMARY
                assert (card.used, card.cooling, card.stuck, card.arriving, card.busy) == (0, 0, 0, 0, False)


def _late(card: CardView) -> bool:
    return card.late and card.use is Use.EXCLUSIVE and card.state in COMING - {State.CREATING}


@given(worlds())
def test_an_exclusive_card_that_is_late_goes_once_all_leases_are_known(
    world: tuple[list[CardView], Demand, Limits],
) -> None:
    """Unless it has a pod or a call out; no other one that is on its way does."""
    cards, demand, limits = world
    gone = {op.token for op in plan(cards, demand, limits) if isinstance(op, Discard)}
    for card in cards:
        if card.state in COMING:
            going = limits.complete and limits.releases and _late(card) and card.empty and not card.busy
            assert (card.token in gone) == going


@given(worlds())
def test_one_thing_at_a_time_for_each_card(world: tuple[list[CardView], Demand, Limits]) -> None:
    """The cloud takes one task for an ENI; nothing is asked of one that has a call out or is in motion."""
    cards, demand, limits = world
    by_token = {card.token: card for card in cards}
    touched = [op.token for op in plan(cards, demand, limits) if isinstance(op, Assign | Unassign | Discard)]
    assert len(set(touched)) == len(touched)
    assert all(not by_token[token].busy for token in touched)
    assert all(by_token[token].state in (State.READY, State.LOST) or _late(by_token[token]) for token in touched)


@settings(max_examples=300)
@given(worlds())
def test_planning_while_calls_are_out_plans_nothing_twice(world: tuple[list[CardView], Demand, Limits]) -> None:
    """The same demand, looked at again: no further card, no further address."""
    cards, demand, limits = world
    limits = replace(limits, vswitch=VSWITCHES[0], scarce_vswitches=frozenset())
    first = plan(cards, demand, limits)
    again = plan(under_way(cards, first), demand, limits)
    assert [op for op in again if isinstance(op, Assign | CreateCard)] == []


@given(worlds())
def test_demand_is_met_as_far_as_limits_allow(world: tuple[list[CardView], Demand, Limits]) -> None:
    """With a cloud that says yes, carrying out plan after plan ends, with enough idle or nothing left to have."""
    cards, demand, limits = world
    calm = [replace(card, busy=False, held=False, late=False, stuck=0, arriving=0) for card in cards]
    calm = [card for card in calm if card.state is State.READY]
    limits = replace(limits, vswitch=VSWITCHES[0], empty_vswitches=frozenset(), scarce_vswitches=frozenset())
    for _ in range(100):
        # What is claimed is another's to give.
        ops = tuple(op for op in plan(calm, demand, limits) if not isinstance(op, ClaimSlot))
        if not ops:
            break
        calm = done(calm, ops)
    else:
        raise AssertionError(f"no end to {ops}")
    shared = [card for card in calm if card.use is Use.SHARED and card.slot in limits.shared_slots]
    idle = sum(len(card.free) for card in shared)
    room = sum(limits.secondary - card.total for card in shared)
    places = limits.enis - 1 - limits.foreign - sum(card.use is not Use.PRIMARY for card in calm)
    unused = limits.shared_slots - {card.slot for card in calm}
    assert idle >= demand.shared + limits.min_idle or not (room or (places > 0 and unused and limits.secondary))
    filled = {card.slot for card in calm}
    can = {slot for slot in demand.slots if limits.home(demand.choices.get(slot, NO_CHOICE)) is not None}
    assert can & limits.exclusive_slots <= filled or places <= 0


@given(worlds())
def test_who_waits_gets_a_card_as_it_chose_and_nobody_else_gets_that(
    world: tuple[list[CardView], Demand, Limits],
) -> None:
    """Where such a card can be made. What nobody holds or waits for is a card for anybody."""
    cards, demand, limits = world
    calm = [
        replace(card, busy=False, held=False, late=False, awaited=False) for card in cards if card.state is State.READY
    ]
    for _ in range(100):
        ops = tuple(op for op in plan(calm, demand, limits) if not isinstance(op, ClaimSlot))
        if not ops:
            break
        calm = done(calm, ops)
    else:
        raise AssertionError(f"no end to {ops}")
    for card in calm:
        if card.use is not Use.EXCLUSIVE or card.used or card.slot not in limits.exclusive_slots:
            continue
        asked = demand.choices.get(card.slot)
        if asked is None:
            assert card.choice == NO_CHOICE
        else:
            assert asked.met_by(card.choice, card.vswitch_id) or limits.home(asked) is None


@given(worlds())
def test_what_was_met_stays_met(world: tuple[list[CardView], Demand, Limits]) -> None:
    """Carried out once, the plan does not take back what it gave: no swinging between growing and shrinking."""
    cards, _, limits = world
    calm = [
        replace(card, busy=False, held=False, late=False, arriving=0) for card in cards if card.state is State.READY
    ]
    limits = replace(limits, vswitch=VSWITCHES[0], empty_vswitches=frozenset(), scarce_vswitches=frozenset())
    grew = shrank = False
    for _ in range(100):
        ops = plan(calm, Demand(), limits)
        if not ops:
            return
        on_shared = {card.token for card in calm if card.use is Use.SHARED and card.slot in limits.shared_slots}
        grows = any(
            (isinstance(op, Assign) and op.token in on_shared) or (isinstance(op, CreateCard) and op.use is Use.SHARED)
            for op in ops
        )
        shrinks = any(isinstance(op, Unassign | Discard) and op.token in on_shared for op in ops)
        assert not (grows and shrinks)
        assert not (grows and shrank)
        assert not (shrinks and grew)
        grew, shrank = grew or grows, shrank or shrinks
        calm, limits = done(calm, ops), claimed(limits, ops)
    raise AssertionError("no end")


@given(worlds())
def test_nothing_is_given_back_while_that_is_switched_off(world: tuple[list[CardView], Demand, Limits]) -> None:
    """And nothing else is changed by it."""
    cards, demand, limits = world
    ops = plan(cards, demand, replace(limits, releases=False))
    assert not any(isinstance(op, Unassign | Discard) for op in ops)
    assert list(ops) == [op for op in plan(cards, demand, limits) if not isinstance(op, Unassign | Discard)]


@given(worlds(), st.integers(0, 20))
def test_no_more_goes_back_than_was_idle_for_long(world: tuple[list[CardView], Demand, Limits], spare: int) -> None:
    """Of addresses of shared cards that have a business where they are."""
    cards, demand, limits = world
    by_token = {card.token: card for card in cards}
    going = 0
    for op in plan(cards, demand, replace(limits, spare_addresses=spare)):
        if isinstance(op, Unassign | Discard):
            card = by_token[op.token]
            if card.use is Use.SHARED and card.slot in limits.shared_slots and card.state is State.READY:
                going += len(op.addresses) if isinstance(op, Unassign) else len(card.free)
    assert going <= spare
