"""What must be seen, decided from what the cluster and the cloud say stands (pure).

Who asks whom, by which address, and which source address the one who is asked must see:

1. pod or outside → pod or outside, directly: the asker's own address, whatever the kinds and nodes.
2. shared pod → Service: its own address.
3. exclusive pod → Service: the address of its second link, by which Services are reached.
4. a pod that reaches itself by its Service: its node's address may stand in for its own, for a packet from oneself to
   oneself would never be answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from demo.cloud import Eni
from demo.inside import Link

RESOURCE = "aliyun/eni"
HTTP, UDP = "http", "udp"
PORTS = {HTTP: 8080, UDP: 8081}
SERVICE_PORTS = {HTTP: 80, UDP: 81}
SERVICE_TRIES = 12
"""Requests of one question to a Service: kube-proxy picks a backend anew for each."""


class Kind(StrEnum):
    """How an endpoint is connected."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Someone who can ask and be asked. ``service_source`` is what backends of a Service see of it."""

    name: str
    kind: Kind
    node: str
    node_address: IPv4Address
    address: IPv4Address
    service_source: IPv4Address
    eni: str


@dataclass(frozen=True, slots=True)
class Service:
    """A ClusterIP and the names of the pods behind it."""

    name: str
    address: IPv4Address
    backends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask of one endpoint, and the answers that are right.

    ``allowed`` are the answers that may come (ports of client addresses cut off), ``required`` those that must.
    """

    group: str
    asker: str
    target: str
    host: IPv4Address
    port: int
    protocol: str
    request: str
    allowed: frozenset[str]
    required: frozenset[str]
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the bodies of the answers, and the errors of the tries that got none."""

    responses: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def kind_of(pod: Mapping[str, Any]) -> Kind:
    """The kind a pod asks for: exclusive where a container's limits name the resource."""
    limits = (container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"])
    return Kind.EXCLUSIVE if any(RESOURCE in limit for limit in limits) else Kind.SHARED


def endpoint(
    pod: Mapping[str, Any], links: Mapping[str, Link], enis: Sequence[Eni], instances: Mapping[str, str]
) -> tuple[Endpoint, list[str]]:
    """A running pod as an endpoint, and what is wrong with it, by the cloud and by the pod's own kernel.

    ``instances``: node → instance id. The API server's word for the address, the kernel's for the links and the cloud's
    for the ENI have to agree: a shared pod has a secondary address of an ENI of its node, an exclusive pod the ENI.
    """
    name, node, kind = pod["metadata"]["name"], pod["spec"]["nodeName"], kind_of(pod)
    address = IPv4Address(pod["status"]["podIP"])
    node_address = IPv4Address(pod["status"]["hostIP"])
    holding = [eni for eni in enis if address in eni.addresses]
    wrong: list[str] = []

    def expect(holds: bool, what: str) -> None:
        if not holds:
            wrong.append(f"{name}: {what}")

    service_source = address
    expect(len(holding) == 1, f"{len(holding)} ENIs of the cloud have its address {address}, expected one")
    for eni in holding:
        expect(eni.status == "InUse", f"{eni.id} is {eni.status}, expected InUse")
        expect(
            eni.instance_id == instances[node],
            f"{eni.id} is attached to {eni.instance_id}, expected {instances[node]} of {node}",
        )
        if kind is Kind.SHARED:
            expect(address in eni.secondary, f"{address} is the primary address of {eni.id}, expected a secondary one")
        else:
            expect(address == eni.primary, f"{address} is a secondary address of {eni.id}, expected the primary one")
            expect(eni.type == "Secondary", f"{eni.id} is of type {eni.type}, expected Secondary")
            mac = links["eth0"].mac if "eth0" in links else "nothing"
            expect(mac == eni.mac, f"eth0 has the MAC {mac}, expected {eni.mac} of {eni.id}")
    eth0 = links["eth0"].addresses if "eth0" in links else ()
    expect(eth0 == (address,), f"eth0 has {_list(eth0)}, expected {address} as the API server says")
    if kind is Kind.SHARED:
        expect(set(links) == {"eth0"}, f"has the links {_list(links)}, expected eth0")
    else:
        expect(set(links) == {"eth0", "veth1"}, f"has the links {_list(links)}, expected eth0 and veth1")
        second = links["veth1"].addresses if "veth1" in links else ()
        primaries = [eni for eni in enis if eni.type == "Primary" and eni.instance_id == instances[node]]
        if len(second) == 1:
            service_source = second[0]
        expect(
            len(second) == 1 and any(second[0] in eni.secondary for eni in primaries),
            f"veth1 has {_list(second)}, expected one secondary address of the primary ENI of {node}",
        )
    ids = ", ".join(eni.id for eni in holding) or "none"
    return Endpoint(name, kind, node, node_address, address, service_source, ids), wrong


def alone(endpoints: Iterable[Endpoint]) -> list[str]:
    """Complaints about cards that an exclusive pod has to share, and about addresses that two pods have."""
    wrong, cards, addresses = [], dict[str, list[Endpoint]](), dict[IPv4Address, str]()
    for one in endpoints:
        cards.setdefault(one.eni, []).append(one)
        for address in {one.address, one.service_source}:
            if address in addresses:
                wrong.append(f"{one.name} and {addresses[address]} both have {address}")
            addresses[address] = one.name
    for eni, users in cards.items():
        if len(users) > 1 and any(user.kind is Kind.EXCLUSIVE for user in users):
            wrong.append(f"{eni} is exclusive, and yet used by {_list(user.name for user in users)}")
    return wrong


def questions(endpoints: Sequence[Endpoint], services: Sequence[Service]) -> list[Question]:
    """Everybody asks everybody, and each pod each Service."""
    found = [
        question
        for asker in endpoints
        for target in endpoints
        if asker is not target
        for question in _direct(asker, target)
    ]
    pods = [one for one in endpoints if one.kind is not Kind.OUTSIDE]
    kinds = {one.name: one.kind for one in pods}
    return found + [q for asker in pods for service in services for q in _by_service(asker, service, kinds)]


def _direct(asker: Endpoint, target: Endpoint) -> list[Question]:
    if Kind.OUTSIDE in {asker.kind, target.kind}:
        group = f"{asker.kind} → {target.kind}"
    else:
        where = "same node" if asker.node == target.node else "across nodes"
        group = f"{asker.kind} → {target.kind}, {where}"
    asked = [("clientip", HTTP, asker.address), ("clientip", UDP, asker.address), ("hostname", HTTP, target.name)]
    return [
        Question(
            group=group,
            asker=asker.name,
            target=target.name,
            host=target.address,
            port=PORTS[protocol],
            protocol=protocol,
            request=request,
            allowed=frozenset({str(right)}),
            required=frozenset({str(right)}),
        )
        for request, protocol, right in asked
    ]


def _by_service(asker: Endpoint, service: Service, kinds: Mapping[str, Kind]) -> list[Question]:
    behind = "/".join(sorted({str(kinds[name]) for name in service.backends}))
    itself = {str(asker.node_address)} if asker.name in service.backends else set()
    seen = str(asker.service_source)
    asked = [
        ("clientip", HTTP, frozenset({seen} | itself), frozenset({seen})),
        ("clientip", UDP, frozenset({seen} | itself), frozenset({seen})),
        ("hostname", HTTP, service.backends, frozenset[str]()),
    ]
    return [
        Question(
            group=f"{asker.kind} → Service of {behind}",
            asker=asker.name,
            target=f"Service {service.name}",
            host=service.address,
            port=SERVICE_PORTS[protocol],
            protocol=protocol,
            request=request,
            allowed=allowed,
            required=required,
            tries=SERVICE_TRIES,
        )
        for request, protocol, allowed, required in asked
    ]


def judge(question: Question, answer: Answer) -> str | None:
    """What is wrong with an answer; None where it is right."""
    where = f"{question.host}:{question.port}, {question.protocol}, {question.request}"
    asked = f"{question.asker} → {question.target} ({where})"
    if answer.errors or len(answer.responses) != question.tries:
        errors = "; ".join(answer.errors) or "nothing"
        return f"{asked}: {len(answer.responses)} of {question.tries} answers came: {errors}"
    said = {_without_port(one) if question.request == "clientip" else one for one in answer.responses}
    if extra := said - question.allowed:
        return f"{asked}: {_list(extra)} was said, expected {_list(question.allowed)}"
    if missing := question.required - said:
        return f"{asked}: {_list(said)} was said, but never {_list(missing)}"
    return None


def probed(pod: Mapping[str, Any]) -> list[str]:
    """Complaints about a pod whose probes do not pass: not Ready, a container restarted, or no probe to pass."""
    name, wrong = pod["metadata"]["name"], []
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    if conditions.get("Ready") != "True":
        wrong.append(f"{name}: Ready is {conditions.get('Ready')}, expected True")
    for container in pod["spec"]["containers"]:
        wrong += [
            f"{name}: container {container['name']} has no {probe} over HTTP"
            for probe in ("readinessProbe", "livenessProbe")
            if "httpGet" not in container.get(probe, {})
        ]
    for container in pod["status"].get("containerStatuses", []):
        if container["restartCount"]:
            wrong.append(f"{name}: container {container['name']} restarted {container['restartCount']} times")
    return wrong


def allocatable(nodes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Node → ENIs that its kubelet offers to pods."""
    return {node["metadata"]["name"]: int(node["status"]["allocatable"].get(RESOURCE, 0)) for node in nodes}


def refusal(pod: Mapping[str, Any]) -> str | None:
    """Why the scheduler finds no node for a pod; None while it has not said so."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", ""))
    return None


def _without_port(address: str) -> str:
    return address.rpartition(":")[0]


def _list(things: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, things))) or "nothing"
