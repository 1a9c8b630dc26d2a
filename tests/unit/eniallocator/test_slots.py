"""The division of an instance's slots, and how one passes from one use to the other."""

import asyncio
from contextlib import AbstractAsyncContextManager, suppress

from hypothesis import given
from hypothesis import strategies as st

from eniallocator.handover import KEPT_SECONDS, MOST_LOOKS, Handover
from eniallocator.slots import divide
from eniway import names
from eniway.errors import NotReady
from eniway.model import Slot

SLOTS = st.sets(st.integers(1, 40).map(Slot))


@given(st.integers(1, 40), st.none() | st.integers(0, 40), SLOTS, SLOTS, SLOTS)
def test_every_slot_has_one_use_and_kubelet_knows_the_exclusive_ones(
    enis: int, exclusive: int | None, cards: set[Slot], moving: set[Slot], taken: set[Slot]
) -> None:
    """Never two, whatever is under way."""
    slots = divide(enis=enis, exclusive=exclusive, shared_cards=cards, moving=moving, taken=taken)
    assert not slots.shared & slots.exclusive
    assert not slots.moving & (slots.shared | slots.exclusive)
    assert slots.exclusive | slots.moving <= slots.offered
    assert all(0 < slot < enis for slot in slots.shared | slots.offered)
    if enis > 1:
        assert Slot(1) in slots.shared
        assert Slot(1) not in slots.offered


@given(st.integers(2, 40), SLOTS, SLOTS)
def test_what_kubelet_knows_does_not_depend_on_who_has_it(enis: int, cards: set[Slot], taken: set[Slot]) -> None:
    """A device that came and went would be another one to kubelet."""
    slots = divide(enis=enis, exclusive=None, shared_cards=cards, taken=taken)
    assert slots.offered == {Slot(number) for number in range(2, enis)}
    assert slots.exclusive | slots.shared == {Slot(number) for number in range(1, enis)}


def test_a_fixed_division_has_no_shared_slot_without_a_mark() -> None:
    """Of large instances."""
    assert max(divide(enis=40, exclusive=1).shared) == names.MARK_SLOTS


class Clock:
    """Sleeping is what makes time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        raise NotImplementedError


class Kubelet:
    def __init__(self, *slots: int) -> None:
        self.slots = {Slot(slot) for slot in slots}
        self.away = False
        self.asked = 0

    async def __call__(self) -> set[Slot]:
        self.asked += 1
        if self.away:
            raise NotReady("kubelet is away")
        return set(self.slots)


async def look(handover: Handover, kubelet: Kubelet, times: int) -> None:
    """Let it ask that often, and act on the last answer."""
    until = kubelet.asked + times
    task = asyncio.create_task(handover.run())
    while kubelet.asked < until:  # noqa: ASYNC110 -- the clock lets it go on in the same turn
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_slot_is_taken_when_kubelet_has_let_go_of_it_twice_in_a_row() -> None:
    """Once may be before an Allocate that is under way."""
    kubelet, clock = Kubelet(2, 3), Clock()
    handover = Handover(kubelet, clock=clock, changed=lambda: None)
    handover.claim(Slot(3))
    await look(handover, kubelet, 1)
    assert (set(handover.moving), set(handover.taken)) == ({3}, set())
    kubelet.slots = {Slot(2)}
    await look(handover, kubelet, 1)
    assert not handover.taken
    await look(handover, kubelet, 1)
    assert (set(handover.moving), set(handover.taken)) == (set(), {3})


async def test_an_allocate_wins_before_and_after_it_is_taken() -> None:
    """Until a shared card stands in it."""
    kubelet, clock = Kubelet(), Clock()
    handover = Handover(kubelet, clock=clock, changed=lambda: None)
    handover.claim(Slot(3))
    await look(handover, kubelet, 1)
    handover.wanted(Slot(3))
    handover.claim(Slot(2))
    await look(handover, kubelet, 2)
    assert set(handover.taken) == {2}
    handover.wanted(Slot(2))
    assert not handover.taken
    assert not handover.moving


async def test_a_slot_that_a_pod_has_is_let_be() -> None:
    """Others are claimed meanwhile; this one again after a while."""
    kubelet, clock = Kubelet(3), Clock()
    handover = Handover(kubelet, clock=clock, changed=lambda: None)
    handover.claim(Slot(3))
    await look(handover, kubelet, MOST_LOOKS)
    assert not handover.moving
    assert handover.kept(clock.now) == {3}
    assert not handover.kept(clock.now + KEPT_SECONDS)


async def test_while_kubelet_is_away_nothing_is_taken() -> None:
    """No answer is no consent."""
    kubelet, clock = Kubelet(), Clock()
    kubelet.away = True
    handover = Handover(kubelet, clock=clock, changed=lambda: None)
    handover.claim(Slot(3))
    await look(handover, kubelet, 10)
    assert set(handover.moving) == {3}


async def test_what_nobody_needs_any_more_goes_back() -> None:
    """A claim when the shortage is over, a taken slot when nothing is put into it."""
    kubelet, clock = Kubelet(), Clock()
    handover = Handover(kubelet, clock=clock, changed=lambda: None)
    handover.claim(Slot(2))
    await look(handover, kubelet, 2)
    handover.claim(Slot(3))
    assert not handover.settle(needed=True, filling={Slot(2)})
    assert handover.settle(needed=False, filling=())
    assert not handover.taken
    assert not handover.moving
