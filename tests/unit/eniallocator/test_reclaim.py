"""Books against cloud, as pure comparison."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from eniallocator.cloud.api import Eni, EniStatus, VSwitch
from eniallocator.inventory import Inventory
from eniallocator.ledger import Contents
from eniallocator.lifecycle import State
from eniallocator.reclaim import Findings, compare, remedies
from eniallocator.records import AddressRecord, Drop, EniRecord, Identity, Put, Use
from eniallocator.vswitches import VSwitches
from eniway.model import NO_CHOICE, Choice, EniId, InstanceId, Mac, SecurityGroupId, Slot, VSwitchId
from tests.unit.eniallocator.made import PREFIX, eni, lease, primary_of, secondary

US = InstanceId("i-us")
GROUP = SecurityGroupId("sg-1")
OWN, CARD = eni(0), eni(1)
ADDRESSES = [secondary(CARD, 1), secondary(CARD, 2)]
IDENTITY = Identity(
    instance_id=US,
    instance_type="ecs.g7.xlarge",
    region="cn-box",
    zone="cn-box-a",
    vpc_id="vpc-1",
    primary_eni=EniId("eni-0"),
    primary_mac=Mac("00:16:3e:00:00:00"),
    primary_vswitch=VSwitchId("vsw-1"),
    primary_address=primary_of(OWN).address,
    primary_prefix=PREFIX,
    primary_gateway=PREFIX.broadcast_address - 2,
)


def seen(card: EniRecord, *secondary_addresses: IPv4Address, **fields: object) -> Eni:
    """The cloud's picture of a card."""
    assert card.eni_id is not None
    assert card.mac is not None
    assert card.address is not None
    made = Eni(
        eni_id=card.eni_id,
        mac=card.mac,
        status=EniStatus.IN_USE,
        secondary_type=card.use is not Use.PRIMARY,
        vswitch_id=card.vswitch_id,
        zone="cn-box-a",
        address=card.address,
        secondary=secondary_addresses,
        instance_id=US,
        description="",
        security_groups=(GROUP,),
    )
    return replace(made, **fields)  # type: ignore[arg-type]  # fields of an Eni


PRIMARY = seen(OWN)
THERE = seen(CARD, *(record.address for record in ADDRESSES))


def inventory(*extra: EniRecord | AddressRecord, card: EniRecord = CARD) -> Inventory:
    contents = Contents(enis=(OWN, card), addresses=(primary_of(OWN), primary_of(card), *ADDRESSES))
    made = Inventory(contents, cooldown=30.0, wall=0.0, now=0.0)
    for record in extra:
        made.apply(Put(record))
    return made


def look(books: Inventory, attached: list[Eni], tagged: list[Eni]) -> Findings | None:
    resting = {card.known_id: card for card in books.enis.values() if card.state in (State.READY, State.LOST)}
    return compare(
        resting,
        {
            token: [address for address in books.of_card(token) if not books.addresses[address].primary]
            for token in books.enis
        },
        tokens=set(books.enis),
        moving={card.eni_id for card in books.enis.values()},
        attached=attached,
        tagged=tagged,
        identity=IDENTITY,
    )


def mend(books: Inventory, findings: Findings | None, *, rebuilt: bool = False) -> list[Put | Drop]:
    assert findings is not None
    vswitches = VSwitches([VSwitchId("vsw-1")], zone="cn-box-a")
    vswitches.learn([VSwitch(VSwitchId(name), "cn-box-a", PREFIX, 100) for name in ("vsw-1", "vsw-2")], now=0.0)
    return list(remedies(findings, books, vswitches, groups=[GROUP], rebuilt=rebuilt, wall=9.0))


def test_agreement_changes_nothing() -> None:
    """Books and cloud say the same."""
    books = inventory()
    findings = look(books, [PRIMARY, THERE], [THERE])
    assert findings is not None
    assert not findings.differ
    assert mend(books, findings) == []


