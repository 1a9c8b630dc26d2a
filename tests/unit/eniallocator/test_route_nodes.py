"""Routes as Nodes ask for them, and as they are told there."""

from ipaddress import IPv4Network

import msgspec
import pytest

from eniallocator.route_nodes import NETWORK_UNAVAILABLE, ROUTE_READY, wanted, writes
from eniallocator.routes import NodeRoute, RouteState, Verdict
from eniway.kube.views import Condition, Node, NodeNetwork
from eniway.model import InstanceId

NOW = "2026-01-02T00:00:00Z"
THEN = "2026-01-01T00:00:00Z"
STANDS = Verdict(RouteState.CREATED, "it stands")
CONFLICT = Verdict(RouteState.CONFLICT, "somebody's")
WANT = NodeRoute("n", IPv4Network("172.20.1.0/24"), InstanceId("i-2"))


def node(*, provider: str = "cn-box.i-1", cidr: str = "172.20.1.0/24", more: list[str] | None = None) -> Node:
    raw = {
        "metadata": {"name": "n", "uid": "uid"},
        "spec": {"podCIDR": cidr, "podCIDRs": more or [], "providerID": provider},
    }
    return msgspec.convert(raw, Node)


def network(*, instance: str = "i-2", owner: str = "uid", conditions: tuple[Condition, ...] = ()) -> NodeNetwork:
    raw = {
        "metadata": {"name": "n", "ownerReferences": [{"kind": "Node", "name": "n", "uid": owner}]},
        "status": {"instanceID": instance},
    }
    made = msgspec.convert(raw, NodeNetwork)
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, conditions=conditions))


def told() -> Node:
    """A node whose NetworkUnavailable is cleared already."""
    made = node()
    cleared = Condition(NETWORK_UNAVAILABLE, "False", "RouteCreated", "", THEN)
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, conditions=(cleared,)))


@pytest.mark.parametrize(
    ("one", "its_network", "instance"),
    [
        (node(), None, "i-1"),
        (node(provider="alicloud://cn-box.i-1"), None, "i-1"),
        (node(), network(), "i-2"),
        (node(), network(owner="an earlier node's"), "i-1"),
        (node(), network(instance=""), "i-1"),
        (node(provider=""), network(), "i-2"),
        (node(provider=""), None, None),
        (node(provider="kind://docker/kind/worker"), None, None),
        (node(provider="cn-other.i-1"), network(), None),
        (node(cidr=""), None, None),
        (node(cidr="fd00::/64"), None, None),
    ],
    ids=[
        "provider id",
        "with a scheme",
        "the daemon knows",
        "an earlier node's daemon",
        "the daemon has not said yet",
        "the daemon alone knows",
        "nobody knows",
        "another cloud's",
        "another region's",
        "no podCIDR",
        "IPv6 only",
    ],
)
def test_a_node_of_the_region_with_a_pod_cidr_needs_a_route(
    one: Node, its_network: NodeNetwork | None, instance: str | None
) -> None:
    """The instance is known by the daemon, else by the provider id."""
    networks = {"n": its_network} if its_network else {}
    expected = {NodeRoute("n", IPv4Network("172.20.1.0/24"), InstanceId(instance))} if instance else set()
    assert wanted([one], networks, region="cn-box") == expected


def test_of_two_families_the_ipv4_one_counts() -> None:
    """Whichever comes first."""
    both = node(cidr="fd00::/64", more=["fd00::/64", "172.20.1.0/24"])
    assert {want.destination for want in wanted([both], {}, region="cn-box")} == {IPv4Network("172.20.1.0/24")}


def test_network_unavailable_is_cleared_only_when_the_route_stands() -> None:
    """A route in conflict leaves the Node's condition alone, and is told in the NodeNetwork."""
    nodes, networks = {"n": node()}, {"n": network()}
    assert [
        (write.kind, write.condition["type"], write.condition["status"], write.condition["reason"])
        for write in writes({WANT: STANDS}, nodes, networks, region="cn-box", now=NOW)
    ] == [
        ("Node", NETWORK_UNAVAILABLE, "False", "RouteCreated"),
        ("NodeNetwork", ROUTE_READY, "True", "RouteCreated"),
    ]
    (only,) = writes({WANT: CONFLICT}, nodes, networks, region="cn-box", now=NOW)
    assert (only.kind, only.condition["status"], only.condition["message"]) == ("NodeNetwork", "False", "somebody's")


def test_what_is_told_already_is_not_told_again() -> None:
    """And a change of the reason alone keeps the time of the last change of status."""
    before = Condition(ROUTE_READY, "False", "RoutePending", "soon", THEN)
    nodes, networks = {"n": told()}, {"n": network(conditions=(before,))}
    pending = Verdict(RouteState.PENDING, "soon")
    assert not writes({WANT: pending}, nodes, networks, region="cn-box", now=NOW)
    (write,) = writes({WANT: CONFLICT}, nodes, networks, region="cn-box", now=NOW)
    assert write.condition["lastTransitionTime"] == THEN
    (write,) = writes({WANT: STANDS}, nodes, networks, region="cn-box", now=NOW)
    assert write.condition["lastTransitionTime"] == NOW


def test_nothing_is_written_to_nodes_that_are_gone() -> None:
    """A verdict may be older than the last look at the nodes; its NodeNetwork goes with the Node."""
    assert not writes({WANT: STANDS}, {}, {"n": network()}, region="cn-box", now=NOW)


@pytest.mark.parametrize(
    ("one", "its_network"),
    [
        (node(cidr="172.20.9.0/24"), network()),
        (node(), network(instance="i-9")),
        (node(), network(owner="an earlier node's")),
        (node(cidr=""), network()),
    ],
    ids=["another podCIDR", "another instance", "the daemon has not said yet", "no podCIDR yet"],
)
def test_a_new_node_of_the_name_inherits_no_verdict(one: Node, its_network: NodeNetwork) -> None:
    """What stands is another route."""
    assert not writes({WANT: STANDS}, {"n": one}, {"n": its_network}, region="cn-box", now=NOW)
