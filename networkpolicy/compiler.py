"""A NetworkPolicy's spec → terms, for one address family. Pure.

What is not understood (a field of a later API, a value that cannot be) allows nothing: the peer, port or rule in which
it stands is left out. Kubernetes API reference, networking.k8s.io/v1; types.go, "NetworkPolicyPeer".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Final, TypeVar

import msgspec

from datapath.ipset import Element
from networkpolicy import selectors
from networkpolicy.selectors import EVERYTHING, Selector
from networkpolicy.terms import (
    PROTOCOLS,
    Direction,
    Family,
    NetSet,
    Network,
    Numbers,
    PodSet,
    Policy,
    PortSet,
    Term,
    Verdict,
    refs_of,
)

_HIGHEST_PORT: Final = 65535
_ZEROS: Final = re.compile(r"(?<![0-9A-Fa-f])0+(?=[0-9A-Fa-f])")
_RAWS = tuple[msgspec.Raw, ...] | None


class _Subject(msgspec.Struct, frozen=True):
    """What is read of a spec of which nothing else could be."""

    pods: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"{}"), name="podSelector")


class _Loose(msgspec.Struct, frozen=True):
    """A spec with a field that is not known here."""

    pods: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"{}"), name="podSelector")
    ingress: _RAWS = None
    egress: _RAWS = None
    types: tuple[str, ...] | None = msgspec.field(default=None, name="policyTypes")


class _Spec(_Loose, frozen=True, forbid_unknown_fields=True):
    pass


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ports: _RAWS = None
    from_: _RAWS = msgspec.field(default=None, name="from")
    to: _RAWS = None


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cidr: str
    except_: tuple[str, ...] | None = msgspec.field(default=None, name="except")


_ABSENT: Final = msgspec.Raw(b"null")


class _Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pods: msgspec.Raw = msgspec.field(default=_ABSENT, name="podSelector")
    namespaces: msgspec.Raw = msgspec.field(default=_ABSENT, name="namespaceSelector")
    block: _Block | None = msgspec.field(default=None, name="ipBlock")


class _Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    protocol: str | None = None
    port: int | str | None = None
    end: int | None = msgspec.field(default=None, name="endPort")


_T = TypeVar("_T")


def _read(raw: msgspec.Raw | bytes, shape: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.DecodeError:
        return None


def compile_policy(namespace: str, name: str, spec: msgspec.Raw | bytes, family: Family) -> Policy:
    """The policy ``namespace``/``name``; one for IPv4 says what becomes of IPv6 as well.

    A spec with an unknown field isolates whom it selects and allows nothing; one that cannot be read at all does so in
    both directions.
    """
    subject, rules = _rules(spec)
    scope = PodSet(namespace, None, subject)

    def compiled(family: Family) -> Policy:
        compiler = _Compiler(scope, f"{namespace}/{name}", family)
        return Policy(
            namespace=namespace,
            name=name,
            subject=subject,
            terms=tuple((direction, tuple(compiler.terms(direction, given))) for direction, given in rules),
            digest=hashlib.sha256(f"{family} {namespace}/{name} ".encode() + bytes(spec)).hexdigest(),
        )

    policy = compiled(family)
    return policy if family == 6 else replace(policy, six=_without_pods(compiled(6)))


def _without_pods(policy: Policy) -> Policy:
    """The same without terms that look for pods: they would match nothing."""
    return replace(
        policy,
        terms=tuple(
            (
                direction,
                tuple(term for term in terms if not any(isinstance(ref, PodSet | PortSet) for ref in refs_of(term))),
            )
            for direction, terms in policy.terms
        ),
    )


def _rules(spec: msgspec.Raw | bytes) -> tuple[Selector, list[tuple[Direction, Sequence[msgspec.Raw]]]]:
    """Whom the policy selects, and its rules in each direction in which it isolates."""
    said = _read(spec, _Spec) or _read(spec, _Loose)
    if said is None:
        subject = _read(spec, _Subject)
        pods = selectors.parse(subject.pods) if subject else selectors.NOTHING
        return pods, [(direction, ()) for direction in Direction]
    types = said.types
    if not types:
        types = ("Ingress", "Egress") if said.egress else ("Ingress",)
    given = {Direction.INGRESS: said.ingress, Direction.EGRESS: said.egress}
    known = isinstance(said, _Spec)
    return selectors.parse(said.pods), [
        (direction, (given[direction] or ()) if known else ()) for direction in Direction if direction in types
    ]


class _Compiler:
    """Rules of one policy to terms. ``scope``: the pods that it selects."""

    def __init__(self, scope: PodSet, policy: str, family: Family) -> None:
        self._scope = scope
        self._policy = policy
        self._family = family

    def terms(self, direction: Direction, rules: Sequence[msgspec.Raw]) -> Iterator[Term]:
        for raw in rules:
            rule = _read(raw, _Rule)
            if rule is None or (rule.to if direction is Direction.INGRESS else rule.from_):
                continue
            given = rule.from_ if direction is Direction.INGRESS else rule.to
            # A list that is absent or empty means any; one whose every entry is left out means none.
            peers: list[PodSet | NetSet | None] = list(self._peers(given)) if given else [None]
            for peer in peers:
                for port in self._ports(rule.ports, direction, peer) if rule.ports else [None]:
                    # Of the destination: then the port's set holds ports of the peer's pods alone.
                    covered = direction is Direction.EGRESS and isinstance(port, PortSet) and port.scope is not None
                    yield Term(Verdict.ALLOW, None if covered else peer, port, self._policy)

    def _peers(self, given: Sequence[msgspec.Raw]) -> Iterator[PodSet | NetSet | None]:
        plain: list[Network] = []
        for peer in filter(None, (_read(raw, _Peer) for raw in given)):
            by_pods, by_namespaces = peer.pods != _ABSENT, peer.namespaces != _ABSENT
            if peer.block is not None and not by_pods and not by_namespaces:
                network, excepted = _block(peer.block, self._family)
                if network is not None and excepted:
                    yield _nets([network], excepted)
                elif network is not None:
                    plain.append(network)
            elif peer.block is None and (by_pods or by_namespaces):
                pods = selectors.parse(peer.pods) if by_pods else EVERYTHING
                if by_namespaces:
                    yield PodSet(None, selectors.parse(peer.namespaces), pods)
                else:
                    yield PodSet(self._scope.namespace, None, pods)
        if any(network.prefixlen == 0 for network in plain):
            yield None
        elif plain:
            yield _nets(plain, ())

    def _ports(
        self, given: Sequence[msgspec.Raw], direction: Direction, peer: PodSet | NetSet | None
    ) -> Iterator[Numbers | PortSet]:
        """A rule's ports: of each protocol all numbers together, and each name."""
        ranges: dict[int, set[tuple[int, int]]] = {}
        every: set[int] = set()
        for raw in given:
            port = _read(raw, _Port)
            protocol = PROTOCOLS.get(port.protocol or "TCP") if port else None
            if port is None or protocol is None:
                continue
            match port.port:
                case None if port.end is None:
                    every.add(protocol)
                case str(name) if port.end is None:
                    scope = self._scope if direction is Direction.INGRESS else peer
                    yield PortSet(scope if isinstance(scope, PodSet) else None, name, protocol)
                case int(low) if 0 < low <= (high := low if port.end is None else port.end) <= _HIGHEST_PORT:
                    ranges.setdefault(protocol, set()).add((low, high))
        for protocol in sorted(every | ranges.keys()):
            yield Numbers(protocol, () if protocol in every else tuple(sorted(ranges[protocol])))