@pytest.mark.parametrize("attached", [[], [THERE]], ids=["empty", "without the primary ENI"])
def test_an_answer_without_our_own_card_is_not_believed(attached: list[Eni]) -> None:
    """We run on it: an answer that does not show it is wrong about everything."""
    assert look(inventory(), attached, []) is None


@pytest.mark.parametrize(
    "there", [[], [replace(THERE, status=EniStatus.DETACHING)]], ids=["gone", "being detached by somebody"]
)
def test_a_card_that_is_not_there_is_marked_and_not_dropped(there: list[Eni]) -> None:
    """It is lost: not handed out, and nothing of it destroyed."""
    books = inventory()
    findings = look(books, [PRIMARY, *there], [])
    assert mend(books, findings) == [Put(replace(CARD, state=State.LOST, since=9.0))]


def test_a_lost_card_that_is_back_is_taken_back() -> None:
    """And prepared anew."""
    lost = replace(CARD, state=State.LOST)
    books = inventory(card=lost)
    findings = look(books, [PRIMARY, THERE], [THERE])
    assert mend(books, findings) == [Put(replace(lost, state=State.ATTACHED, since=9.0))]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_an_address_more_is_ours(rebuilt: bool) -> None:
    """An Assign whose answer was lost; after a lost ledger a pod may use it, so nobody gets it yet."""
    books = inventory()
    more = secondary(CARD, 3)
    findings = look(books, [PRIMARY, seen(CARD, *THERE.secondary, more.address)], [THERE])
    assert mend(books, findings, rebuilt=rebuilt) == [Put(replace(more, orphan=rebuilt))]


def test_an_address_less_is_dropped_or_kept_for_its_pod_alone() -> None:
    """Unassigned by somebody: nobody gets it; the pod that has it keeps its lease."""
    books = inventory()
    findings = look(books, [PRIMARY, seen(CARD)], [THERE])
    assert mend(books, findings) == [Drop(ADDRESSES[0]), Drop(ADDRESSES[1])]
    books.apply(Put(lease("web", CARD, ADDRESSES[1])))
    assert mend(books, findings) == [Drop(ADDRESSES[0]), Put(replace(ADDRESSES[1], orphan=True))]


def test_addresses_of_the_primary_card_that_we_did_not_ask_for_are_somebody_elses() -> None:
    """They take room and are never touched."""
    books = inventory()
    findings = look(books, [seen(OWN, IPv4Address("10.0.16.99")), THERE], [THERE])
    assert findings is not None
    assert findings.foreign_addresses == (IPv4Address("10.0.16.99"),)
    assert mend(books, findings) == []


def test_after_a_lost_ledger_the_primary_cards_addresses_may_be_its_pods() -> None:
    """Service addresses of exclusive pods: nobody gets them yet, and they are not lost either."""
    books = inventory()
    more = secondary(OWN, 3)
    findings = look(books, [seen(OWN, more.address), THERE], [THERE])
    assert mend(books, findings, rebuilt=True) == [Put(replace(more, orphan=True))]


def test_an_address_that_went_from_one_card_to_another_is_the_others() -> None:
    """Neither forgotten nor kept where it was."""
    books = inventory(eni(2), primary_of(eni(2)))
    moved = ADDRESSES[1].address
    other = seen(eni(2), moved)
    for change in mend(books, look(books, [PRIMARY, seen(CARD, ADDRESSES[0].address), other], [THERE, other])):
        books.apply(change)
    assert books.addresses[moved].token == "card-2"


def test_cards_without_our_tags_are_somebody_elses() -> None:
    """They take a place and are never touched."""
    books = inventory()
    other = seen(eni(2))
    findings = look(books, [PRIMARY, THERE, other], [THERE])
    assert findings is not None
    assert findings.foreign_cards == 1
    assert mend(books, findings) == []


