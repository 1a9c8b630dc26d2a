"""Programs as chains and sets of a network namespace, in the words of iptables-save. Pure.

In the node's namespace, packets of links of pods are led to their pod's program in the table mangle, where no other
program's ACCEPT comes before: it is read before the table filter, after addresses were translated on the way in and
before they are on the way out. From the node's own processes to a pod nothing is filtered.

    FORWARD ─▶ FORWARD ─▶ RETURN if the connection is known
                          from a pod's link   ─▶ FROM ─▶ FROM-4 ─▶ egress program of eniw4…
                          to a pod's link     ─▶ TO   ─▶ TO-4   ─▶ ingress program of eniw4…
                          to an exclusive pod ─▶ CARD ─▶ ingress program, by address: such packets leave by a card, and
                                                 some arrive there with the node's address, which may not be filtered
    INPUT   ─▶ INPUT   ─▶ RETURN if the connection is known; from a pod's link as above

In an exclusive pod's namespace, what comes in by its card is met before the pod's own translation, what goes out after
it: as it is on the wire. Its other link ends in the node's namespace and is a pod's link there; lo is left alone.

A rule that allows is a RETURN from the program's chain, back to where the other end's program is asked: programs are
gone to (-g), so what comes after that rule in the same chain is not met.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from eniway import names
from eniway.model import Kind
from networkpolicy.model import Endpoint
from networkpolicy.terms import (
    PROTOCOLS,
    Direction,
    Family,
    Numbers,
    PortSet,
    Program,
    SetRef,
    Term,
    Verdict,
    refs_of,
    set_name,
)

Address: TypeAlias = IPv4Address | IPv6Address
Chains: TypeAlias = Mapping[str, tuple[str, ...]]

_PODS: Final = f"{names.LINK_PREFIX}+"
_KNOWN: Final = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
_NEIGHBOURS: Final = tuple(f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in range(133, 138))
"""Neighbour discovery (RFC 4861): without it there is no link."""
_SLOTS: Final = 15
"""Ports of one multiport match; a range takes two (XT_MULTI_PORTS)."""
_PROTOCOL_NAMES: Final = {number: name.lower() for name, number in PROTOCOLS.items()}
_LOG_RATE: Final = "-m limit --limit 10/sec --limit-burst 50"
"""Of packets that are logged, in each program."""
_SAMPLE_RATE: Final = "-m limit --limit 1/sec"
_MATCHED: Final = re.compile(r"--match-set (\S+)")
_MOST_RENDERED: Final = 4096
_COMMENT: Final = 255
_DIGITS: Final = 16


def _ours(name: str) -> str:
    return f"{names.POLICY_CHAIN_PREFIX}{name}"


@dataclass(frozen=True, slots=True)
class Jump:
    """Our rule in a chain of the kernel's, its first; ``late``: a rule that is not ours comes before it."""

    chain: str
    rule: str
    late: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """What a namespace holds of ours: jumps to chains of the table mangle, these, and the sets that they look into."""

    jumps: tuple[Jump, ...]
    chains: Chains
    sets: Mapping[str, SetRef]


EMPTY: Final = Layout((), {}, {})


