"""Random worlds: few labels, few ports, few networks, so that everything meets everything."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from eniway.model import Card, ContainerId, EniId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.property.networkpolicy.oracle import Json, World

SPACES = ("x", "y", "z")
NAMES = ("a", "b", "c", "d")
PORTS = (80, 81, 8080)
PROTOCOLS = ("TCP", "UDP", "SCTP")
OUTSIDE = ("10.1.0.7", "10.2.0.9", "192.0.2.1")
KEYS, VALUES = ("app", "tier"), ("a", "b", "c")

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)


def _expression(key: str, operator: str, values: list[str]) -> Json:
    said: Json = {"key": key, "operator": operator}
    if operator in ("In", "NotIn"):
        said["values"] = values
    return said


expressions = st.builds(
    _expression,
    st.sampled_from((*KEYS, "kubernetes.io/metadata.name")),
    st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")),
    st.lists(st.sampled_from((*VALUES, *SPACES)), min_size=1, max_size=2),
)
selectors: SearchStrategy[Json] = st.fixed_dictionaries(
    {}, optional={"matchLabels": labels, "matchExpressions": st.lists(expressions, max_size=2)}
)
cidrs = st.sampled_from(
    ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.1.0.0/16", "10.0.0.1/32", "10.0.0.3/30", "128.0.0.0/1")
)
blocks = st.fixed_dictionaries({"cidr": cidrs}, optional={"except": st.lists(cidrs, max_size=2)})
peers = st.one_of(
    st.fixed_dictionaries({"podSelector": selectors}),
    st.fixed_dictionaries({"namespaceSelector": selectors}),
    st.fixed_dictionaries({"podSelector": selectors, "namespaceSelector": selectors}),
    st.fixed_dictionaries({"ipBlock": blocks}),
    st.sampled_from(({}, {"serviceSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
)
ports = st.one_of(
    st.fixed_dictionaries({}, optional={"protocol": st.sampled_from(PROTOCOLS)}),
    st.fixed_dictionaries(
        {"port": st.sampled_from((*PORTS, "http", "dns", "nowhere"))},
        optional={"protocol": st.sampled_from((*PROTOCOLS, "ESP"))},
    ),
    st.just({"port": 80, "endPort": 100}),
    st.just({"port": 81, "endPort": 9000, "protocol": "UDP"}),
    st.just({"port": 80, "weight": 3}),
)


def _rules(direction: str) -> SearchStrategy[list[Json]]:
    return st.lists(
        st.fixed_dictionaries(
            {}, optional={direction: st.lists(peers, max_size=3), "ports": st.lists(ports, max_size=3)}
        ),
        max_size=2,
    )


specs = st.fixed_dictionaries(
    {"podSelector": selectors},
    optional={
        "ingress": _rules("from"),
        "egress": _rules("to"),
        "policyTypes": st.sampled_from((["Ingress"], ["Egress"], ["Ingress", "Egress"])),
    },
)
containers = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from(PORTS), "name": st.sampled_from(("http", "dns"))},
        optional={"protocol": st.sampled_from(PROTOCOLS)},
    ),
    max_size=2,
).map(lambda declared: {"ports": declared})
specs_of_pods = st.fixed_dictionaries(
    {"containers": st.lists(containers, max_size=2)},
    optional={
        "hostNetwork": st.booleans(),
        "initContainers": st.lists(containers.map(lambda made: {**made, "restartPolicy": "Always"}), max_size=1),
    },
)
phases = st.sampled_from(("Running", "Running", "Running", "Pending", "Succeeded", "Failed"))


def pod(namespace: str, name: str, *, uid: str, labels: Json, spec: Json, phase: str, ips: list[str]) -> Json:
    """A Pod as the API server has it."""
    meta = {"name": name, "namespace": namespace, "uid": uid, "labels": labels}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase, "podIPs": [{"ip": ip} for ip in ips]}}


def policy(namespace: str, name: str, spec: Json) -> Json:
    """A NetworkPolicy as the API server has it."""
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def address_of(namespace: str, name: str) -> str:
    """Each pod has its own."""
    return f"10.0.0.{1 + SPACES.index(namespace) * len(NAMES) + NAMES.index(name)}"


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Namespaces, pods, policies."""
    world = World(namespaces={space: draw(labels) for space in SPACES})
    for space in SPACES:
        for name in NAMES[: draw(st.integers(1, len(NAMES)))]:
            ips = draw(st.sampled_from(([address_of(space, name)], [address_of(space, name)], [])))
            world.pods.append(
                pod(
                    space,
                    name,
                    uid=f"{space}-{name}",
                    labels=draw(labels),
                    spec=draw(specs_of_pods),
                    phase=draw(phases),
                    ips=ips,
                )
            )
    for number in range(draw(st.integers(0, 4))):
        world.policies.append(policy(draw(st.sampled_from(SPACES)), f"p{number}", draw(specs)))
    return world


def view(kind: type[Any], made: Json) -> Any:
    """An object as a reflector decodes it."""
    return msgspec.json.decode(msgspec.json.encode(made), type=kind)


def namespace(name: str, given: Json) -> Json:
    """A Namespace as the API server has it."""
    return {"metadata": {"name": name, "labels": given}}


_CARD = Card(
    EniId("eni-1"),
    Mac("00:16:3e:00:00:01"),
    Slot(1),
    IPv4Address("10.0.0.250"),
    IPv4Network("10.0.0.0/24"),
    IPv4Address("10.0.0.253"),
)


def lease(made: Json, address: str, *, kind: Kind = Kind.SHARED, service: str | None = None) -> Lease:
    """A lease of a pod of this node."""
    meta = made["metadata"]
    return Lease(
        key=LeaseKey("eniway", ContainerId(f"sandbox-{meta['uid']}"), "eth0"),
        pod=PodRef(meta["namespace"], meta["name"], PodUid(meta["uid"])),
        kind=kind,
        netns=f"/run/netns/{meta['uid']}",
        card=_CARD,
        address=IPv4Address(address),
        service_address=IPv4Address(service) if service else None,
    )


def fill(model: Model, world: World) -> None:
    """Tell a model of everything."""
    for name, given in world.namespaces.items():
        model.put_namespace(view(NamespaceView, namespace(name, given)))
    for made in world.pods:
        model.put_pod(view(PodView, made))
    for made in world.policies:
        model.put_policy(view(PolicyView, made))
