"""The plan by example; its laws stand in tests/property."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from eniallocator.lifecycle import State
from eniallocator.plan import (
    Assign,
    CardView,
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

VSWITCH = VSwitchId("vsw-1")
SLOTS = divide(enis=4, exclusive=1)
SHARED, EXCLUSIVE = SLOTS.shared, SLOTS.exclusive
LIMITS = Limits(
    enis=4,
    addresses_per_eni=15,
    shared_slots=SHARED,
    exclusive_slots=EXCLUSIVE,
    min_idle=3,
    max_idle=10,
    warm_exclusive=1,
    vswitch=VSWITCH,
)
JUST_SHARED = replace(LIMITS, exclusive_slots=frozenset())


def free(count: int) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(0x0A001000 + number) for number in range(count))


def card(slot: int, use: Use = Use.SHARED, **fields: object) -> CardView:
    view = CardView(f"card-{slot}", use, State.READY, Slot(slot), VSWITCH)
    return replace(view, **fields)  # type: ignore[arg-type]  # fields of the view


PRIMARY = card(0, Use.PRIMARY, free=free(1))
WARM = card(3, Use.EXCLUSIVE)
CHOICE = Choice((SecurityGroupId("sg-db"),))
ELSEWHERE = Choice(vswitch=VSwitchId("vsw-2"))
MADE_FOR_IT = replace(WARM, choice=CHOICE)
ENOUGH = card(1, free=free(3))


def waits(choice: Choice = NO_CHOICE) -> Demand:
    """For slot 3."""
    return Demand(slots=frozenset({Slot(3)}), choices={Slot(3): choice})


@pytest.mark.parametrize(
    ("enis", "exclusive", "expected"),
    [
        (4, 1, ({1, 2}, {3})),
        (4, 0, ({1, 2, 3}, set())),
        (4, 9, ({1}, {2, 3})),
        (2, 1, ({1}, set())),
        (1, 2, (set(), set())),
        (36, 2, (set(range(1, 32)), {34, 35})),
    ],
)
def test_slots_are_shared_out_from_the_top(enis: int, exclusive: int, expected: tuple[set[int], set[int]]) -> None:
    """The highest numbers are exclusive, one is always shared, none that has no packet mark; the primary is neither."""
    slots = divide(enis=enis, exclusive=exclusive)
    assert (set(map(int, slots.shared)), set(map(int, slots.exclusive))) == expected
    assert slots.offered == slots.exclusive


CASES: Sequence[tuple[str, Sequence[CardView], Demand, Limits, Sequence[CloudOp]]] = [
    (
        "an empty node gets a shared card with its addresses, a warm one and a service address",
        [replace(PRIMARY, free=())],
        Demand(),
        LIMITS,
        [
            CreateCard(Slot(1), Use.SHARED, VSWITCH, 3),
            CreateCard(Slot(3), Use.EXCLUSIVE, VSWITCH, 0),
            Assign("card-0", 1),
        ],
    ),
    ("nothing to do is nothing", [PRIMARY, WARM, card(1, used=5, free=free(3))], Demand(), LIMITS, []),
    (
        "waiting pods and the idle ones are one call",
        [PRIMARY, WARM, card(1, used=2)],
        Demand(shared=4),
        LIMITS,
        [Assign("card-1", 7)],
    ),
    (
        "the fullest card is filled first, the next takes the rest",
        [card(1, used=1), card(2, used=10)],
        Demand(shared=5),
        JUST_SHARED,
        [Assign("card-2", 4), Assign("card-1", 4)],
    ),
    (
        "what is under way is not asked for again",
        [card(1, used=10, arriving=4, busy=True)],
        Demand(shared=1),
        JUST_SHARED,
        [],
    ),
    (
        "a card on its way has room: it is waited for rather than joined by another",
        [card(1, state=State.ATTACHING, arriving=0, free=free(4))],
        Demand(shared=9),
        JUST_SHARED,
        [],
    ),
    (
        "a card that is late is waited for no longer",
        [card(1, state=State.ATTACHING, free=free(4), late=True)],
        Demand(shared=9),
        JUST_SHARED,
        [CreateCard(Slot(2), Use.SHARED, VSWITCH, 12)],
    ),
    (
        "and takes its place",
        [card(slot, state=State.ATTACHING, late=True) for slot in (1, 2)],
        Demand(shared=9),
        JUST_SHARED,
        [],
    ),
    (
        "cooling addresses are not free",
        [card(1, cooling=3, free=free(1))],
        Demand(),
        JUST_SHARED,
        [Assign("card-1", 2)],
    ),
    (
        "too many for one card are two cards",
        [],
        Demand(shared=20),
        JUST_SHARED,
        [CreateCard(Slot(1), Use.SHARED, VSWITCH, 14), CreateCard(Slot(2), Use.SHARED, VSWITCH, 9)],
    ),
    (
        "in a scarce vSwitch one address at a time",
        [card(1, used=1)],
        Demand(shared=5),
        replace(JUST_SHARED, scarce_vswitches={VSWITCH}),
        [Assign("card-1", 1)],
    ),
    (
        "in an empty vSwitch none; another one takes the card",
        [card(1, used=1)],
        Demand(shared=2),
        replace(JUST_SHARED, empty_vswitches={VSWITCH}, vswitch=VSwitchId("vsw-2")),
        [CreateCard(Slot(2), Use.SHARED, VSwitchId("vsw-2"), 5)],
    ),
    (
        "a card that failed a moment ago is left alone",
        [card(1, used=1, held=True)],
        Demand(shared=1),
        JUST_SHARED,
        [CreateCard(Slot(2), Use.SHARED, VSWITCH, 4)],
    ),
    (
        "a wanted slot comes before a warm one",
        [],
        Demand(slots=frozenset({Slot(2)})),
        replace(LIMITS, min_idle=0, shared_slots=frozenset(), exclusive_slots=frozenset({Slot(1), Slot(2)}), foreign=2),
        [CreateCard(Slot(2), Use.EXCLUSIVE, VSWITCH, 0)],
    ),
    (
        "foreign cards take room",
        [card(1, used=14)],
        Demand(shared=1),
        replace(JUST_SHARED, foreign=2),
        [],
    ),
    (
        "above max_idle the empty card goes",
        [card(1, used=3, free=free(8)), card(2, free=free(6))],
        Demand(),
        JUST_SHARED,
        [Unassign("card-2", free(4))],
    ),
    (
        "a card whose addresses are all superfluous goes as a whole",
        [card(1, used=3, free=free(10)), card(2, free=free(6))],
        Demand(),
        JUST_SHARED,
        [Discard("card-2")],
    ),
    (
        "nothing is given back from a card that cools",
        [card(1, used=3, free=free(10)), card(2, free=(), cooling=6)],
        Demand(),
        JUST_SHARED,
        [],
    ),
    (
        "while somebody waits nothing is given back",
        [card(1, free=free(14), state=State.READY)],
        Demand(shared=1),
        JUST_SHARED,
        [],
    ),
    (
        "a service address for each exclusive slot that has none leased",
        [replace(PRIMARY, used=1, free=()), replace(WARM, used=1), card(1, used=1, free=free(3))],
        Demand(),
        replace(LIMITS, exclusive_slots=EXCLUSIVE | {Slot(2)}, shared_slots=frozenset({Slot(1)}), warm_exclusive=0),
        [Assign("card-0", 1)],
    ),
    (
        "a card in a slot that the configuration gave away goes when it is empty",
        [PRIMARY, WARM, card(1, free=free(3)), card(2, Use.EXCLUSIVE), replace(card(3), slot=Slot(9))],
        Demand(),
        LIMITS,
        [Discard("card-2"), Discard("card-3")],
    ),
    (
        "a lost card is forgotten when its last pod is gone",
        [PRIMARY, WARM, card(1, used=1, free=free(3)), card(2, state=State.LOST), card(4, state=State.LOST, used=1)],
        Demand(),
        LIMITS,
        [Discard("card-2")],
    ),
    ("a card that is not as its pod chose goes", [PRIMARY, WARM, ENOUGH], waits(CHOICE), LIMITS, [Discard("card-3")]),
    (
        "and the next is made as it chose",
        [PRIMARY, ENOUGH],
        waits(replace(CHOICE, vswitch=VSwitchId("vsw-2"))),
        LIMITS,
        [CreateCard(Slot(3), Use.EXCLUSIVE, VSwitchId("vsw-2"), 0, replace(CHOICE, vswitch=VSwitchId("vsw-2")))],
    ),
    ("one that is as its pod chose stays", [PRIMARY, MADE_FOR_IT, ENOUGH], waits(CHOICE), LIMITS, []),
    (
        "a node's own card in the vSwitch that was chosen will do",
        [PRIMARY, replace(WARM, vswitch_id=VSwitchId("vsw-2")), ENOUGH],
        waits(ELSEWHERE),
        LIMITS,
        [],
    ),
    ("a card of a choice is for nobody else", [PRIMARY, MADE_FOR_IT, ENOUGH], waits(), LIMITS, [Discard("card-3")]),
    ("nor is it kept for anybody", [PRIMARY, MADE_FOR_IT, ENOUGH], Demand(), LIMITS, [Discard("card-3")]),
    ("but for its own pod a while", [PRIMARY, replace(MADE_FOR_IT, awaited=True), ENOUGH], Demand(), LIMITS, []),
    ("whose pod runs stays", [PRIMARY, replace(MADE_FOR_IT, used=1), ENOUGH], Demand(), LIMITS, []),
    (
        "nor is it taken for a warm one",
        [PRIMARY, replace(MADE_FOR_IT, slot=Slot(2), used=0, busy=True), ENOUGH],
        Demand(),
        replace(LIMITS, exclusive_slots=frozenset({Slot(2), Slot(3)}), shared_slots=frozenset({Slot(1)})),
        [CreateCard(Slot(3), Use.EXCLUSIVE, VSWITCH, 0), Assign("card-0", 1)],
    ),
    (
        "a warm card is not given up for one that the cloud refuses",
        [PRIMARY, WARM, ENOUGH],
        waits(CHOICE),
        replace(LIMITS, refused_choices={CHOICE}),
        [],
    ),
    (
        "nor for one in a vSwitch that is empty",
        [PRIMARY, WARM, ENOUGH],
        waits(ELSEWHERE),
        replace(LIMITS, empty_vswitches={VSwitchId("vsw-2")}),
        [],
    ),
    (
        "a vSwitch that was chosen is not given up because the node's are empty",
        [PRIMARY, ENOUGH],
        waits(ELSEWHERE),
        replace(LIMITS, vswitch=None),
        [CreateCard(Slot(3), Use.EXCLUSIVE, VSwitchId("vsw-2"), 0, ELSEWHERE)],
    ),
    (
        "but while no card can be made, none is there either",
        [PRIMARY, ENOUGH],
        waits(ELSEWHERE),
        replace(LIMITS, vswitch=None, halted=True),
        [],
    ),
]


@pytest.mark.parametrize(
    ("cards", "demand", "limits", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_plan(cards: Sequence[CardView], demand: Demand, limits: Limits, expected: Sequence[CloudOp]) -> None:
    """Each case is named by what it shows."""
    assert list(plan(cards, demand, limits)) == list(expected)
