"""The books in memory: who gets which address, and when."""

from dataclasses import replace

import pytest

from eniallocator.inventory import LATE_SECONDS, Inventory
from eniallocator.ledger import Contents
from eniallocator.lifecycle import State
from eniallocator.records import Change, Drop, EniRecord, Put, Use
from eniway.errors import InvariantBroken
from eniway.model import Slot
from tests.unit.eniallocator.made import eni, lease, primary_of, secondary

ONE, TWO = eni(1), eni(2)
OF_ONE = [secondary(ONE, number) for number in range(1, 4)]
OF_TWO = [secondary(TWO, number) for number in range(1, 4)]


def inventory(*changes: Change, cooldown: float = 30.0, wall: float = 1000.0, now: float = 0.0) -> Inventory:
    contents = Contents(enis=(ONE, TWO), addresses=(primary_of(ONE), primary_of(TWO), *OF_ONE, *OF_TWO))
    made = Inventory(contents, cooldown=cooldown, wall=wall, now=now)
    made.kernel_knows |= {ONE.token, TWO.token}
    for change in changes:
        made.apply(change)
    return made


def test_the_fullest_card_is_filled_first() -> None:
    """So that the others empty out and can be given back."""
    books = inventory(Put(lease("a", TWO, OF_TWO[0])))
    assert books.pick_shared(0.0) == (TWO, OF_TWO[1].address)


def test_a_full_card_gives_way_to_the_next() -> None:
    """Fullest first means fullest with something left."""
    books = inventory(*(Put(lease(f"pod-{number}", TWO, address)) for number, address in enumerate(OF_TWO)))
    assert books.pick_shared(0.0) == (ONE, OF_ONE[0].address)


def test_the_address_that_rested_longest_is_next() -> None:
    """Addresses go round."""
    books = inventory()
    for now, address in ((1.0, OF_ONE[1]), (2.0, OF_ONE[0]), (3.0, OF_ONE[2])):
        books.cool([address.address], now)
    assert books.free_of(ONE.token, 100.0) == (OF_ONE[1].address, OF_ONE[0].address, OF_ONE[2].address)


def test_a_cooling_address_is_not_free_until_it_has_cooled() -> None:
    """Thirty seconds, to the moment."""
    books = inventory()
    books.cool([OF_ONE[0].address], 10.0)
    assert OF_ONE[0].address not in books.free_of(ONE.token, 39.9)
    assert books.next_cooled(39.9) == 40.0
    assert OF_ONE[0].address in books.free_of(ONE.token, 40.0)


@pytest.mark.parametrize(
    ("released", "wall", "left"),
    [(990.0, 1000.0, 20.0), (900.0, 1000.0, 0.0), (5000.0, 1000.0, 30.0)],
    ids=["in the middle", "long ago", "clock set back"],
)
def test_cooling_goes_on_after_a_restart(released: float, wall: float, left: float) -> None:
    """By the wall clock, which may have jumped: never for longer than a whole cooldown."""
    address = replace(OF_ONE[0], released=released)
    contents = Contents(enis=(ONE,), addresses=(primary_of(ONE), address))
    books = Inventory(contents, cooldown=30.0, wall=wall, now=7.0)
    assert books.next_cooled(7.0) == (7.0 + left if left else None)
    assert address.address in books.free_of(address.token, 7.0 + left)


@pytest.mark.parametrize(
    "change",
    [
        Put(replace(OF_ONE[0], orphan=True)),
        Put(replace(OF_ONE[0], leaving=True)),
        Put(lease("a", ONE, OF_ONE[0])),
        Drop(OF_ONE[0]),
    ],
    ids=["orphaned", "leaving", "leased", "gone"],
)
def test_what_is_not_free_is_not_handed_out(change: Change) -> None:
    """Whatever the reason."""
    assert OF_ONE[0].address not in inventory(change).free_of(ONE.token, 0.0)


def test_a_card_the_kernel_does_not_know_carries_no_pod() -> None:
    """After a restart a shared card is prepared before it is used."""
    books = inventory()
    books.kernel_knows.clear()
    assert books.pick_shared(0.0) is None


def test_a_second_lease_is_refused_and_changes_nothing() -> None:
    """Memory holds the invariant as the ledger's schema does."""
    first = lease("a", ONE, OF_ONE[0])
    books = inventory(Put(first))
    with pytest.raises(InvariantBroken, match="leased to eniway/a/eth0"):
        books.apply(Put(lease("b", ONE, OF_ONE[0])))
    assert list(books.leases.values()) == [first]