def node(endpoints: Collection[Endpoint], family: Family) -> Layout:
    """Of the node's namespace."""
    drawn = _Drawing(family)
    links: dict[Direction, dict[str, str]] = {direction: {} for direction in Direction}
    cards: list[str] = []
    for endpoint in endpoints:
        for direction, program in endpoint.of(family).items():
            chain = drawn.program(program)
            links[direction][names.host_link(endpoint.lease.key)] = chain
            known = endpoint.lease.address.version == family
            if known and endpoint.lease.kind is Kind.EXCLUSIVE and direction is Direction.INGRESS:
                cards.append(f"-d {_host(endpoint.lease.address)} -g {chain}")
    if not drawn.chains:
        return EMPTY
    neighbours = _NEIGHBOURS if family == 6 else ()
    forward, received = [_KNOWN, *neighbours], [_KNOWN, *neighbours]
    if links[Direction.EGRESS]:
        drawn.dispatch("FROM", "-i", links[Direction.EGRESS])
        forward.append(f"-i {_PODS} -j {_ours('FROM')}")
        received.append(f"-j {_ours('FROM')}")
    if links[Direction.INGRESS]:
        drawn.dispatch("TO", "-o", links[Direction.INGRESS])
        forward.append(f"-o {_PODS} -j {_ours('TO')}")
    if cards:
        drawn.chains[_ours("CARD")] = tuple(sorted(cards))
        forward.append(f"-j {_ours('CARD')}")
    drawn.chains[_ours("FORWARD")] = tuple(forward)
    jumps = [Jump("FORWARD", f"-j {_ours('FORWARD')}")]
    if links[Direction.EGRESS]:
        drawn.chains[_ours("INPUT")] = tuple(received)
        jumps.append(Jump("INPUT", f"-i {_PODS} -j {_ours('INPUT')}"))
    return Layout(tuple(jumps), drawn.chains, drawn.sets)


def inside(endpoint: Endpoint, family: Family, *, nodes: Sequence[Address]) -> Layout:
    """Of an exclusive pod's namespace; ``nodes``: addresses of its own node, whose packets always pass.

    Connections are known from the pod's start on, whether or not a policy selects it: to a filter that came later,
    those of before would be new. Not so of IPv6, where pods have no addresses but those of their links.
    """
    drawn, programs = _Drawing(family), endpoint.of(family)
    if not programs and endpoint.lease.address.version != family:
        return EMPTY
    card = endpoint.lease.key.ifname
    first = [_KNOWN, *(_NEIGHBOURS if family == 6 else ())]
    entering, leaving = list(first), list(first)
    jumps = [Jump("PREROUTING", f"-i {card} -j {_ours('TO')}")]
    if (program := programs.get(Direction.INGRESS)) is not None:
        entering += (f"-s {_host(address)} -j RETURN" for address in nodes if address.version == family)
        entering.append(f"-g {drawn.program(program)}")
    if (program := programs.get(Direction.EGRESS)) is not None:
        leaving.append(f"-g {drawn.program(program)}")
        drawn.chains[_ours("FROM")] = tuple(leaving)
        jumps.append(Jump("POSTROUTING", f"-o {card} -j {_ours('FROM')}"))
    drawn.chains[_ours("TO")] = tuple(entering)
    return Layout(tuple(jumps), drawn.chains, drawn.sets)


class _Drawing:
    """Chains and sets as they come together."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.chains: dict[str, tuple[str, ...]] = {}
        self.sets: dict[str, SetRef] = {}

    def program(self, program: Program) -> str:
        """The program's chain; its name."""
        chain, rules = program_chain(program, self.family)
        if chain not in self.chains:
            self.chains[chain] = rules
            for term in program.terms():
                self.sets |= {set_name(ref, self.family): ref for ref in refs_of(term)}
        return chain

    def dispatch(self, name: str, option: str, links: Mapping[str, str]) -> None:
        """A tree over the links' names, so that a packet of a pod meets a tenth of the rules."""
        leaves: dict[str, list[str]] = {}
        for link, chain in sorted(links.items()):
            leaves.setdefault(link[len(names.LINK_PREFIX)], []).append(f"{option} {link} -g {chain}")
        self.chains |= {_ours(f"{name}-{digit}"): tuple(rules) for digit, rules in leaves.items()}
        self.chains[_ours(name)] = tuple(
            f"{option} {names.LINK_PREFIX}{digit}+ -g {_ours(f'{name}-{digit}')}" for digit in leaves
        )


