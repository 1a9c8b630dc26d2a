"""Records for the tests of the allocator."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from eniallocator.lifecycle import State
from eniallocator.records import AddressRecord, EniRecord, LeaseRecord, RoutedAddress, Use
from eniway.model import ContainerId, EniId, Kind, LeaseKey, Mac, PodRef, PodUid, Slot, VSwitchId

PREFIX = IPv4Network("10.0.16.0/20")
POD_CIDR = IPv4Network("172.20.1.0/24")


def key(name: str) -> LeaseKey:
    return LeaseKey("eniway", ContainerId(name), "eth0")


def eni(slot: int, use: Use = Use.SHARED, state: State = State.READY) -> EniRecord:
    """A card; slot 0 is the primary one's."""
    return EniRecord(
        token=f"card-{slot}",
        use=Use.PRIMARY if slot == 0 else use,
        state=state,
        slot=Slot(slot),
        vswitch_id=VSwitchId("vsw-1"),
        since=1.0,
        eni_id=EniId(f"eni-{slot}"),
        mac=Mac(f"00:16:3e:00:00:{slot:02x}"),
        address=PREFIX[slot * 256 + 10],
        prefix=PREFIX,
        gateway=PREFIX.broadcast_address - 2,
    )


def primary_of(card: EniRecord) -> AddressRecord:
    """A card's first address."""
    assert card.address is not None
    return AddressRecord(card.address, card.token, primary=True)


def secondary(card: EniRecord, number: int, **fields: object) -> AddressRecord:
    """A secondary address of a card."""
    assert card.address is not None
    return AddressRecord(IPv4Address(int(card.address) + number), card.token, **fields)  # type: ignore[arg-type]  # flags


def lease(name: str, card: EniRecord, address: AddressRecord, *, service: AddressRecord | None = None) -> LeaseRecord:
    """A lease of ``address``."""
    return LeaseRecord(
        key=key(name),
        pod=PodRef("default", name, PodUid(f"uid-of-{name}")),
        kind=Kind.EXCLUSIVE if card.use is Use.EXCLUSIVE else Kind.SHARED,
        netns=f"/run/netns/{name}",
        token=card.token,
        address=address.address,
        service_address=None if service is None else service.address,
        confirmed=False,
        since=2.0,
    )


def routed(name: str, card: EniRecord, address: IPv4Address) -> tuple[RoutedAddress, LeaseRecord]:
    """A routed pod's lease of ``address`` and the record of that, in the order in which they are written."""
    held = replace(lease(name, card, AddressRecord(address, card.token)), kind=Kind.ROUTED)
    return RoutedAddress(address), held
