"""The life of an ENI, as a table.

Two rules hold here. Everything that decides in which state a card is stands in TRANSITIONS: nobody sets a state, one
asks ``step``. And each state names the one piece of work that leads out of it; work may be begun again at any time
(after a crash, after an error), so a restart resumes a card by looking at its state and nothing else.

    creating → available → attaching → attached → ready → draining → detaching → deleting → gone
                   ↑___________|  (attach fell back)      lost: the cloud took a card away under its pods
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from eniway.errors import InvariantBroken


class State(StrEnum):
    """Where a card is, as the ledger writes it."""

    CREATING = "creating"
    """Intended; a CreateNetworkInterface with our ClientToken may or may not have been answered."""
    AVAILABLE = "available"
    """Exists, belongs to no instance."""
    ATTACHING = "attaching"
    ATTACHED = "attached"
    """InUse, and its link is in the host's namespace; the kernel does not know what it is for yet."""
    READY = "ready"
    """Can be leased, or is."""
    DRAINING = "draining"
    """Not leased and never to be again; the kernel's state is being undone."""
    DETACHING = "detaching"
    DELETING = "deleting"
    LOST = "lost"
    """The cloud says it is no longer ours; kept until its last lease is released."""
    GONE = "gone"
    """The end: the record is dropped."""


class Event(StrEnum):
    """What can happen to a card."""

    CREATED = "created"
    REFUSED = "refused"
    """The cloud will not create it."""
    PLACED = "placed"
    """It has a slot."""
    ARRIVED = "arrived"
    """InUse at our instance, and its link is here."""
    FELL_BACK = "fell-back"
    """The attach failed: Available again."""
    PREPARED = "prepared"
    DISCARD = "discard"
    """Nobody holds it and nobody wants it."""
    RETIRED = "retired"
    """The kernel's state is undone."""
    DETACHED = "detached"
    VANISHED = "vanished"
    """The cloud knows it no longer, or as another instance's."""
    RETURNED = "returned"
    """A lost card is attached to us after all."""


class Work(StrEnum):
    """What a state waits for somebody to do."""

    CREATE = "create"
    PLACE = "place"
    ATTACH = "attach"
    PREPARE = "prepare"
    NOTHING = "nothing"
    RETIRE = "retire"
    DETACH = "detach"
    DELETE = "delete"


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.CREATING: {Event.CREATED: State.AVAILABLE, Event.REFUSED: State.GONE},
    State.AVAILABLE: {Event.PLACED: State.ATTACHING, Event.DISCARD: State.DELETING, Event.VANISHED: State.GONE},
    State.ATTACHING: {
        Event.ARRIVED: State.ATTACHED,
        Event.FELL_BACK: State.AVAILABLE,
        Event.DISCARD: State.DETACHING,
        Event.VANISHED: State.GONE,
    },
    State.ATTACHED: {Event.PREPARED: State.READY, Event.DISCARD: State.DRAINING, Event.VANISHED: State.LOST},
    State.READY: {Event.DISCARD: State.DRAINING, Event.VANISHED: State.LOST},
    State.DRAINING: {Event.RETIRED: State.DETACHING, Event.VANISHED: State.GONE},
    State.DETACHING: {Event.DETACHED: State.DELETING, Event.VANISHED: State.GONE},
    State.DELETING: {Event.VANISHED: State.GONE},
    State.LOST: {Event.RETURNED: State.ATTACHED, Event.DISCARD: State.GONE},
    State.GONE: {},
}

WORK: Final[Mapping[State, Work]] = {
    State.CREATING: Work.CREATE,
    State.AVAILABLE: Work.PLACE,
    State.ATTACHING: Work.ATTACH,
    State.ATTACHED: Work.PREPARE,
    State.READY: Work.NOTHING,
    State.DRAINING: Work.RETIRE,
    State.DETACHING: Work.DETACH,
    State.DELETING: Work.DELETE,
    State.LOST: Work.NOTHING,
    State.GONE: Work.NOTHING,
}

COMING: Final = frozenset({State.CREATING, State.AVAILABLE, State.ATTACHING, State.ATTACHED})
"""On the way to ready."""
LEAVING: Final = frozenset({State.DRAINING, State.DETACHING, State.DELETING})
"""On the way out; cannot be leased any more."""


class IllegalEvent(InvariantBroken):
    """An event that the table does not know in this state; the state is unchanged."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"an ENI that is {state} cannot take the event {event}")
        self.state = state
        self.event = event


def step(state: State, event: Event) -> tuple[State, Work]:
    """The state after ``event`` and the work it waits for; IllegalEvent where the table has none."""
    after = TRANSITIONS[state].get(event)
    if after is None:
        raise IllegalEvent(state, event)
    return after, WORK[after]
