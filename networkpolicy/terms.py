"""What policies come to: ordered terms with verdicts. The first that matches decides; if none does, it is a drop. Pure.

Every term of networking.k8s.io/v1 allows, so their order means nothing there; it is kept for policies with priorities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal, TypeAlias

from datapath.ipset import Element
from eniway import names
from networkpolicy.selectors import Selector

Family: TypeAlias = Literal[4, 6]
Network: TypeAlias = IPv4Network | IPv6Network


class Direction(StrEnum):
    """Seen from the pod that is selected."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class Verdict(StrEnum):
    """What a term decides."""

    ALLOW = "allow"
    DENY = "deny"


PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""Those that a policy can name, with their numbers in the IP header."""


@dataclass(frozen=True, slots=True)
class PodSet:
    """Addresses of pods: of one namespace, or of all that a selector matches."""

    namespace: str | None
    """None: see ``namespaces``."""
    namespaces: Selector | None
    pods: Selector


@dataclass(frozen=True, slots=True)
class PortSet:
    """(address, protocol, port) of every pod in ``scope`` that has a port called ``name``; None: of every pod."""

    scope: PodSet | None
    name: str
    protocol: int


@dataclass(frozen=True, slots=True)
class NetSet:
    """Networks, none wider than /1, and exceptions of them; those of one ipBlock, or of several without exceptions."""

    elements: tuple[Element, ...]

    def has(self, address: bytes) -> bool:
        """Whether the longest prefix that ``address`` has here is no exception."""
        number, bits = int.from_bytes(address), len(address) * 8
        best = max(
            (
                element
                for element in self.elements
                if (number ^ int.from_bytes(element.address)) >> (bits - element.prefix) == 0
            ),
            key=lambda element: element.prefix,
            default=None,
        )
        return best is not None and not best.nomatch


SetRef: TypeAlias = PodSet | PortSet | NetSet


@lru_cache(maxsize=1 << 13)
def set_name(ref: SetRef, family: Family) -> str:
    """Name of a set in the kernel, from what it says: at most 31 characters (IPSET_MAXNAMELEN)."""
    digest = hashlib.sha256(f"{family} {ref!r}".encode()).hexdigest()[:16]
    letter = {PodSet: "pods", PortSet: "port", NetSet: "nets"}[type(ref)]
    return f"{names.POLICY_SET_PREFIX}{letter}-{digest}"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Ports of a protocol by number: ranges, both ends included; none at all: every port."""

    protocol: int
    ranges: tuple[tuple[int, int], ...] = ()

    def has(self, protocol: int, port: int) -> bool:
        """Whether a packet's protocol and destination port are meant."""
        if protocol != self.protocol:
            return False
        return not self.ranges or any(low <= port <= high for low, high in self.ranges)


@dataclass(frozen=True, slots=True)
class Term:
    """A verdict on packets from or to ``peer`` at ``port``; None: any, protocols without ports included.

    A PortSet is looked up with the packet's destination, whatever the direction.
    """

    verdict: Verdict
    peer: PodSet | NetSet | None
    port: Numbers | PortSet | None
    policy: str
    """namespace/name of the policy that says so."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy, compiled. ``terms`` has the directions in which it isolates."""

    namespace: str
    name: str
    subject: Selector
    terms: tuple[tuple[Direction, tuple[Term, ...]], ...]
    digest: str
    """Of all that it says."""
    six: Policy | None = None
    """Of one for IPv4: what it says of IPv6, in which pods have no addresses: terms of networks and of any peer."""

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"

    def of(self, direction: Direction) -> tuple[Term, ...] | None:
        """Its terms of a direction; None: it does not isolate there."""
        return next((terms for which, terms in self.terms if which is direction), None)

    def refs(self) -> frozenset[SetRef]:
        """Sets that its terms refer to."""
        return frozenset(ref for _, terms in self.terms for term in terms for ref in refs_of(term))


def refs_of(term: Term) -> tuple[SetRef, ...]:
    """Sets of a term."""
    port = (term.port,) if isinstance(term.port, PortSet) else ()
    return port if term.peer is None else (term.peer, *port)


@dataclass(frozen=True, slots=True)
class Program:
    """What all policies that isolate a pod in a direction allow together; pods of the same policies share it."""

    direction: Direction
    policies: tuple[Policy, ...]
    audit: bool = False
    """What it would drop is logged and passes."""
    sampled: bool = False
    """A few of the packets that no term allows are logged, for Events."""

    @property
    def key(self) -> tuple[str, ...]:
        """What tells programs apart."""
        return (self.direction, str(self.audit), str(self.sampled), *(policy.digest for policy in self.policies))

    def six(self) -> Program:
        """What becomes of IPv6 packets. They are not sampled: nobody could tell whose they are."""
        return replace(self, policies=tuple(policy.six or policy for policy in self.policies), sampled=False)

    def terms(self) -> tuple[Term, ...]:
        """In order: by the policies' names."""
        return tuple(term for policy in self.policies for term in policy.of(self.direction) or ())

    def decide(
        self, *, local: bytes, peer: bytes, protocol: int, port: int, has: Callable[[SetRef, Element], bool]
    ) -> Term | None:
        """The term that decides about a packet between a selected pod and ``peer``; None: none does, it is dropped.

        ``port``: the packet's destination port. ``has``: whether an element is in a set.
        """
        destination = local if self.direction is Direction.INGRESS else peer
        for term in self.terms():
            if isinstance(term.peer, NetSet):
                met = term.peer.has(peer)
            else:
                met = term.peer is None or has(term.peer, Element(peer))
            match term.port:
                case Numbers() as numbers:
                    met = met and numbers.has(protocol, port)
                case PortSet() as named:
                    met = met and has(named, Element(destination, protocol, port))
            if met:
                return term
        return None
