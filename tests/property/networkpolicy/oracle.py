"""An evaluator of NetworkPolicy written from the API's reference alone, on objects as JSON has them: slow and plain.

It shares no code with the engine. ``allowed`` answers for a whole path: both ends have to agree.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class World:
    """Objects by kind; addresses of a pod as they are on the wire."""

    namespaces: dict[str, Json] = field(default_factory=dict)
    """Labels by name."""
    pods: list[Json] = field(default_factory=list)
    policies: list[Json] = field(default_factory=list)

    def pod_at(self, address: str) -> Json | None:
        """The live pod of the pod network that has an address."""
        for pod in self.pods:
            if is_live(pod) and address in addresses(pod):
                return pod
        return None


def is_live(pod: Json) -> bool:
    """It takes part: not finished, not in the host's network."""
    finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not finished and not pod["spec"].get("hostNetwork", False)


def addresses(pod: Json) -> list[str]:
    """Where it is heard from."""
    found = [entry["ip"] for entry in pod.get("status", {}).get("podIPs", [])]
    other = pod["metadata"].get("annotations", {}).get("eniway.io/service-address")
    return [*found, other] if found and other else found


def allowed(world: World, source: str, destination: str, protocol: str | None, port: int | None) -> bool:
    """Whether a packet gets from one address to another. ``protocol`` None: one without ports, such as ICMP."""
    sender, receiver = world.pod_at(source), world.pod_at(destination)
    if sender is not None and not _leaves(world, sender, "Egress", destination, receiver, protocol, port):
        return False
    return receiver is None or _leaves(world, receiver, "Ingress", source, receiver, protocol, port)


def _leaves(  # noqa: PLR0917 -- as above
    world: World, pod: Json, direction: str, other: str, receiver: Json | None, protocol: str | None, port: int | None
) -> bool:
    isolated = False
    for policy in world.policies:
        spec = policy["spec"]
        if policy["metadata"]["namespace"] != pod["metadata"]["namespace"]:
            continue
        if not _selected(spec.get("podSelector") or {}, pod["metadata"].get("labels", {})):
            continue
        if direction not in _types(spec):
            continue
        isolated = True
        rules = spec.get("ingress" if direction == "Ingress" else "egress") or []
        for rule in rules:
            peers = rule.get("from" if direction == "Ingress" else "to") or []
            if peers and not any(_is_peer(world, policy, peer, other) for peer in peers):
                continue
            ports = rule.get("ports") or []
            if ports and not any(_is_port(entry, receiver, protocol, port) for entry in ports):
                continue
            return True
    return not isolated


def _types(spec: Json) -> list[str]:
    if spec.get("policyTypes"):
        return list(spec["policyTypes"])
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _is_peer(world: World, policy: Json, peer: Json, other: str) -> bool:  # noqa: PLR0911 -- case by case
    if set(peer) - {"podSelector", "namespaceSelector", "ipBlock"}:
        return False
    if "ipBlock" in peer:
        if len(peer) > 1:
            return False
        address = ipaddress.ip_address(other)
        inside = address in ipaddress.ip_network(peer["ipBlock"]["cidr"], strict=False)
        excepted = peer["ipBlock"].get("except") or []
        return inside and not any(address in ipaddress.ip_network(cidr, strict=False) for cidr in excepted)
    pod = world.pod_at(other)
    if pod is None or not peer:
        return False
    if "namespaceSelector" in peer:
        space = world.namespaces.get(pod["metadata"]["namespace"])
        if space is None:
            return False
        named = {**space, "kubernetes.io/metadata.name": pod["metadata"]["namespace"]}
        if not _selected(peer["namespaceSelector"], named):
            return False
    elif pod["metadata"]["namespace"] != policy["metadata"]["namespace"]:
        return False
    return _selected(peer.get("podSelector") or {}, pod["metadata"].get("labels", {}))


def _is_port(entry: Json, receiver: Json | None, protocol: str | None, port: int | None) -> bool:
    if set(entry) - {"protocol", "port", "endPort"}:
        return False
    if protocol is None or port is None or entry.get("protocol", "TCP") != protocol:
        return False
    wanted = entry.get("port")
    if wanted is None:
        return "endPort" not in entry
    if isinstance(wanted, int):
        return bool(wanted <= port <= entry.get("endPort", wanted))
    if receiver is None or "endPort" in entry:
        return False
    spec = receiver["spec"]
    sidecars = [one for one in spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]
    return any(
        declared.get("name") == wanted
        and declared.get("protocol", "TCP") == protocol
        and declared["containerPort"] == port
        for container in spec.get("containers", []) + sidecars
        for declared in container.get("ports", [])
    )


def _selected(selector: Json, labels: Json) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        present, value = expression["key"] in labels, labels.get(expression["key"])
        match expression["operator"]:
            case "In":
                holds = present and value in expression["values"]
            case "NotIn":
                holds = not present or value not in expression["values"]
            case "Exists":
                holds = present
            case "DoesNotExist":
                holds = not present
            case _:
                return False
        if not holds:
            return False
    return True