_rendered: dict[tuple[Family, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}


def program_chain(program: Program, family: Family) -> tuple[str, tuple[str, ...]]:
    """The name of a program's chain, and its rules."""
    key = (family, program.key)
    if key not in _rendered:
        if len(_rendered) >= _MOST_RENDERED:
            _rendered.clear()
        rules = (*(rule for term in program.terms() for rule in _term(term, program, family)), *_end(program))
        digest = hashlib.sha256("\n".join(rules).encode()).hexdigest()[:_DIGITS]
        _rendered[key] = (_ours(digest), rules)
    return _rendered[key]


def programs(layout: Layout) -> Mapping[str, tuple[str, ...]]:
    """Chains of a layout that are programs, which refer to no other chain."""
    length = len(names.POLICY_CHAIN_PREFIX) + _DIGITS
    return {chain: rules for chain, rules in layout.chains.items() if len(chain) == length}


def without(layout: Layout, broken: Collection[str], *, fail_open: bool) -> Layout:
    """The layout with programs that drop everything, or nothing, in the place of those in ``broken``.

    Sets that only those look into go with them.
    """
    instead = () if fail_open else ("-j DROP",)
    chains = {chain: instead if chain in broken else rules for chain, rules in layout.chains.items()}
    kept = {name for rules in chains.values() for name in _looked_into(rules)}
    return replace(layout, chains=chains, sets={name: ref for name, ref in layout.sets.items() if name in kept})


def looking_into(layout: Layout, sets: Collection[str]) -> frozenset[str]:
    """Chains of a layout that look into any of ``sets``."""
    return frozenset(chain for chain, rules in layout.chains.items() if not _looked_into(rules).isdisjoint(sets))


def _looked_into(rules: Iterable[str]) -> set[str]:
    return {name for rule in rules for name in _MATCHED.findall(rule)}


def _term(term: Term, program: Program, family: Family) -> Iterator[str]:
    peer = ""
    if term.peer is not None:
        side = "src" if program.direction is Direction.INGRESS else "dst"
        peer = f" -m set --match-set {set_name(term.peer, family)} {side}"
    target = "RETURN" if term.verdict is Verdict.ALLOW else "DROP"
    # Their names may be longer together than a comment may be (XT_MAX_COMMENT_LEN)
    tail = f'{peer} -m comment --comment "{term.policy[:_COMMENT]}" -j {target}'
    match term.port:
        case None:
            yield tail.lstrip()
        case PortSet() as named:
            yield f"-m set --match-set {set_name(named, family)} dst,dst{tail}"
        case Numbers(protocol, ranges):
            name = _PROTOCOL_NAMES[protocol]
            if not ranges:
                yield f"-p {name}{tail}"
            for ports in _multiports(ranges):
                yield f"-p {name} -m multiport --dports {','.join(ports)}{tail}"


def _multiports(ranges: Iterable[tuple[int, int]]) -> Iterator[list[str]]:
    """Ports in portions of what one match can hold."""
    portion: list[str] = []
    room = _SLOTS
    for low, high in ranges:
        need = 1 if low == high else 2
        if room < need:
            yield portion
            portion, room = [], _SLOTS
        portion.append(str(low) if low == high else f"{low}:{high}")
        room -= need
    if portion:
        yield portion


def _end(program: Program) -> Iterator[str]:
    """What becomes of a packet that no term is about: dropped, or logged and passed; samples are logged either way."""
    if program.sampled:
        yield sample(program.direction, audit=program.audit)
    log = _log(program.direction, audit=program.audit)
    yield f"{_LOG_RATE} {log} {names.POLICY_LOG_GROUP}" if program.audit else "-j DROP"


def sample(direction: Direction, *, audit: bool = False) -> str:
    """The rule that logs a few of the packets that no term is about."""
    return f"{_SAMPLE_RATE} {_log(direction, audit=audit)} {names.POLICY_SAMPLE_GROUP}"


def _log(direction: Direction, *, audit: bool) -> str:
    prefix = f"{names.POLICY_LOG_PREFIX}{'audit' if audit else 'drop'} {direction.lower()}"
    return f'-j NFLOG --nflog-prefix "{prefix}" --nflog-group'


def _host(address: Address) -> str:
    """As iptables-save prints a host."""
    return f"{address}/{address.max_prefixlen}"
