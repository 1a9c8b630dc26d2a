"""Leases of running pods after the ledger was lost: from what runtime, kernel and cloud each know. Pure.

The runtime remembers pod and sandbox, the kernel which addresses it routes to the sandbox's link, the cloud which card
has an address. Only where all three fit together is a lease made of it; of anything else the address stays out of
service as long as the kernel uses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from eniallocator.inventory import Inventory
from eniallocator.lifecycle import State
from eniallocator.records import Change, EniRecord, LeaseRecord, Put, RoutedAddress, Use
from eniway.model import Kind, LeaseKey, Sandbox


def recover(
    sandboxes: Collection[Sandbox],
    routed_to: Mapping[LeaseKey, Collection[IPv4Address]],
    inventory: Inventory,
    *,
    wall: float,
) -> Iterator[tuple[Sandbox, tuple[Change, ...]]]:
    """For each sandbox that holds a lease: the changes that put it into the books again.

    ``routed_to``: addresses with a host route to the link of each lease key. ``sandboxes``: living ones.
    """
    taken: set[IPv4Address] = set()
    for sandbox in sorted(sandboxes, key=lambda sandbox: sandbox.key):
        if sandbox.key in inventory.leases or len(routed := set(routed_to.get(sandbox.key, ()))) != 1:
            continue
        lease = _lease(sandbox, routed.pop(), inventory, wall=wall)
        if lease is None or taken.intersection(lease.addresses):
            continue
        taken.update(lease.addresses)
        before: list[Change] = []
        if lease.kind is Kind.ROUTED:
            before.append(Put(RoutedAddress(lease.address)))
        found = [inventory.addresses[address] for address in lease.addresses if address in inventory.addresses]
        before += [Put(replace(known, orphan=False)) for known in found if known.orphan]
        yield sandbox, (*before, Put(lease))


def _lease(sandbox: Sandbox, routed: IPv4Address, inventory: Inventory, *, wall: float) -> LeaseRecord | None:
    primary = inventory.primary()
    known = inventory.addresses.get(routed)
    if known is None:
        cidr = inventory.pods.cidr
        if cidr is None or routed not in cidr or routed not in sandbox.addresses:
            return None
        return _record(sandbox, Kind.ROUTED, primary.token, routed, wall=wall)
    if inventory.is_leased(routed) or known.primary:
        return None
    card = inventory.enis[known.token]
    if card.use is Use.SHARED and routed in sandbox.addresses:
        return _record(sandbox, Kind.SHARED, card.token, routed, wall=wall)
    if card.use is Use.PRIMARY and (own := _exclusive_card(sandbox, inventory)) is not None:
        assert own.address is not None
        return _record(sandbox, Kind.EXCLUSIVE, own.token, own.address, wall=wall, service=routed)
    return None


def _exclusive_card(sandbox: Sandbox, inventory: Inventory) -> EniRecord | None:
    """The card whose own address the sandbox has; one that is attached and that nobody holds."""
    for eni in inventory.enis.values():
        if (
            eni.use is Use.EXCLUSIVE
            and eni.address in sandbox.addresses
            and eni.state in (State.READY, State.ATTACHING, State.ATTACHED)
            and inventory.holder_of_card(eni.token) is None
        ):
            return eni
    return None


def _record(
    sandbox: Sandbox, kind: Kind, token: str, address: IPv4Address, *, wall: float, service: IPv4Address | None = None
) -> LeaseRecord:
    return LeaseRecord(
        key=sandbox.key,
        pod=sandbox.pod,
        kind=kind,
        netns=sandbox.netns,
        token=token,
        address=address,
        service_address=service,
        confirmed=True,
        since=wall,
    )
