"""Do ledger, kernel, kubelet, API server and cloud say the same? Read from outside, each by its own means.

``disagreements`` is pure: it gets what each of them says and names every ENI, address, link, route, rule and set member
that has no owner, and every owner that lacks one.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import grpc

from demo.box import Box, Instance
from demo.cloud import Eni, enis
from demo.kube import Kube
from deviceplugin.api.podresources.v1 import api_pb2
from eniway import names
from eniway.model import ContainerId, LeaseKey

_MAIN = 254
"""iproute2 leaves the main table out."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A row of the ledger: which pod has what, by which card."""

    key: LeaseKey
    uid: str
    kind: str
    card: str
    address: str
    service_address: str | None
    confirmed: bool

    @property
    def addresses(self) -> set[str]:
        """Both, where there are two."""
        return {self.address} | ({self.service_address} if self.service_address else set())

    @property
    def leg_address(self) -> str:
        """The address that the host reaches by the lease's veth."""
        return self.service_address or self.address


@dataclass(frozen=True, slots=True)
class Card:
    """A row of the ledger: an ENI and its secondary addresses."""

    eni_id: str | None
    use: str
    state: str
    slot: int | None
    mac: str | None
    address: str | None
    secondary: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the node as the API server has it, hostNetwork excluded."""

    uid: str
    name: str
    address: str | None
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is in the node's own network namespace."""

    aliases: Mapping[str, str]
    """Host veths of pods: name → ifalias."""
    macs: frozenset[str]
    pod_routes: Mapping[str, str]
    """Table of pod host routes: destination → device."""
    eni_tables: frozenset[int]
    marks: Mapping[int, int]
    """Fwmark rules of cards: mark → table."""
    sets: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Node:
    """What is said on and of one node."""

    name: str
    pod_cidr: str | None
    """As the API server has it."""
    instance_id: str
    pods: Sequence[Pod]
    devices: Mapping[str, str]
    """kubelet: device id → name of the pod that holds it."""
    leases: Sequence[Lease]
    cards: Sequence[Card]
    kernel: Kernel


def disagreements(nodes: Sequence[Node], cloud: Sequence[Eni]) -> list[str]:
    """Everything without an owner, and every owner without; empty when all agree."""
    wrong = [complaint for node in nodes for complaint in _of_node(node, cloud)]
    instances = {node.instance_id for node in nodes}
    wrong += [
        f"cloud: {eni.id} carries our tag and is {eni.status} at {eni.instance_id}, where no node is"
        for eni in cloud
        if any(key == names.TAG_CLUSTER for key, _ in eni.tags) and eni.instance_id not in instances
    ]
    return wrong


def _of_node(node: Node, cloud: Sequence[Eni]) -> list[str]:
    return [
        f"{node.name}: {complaint}"
        for complaint in (
            *_pods_and_leases(node),
            *_devices_and_leases(node),
            *_ledger_and_cloud(node, cloud),
            *_kernel_and_leases(node),
            *_kernel_and_cards(node),
        )
    ]


def _pods_and_leases(node: Node) -> Iterable[str]:
    uids = [lease.uid for lease in node.leases]
    yield from _differ("pods with a lease", uids, "running pods", [pod.uid for pod in node.pods])
    by_uid = {lease.uid: lease for lease in node.leases}
    for pod in node.pods:
        if (lease := by_uid.get(pod.uid)) is None:
            continue
        if lease.address != pod.address:
            yield f"{pod.name} has the address {pod.address}, its lease says {lease.address}"
        if (lease.kind == "exclusive") != pod.exclusive:
            yield f"{pod.name} asks for {'an ENI' if pod.exclusive else 'no ENI'}, its lease is {lease.kind}"
        if not lease.confirmed:
            yield f"the lease of {pod.name} is not confirmed"


def _devices_and_leases(node: Node) -> Iterable[str]:
    slots = {card.eni_id: card.slot for card in node.cards}
    uids = {pod.name: pod.uid for pod in node.pods}
    held = {f"{names.device_id(slots[one.card] or 0)} by {one.uid}" for one in node.leases if one.kind == "exclusive"}
    given = {f"{device} by {uids.get(pod, pod)}" for device, pod in node.devices.items()}
    yield from _differ("slots of exclusive leases", held, "devices kubelet has given away", given)


