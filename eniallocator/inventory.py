"""The books in memory, with the indexes that make an ADD cheap.

The same changes as the ledger takes, in the same order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from eniallocator.ledger import Contents
from eniallocator.lifecycle import COMING, State
from eniallocator.plan import CardView
from eniallocator.podrange import PodRange
from eniallocator.records import (
    AddressRecord,
    AssignRecord,
    Change,
    Drop,
    EniRecord,
    LeaseRecord,
    Put,
    Record,
    RoutedAddress,
    Use,
)
from eniallocator.shelf import Shelf
from eniway.errors import InvariantBroken
from eniway.model import NO_CHOICE, Kind, Lease, LeaseKey, Slot

LATE_SECONDS: Final = 90.0
"""How long a card that has been created is waited for: an attach, with the minute for which a throttled call rests.

A card that is being created is waited for in any case: what keeps it would keep another one as well.
"""
AWAITED_SECONDS: Final = 60.0
"""How long a card that was made for a choice is kept for its pod once it is ready: kubelet makes a sandbox anew within
less, when an ADD has waited in vain."""


class Inventory:
    """Cards, addresses, leases.

    ``now`` is monotonic everywhere; ``wall`` only turns written times into monotonic ones at the start.
    """

    def __init__(self, contents: Contents, *, cooldown: float, wall: float, now: float) -> None:
        self.enis: dict[str, EniRecord] = {}
        self.addresses: dict[IPv4Address, AddressRecord] = {}
        self.leases: dict[LeaseKey, LeaseRecord] = {}
        self.assigns: dict[str, AssignRecord] = {}
        self.pods = PodRange(contents.routed)
        """Addresses for routed pods."""
        self.kernel_knows: set[str] = set()
        """Tokens of shared cards whose kernel state stands since this process began."""
        self.absent: set[str] = set()
        """Tokens of exclusive cards in service whose link is not on this node."""
        self.foreign_cards = 0
        self.foreign_addresses = 0
        """Secondary addresses of the primary card that are not ours."""
        self._of_card: defaultdict[str, set[IPv4Address]] = defaultdict(set)
        self._holder: dict[IPv4Address, LeaseKey] = {}
        self._leased: Counter[str] = Counter()
        """Leases of each card; of the primary one, those with a service address."""
        self._cool_at: dict[IPv4Address, float] = {}
        self._cooldown = cooldown
        self._began = wall
        self._shelves: dict[str, Shelf] = {}
        """By card, as long as nothing on it has changed."""
        records: tuple[Record, ...] = (*contents.enis, *contents.addresses, *contents.leases, *contents.assigns)
        for record in records:
            self.apply(Put(record))
        released = {record.address: record.released for record in contents.addresses}
        released |= {record.address: record.released for record in contents.routed}
        for address, at in released.items():
            if at is not None:
                # A clock set back must not cool for longer than the whole cooldown.
                left = min(cooldown, at + cooldown - wall)
                if left > 0:
                    self._cool_at[address] = now + left

    # -- changes

    def apply(self, change: Change) -> Change | None:
        """Do it; what undoes it, or None where it changed nothing."""
        before = self._lookup(change.record)
        if isinstance(change, Put):
            if isinstance(before, LeaseRecord) and replace(before, confirmed=True) == change.record:
                # The commonest change, and one that takes and frees nothing.
                self.leases[before.key] = change.record
                return Put(before)
            if before is not None:
                self._forget(before)
            self._take(change.record)
            return Drop(change.record) if before is None else Put(before)
        if before is None:
            return None
        self._forget(before)
        return Put(before)

    def cool(self, addresses: Collection[IPv4Address], now: float) -> None:
        """Let ``addresses`` cool down from ``now`` on."""
        for address in addresses:
            self._cool_at[address] = now + self._cooldown
            if (record := self.addresses.get(address)) is not None:
                self._shelves.pop(record.token, None)

    def _lookup(self, record: Record) -> Record | None:
        match record:
            case EniRecord():
                return self.enis.get(record.token)
            case AddressRecord():
                return self.addresses.get(record.address)
            case RoutedAddress():
                return self.pods.known.get(record.address)
            case LeaseRecord():
                return self.leases.get(record.key)
            case AssignRecord():
                return self.assigns.get(record.token)

    def _leased_off(self, record: LeaseRecord) -> None:
        """The shelves without what ``record`` takes: they need not be filled anew for each lease."""
        for address in record.addresses:
            known = self.addresses.get(address)
            shelf = None if known is None else self._shelves.get(known.token)
            if shelf is None or known is None or known.primary:
                continue
            if known.token not in self._cards_of(record):
                del self._shelves[known.token]
                continue
            try:
                shelf.take(address)
            except ValueError:
                # Orphaned, or on its way back: rare, and counted elsewhere.
                del self._shelves[known.token]

    def _stir(self, record: Record) -> None:
        """What was worked out of the cards that ``record`` is about no longer holds."""
        match record:
            case AddressRecord():
                self._shelves.pop(record.token, None)
            case LeaseRecord():
                self._shelves.pop(record.token, None)
                for address in record.addresses:
                    if (known := self.addresses.get(address)) is not None:
                        self._shelves.pop(known.token, None)

    def _take(self, record: Record) -> None:
        if not isinstance(record, LeaseRecord):
            self._stir(record)
        match record:
            case EniRecord():
                self.enis[record.token] = record
            case AddressRecord():
                self.addresses[record.address] = record
                self._of_card[record.token].add(record.address)
            case RoutedAddress():
                self.pods.take(record)
            case LeaseRecord():
                taken = [address for address in record.addresses if address in self._holder]
                if taken:
                    raise InvariantBroken(
                        f"{record.key.alias} cannot have {taken}: leased to {self._holder[taken[0]].alias}"
                    )
                self._leased_off(record)
                self.leases[record.key] = record
                self._holder.update(dict.fromkeys(record.addresses, record.key))
                self._leased.update(self._cards_of(record))
            case AssignRecord():
                self.assigns[record.token] = record

    def _forget(self, record: Record) -> None:
        self._stir(record)
        match record:
            case EniRecord():
                del self.enis[record.token]
            case AddressRecord():
                del self.addresses[record.address]
                self._of_card[record.token].discard(record.address)
            case RoutedAddress():
                self.pods.forget(record)
            case LeaseRecord():
                del self.leases[record.key]
                for address in record.addresses:
                    del self._holder[address]
                self._leased.subtract(self._cards_of(record))
            case AssignRecord():
                del self.assigns[record.token]

    def _cards_of(self, record: LeaseRecord) -> list[str]:
        """Tokens of the cards that a lease needs addresses of, whoever has these by now."""
        if record.kind is Kind.ROUTED:
            return []
        return [record.token] if record.service_address is None else [record.token, self.primary().token]

    # -- what there is

    def of_card(self, token: str) -> frozenset[IPv4Address]:
        """All addresses of a card, its primary one included."""
        return frozenset(self._of_card.get(token, ()))

    def is_leased(self, address: IPv4Address) -> bool:
        """Whether a lease holds it."""
        return address in self._holder

    def is_held(self, token: str) -> bool:
        """Whether any lease is of the card."""
        return self._leased[token] > 0

    def in_slot(self, slot: Slot) -> EniRecord | None:
        """The card in a slot."""
        return next((eni for eni in self.enis.values() if eni.slot == slot), None)

    def primary(self) -> EniRecord:
        """The instance's own card."""
        for eni in self.enis.values():
            if eni.use is Use.PRIMARY:
                return eni
        raise InvariantBroken("the books have no primary card")

    def holder_of_card(self, token: str) -> LeaseRecord | None:
        """The lease of an exclusive card."""
        eni = self.enis[token]
        key = None if eni.address is None else self._holder.get(eni.address)
        return None if key is None else self.leases[key]

    def freed_for(self, token: str, address: IPv4Address) -> tuple[Put, ...]:
        """The changes to make before a card gets ``address`` for its own: no other card has it any more."""
        return tuple(
            Put(replace(eni, address=None))
            for eni in self.enis.values()
            if eni.address == address and eni.token != token
        )

    def lease_of(self, record: LeaseRecord) -> Lease:
        """The lease as other rooms see it; InvariantBroken for one whose card is not known in full."""
        eni = self.enis[record.token]
        # A lost card's own address may be another card's by now; what the pod still holds stands for it.
        card = eni if eni.address is not None else replace(eni, address=record.address)
        return Lease(
            key=record.key,
            pod=record.pod,
            kind=record.kind,
            netns=record.netns,
            card=card.card,
            address=record.address,
            service_address=record.service_address,
            bandwidth=record.bandwidth,
        )

    # -- what can be handed out

    def pick_shared(self, now: float, slots: Collection[Slot] | None = None) -> tuple[EniRecord, IPv4Address] | None:
        """An address for a shared pod: of the fullest ready card, the one released longest ago.

        ``slots``: those for shared cards, or the card of a slot that was given away would never empty; None: not known.
        """
        ready = [
            eni
            for token, eni in self.enis.items()
            if eni.use is Use.SHARED
            and eni.state is State.READY
            and token in self.kernel_knows
            and (slots is None or eni.slot in slots)
        ]
        for eni in sorted(ready, key=lambda eni: (-self._leased[eni.token], eni.slot or 0)):
            if (address := self._first_free(eni.token, now)) is not None:
                return eni, address
        return None

    def pick_routed(self, now: float) -> IPv4Address | None:
        """An address of the podCIDR."""
        return self.pods.pick(lambda address: address in self._holder or self._cool_at.get(address, 0.0) > now)

    def pick_service(self, now: float) -> IPv4Address | None:
        """A free secondary address of the primary card."""
        return self._first_free(self.primary().token, now)

    def free_of(self, token: str, now: float) -> tuple[IPv4Address, ...]:
        """Free secondary addresses of a card, the longest unused first."""
        return self._shelf(token).free(now)

    def _first_free(self, token: str, now: float) -> IPv4Address | None:
        shelf = self._shelf(token)
        return shelf.order[0] if shelf.order and shelf.times[0] <= now else None

    def _shelf(self, token: str) -> Shelf:
        """What a card has, worked out when it was last changed: cards are many, changes few."""
        if (shelf := self._shelves.get(token)) is not None:
            return shelf
        resting: list[tuple[float, int, IPv4Address]] = []
        stuck = 0
        for address in self._of_card.get(token, ()):
            record = self.addresses[address]
            if (holder := self._holder.get(address)) is not None:
                # Leased with another card, which lost it to this one.
                stuck += not record.primary and token not in self._cards_of(self.leases[holder])
            elif record.primary:
                continue
            elif record.orphan or record.leaving:
                stuck += 1
            else:
                resting.append((self._cool_at.get(address, 0.0), int(address), address))
        resting.sort()
        shelf = Shelf([at for at, _, _ in resting], [address for _, _, address in resting], stuck)
        self._shelves[token] = shelf
        return shelf

    def next_cooled(self, now: float) -> float | None:
        """When the next address has cooled down."""
        if len(self._cool_at) > 2 * (len(self.addresses) + len(self.pods.known)) + 64:
            known = self.addresses.keys() | self.pods.known.keys()
            self._cool_at = {address: at for address, at in self._cool_at.items() if at > now or address in known}
        return min(
            (
                at
                for address, at in self._cool_at.items()
                if at > now and (address in self.addresses or address in self.pods.known)
            ),
            default=None,
        )

    def cooled_by(self, when: float, now: float) -> int:
        """How many addresses for shared pods are cooling and will be free by ``when``."""
        return sum(
            now < at <= when and address in self.addresses and self._serves_shared(self.addresses[address])
            for address, at in self._cool_at.items()
        )

    def cooling_routed(self, now: float) -> int:
        """How many addresses of routed pods are cooling."""
        return sum(address not in self._holder and self._cool_at.get(address, 0.0) > now for address in self.pods.known)

    def _serves_shared(self, address: AddressRecord) -> bool:
        eni = self.enis[address.token]
        return eni.use is Use.SHARED and eni.state is State.READY and not (address.orphan or address.leaving)

    # -- for planning

    def late(self, wall: float) -> tuple[frozenset[str], float | None]:
        """Cards that have been on their way into service for too long, and in how many seconds the next one has.

        Time in which nobody saw them arrive does not count.
        """
        left = {
            token: max(eni.since, self._began) + LATE_SECONDS - wall
            for token, eni in self.enis.items()
            if (eni.state in COMING and eni.state is not State.CREATING)
            or (eni.use is Use.SHARED and eni.state is State.READY and token not in self.kernel_knows)
        }
        late = frozenset(token for token, seconds in left.items() if seconds <= 0)
        return late, min((seconds for seconds in left.values() if seconds > 0), default=None)

    def awaited(self, wall: float) -> tuple[frozenset[str], float | None]:
        """Cards kept for the pod that chose them, and in how many seconds the next is no longer."""
        left = {
            token: eni.since + AWAITED_SECONDS - wall
            for token, eni in self.enis.items()
            if eni.choice != NO_CHOICE and eni.state is State.READY and self.holder_of_card(token) is None
        }
        # A clock set back must not keep them for longer.
        awaited = {token: seconds for token, seconds in left.items() if 0 < seconds <= AWAITED_SECONDS}
        return frozenset(awaited), min(awaited.values(), default=None)

    def views(
        self,
        now: float,
        *,
        busy: Collection[str] = (),
        held: Collection[str] = (),
        late: Collection[str] = (),
        awaited: Collection[str] = (),
    ) -> tuple[CardView, ...]:
        """Every card as planning sees it; ``busy``, ``held``, ``late`` and ``awaited`` are tokens."""
        arriving: defaultdict[str, int] = defaultdict(int)
        for assign in self.assigns.values():
            arriving[assign.eni] += assign.count
        return tuple(
            self._view(eni, now, arriving=arriving, busy=busy, held=held, late=late, awaited=awaited)
            for eni in self.enis.values()
        )

    def _view(
        self,
        eni: EniRecord,
        now: float,
        *,
        arriving: Mapping[str, int],
        busy: Collection[str],
        held: Collection[str],
        late: Collection[str],
        awaited: Collection[str],
    ) -> CardView:
        shelf = self._shelf(eni.token)
        free = shelf.free(now)
        coming = eni.wanted if eni.state is State.CREATING else arriving.get(eni.token, 0)
        return CardView(
            token=eni.token,
            use=eni.use,
            state=eni.state,
            slot=eni.slot,
            vswitch_id=eni.vswitch_id,
            used=self._leased[eni.token],
            free=free,
            cooling=len(shelf.order) - len(free),
            stuck=shelf.stuck + (self.foreign_addresses if eni.use is Use.PRIMARY else 0),
            arriving=coming,
            busy=eni.token in busy,
            held=eni.token in held,
            late=eni.token in late or eni.token in self.absent,
            choice=eni.choice,
            awaited=eni.token in awaited,
        )