def _block(block: _Block, family: Family) -> tuple[Network | None, list[Network]]:
    """A block and its exceptions; None for one of another family, one all excepted, or one that cannot be read."""
    try:
        network = _network(block.cidr)
        excepted = [_network(cidr) for cidr in block.except_ or ()]
    except ValueError:
        return None, []
    if network.version != family:
        return None, []
    same = [cidr for cidr in excepted if cidr.version == family]
    if any(network.prefixlen >= cidr.prefixlen and cidr.overlaps(network) for cidr in same):
        return None, []
    return network, same


def _network(cidr: str) -> Network:
    """As the API server reads it (ParseCIDRSloppy): octets with zeros before them are decimal numbers nevertheless.

    Old objects may have bits set behind the prefix, too.
    """
    return ip_network(_ZEROS.sub("", cidr), strict=False)


def _nets(networks: Sequence[Network], excepted: Sequence[Network]) -> NetSet:
    """A half of all addresses that is excepted as a whole is only that: a set holds a network once."""
    parts = {part for network in networks for part in _split(network)}
    elements = {
        *map(_element, parts.difference(excepted)),
        *(_element(network, nomatch=True) for network in excepted),
    }
    return NetSet(tuple(sorted(elements)))


def _split(network: Network) -> Iterator[Network]:
    """A hash:net set cannot hold /0: two halves."""
    if network.prefixlen == 0:
        yield from network.subnets()
    else:
        yield network


def _element(network: Network, *, nomatch: bool = False) -> Element:
    return Element(network.network_address.packed, prefix=network.prefixlen, nomatch=nomatch)
