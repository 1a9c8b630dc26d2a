"""What cannot be understood allows nothing, isolates its own subject, and spoils nothing beside it."""

from __future__ import annotations

import msgspec
import pytest

from networkpolicy.compiler import compile_policy
from networkpolicy.terms import Direction, NetSet, Numbers, PodSet, Policy
from tests.property.networkpolicy.oracle import Json


def compiled(spec: Json) -> Policy:
    return compile_policy("x", "p", msgspec.json.encode(spec), 4)


@pytest.mark.parametrize(
    "peer",
    [
        {},
        {"serviceSelector": {}},
        {"podSelector": {}, "serviceSelector": {}},
        {"podSelector": {"matchFields": {}}},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}},
        {"ipBlock": {"cidr": "nonsense"}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["nonsense"]}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}},
        {"ipBlock": {"cidr": "fd00::/8"}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "ports": [80]}},
        "nonsense",
    ],
)
def test_a_peer_that_is_not_understood_is_left_out(peer: object) -> None:
    good = {"podSelector": {"matchLabels": {"app": "a"}}}
    policy = compiled({"podSelector": {}, "ingress": [{"from": [peer]}, {"from": [peer, good]}]})
    terms = policy.of(Direction.INGRESS)
    assert terms is not None
    matching = [term for term in terms if not (isinstance(term.peer, PodSet) and term.peer.pods.requirements is None)]
    assert [isinstance(term.peer, PodSet) for term in matching] == [True]


@pytest.mark.parametrize(
    "port",
    [
        {"port": 80, "endPort": 79},
        {"port": "http", "endPort": 90},
        {"endPort": 90},
        {"port": 0},
        {"port": 65536},
        {"port": 80, "protocol": "ICMP"},
        {"port": 80, "weight": 3},
        {"port": 1.5},
        {"port": True},
    ],
)
def test_a_port_that_is_not_understood_is_left_out(port: Json) -> None:
    policy = compiled({"podSelector": {}, "ingress": [{"ports": [port]}, {"ports": [port, {"port": 1}]}]})
    terms = policy.of(Direction.INGRESS)
    assert terms is not None
    assert [term.port for term in terms] == [Numbers(6, ((1, 1),))]


@pytest.mark.parametrize("spec", [{"tier": "Admin"}, {"ingress": "nonsense"}, {"policyTypes": 3}])
def test_a_spec_that_is_not_understood_isolates_and_allows_nothing(spec: Json) -> None:
    policy = compiled({"podSelector": {"matchLabels": {"app": "a"}}, "egress": [{}], "ingress": [{}], **spec})
    assert [terms for _, terms in policy.terms if terms] == []
    assert policy.of(Direction.INGRESS) == ()
    assert policy.subject.matches({"app": "a"})
    assert not policy.subject.matches({"app": "b"})


def test_types_are_read_as_the_api_defaults_them() -> None:
    ingress, egress = Direction.INGRESS, Direction.EGRESS
    for spec, expected in (
        ({}, [ingress]),
        ({"egress": []}, [ingress]),
        ({"egress": [{}]}, [ingress, egress]),
        ({"policyTypes": []}, [ingress]),
        ({"policyTypes": ["Egress"]}, [egress]),
        ({"policyTypes": ["Egress", "Sideways"], "ingress": [{}]}, [egress]),
    ):
        assert [direction for direction, _ in compiled({"podSelector": {}, **spec}).terms] == expected


def test_all_addresses_is_two_halves_where_there_are_exceptions_and_no_set_where_there_are_none() -> None:
    whole = {"cidr": "0.0.0.0/0"}
    policy = compiled({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {**whole, "except": ["10.1.2.3/8"]}}]}]})
    (term,) = policy.of(Direction.INGRESS) or ()
    assert isinstance(term.peer, NetSet)
    assert [(element.prefix, element.nomatch) for element in term.peer.elements] == [(1, False), (8, True), (1, False)]
    (bare,) = compiled({"podSelector": {}, "ingress": [{"from": [{"ipBlock": whole}]}]}).of(Direction.INGRESS) or ()
    assert bare.peer is None


def test_a_half_of_all_addresses_that_is_excepted_is_held_once() -> None:
    """As an exception: in a set it would be one entry, and either may win."""
    block = {"cidr": "0.0.0.0/0", "except": ["128.0.0.0/1"]}
    (term,) = compiled({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}).of(Direction.INGRESS) or ()
    assert isinstance(term.peer, NetSet)
    assert [(element.address[0], element.nomatch) for element in term.peer.elements] == [(0, False), (128, True)]


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ({"cidr": "010.0.0.0/8"}, {"cidr": "10.0.0.0/8"}),
        ({"cidr": "10.0.0.0/8", "except": ["10.01.0.0/16"]}, {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}),
        ({"cidr": "192.168.100.009/032"}, {"cidr": "192.168.100.9/32"}),
        ({"cidr": "000.00.0.0/00"}, {"cidr": "0.0.0.0/0"}),
        ({"cidr": "00fd00:00::/008"}, {"cidr": "fd00::/8"}),
    ],
)
def test_zeros_before_a_number_are_read_as_the_api_server_reads_them(given: Json, canonical: Json) -> None:
    """Its legacy validation takes such a block, as decimal octets."""
    one, other = (compiled({"podSelector": {}, "ingress": [{"from": [{"ipBlock": b}]}]}) for b in (given, canonical))
    assert one.of(Direction.INGRESS) == other.of(Direction.INGRESS)
    assert one.six is not None
    assert other.six is not None
    assert one.six.of(Direction.INGRESS) == other.six.of(Direction.INGRESS)
    assert one.of(Direction.INGRESS) or one.six.of(Direction.INGRESS)
