"""An ENI's life. Everything that decides whether and how a status changes is in this table; it knows no time.

::

    (create) -> Available -> Attaching -> InUse -> Detaching -> Available -> Deleting -> (gone)
                    ^------- attach failed

Detach and delete may be asked for again while they run: that is how a client frees a stuck one. An instance that is
released lets go of its ENIs wherever they are in this.
https://help.aliyun.com/document_detail/58503.html
"""

from enum import Enum, auto

from vpcbox.world.errors import Refused
from vpcbox.world.model import EniStatus as S


class Event(Enum):
    """What can happen to an ENI."""

    ATTACH = auto()
    ATTACHED = auto()
    ATTACH_FAILED = auto()
    DETACH = auto()
    DETACHED = auto()
    DELETE = auto()
    RELEASED = auto()  # the instance is gone


TRANSITIONS: dict[tuple[S, Event], S] = {
    (S.AVAILABLE, Event.ATTACH): S.ATTACHING,
    (S.ATTACHING, Event.ATTACHED): S.IN_USE,
    (S.ATTACHING, Event.ATTACH_FAILED): S.AVAILABLE,
    (S.IN_USE, Event.ATTACH_FAILED): S.AVAILABLE,  # the status may come before the link
    (S.IN_USE, Event.DETACH): S.DETACHING,
    (S.DETACHING, Event.DETACH): S.DETACHING,
    (S.DETACHING, Event.DETACHED): S.AVAILABLE,
    (S.ATTACHING, Event.RELEASED): S.AVAILABLE,
    (S.IN_USE, Event.RELEASED): S.AVAILABLE,
    (S.DETACHING, Event.RELEASED): S.AVAILABLE,
    (S.AVAILABLE, Event.DELETE): S.DELETING,
    (S.DELETING, Event.DELETE): S.DELETING,
}


def following(status: S, event: Event) -> S:
    """The status after ``event``; raises ``InvalidOperation.InvalidEniState`` where the table has none."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise wrong_state(status, *(s for s, e in TRANSITIONS if e is event)) from None


def wrong_state(status: S, *expected: S) -> Refused:
    """The cloud's words for a request that comes at the wrong time."""
    return Refused(
        "InvalidOperation.InvalidEniState",
        "The operation is not allowed in the current ENI state. "
        f'Expecting status is "{"|".join(expected)}" while current status is "{status}".',
    )
