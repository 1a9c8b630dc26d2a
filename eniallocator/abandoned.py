"""Which ENIs were left behind by instances that are gone. Pure.

Ours is an ENI of type Secondary that carries this cluster's tag and names an instance. One whose instance lives is its
daemon's alone, whatever its state; without the instance's tag, or with another cluster's, it is nobody's business here.
Laws (tests/property): nothing else is ever deleted; at most ``MOST_A_ROUND`` at once; round after round ends with
everything gone that may go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from eniallocator.cloud.api import EniStatus
from eniallocator.cloud.fleet import FleetEni
from eniallocator.evidence import MOST_A_ROUND, too_many
from eniway import names
from eniway.model import InstanceId

_FREE = (EniStatus.AVAILABLE, EniStatus.DELETING)
"""Deleting: asked again, one that is stuck goes on (ECS API reference, DeleteNetworkInterface)."""


@dataclass(frozen=True, slots=True)
class Census:
    """What a Describe of the whole VPC says that concerns this cluster."""

    ours: tuple[FleetEni, ...]
    seen: frozenset[InstanceId]
    """Instances that have an ENI of whatever kind, so are there."""

    @property
    def named(self) -> frozenset[InstanceId]:
        """Instances that ENIs of ours belong to."""
        return frozenset(map(owner, self.ours))

    def suspects(self, placed: Collection[InstanceId]) -> frozenset[InstanceId]:
        """Owners that are no node and have no card: with proof that they are gone, their ENIs can go."""
        return self.named - self.seen - frozenset(placed)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about it now."""

    delete: tuple[FleetEni, ...]
    abandoned: int
    """How many there are, those in ``delete`` among them."""
    too_many: bool
    """More than is believed: nothing is deleted until a person has looked."""


def census(enis: Iterable[FleetEni], cluster: str) -> Census:
    """Look through the ENIs of a VPC."""
    ours: list[FleetEni] = []
    seen: set[InstanceId] = set()
    for eni in enis:
        if eni.instance_id is not None:
            seen.add(eni.instance_id)
        if eni.secondary_type and eni.tags.get(names.TAG_CLUSTER) == cluster and eni.tags.get(names.TAG_INSTANCE):
            ours.append(eni)
    return Census(tuple(ours), frozenset(seen))


def owner(eni: FleetEni) -> InstanceId:
    """The instance that an ENI of ours belongs to."""
    return InstanceId(eni.tags[names.TAG_INSTANCE])


def plan(census: Census, gone: Collection[InstanceId], *, most_percent: int) -> Plan:
    """The next round. ``gone``: instances proved not to exist."""
    left = [eni for eni in census.ours if owner(eni) in gone]
    free = [eni for eni in left if eni.instance_id is None and eni.status in _FREE]
    # Those that are going already come last: as many as a round takes, stuck, would keep the others for ever.
    free.sort(key=lambda eni: (eni.status is EniStatus.DELETING, eni.eni_id))
    refused = too_many({owner(eni) for eni in left}, census.named, most_percent=most_percent)
    return Plan(() if refused else tuple(free[:MOST_A_ROUND]), len(left), refused)
