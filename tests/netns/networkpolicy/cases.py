"""Policies by the hundred, in the groups of the cyclonus suite: peers, ports, targets, rules, conflicts, actions.

A case is a list of steps; after each the whole table of paths is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from tests.netns.networkpolicy.cluster import Cluster

Json = dict[str, Any]
Step = tuple[str, tuple[Any, ...]]
"""What to do with a Cluster: a method's name and its arguments."""
Case = tuple[str, tuple[Step, ...]]

_IN = {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "b"]}]}
_NOT_IN = {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["a"]}]}
_EXISTS = {"matchExpressions": [{"key": "pod", "operator": "Exists"}]}
_MISSING = {"matchExpressions": [{"key": "pod", "operator": "DoesNotExist"}]}
_PODS: tuple[Json, ...] = (
    {},
    {"matchLabels": {"pod": "a"}},
    {"matchLabels": {"pod": "none"}},
    _IN,
    _NOT_IN,
    _EXISTS,
    _MISSING,
)
_SPACES: tuple[Json, ...] = (
    {},
    {"matchLabels": {"ns": "y"}},
    {"matchLabels": {"kubernetes.io/metadata.name": "z"}},
    {"matchLabels": {"ns": "none"}},
    {"matchExpressions": [{"key": "ns", "operator": "In", "values": ["x", "y"]}]},
    {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]},
)


def _policy(way: str, rules: list[Json], *, target: Json | None = None, types: list[str] | None = None) -> Json:
    return {
        "podSelector": {"matchLabels": {"pod": "a"}} if target is None else target,
        "policyTypes": types or [way.capitalize()],
        way: rules,
    }


def _rule(way: str, peers: list[Json] | None, ports: list[Json] | None = None) -> Json:
    rule: Json = {}
    if peers is not None:
        rule["from" if way == "ingress" else "to"] = peers
    if ports is not None:
        rule["ports"] = ports
    return rule


def _one(name: str, spec: Json) -> Case:
    return name, (("policy", ("p", spec)),)


def peers(made: Cluster) -> Iterator[Case]:
    """Selectors alone and together, and networks."""
    for way in ("ingress", "egress"):
        for pods in _PODS:
            yield _one(f"{way} pods {pods}", _policy(way, [_rule(way, [{"podSelector": pods}])]))
        for space in _SPACES:
            yield _one(f"{way} namespaces {space}", _policy(way, [_rule(way, [{"namespaceSelector": space}])]))
        for pods, space in product(_PODS[:5], _SPACES):
            peer = {"podSelector": pods, "namespaceSelector": space}
            yield _one(f"{way} both {peer}", _policy(way, [_rule(way, [peer])]))
        for peer in _blocks(made):
            yield _one(f"{way} {peer}", _policy(way, [_rule(way, [peer])]))
        yield _one(f"{way} no peer", _policy(way, [_rule(way, [])]))
        yield _one(f"{way} an empty peer", _policy(way, [_rule(way, [{}])]))
        yield _one(f"{way} an unknown peer", _policy(way, [_rule(way, [{"serviceSelector": {}, "podSelector": {}}])]))
        two = [{"podSelector": {"matchLabels": {"pod": "b"}}}, {"namespaceSelector": {"matchLabels": {"ns": "y"}}}]
        yield _one(f"{way} two peers", _policy(way, [_rule(way, two)]))


def _blocks(made: Cluster) -> Iterator[Json]:
    addresses = [str(made.members[name].lease.address) for name in ("x/b", "y/a", "z/c")]
    yield {"ipBlock": {"cidr": "0.0.0.0/0"}}
    for address in addresses:
        yield {"ipBlock": {"cidr": f"{address}/32"}}
        yield {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{address}/32"]}}
        yield {"ipBlock": {"cidr": f"{address}/29"}}
        yield {"ipBlock": {"cidr": f"{address}/20", "except": [f"{address}/28"]}}


def ports(_made: Cluster) -> Iterator[Case]:
    """Numbers, names, ranges, protocols, with and without a peer."""
    kinds: list[list[Json]] = [[]]
    for protocol in ("TCP", "UDP", "SCTP"):
        kinds += [
            [{"protocol": protocol}],
            [{"protocol": protocol, "port": 80}],
            [{"protocol": protocol, "port": f"serve-81-{protocol.lower()}"}],
            [{"protocol": protocol, "port": 79, "endPort": 81}],
            [{"protocol": protocol, "port": 81, "endPort": 81}],
            [{"protocol": protocol, "port": 100, "endPort": 200}],
            [{"protocol": protocol, "port": "nowhere"}],
            [{"protocol": protocol, "port": 7981}],
        ]
    kinds += [
        [{"port": 80}],
        [{"port": "serve-80-udp"}],
        [{"port": 80}, {"protocol": "UDP", "port": 81}],
        [{"protocol": "SCTP", "port": 80}, {"port": "serve-81-tcp"}],
        [{"port": port} for port in range(50, 81)],
        [{"port": 80, "weight": 1}],
    ]
    for way, (number, given) in product(("ingress", "egress"), enumerate(kinds)):
        choices: tuple[list[Json] | None, ...] = (
            None,
            [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}],
            [{"podSelector": {}}],
        )
        choice = choices[number % 3]
        yield _one(f"{way} ports {given} peers {choice}", _policy(way, [_rule(way, choice, given)]))
    block = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/28"]}}]
    for way in ("ingress", "egress"):
        given = [{"port": "serve-80-tcp"}]
        yield _one(f"{way} a named port and a block", _policy(way, [_rule(way, block, given)]))


