"""The laws of the table of an ENI's life."""

import pytest

from build_support import lifecycle_diagram
from eniallocator import lifecycle
from eniallocator.lifecycle import COMING, LEAVING, TRANSITIONS, WORK, Event, IllegalEvent, State, Work


def test_the_table_knows_every_state() -> None:
    """A state without a row or without its work would be a dead end by oversight."""
    assert set(TRANSITIONS) == set(State) == set(WORK)


def test_every_event_is_of_use() -> None:
    """An event that no state takes is not one."""
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_every_card_can_come_to_its_end(state: State) -> None:
    """From anywhere there is a way to gone."""
    reached, frontier = {state}, [state]
    while frontier:
        for after in TRANSITIONS[frontier.pop()].values():
            if after not in reached:
                reached.add(after)
                frontier.append(after)
    assert State.GONE in reached


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_an_event_is_in_the_table_or_an_error_that_names_both(state: State, event: Event) -> None:
    """There is no third way, and the error says what came when."""
    if event in TRANSITIONS[state]:
        after, work = lifecycle.step(state, event)
        assert (after, work) == (TRANSITIONS[state][event], WORK[after])
    else:
        with pytest.raises(IllegalEvent, match=f"{state} cannot take the event {event}") as raised:
            lifecycle.step(state, event)
        assert (raised.value.state, raised.value.event) == (state, event)


def test_no_way_out_of_service_passes_by_the_kernel() -> None:
    """A card that was in service is detached only after the kernel's state has been undone."""
    into_detaching = {state for state, row in TRANSITIONS.items() if State.DETACHING in row.values()}
    assert into_detaching == {State.DRAINING, State.ATTACHING}
    assert State.DETACHING not in TRANSITIONS[State.READY].values()


def test_a_card_in_motion_has_work_and_one_at_rest_has_none() -> None:
    """What is coming or leaving waits for somebody."""
    assert all(WORK[state] is not Work.NOTHING for state in COMING | LEAVING)
    assert all(WORK[state] is Work.NOTHING for state in (State.READY, State.LOST, State.GONE))


def test_the_drawing_in_architecture_is_the_table() -> None:
    """`python -m build_support.lifecycle_diagram` draws it anew."""
    page = lifecycle_diagram.PAGE.read_text(encoding="utf-8")
    assert lifecycle_diagram.drawn() in page
    assert lifecycle_diagram.with_drawing(page) == page


def test_the_drawing_has_an_arrow_for_each_event() -> None:
    """None is left out, and none made up."""
    arrows = [line for line in lifecycle_diagram.drawn().splitlines() if " : " in line and "-->" in line]
    assert len(arrows) == sum(len(row) for row in TRANSITIONS.values())
