"""The books against the cloud: what is ours there and unknown here is adopted or deleted, what is gone there is marked.

Ours is an ENI that carries both tags, our cluster's and our instance's; no other is ever touched. A wrong answer of the
cloud destroys nothing: an answer without the instance's own primary ENI is not believed, and a card that is missing is
only no longer handed out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from eniallocator.careers import addresses_of, recognise
from eniallocator.cloud.api import Eni, EniStatus
from eniallocator.inventory import Inventory
from eniallocator.lifecycle import Event, State, step
from eniallocator.records import AddressRecord, Change, Drop, EniRecord, Identity, Put, Use
from eniallocator.vswitches import VSwitches
from eniway.model import NO_CHOICE, Choice, EniId, SecurityGroupId, Slot


@dataclass(frozen=True, slots=True)
class Findings:
    """What differs."""

    vanished: tuple[str, ...] = ()
    """Tokens of cards in service that the cloud does not show at our instance."""
    returned: tuple[str, ...] = ()
    """Lost cards that are there after all."""
    strays: tuple[Eni, ...] = ()
    """Ours by their tags, in no book."""
    gained: tuple[tuple[str, IPv4Address], ...] = ()
    """(token, address) that a card has and the books do not."""
    missing: tuple[IPv4Address, ...] = ()
    """In the books, and no longer on their card."""
    foreign_cards: int = 0
    """Cards of this instance that are somebody else's business."""
    foreign_addresses: tuple[IPv4Address, ...] | None = None
    """Secondary addresses of the primary card that the books do not know; None: not looked at."""

    @property
    def differ(self) -> bool:
        """Whether there is anything to mend."""
        return bool(self.vanished or self.returned or self.strays or self.gained or self.missing)


def compare(
    known: Mapping[EniId, EniRecord],
    addresses: Mapping[str, Collection[IPv4Address]],
    *,
    tokens: Collection[str],
    moving: Collection[EniId | None],
    attached: Sequence[Eni],
    tagged: Sequence[Eni],
    identity: Identity,
) -> Findings | None:
    """What differs; None where the answer is not to be believed.

    ``known``: cards at rest (ready, lost, primary) by ENI id, with their secondary ``addresses`` by token; ``tokens``
    and ``moving``: tokens and ENI ids of all cards, those in motion too. ``attached`` and ``tagged``: the cloud's ENIs
    of our instance and of our tags.
    """
    here = {eni.eni_id: eni for eni in attached}
    if identity.primary_eni not in here:
        return None
    vanished, returned, gained, missing = [], [], [], []
    foreign: tuple[IPv4Address, ...] | None = None
    for eni_id, record in known.items():
        seen = here.get(eni_id)
        if seen is None or seen.status is not EniStatus.IN_USE:
            if record.state is State.READY and record.use is not Use.PRIMARY:
                vanished.append(record.token)
            continue
        if record.state is State.LOST and record.address is not None:
            returned.append(record.token)
        booked = set(addresses[record.token])
        extra = set(seen.secondary) - booked
        missing += sorted(booked - set(seen.secondary) - {seen.address})
        if record.use is Use.PRIMARY:
            foreign = tuple(sorted(extra))
        else:
            gained += [(record.token, address) for address in sorted(extra)]
    ids = {eni.eni_id for eni in tagged}
    strays = [eni for eni in tagged if eni.secondary_type and eni.eni_id not in moving and not _in_motion(eni, tokens)]
    return Findings(
        vanished=tuple(vanished),
        returned=tuple(returned),
        strays=tuple(strays),
        gained=tuple(gained),
        missing=tuple(missing),
        foreign_cards=sum(
            eni.secondary_type and eni.eni_id not in moving and eni.eni_id not in ids for eni in attached
        ),
        foreign_addresses=foreign,
    )


def _in_motion(eni: Eni, tokens: Collection[str]) -> bool:
    recognised = recognise(eni.description)
    return recognised is not None and recognised[2] in tokens