def targets(_made: Cluster) -> Iterator[Case]:
    """Whom a policy selects."""
    for pods in _PODS:
        rules = [_rule("ingress", [{"podSelector": {}}])]
        yield _one(f"target {pods}", _policy("ingress", rules, target=pods))


def rules(_made: Cluster) -> Iterator[Case]:
    """No rule, one that allows all, several; both directions at once; types said and unsaid."""
    for way in ("ingress", "egress"):
        yield _one(f"{way} no rules", _policy(way, []))
        yield _one(f"{way} everything", _policy(way, [{}]))
        a = _rule(way, [{"podSelector": {"matchLabels": {"pod": "b"}}}], [{"port": 80}])
        b = _rule(way, [{"namespaceSelector": {"matchLabels": {"ns": "z"}}}], [{"protocol": "UDP", "port": 81}])
        yield _one(f"{way} two rules", _policy(way, [a, b]))
    yield _one("both ways, nothing", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    yield _one("both ways, everything", {"podSelector": {}, "ingress": [{}], "egress": [{}]})
    yield _one("types unsaid, egress given", {"podSelector": {}, "egress": [_rule("egress", [{"podSelector": {}}])]})
    yield _one("types unsaid, nothing given", {"podSelector": {}})
    yield _one("egress given, not among the types", {"podSelector": {}, "policyTypes": ["Ingress"], "egress": []})


def conflicts(_made: Cluster) -> Iterator[Case]:
    """Several policies on a pod: what any allows."""
    everything: Json = {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}
    nothing: Json = {"podSelector": {}, "policyTypes": ["Ingress"]}
    for way in ("ingress", "egress"):
        some = _policy(way, [_rule(way, [{"podSelector": {}}], [{"port": 80}])])
        more = _policy(way, [_rule(way, [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}])], target={})
        none = _policy(way, [], target={})
        every = _policy(way, [{}], target={})
        for first, second in product((some, more, none, every), repeat=2):
            if first is not second:
                yield f"{way} conflict", (("policy", ("p", first)), ("policy", ("q", second)))
    yield (
        "allow given and taken",
        (
            ("policy", ("p", nothing)),
            ("policy", ("q", everything)),
            ("no_policy", ("q",)),
            ("no_policy", ("p",)),
        ),
    )
    one_block = {"ipBlock": {"cidr": "10.0.0.0/20", "except": ["10.0.0.0/27"]}}
    other = {"ipBlock": {"cidr": "10.0.0.0/28"}}
    yield _one("an exception is of its own block only", _policy("ingress", [_rule("ingress", [one_block, other])]))


def actions(_made: Cluster) -> Iterator[Case]:
    """The world changes under a policy."""
    by_pod = _policy("ingress", [_rule("ingress", [{"podSelector": {"matchLabels": {"pod": "b"}}}])], target={})
    by_space = _policy("egress", [_rule("egress", [{"namespaceSelector": {"matchLabels": {"new": "yes"}}}])], target={})
    yield (
        "pods relabelled",
        (
            ("policy", ("p", by_pod)),
            ("relabel", ("x/b", {"pod": "z"})),
            ("relabel", ("x/c", {"pod": "b"})),
            ("relabel", ("x/b", {"pod": "b"})),
            ("relabel", ("x/c", {"pod": "c"})),
        ),
    )
    yield (
        "a pod leaves and joins a policy's target",
        (
            ("policy", ("p", _policy("ingress", []))),
            ("relabel", ("x/a", {"pod": "free"})),
            ("relabel", ("x/a", {"pod": "a"})),
        ),
    )
    yield (
        "namespaces relabelled",
        (
            ("policy", ("p", by_space)),
            ("namespace", ("y", {"ns": "y", "new": "yes"})),
            ("namespace", ("z", {"ns": "z", "new": "yes"})),
            ("namespace", ("y", {"ns": "y"})),
            ("namespace", ("z", {"ns": "z"})),
        ),
    )
    yield (
        "a policy changed",
        (
            ("policy", ("p", _policy("ingress", [_rule("ingress", None, [{"port": 80}])]))),
            ("policy", ("p", _policy("ingress", [_rule("ingress", None, [{"port": 81}])]))),
            ("policy", ("p", _policy("egress", [_rule("egress", None, [{"protocol": "UDP"}])]))),
            ("no_policy", ("p",)),
        ),
    )


GROUPS = (peers, ports, targets, rules, conflicts, actions)