@pytest.mark.parametrize(
    ("stray", "expected"),
    [
        (seen(eni(3), description="eniway exclusive slot 3 lost"), (Use.EXCLUSIVE, State.ATTACHING, 3, "lost")),
        (seen(eni(3), description="eniway exclusive slot 1 lost"), (Use.EXCLUSIVE, State.ATTACHING, 2, "lost")),
        (
            seen(eni(3), status=EniStatus.AVAILABLE, description="eniway shared slot 2 lost"),
            (Use.SHARED, State.AVAILABLE, 2, "lost"),
        ),
        (
            seen(eni(3), status=EniStatus.AVAILABLE, description="eniway shared slot 1 lost"),
            (Use.SHARED, State.AVAILABLE, None, "lost"),
        ),
        (
            seen(eni(3), status=EniStatus.DETACHING, description="eniway shared slot 2 lost"),
            (Use.SHARED, State.DETACHING, None, "lost"),
        ),
        (seen(eni(3), status=EniStatus.AVAILABLE, description="?"), (Use.EXCLUSIVE, State.AVAILABLE, None, "eni-3")),
    ],
    ids=["at its slot", "its slot is taken", "kept for its slot", "to be deleted", "on its way out", "nameless"],
)
def test_a_stray_is_taken_into_the_books(stray: Eni, expected: tuple[Use, State, int | None, str]) -> None:
    """With its use and slot where its Description tells them and they are free."""
    books = inventory()
    adopted, *addresses = mend(books, look(books, [PRIMARY, THERE], [THERE, stray]))
    assert isinstance(adopted.record, EniRecord)
    use, state, slot, token = expected
    assert (adopted.record.use, adopted.record.state, adopted.record.token) == (use, state, token)
    assert adopted.record.slot == (None if slot is None else Slot(slot))
    # What is on its way out gives its addresses to others before we hear of it.
    leaving = state in (State.DETACHING, State.DELETING)
    assert addresses == ([] if leaving else [Put(AddressRecord(stray.address, token, primary=True))])
    assert adopted.record.address == (None if leaving else stray.address)


def test_a_card_that_is_being_made_is_no_stray() -> None:
    """The cloud may show it before Create's answer is here."""
    making = replace(eni(2), state=State.CREATING, eni_id=None, mac=None, address=None)
    books = inventory(making)
    stray = seen(eni(2), description=f"eniway shared slot 2 {making.token}")
    findings = look(books, [PRIMARY, THERE], [THERE, stray])
    assert findings is not None
    assert not findings.differ


@pytest.mark.parametrize(
    ("use", "groups", "vswitch", "expected"),
    [
        ("exclusive", ("sg-1",), "vsw-1", NO_CHOICE),
        ("exclusive", ("sg-3", "sg-2"), "vsw-1", Choice((SecurityGroupId("sg-2"), SecurityGroupId("sg-3")))),
        ("exclusive", ("sg-1", "sg-2"), "vsw-1", Choice((GROUP, SecurityGroupId("sg-2")))),
        ("exclusive", ("sg-1",), "vsw-2", Choice(vswitch=VSwitchId("vsw-2"))),
        ("shared", ("sg-2",), "vsw-1", NO_CHOICE),
    ],
    ids=["as the node's", "other groups", "one group more", "another vSwitch", "no pod's own"],
)
def test_a_stray_that_was_made_for_a_choice_is_known_by_what_it_is(
    use: str, groups: tuple[str, ...], vswitch: str, expected: Choice
) -> None:
    """The ledger is lost: a pod that chose nothing must not get a card with the groups of one that did."""
    stray = seen(
        eni(3),
        description=f"eniway {use} slot 3 lost",
        security_groups=tuple(map(SecurityGroupId, groups)),
        vswitch_id=VSwitchId(vswitch),
    )
    books = inventory()
    adopted, *_ = mend(books, look(books, [PRIMARY, THERE], [THERE, stray]))
    assert isinstance(adopted.record, EniRecord)
    assert adopted.record.choice == expected