def test_every_change_can_be_undone() -> None:
    """The inverse of a change brings back what was there."""
    books = inventory()
    first, second = lease("a", ONE, OF_ONE[0]), lease("a", TWO, OF_TWO[0])
    undo = [books.apply(Put(first)), books.apply(Put(second)), books.apply(Drop(second))]
    assert books.apply(Drop(second)) is None
    for change in reversed(undo):
        assert change is not None
        books.apply(change)
    assert books.leases == {}
    assert OF_ONE[0].address in books.free_of(ONE.token, 0.0)


def test_a_card_in_a_slot_that_was_given_away_is_not_filled_up() -> None:
    """Or it would never be empty, and the slot never change its use."""
    books = inventory(Put(lease("a", TWO, OF_TWO[0])))
    assert books.pick_shared(0.0, {Slot(1)}) == (ONE, OF_ONE[0].address)
    assert books.pick_shared(0.0, {Slot(3)}) is None


def test_an_address_that_the_cloud_gave_to_another_card_is_its_pods_until_that_has_gone() -> None:
    """A card deleted under its pod: both cards count it, nobody gets it, and its release is the old lease's."""
    held = lease("a", ONE, OF_ONE[0])
    lost = replace(ONE, state=State.LOST)
    books = inventory(Put(held), Put(lost), Put(replace(OF_ONE[0], token=TWO.token)))
    views = {view.token: view for view in books.views(0.0)}
    assert (views[ONE.token].used, views[TWO.token].used, views[TWO.token].stuck) == (1, 0, 1)
    assert books.lease_of(held).card.slot == 1
    assert OF_ONE[0].address not in books.free_of(TWO.token, 0.0)
    books.apply(Drop(held))
    views = {view.token: view for view in books.views(0.0)}
    assert (views[ONE.token].empty, views[TWO.token].stuck) == (True, 0)
    assert OF_ONE[0].address in books.free_of(TWO.token, 0.0)


def test_a_lost_cards_own_address_goes_to_another_card_and_its_lease_can_still_be_told() -> None:
    """The address of an exclusive pod whose card was deleted: one card has it in the books, as in the cloud."""
    slot = eni(3, Use.EXCLUSIVE, State.LOST)
    own = primary_of(slot)
    held = lease("db", slot, own)
    books = inventory(Put(slot), Put(own), Put(held))
    for change in (*books.freed_for(TWO.token, own.address), Put(replace(TWO, address=own.address))):
        books.apply(change)
    assert [card.token for card in books.enis.values() if card.address == own.address] == [TWO.token]
    assert books.lease_of(held).card.address == own.address
    assert {view.token: view.used for view in books.views(0.0)}[slot.token] == 1


@pytest.mark.parametrize(
    ("card", "known", "left"),
    [
        (eni(1, state=State.ATTACHING), False, LATE_SECONDS),
        (eni(1, Use.EXCLUSIVE, State.AVAILABLE), False, LATE_SECONDS),
        (eni(1, state=State.READY), False, LATE_SECONDS),
        (eni(1, state=State.READY), True, None),
        (eni(1, state=State.CREATING), False, None),
        (eni(1, state=State.DETACHING), False, None),
    ],
    ids=["attaching", "available", "unknown to the kernel", "in service", "being created", "leaving"],
)
def test_a_card_on_its_way_is_late_after_a_while(card: EniRecord, known: bool, left: float | None) -> None:
    """Not before, and not one whose creation is awaited: another one would wait for the same."""
    books = Inventory(Contents(enis=(card,)), cooldown=30.0, wall=1.0, now=0.0)
    if known:
        books.kernel_knows.add(card.token)
    assert books.late(1.0) == (frozenset(), left)
    assert books.late(1.0 + LATE_SECONDS) == (frozenset({card.token}) if left else frozenset(), None)


def test_a_card_is_not_late_for_what_passed_while_nobody_looked() -> None:
    """After a restart its link may be here the next moment."""
    card = eni(1, state=State.ATTACHING)
    books = Inventory(Contents(enis=(card,)), cooldown=30.0, wall=card.since + 3600.0, now=0.0)
    assert books.late(card.since + 3600.0) == (frozenset(), LATE_SECONDS)


def test_an_exclusive_card_counts_its_pod_and_not_its_address() -> None:
    """Its primary address is no secondary one; the service address is counted where it is: on the primary card."""
    own, slot = eni(0), eni(3, Use.EXCLUSIVE)
    service = secondary(own, 1)
    contents = Contents(
        enis=(own, slot),
        addresses=(primary_of(own), primary_of(slot), service),
        leases=(lease("db", slot, primary_of(slot), service=service),),
    )
    books = Inventory(contents, cooldown=30.0, wall=0.0, now=0.0)
    views = {view.token: view for view in books.views(0.0)}
    assert (views[own.token].used, views[own.token].total) == (1, 1)
    assert (views[slot.token].used, views[slot.token].cooling) == (1, 0)
    assert books.pick_service(0.0) is None