def _ledger_and_cloud(node: Node, cloud: Sequence[Eni]) -> Iterable[str]:
    attached = {eni.id: eni for eni in cloud if eni.instance_id == node.instance_id}
    known = {card.eni_id: card for card in node.cards}
    yield from _differ("ENIs of the ledger", known, "ENIs the cloud has at the instance", attached)
    for eni_id in known.keys() & attached.keys():
        card, eni = known[eni_id], attached[str(eni_id)]
        if card.state != "ready" or eni.status != "InUse":
            yield f"{eni_id} is {card.state} in the ledger, {eni.status} in the cloud"
        if (card.mac, card.address) != (eni.mac, str(eni.primary)):
            yield f"{eni_id} is {card.mac} {card.address} in the ledger, {eni.mac} {eni.primary} in the cloud"
        yield from _differ(
            f"addresses the ledger has of {eni_id}", card.secondary, "addresses in the cloud", map(str, eni.secondary)
        )
    for lease in node.leases:
        if lease.kind == "routed":
            if node.pod_cidr is None or IPv4Address(lease.address) not in IPv4Network(node.pod_cidr):
                yield f"the lease of {lease.uid} has {lease.address}, the node's podCIDR is {node.pod_cidr}"
            continue
        own = attached.get(lease.card)
        if own is None or IPv4Address(lease.address) not in own.addresses:
            yield f"the lease of {lease.uid} has {lease.address}, which is no address of {lease.card} in the cloud"


def _kernel_and_leases(node: Node) -> Iterable[str]:
    kernel, leases = node.kernel, node.leases
    shared = {lease.address for lease in leases if lease.kind == "shared"}
    links = {names.host_link(lease.key): lease for lease in leases}
    aliases = {f"{name} as {alias}" for name, alias in kernel.aliases.items()}
    wanted = {f"{name} as {lease.key.alias}" for name, lease in links.items()}
    yield from _differ("links of pods", aliases, "leases", wanted)
    routes = {f"{destination} by {device}" for destination, device in kernel.pod_routes.items()}
    yield from _differ(
        "routes to pods", routes, "leases", {f"{one.leg_address} by {name}" for name, one in links.items()}
    )
    exclusive = [(name, lease) for name, lease in links.items() if lease.kind == "exclusive"]
    for name, expected in {
        names.NFT_SOURCES: shared,
        names.IPSET_PODS: {lease.leg_address for lease in leases},
        names.IPSET_EXCLUSIVE: {lease.address for _, lease in exclusive},
        names.IPSET_HAIRPIN: {f"{lease.address},{link}" for link, lease in exclusive},
    }.items():
        yield from _differ(f"members of {name}", kernel.sets.get(name, ()), "leases", expected)


def _kernel_and_cards(node: Node) -> Iterable[str]:
    shared = {card.slot or 0 for card in node.cards if card.use == "shared" and card.state == "ready"}
    tables = {names.eni_table(slot) for slot in shared}
    yield from _differ("tables of cards", node.kernel.eni_tables, "shared cards", tables)
    rules = {f"{mark:#x} → {table}" for mark, table in node.kernel.marks.items()}
    marks = {f"{names.eni_mark(slot):#x} → {names.eni_table(slot)}" for slot in shared}
    yield from _differ("rules of cards", rules, "shared cards", marks)
    plugged = {lease.card for lease in node.leases if lease.kind == "exclusive"}
    for card in node.cards:
        here = card.mac in node.kernel.macs
        if here == (card.eni_id in plugged):
            yield f"{card.eni_id} is {'' if here else 'not '}in the node's namespace, its lease says otherwise"


def _differ(what: str, some: Iterable[Any], other: str, others: Iterable[Any]) -> Iterable[str]:
    one, two = {str(x) for x in some}, {str(x) for x in others}
    if only := sorted(one - two):
        yield f"{what} unknown among {other}: {', '.join(only)}"
    if missing := sorted(two - one):
        yield f"{other} unknown among {what}: {', '.join(missing)}"


def read(box: Box) -> list[str]:
    """Ask all of them and compare."""
    status = box.status()
    kube = Kube(Path(status.kubeconfig))
    pods = kube.get("/api/v1/pods")["items"]
    cidrs = {node["metadata"]["name"]: node["spec"].get("podCIDR") for node in kube.get("/api/v1/nodes")["items"]}
    ledgers = {node.name: box.state / "nodes" / node.name / "eniway" / "ledger.db" for node in status.nodes}
    nodes = [read_node(node, ledgers[node.name], pods, cidrs.get(node.name)) for node in status.nodes]
    return disagreements(nodes, enis(status.openapi))


def read_node(instance: Instance, ledger: Path, pods: Collection[Mapping[str, Any]], pod_cidr: str | None) -> Node:
    """Everything that is said on one node."""
    leases, cards = read_ledger(ledger)
    return Node(
        name=instance.name,
        pod_cidr=pod_cidr,
        instance_id=instance.instance_id,
        pods=[_pod(pod) for pod in pods if pod["spec"].get("nodeName") == instance.name and _has_network(pod)],
        devices=read_devices(Path(f"/proc/{instance.pid}/root{names.KUBELET_POD_RESOURCES}")),
        leases=leases,
        cards=cards,
        kernel=read_kernel(instance.netns),
    )