def remedies(
    findings: Findings,
    inventory: Inventory,
    vswitches: VSwitches,
    *,
    groups: Collection[SecurityGroupId],
    rebuilt: bool,
    wall: float,
) -> tuple[Change, ...]:
    """The changes of the books that the findings ask for.

    ``groups``: what cards have that nobody chose anything for. ``rebuilt``: the ledger was lost, so any address found
    may be in use.
    """
    changes: list[Change] = []
    for event, tokens in ((Event.VANISHED, findings.vanished), (Event.RETURNED, findings.returned)):
        for token in tokens:
            record = inventory.enis[token]
            changes.append(Put(replace(record, state=step(record.state, event)[0], since=wall)))
    # Missing ones first: an address may have gone from one card to another.
    for address in findings.missing:
        known = inventory.addresses[address]
        # A pod that uses it is cut off already; but nobody else shall get it.
        changes.append(Put(replace(known, orphan=True)) if inventory.is_leased(address) else Drop(known))
    changes += [Put(AddressRecord(address, token, orphan=rebuilt)) for token, address in findings.gained]
    if rebuilt:
        # The service addresses of the pods before: without a ledger nothing tells them from somebody else's.
        primary = inventory.primary().token
        changes += [Put(AddressRecord(address, primary, orphan=True)) for address in findings.foreign_addresses or ()]
    taken = {record.slot for record in inventory.enis.values()}
    for eni in findings.strays:
        adopted = _adopt(eni, taken, vswitches, groups=groups, wall=wall)
        if adopted is not None:
            taken.add(adopted.slot)
            if adopted.address is not None:
                changes += inventory.freed_for(adopted.token, adopted.address)
                changes += [Put(adopted), *addresses_of(adopted.token, adopted.address, eni.secondary, orphan=rebuilt)]
            else:
                changes.append(Put(adopted))
    return tuple(changes)


def _adopt(
    eni: Eni,
    taken: Collection[Slot | None],
    vswitches: VSwitches,
    *,
    groups: Collection[SecurityGroupId],
    wall: float,
) -> EniRecord | None:
    """A stray as a card of the books; None for one that cannot be understood yet.

    Three cases by status: one at our instance gets a slot and is kept, one that is Available is kept where its slot is
    free and deleted where not, one on its way out is seen off.
    """
    vswitch = vswitches.known(eni.vswitch_id)
    state = {
        EniStatus.IN_USE: State.ATTACHING,
        EniStatus.ATTACHING: State.ATTACHING,
        EniStatus.AVAILABLE: State.AVAILABLE,
        EniStatus.DETACHING: State.DETACHING,
        EniStatus.DELETING: State.DELETING,
    }.get(eni.status)
    if vswitch is None or state is None:
        return None
    recognised = recognise(eni.description)
    use, slot, token = recognised or (Use.SHARED if eni.secondary else Use.EXCLUSIVE, None, eni.eni_id)
    if slot in taken:
        slot = None
    if slot is None and state is State.ATTACHING:
        slot = next(free for number in range(1, 1000) if (free := Slot(number)) not in taken)
    leaving = state in (State.DETACHING, State.DELETING)
    if leaving:
        slot = None
    return EniRecord(
        token=token,
        use=use,
        state=state,
        slot=slot,
        vswitch_id=eni.vswitch_id,
        since=wall,
        eni_id=eni.eni_id,
        # Another card's as soon as this one is deleted.
        mac=None if leaving else eni.mac,
        address=None if leaving else eni.address,
        prefix=vswitch.cidr,
        gateway=vswitch.cidr.broadcast_address - 2,
        choice=_chosen(eni, vswitches, groups) if use is Use.EXCLUSIVE else NO_CHOICE,
    )


def _chosen(eni: Eni, vswitches: VSwitches, groups: Collection[SecurityGroupId]) -> Choice:
    """What it was made for, by what it is.

    One with other groups than the node's is never taken for one of the node's.
    """
    return Choice(
        tuple(sorted(eni.security_groups)) if set(eni.security_groups) != set(groups) else (),
        None if vswitches.ordinary(eni.vswitch_id) else eni.vswitch_id,
    )
