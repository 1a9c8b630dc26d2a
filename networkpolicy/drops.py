"""What policies drop, told by samples: which pod, from or to where, and the policies that isolate it. Pure.

The kernel samples (a packet a second of each program); here it is seen to that a flood of dropped packets is no flood
of Events: of each pod and direction one a minute, of a node ``MOST`` at once and then one in ``REFILL_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from datapath.nflog import Logged
from eniway import names
from eniway.model import LeaseKey, PodRef
from networkpolicy.model import Endpoint, Model
from networkpolicy.terms import PROTOCOLS, Direction

_QUIET_SECONDS: Final = 60.0
MOST: Final = 10
REFILL_SECONDS: Final = 6.0
_NAMES: Final = {1: "ICMP", **{number: name for name, number in PROTOCOLS.items()}}
_DIRECTIONS: Final = {
    f"{names.POLICY_LOG_PREFIX}{verdict} {direction.lower()}": (direction, verdict == "audit")
    for verdict in ("drop", "audit")
    for direction in Direction
}


@dataclass(frozen=True, slots=True)
class Drop:
    """A packet that no term allows. ``audit``: it passed all the same."""

    key: LeaseKey
    pod: PodRef
    direction: Direction
    peer: IPv4Address
    protocol: int
    port: int
    policies: tuple[str, ...]
    audit: bool

    def text(self, peer: str | None) -> str:
        """For an Event; ``peer``: the pod that has that address."""
        way = "from" if self.direction is Direction.INGRESS else "to"
        where = f"{peer} ({self.peer})" if peer else str(self.peer)
        at = f", port {self.port}" if self.port else ""
        why = ", ".join(self.policies)
        verb = "would be dropped, the namespace is only watched" if self.audit else "dropped"
        isolated = f"isolated by {why}, none of which allows it" if why else "the pod's own object is not known yet"
        return f"{_NAMES.get(self.protocol, f'protocol {self.protocol}')} {way} {where}{at} {verb}: {isolated}"


def ends(model: Model) -> Mapping[bytes, Endpoint]:
    """Pods of this node by each of their addresses, packed."""
    leases = [(endpoint.lease, endpoint) for endpoint in model.endpoints.values()]
    services = {lease.service_address.packed: endpoint for lease, endpoint in leases if lease.service_address}
    return services | {lease.address.packed: endpoint for lease, endpoint in leases}


def judge(model: Model, local_ends: Mapping[bytes, Endpoint], logged: Logged) -> Drop | None:
    """Whose packet it was and what the engine says of it now; None: it is of no pod of this node, or allowed by now.

    ``local_ends``: of now, for all packets that are judged together.
    """
    if logged.prefix not in _DIRECTIONS:
        return None
    direction, audit = _DIRECTIONS[logged.prefix]
    local, peer = logged.source, logged.destination
    if direction is Direction.INGRESS:
        local, peer = peer, local
    endpoint = local_ends.get(local.packed)
    program = endpoint.programs.get(direction) if endpoint else None
    if endpoint is None or program is None or program.audit != audit:
        return None
    term = program.decide(
        local=local.packed,
        peer=peer.packed,
        protocol=logged.protocol,
        port=logged.port,
        has=lambda ref, element: element in model.members(ref),
    )
    if term is not None:
        return None
    policies = tuple(policy.key for policy in program.policies)
    return Drop(endpoint.lease.key, endpoint.lease.pod, direction, peer, logged.protocol, logged.port, policies, audit)


@dataclass(slots=True)
class Pace:
    """How many are told of."""

    left: float = MOST
    at: float = 0.0
    told: dict[tuple[LeaseKey, Direction], float] = field(default_factory=dict)

    def allows(self, drop: Drop, now: float) -> bool:
        """Whether this one is to be told of; it counts if so."""
        self.told = {who: at for who, at in self.told.items() if now - at < _QUIET_SECONDS}
        self.left = min(MOST, self.left + (now - self.at) / REFILL_SECONDS)
        self.at = now
        who = (drop.key, drop.direction)
        if who in self.told or self.left < 1:
            return False
        self.told[who] = now
        self.left -= 1
        return True
