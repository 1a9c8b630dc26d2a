"""The books in memory, with the indexes that make an ADD cheap.

The same changes as the ledger takes, in the same order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

from eniallocator.ledger import Contents
from eniallocator.lifecycle import State
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
from eniway.errors import InvariantBroken
from eniway.model import Kind, Lease, LeaseKey, Slot


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
        self.foreign_cards = 0
        self.foreign_addresses = 0
        """Secondary addresses of the primary card that are not ours."""
        self._of_card: defaultdict[str, set[IPv4Address]] = defaultdict(set)
        self._holder: dict[IPv4Address, LeaseKey] = {}
        self._leased: Counter[str] = Counter()
        """Leased addresses of each card."""
        self._cool_at: dict[IPv4Address, float] = {}
        self._cooldown = cooldown
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

    def _take(self, record: Record) -> None:
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
                self.leases[record.key] = record
                self._holder.update(dict.fromkeys(record.addresses, record.key))
                self._leased.update(self._cards_of(record))
            case AssignRecord():
                self.assigns[record.token] = record

    def _forget(self, record: Record) -> None:
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

    def _cards_of(self, lease: LeaseRecord) -> list[str]:
        """Tokens of the cards that its addresses are of."""
        if lease.kind is Kind.ROUTED:
            return []
        return [self.addresses[address].token for address in lease.addresses]

    # -- what there is

    def of_card(self, token: str) -> frozenset[IPv4Address]:
        """All addresses of a card, its primary one included."""
        return frozenset(self._of_card.get(token, ()))

    def is_leased(self, address: IPv4Address) -> bool:
        """Whether a lease holds it."""
        return address in self._holder

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

    def lease_of(self, record: LeaseRecord) -> Lease:
        """The lease as other rooms see it."""
        return Lease(
            key=record.key,
            pod=record.pod,
            kind=record.kind,
            netns=record.netns,
            card=self.enis[record.token].card,
            address=record.address,
            service_address=record.service_address,
        )

    # -- what can be handed out

    def is_free(self, address: IPv4Address, now: float) -> bool:
        """Whether a secondary address can be leased at once, as far as it is up to the address."""
        record = self.addresses[address]
        return not (
            record.primary
            or record.orphan
            or record.leaving
            or address in self._holder
            or self._cool_at.get(address, 0.0) > now
        )

    def pick_shared(self, now: float) -> tuple[EniRecord, IPv4Address] | None:
        """An address for a shared pod: of the fullest ready card, the one released longest ago."""
        ready = [
            eni
            for token, eni in self.enis.items()
            if eni.use is Use.SHARED and eni.state is State.READY and token in self.kernel_knows
        ]
        for eni in sorted(ready, key=lambda eni: (-self._leased[eni.token], eni.slot or 0)):
            if free := self.free_of(eni.token, now):
                return eni, free[0]
        return None

    def pick_routed(self, now: float) -> IPv4Address | None:
        """An address of the podCIDR."""
        return self.pods.pick(lambda address: address in self._holder or self._cool_at.get(address, 0.0) > now)

    def pick_service(self, now: float) -> IPv4Address | None:
        """A free secondary address of the primary card."""
        free = self.free_of(self.primary().token, now)
        return free[0] if free else None

    def free_of(self, token: str, now: float) -> list[IPv4Address]:
        """Free secondary addresses of a card, the longest unused first."""
        free = [address for address in self._of_card.get(token, ()) if self.is_free(address, now)]
        return sorted(free, key=lambda address: (self._cool_at.get(address, 0.0), address))

    def next_cooled(self, now: float) -> float | None:
        """When the next address has cooled down."""
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

    def views(self, now: float, *, busy: Collection[str] = (), held: Collection[str] = ()) -> tuple[CardView, ...]:
        """Every card as planning sees it; ``busy`` and ``held`` are tokens."""
        arriving: defaultdict[str, int] = defaultdict(int)
        for assign in self.assigns.values():
            arriving[assign.eni] += assign.count
        return tuple(self._view(eni, now, arriving=arriving, busy=busy, held=held) for eni in self.enis.values())

    def _view(
        self, eni: EniRecord, now: float, *, arriving: Mapping[str, int], busy: Collection[str], held: Collection[str]
    ) -> CardView:
        exclusive = eni.use is Use.EXCLUSIVE
        used = int(self.holder_of_card(eni.token) is not None) if exclusive else self._leased[eni.token]
        free = tuple(self.free_of(eni.token, now))
        stuck = cooling = 0
        for address in self._of_card.get(eni.token, ()):
            record = self.addresses[address]
            if not record.primary and address not in self._holder:
                stuck += record.orphan or record.leaving
                cooling += not (record.orphan or record.leaving) and self._cool_at.get(address, 0.0) > now
        coming = eni.wanted if eni.state is State.CREATING else arriving.get(eni.token, 0)
        return CardView(
            token=eni.token,
            use=eni.use,
            state=eni.state,
            slot=eni.slot,
            vswitch_id=eni.vswitch_id,
            used=used,
            free=free,
            cooling=cooling,
            stuck=stuck + (self.foreign_addresses if eni.use is Use.PRIMARY else 0),
            arriving=coming,
            busy=eni.token in busy,
            held=eni.token in held,
        )
