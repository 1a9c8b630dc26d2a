"""NetworkPolicy in a box: objects of a real API server, pods of all kinds, real sockets."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from urllib.parse import urlencode

import pytest

from demo.application import ready
from demo.box import Box
from demo.kube import ApiError, Kube, Object
from eniway.cli.verb import NOT_WELL, OK
from tests.box import hold

POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{hold.HOLD}/networkpolicies"
ROUTED = {"eniway.io/network": "routed"}
SERVICE_ADDRESS = "eniway.io/service-address"
PATHS = 3 * 3 * 2
"""From each client to each server, by both protocols."""


@pytest.fixture
def kube(box: Box) -> Iterator[Kube]:
    found = hold.kube_of(box)
    hold.clear(found)
    yield found
    found.delete(POLICIES)
    hold.clear(found)


def labelled(made: Object, **labels: str) -> Object:
    """A pod with labels."""
    made["metadata"]["labels"] = labels
    return made


def policy(kube: Kube, name: str, spec: Object) -> None:
    """Make a policy."""
    meta = {"name": name, "namespace": hold.HOLD}
    kube.create(
        POLICIES, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}
    )


def reaches(kube: Kube, client: str, host: str, protocol: str) -> bool:
    """Whether a pod's call is answered."""
    port = 8080 if protocol == "http" else 8081
    query = {"host": host, "port": port, "protocol": protocol, "request": "hostname", "tries": 1}
    return bool(json.loads(kube.ask_pod(hold.HOLD, client, 8080, f"dial?{urlencode(query)}")).get("responses"))


def wrong(kube: Kube, clients: list[str], servers: dict[str, str], allowed: set[tuple[str, str, str]]) -> list[str]:
    """Paths that are not as ``allowed`` says: client, server, protocol. All at once: a dropped call takes seconds."""
    every = list(product(clients, servers, ("http", "udp")))
    with ThreadPoolExecutor(PATHS) as threads:
        found = threads.map(lambda path: reaches(kube, path[0], servers[path[1]], path[2]), every)
    return [
        f"{client} → {server} {protocol}: expected {'none' if answered else 'an answer'}"
        for (client, server, protocol), answered in zip(every, found, strict=True)
        if answered != ((client, server, protocol) in allowed)
    ]


def explained(box: Box, source: str, destination: str, port: str) -> tuple[int, list[str]]:
    """What `eniway explain` ends with and says; ends are names of pods of these tests, or addresses."""
    ends = [end if end[0].isdigit() else f"{hold.HOLD}/{end}" for end in (source, destination)]
    argv = [sys.executable, "-m", "eniway.cli.main", "explain", *ends, port, f"--kubeconfig={box.status().kubeconfig}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_policies_hold_for_pods_of_all_kinds_from_their_start(box: Box, kube: Kube) -> None:
    """Servers isolated before they start; clients allowed by label; one that asks by a Service is the same pod."""
    first, second = (node.name for node in box.status().nodes[:2])
    policy(kube, "deny", {"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"]})
    servers = [
        labelled(hold.pod("shared", node=first), role="server"),
        labelled(hold.pod("exclusive", node=second, exclusive=True), role="server"),
        labelled(hold.pod("routed", node=first, annotations=ROUTED), role="server"),
    ]
    clients = [
        labelled(hold.pod("near", node=first), role="client"),
        labelled(hold.pod("far-exclusive", node=first, exclusive=True), role="client", good="yes"),
        labelled(hold.pod("far", node=second), role="client"),
    ]
    for one in servers:
        kube.apply(one)
    hold.start(kube, clients)
    probes = Kube(Path(box.status().kubeconfig), connections=PATHS)
    names = {one["metadata"]["name"] for one in servers}

    def running(found: list[Object]) -> list[Object] | None:
        there = [one for one in found if one["metadata"]["name"] in names and ready([one], 1)]
        return there if len(there) == len(names) else None

    # kubelet's probes come from the own node and pass
    there = kube.until(hold.PODS, running, seconds=hold.PATIENCE)
    addresses = {one["metadata"]["name"]: str(one["status"]["podIP"]) for one in there}
    callers = [one["metadata"]["name"] for one in clients]
    assert not wrong(probes, callers, addresses, set())

    # It is told of, on the pods whose packets the node dropped
    def told(found: list[Object]) -> set[str] | None:
        pods = {
            str(event["involvedObject"]["name"])
            for event in found
            if event["reason"] == "NetworkPolicyDropped"
            and event["message"].endswith("isolated by hold/deny, none of which allows it")
        }
        return pods if pods >= {"shared", "routed"} else None

    assert kube.until(f"/api/v1/namespaces/{hold.HOLD}/events", told, seconds=30) <= names

    peer = {"podSelector": {"matchLabels": {"good": "yes"}}}
    rule = {"from": [peer], "ports": [{"port": 8080}]}
    policy(kube, "good", {"podSelector": {"matchLabels": {"role": "server"}}, "ingress": [rule]})
    allowed = {("far-exclusive", name, "http") for name in addresses}
    hold.settles(lambda: wrong(probes, callers, addresses, allowed), seconds=30)

    # The command says the same, by the API server's objects
    isolated = "isolated by hold/deny, hold/good, none of which allows it"
    assert explained(box, "far-exclusive", "shared", "8080") == (
        OK,
        [
            "passes",
            "egress of hold/far-exclusive: allowed, no policy isolates it",
            "ingress of hold/shared: policy hold/good says allow",
        ],
    )
    for source, destination, port in (
        ("near", "exclusive", "8080"),
        ("far-exclusive", "exclusive", "8081/UDP"),
        ("192.0.2.1", "exclusive", "8080"),
    ):
        status, lines = explained(box, source, destination, port)
        assert (status, lines[0], lines[2]) == (NOT_WELL, "dropped", f"ingress of hold/exclusive: dropped, {isolated}")

    (caller,) = kube.until(
        hold.PODS,
        lambda found: (
            [
                one
                for one in found
                if one["metadata"]["name"] == "far-exclusive"
                and SERVICE_ADDRESS in one["metadata"].get("annotations", {})
            ]
            or None
        ),
        seconds=30,
    )
    # What the daemon alone may say, nobody else may
    forged = labelled(hold.pod("forged", annotations={SERVICE_ADDRESS: "10.0.0.1"}), good="yes")
    with pytest.raises(ApiError, match="only eniway's daemon writes it"):
        kube.apply(forged)
    assert caller["metadata"]["annotations"][SERVICE_ADDRESS] != caller["status"]["podIP"]

    # Egress of the clients, by label again; and the end of it all
    policy(kube, "none", {"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"]})
    hold.settles(lambda: wrong(probes, callers, addresses, set()), seconds=30)
    kube.delete(POLICIES)
    every = {(client, server, protocol) for client, server, protocol in product(callers, addresses, ("http", "udp"))}
    hold.settles(lambda: wrong(probes, callers, addresses, every), seconds=30)
    hold.agree(box)
