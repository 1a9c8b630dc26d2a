"""Routes as the API server's objects ask for them, and as they are told there. Pure.

Asked for by a Node (podCIDR) and its instance; told in the Node's NetworkUnavailable, once its route stands, and in
the condition RouteReady of its NodeNetwork, which also says why not. A route that is missing makes no node unavailable:
only routed pods need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network
from typing import Any, Final, Literal

from eniallocator.routes import NodeRoute, RouteState, Verdict
from eniway.kube.views import Condition, Node, NodeNetwork, condition_of
from eniway.model import InstanceId

NETWORK_UNAVAILABLE: Final = "NetworkUnavailable"
ROUTE_READY: Final = "RouteReady"
_PROVIDER: Final = re.compile(r"(?:[a-z]+://)?(?P<region>[A-Za-z0-9_-]+)\.(?P<instance>i-[A-Za-z0-9]+)")
"""providerID as the cloud's controller manager writes it: REGION.INSTANCE, with or without a scheme."""


@dataclass(frozen=True, slots=True)
class ConditionWrite:
    """A condition to be written to an object's status."""

    kind: Literal["Node", "NodeNetwork"]
    name: str
    condition: Mapping[str, Any]


def wanted(nodes: Iterable[Node], networks: Mapping[str, NodeNetwork], *, region: str) -> frozenset[NodeRoute]:
    """The routes the nodes need: of those with an IPv4 podCIDR that are instances of ``region``.

    ``networks``: NodeNetworks by name, which say the instance as its metadata service does; else providerID says it.
    """
    found = set()
    for node in nodes:
        destination, instance = _pod_cidr(node), _instance(node, networks.get(node.metadata.name), region)
        if destination is not None and instance is not None:
            found.add(NodeRoute(node.metadata.name, destination, instance))
    return frozenset(found)


def placed(nodes: Mapping[str, Node], networks: Mapping[str, NodeNetwork]) -> frozenset[InstanceId]:
    """Instances that may be nodes, by whatever says so of a Node that is there: none of them is gone."""
    providers = (_PROVIDER.fullmatch(node.spec.provider_id) for node in nodes.values())
    told = (network.status.instance_id for name, network in networks.items() if name in nodes)
    return frozenset(map(InstanceId, [*(match["instance"] for match in providers if match), *filter(None, told)]))


def writes(
    verdicts: Mapping[NodeRoute, Verdict],
    nodes: Mapping[str, Node],
    networks: Mapping[str, NodeNetwork],
    *,
    region: str,
    now: str,
) -> list[ConditionWrite]:
    """What the objects do not say yet of the routes that they ask for by now. ``now`` is RFC 3339."""
    found = []
    asked = wanted(nodes.values(), networks, region=region)
    for want in sorted(asked & verdicts.keys(), key=lambda want: want.node):
        name, verdict = want.node, verdicts[want]
        if verdict.stands:
            before = condition_of(nodes[name].status.conditions, NETWORK_UNAVAILABLE)
            if before is None or (before.status, before.reason) != ("False", RouteState.CREATED):
                told = _condition(NETWORK_UNAVAILABLE, "False", verdict, before, now)
                found.append(ConditionWrite("Node", name, {**told, "lastHeartbeatTime": now}))
        if (network := networks.get(name)) is not None:
            before = condition_of(network.status.conditions, ROUTE_READY)
            status = "True" if verdict.stands else "False"
            if before is None or (before.status, before.reason, before.message) != (
                status,
                verdict.state,
                verdict.message,
            ):
                found.append(ConditionWrite("NodeNetwork", name, _condition(ROUTE_READY, status, verdict, before, now)))
    return found


def _condition(type_: str, status: str, verdict: Verdict, before: Condition | None, now: str) -> dict[str, Any]:
    same = before is not None and before.status == status and before.last_transition_time
    return {
        "type": type_,
        "status": status,
        "reason": verdict.state.value,
        "message": verdict.message,
        "lastTransitionTime": same or now,
    }


def _pod_cidr(node: Node) -> IPv4Network | None:
    parsed = map(_network, (*node.spec.pod_cidrs, node.spec.pod_cidr))
    return next((network for network in parsed if network is not None), None)


@cache
def _network(text: str) -> IPv4Network | None:
    """Parsed once: thousands of nodes are gone through at each change of one."""
    try:
        return IPv4Network(text)
    except ValueError:
        return None


def _instance(node: Node, network: NodeNetwork | None, region: str) -> InstanceId | None:
    match = _PROVIDER.fullmatch(node.spec.provider_id)
    if match and match["region"] != region:
        return None
    # One that an earlier Node of the name has left may name another instance
    if network is not None and network.status.instance_id:
        owners = {owner.uid for owner in network.metadata.owners if owner.kind == "Node"}
        if node.metadata.uid in owners:
            return InstanceId(network.status.instance_id)
    return InstanceId(match["instance"]) if match else None
