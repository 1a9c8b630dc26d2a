"""The books and the cloud's answer, each frozen as it is at one moment, and what differs between the two. Pure.

The books go on while the cloud is asked. What moved meanwhile is not compared: the answer may be older than the books.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from eniallocator import reclaim
from eniallocator.cloud.api import Eni
from eniallocator.inventory import Inventory
from eniallocator.lifecycle import State
from eniallocator.records import EniRecord, Identity, LeaseRecord
from eniway.model import Slot


@dataclass(frozen=True, slots=True)
class Reading:
    """What the books say."""

    identity: Identity
    cards: Mapping[str, EniRecord]
    """By token."""
    addresses: Mapping[str, tuple[IPv4Address, ...]]
    """Secondary addresses of each card, by token."""
    leases: tuple[LeaseRecord, ...]
    offered: frozenset[Slot] = frozenset()
    """Slots that kubelet may give away, or has."""
    owes: bool = False
    """The disk has not taken all of this yet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the cloud said of our instance (``attached``) and our tags (``tagged``)."""

    attached: tuple[Eni, ...]
    tagged: tuple[Eni, ...]
    before: Mapping[str, EniRecord]
    """Cards of the books, by token, when it was asked."""
    touched: frozenset[str]
    """Tokens of cards whose addresses were being changed by us meanwhile."""


def read(inventory: Inventory, identity: Identity, *, offered: frozenset[Slot], owes: bool) -> Reading:
    """The books as they are now."""
    return Reading(
        identity=identity,
        cards=dict(inventory.enis),
        addresses={
            token: tuple(sorted(one for one in inventory.of_card(token) if not inventory.addresses[one].primary))
            for token in inventory.enis
        },
        leases=tuple(inventory.leases.values()),
        offered=offered,
        owes=owes,
    )


def confront(books: Reading, answer: Answer) -> reclaim.Findings | None:
    """What differs; None where the answer is not to be believed."""
    resting = {
        eni.known_id: eni
        for token, eni in books.cards.items()
        if eni.state in (State.READY, State.LOST) and answer.before.get(token) == eni and token not in answer.touched
    }
    return reclaim.compare(
        resting,
        books.addresses,
        tokens={*books.cards, *answer.before},
        moving={eni.eni_id for eni in (*books.cards.values(), *answer.before.values())},
        attached=answer.attached,
        tagged=answer.tagged,
        identity=books.identity,
    )