def _has_network(pod: Mapping[str, Any]) -> bool:
    finished = pod["status"].get("phase") in {"Succeeded", "Failed"}
    return not pod["spec"].get("hostNetwork") and not finished


def _pod(pod: Mapping[str, Any]) -> Pod:
    limits = (container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"])
    return Pod(
        uid=pod["metadata"]["uid"],
        name=f"{pod['metadata']['namespace']}/{pod['metadata']['name']}",
        address=pod["status"].get("podIP"),
        exclusive=any(names.RESOURCE_ENI in limit for limit in limits),
    )


def read_ledger(path: Path) -> tuple[list[Lease], list[Card]]:
    """Leases and cards of a node's ledger."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    try:
        database.execute("BEGIN")
        rows = [
            row
            for table in ("leases", "routed_leases")
            for row in database.execute(f"SELECT * FROM {table} JOIN (SELECT token, eni_id FROM enis) USING (token)")
        ]
        addresses = database.execute("SELECT address, token FROM addresses WHERE NOT is_primary").fetchall()
        cards = database.execute("SELECT * FROM enis").fetchall()
    finally:
        database.close()
    return [
        Lease(
            key=LeaseKey(row["network"], ContainerId(row["container_id"]), row["ifname"]),
            uid=row["pod_uid"],
            kind=row["kind"],
            card=row["eni_id"],
            address=row["address"],
            service_address=row["service_address"],
            confirmed=bool(row["confirmed"]),
        )
        for row in rows
    ], [
        Card(
            eni_id=card["eni_id"],
            use=card["use"],
            state=card["state"],
            slot=card["slot"],
            mac=card["mac"],
            address=card["address"],
            secondary=frozenset(row["address"] for row in addresses if row["token"] == card["token"]),
        )
        for card in cards
    ]


def read_devices(socket: Path) -> dict[str, str]:
    """Devices of ours that kubelet's PodResources lists, with their pods."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        listing = channel.unary_unary(
            "/v1.PodResourcesLister/List",
            request_serializer=api_pb2.ListPodResourcesRequest.SerializeToString,
            response_deserializer=api_pb2.ListPodResourcesResponse.FromString,
        )(api_pb2.ListPodResourcesRequest(), timeout=10)
    return {
        device: f"{pod.namespace}/{pod.name}"
        for pod in listing.pod_resources
        for container in pod.containers
        for devices in container.devices
        if devices.resource_name == names.RESOURCE_ENI
        for device in devices.device_ids
    }


def read_kernel(netns: str) -> Kernel:
    """The node's namespace, by iproute2 and ipset."""

    def run(*argv: str) -> str:
        entered = ["nsenter", f"--net={netns}", *argv]
        return subprocess.run(entered, check=True, stdout=subprocess.PIPE, text=True).stdout

    links = json.loads(run("ip", "-json", "-details", "link", "show"))
    routes = json.loads(run("ip", "-json", "-N", "route", "show", "table", "all"))
    rules = json.loads(run("ip", "-json", "-N", "rule", "show"))
    tables = [(route, int(route.get("table", _MAIN))) for route in routes]
    base = names.TABLE_ENI_BASE
    return Kernel(
        aliases={
            link["ifname"]: link.get("ifalias", "") for link in links if link["ifname"].startswith(names.LINK_PREFIX)
        },
        macs=frozenset(link.get("address", "") for link in links),
        pod_routes={
            route["dst"]: route["dev"] for route, table in tables if table == names.TABLE_PODS and "dev" in route
        },
        eni_tables=frozenset(table for _, table in tables if base < table < base + 255),
        marks={
            int(rule["fwmark"], 16): int(rule["table"]) for rule in rules if int(rule["priority"]) == names.RULE_ENI
        },
        sets={
            **parse_sets(run("ipset", "save")),
            names.NFT_SOURCES: parse_map(run("nft", "-j", "list", "map", "ip", names.NFT_TABLE, names.NFT_SOURCES)),
        },
    )


def parse_map(listed: str) -> frozenset[str]:
    """Addresses of a map, of `nft -j list map`."""
    (found,) = (entry["map"] for entry in json.loads(listed)["nftables"] if "map" in entry)
    return frozenset(address for address, _mark in found.get("elem", ()))


def parse_sets(saved: str) -> dict[str, frozenset[str]]:
    """Members by set, of `ipset save`."""
    found: dict[str, set[str]] = {name: set() for name in re.findall(r"^create (\S+)", saved, re.MULTILINE)}
    for name, member in re.findall(r"^add (\S+) (\S+)", saved, re.MULTILINE):
        found[name].add(member)
    return {name: frozenset(members) for name, members in found.items()}
