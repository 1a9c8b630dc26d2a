"""`python -m tests.conformance.matrix`: the matrix of `cells`, asked of a real Kubernetes in a box, TCP and UDP.

For each mode of kube-proxy a box of its own: two nodes, with two pods of each kind on the first and one of each on the
second, every pod behind two Services and a hostPort. Exit status 0 only if every cell shows the source it must.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path as File
from typing import Final

import yaml

from demo import inside
from demo.application import ready
from demo.box import Box, Status
from demo.checks import HTTP, PORTS, SERVICE_PORTS, UDP, Question
from demo.kube import Kube, Object
from demo.probe import Asker, OutsideAsker, PodAsker
from tests.conformance.cells import PODS as KINDS
from tests.conformance.cells import Cell, Kind, Path, Place, cells, source, table

NAMESPACE: Final = "matrix"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
MODES: Final = ("iptables", "nftables")
CONFIG: Final = "/api/v1/namespaces/kube-system/configmaps/eniway-config"
AGNHOST: Final = "registry.k8s.io/e2e-test-images/agnhost:2.53"
PATIENCE: Final = 120.0
_AT_A_TIME: Final = 8
_FIRST_PORT: Final = {Path.NODE_PORT: 30100, Path.NODE_PORT_LOCAL: 30200, Path.HOST_PORT: 20100}
_UDP_PORTS: Final = 50
"""So far behind TCP's: the API server gives a Service's nodePort to one protocol."""
_TRANSPORTS: Final = {HTTP: "TCP", UDP: "UDP"}
_SERVICES: Final = {Path.NODE_PORT: "Cluster", Path.NODE_PORT_LOCAL: "Local"}

Results = list[tuple[Cell, str | None]]


def main() -> int:
    """Both modes, or the one that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.matrix", description=__doc__)
    parser.add_argument("--kube-proxy", choices=MODES, action="append", help="one mode (both)")
    parser.add_argument("--state", type=File, default=File("build/matrix"), help="where the boxes stand (build/matrix)")
    options = parser.parse_args()
    wrong = 0
    for mode in options.kube_proxy or MODES:
        with standing(Box(options.state), mode) as box:
            results = walk(box, exclusive=2)
        complaints = [complaint for _, complaint in results if complaint]
        wrong += len(complaints)
        print(f"\nkube-proxy in {mode} mode: {len(results)} calls by TCP and UDP, {len(complaints)} wrong\n")
        print(table(results), *complaints, sep="\n", flush=True)
    return 1 if wrong else 0


@contextmanager
def standing(box: Box, mode: str) -> Iterator[Box]:
    """A box of two nodes with room for two exclusive pods on each, for as long as the context lasts."""
    try:
        box.run("up", "--nodes", "2", "--kube-proxy", mode, "--install", "eniway")
        kube = Kube(File(box.status().kubeconfig))
        kept = kube.get(CONFIG)["data"]["config.yaml"]
        text = yaml.safe_dump(yaml.safe_load(kept) | {"pool": {"exclusive_slots": 2, "warm_exclusive": 1}})
        metadata = {"name": "eniway-config", "namespace": "kube-system"}
        kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.yaml": text}})
        selector = "app.kubernetes.io/name=eniway-node"
        pods = "/api/v1/namespaces/kube-system/pods"
        old = {pod["metadata"]["uid"] for pod in kube.get(f"{pods}?labelSelector={selector}")["items"]}
        kube.delete(f"{pods}?labelSelector={selector}")
        kube.until(
            pods,
            lambda found: ready([pod for pod in found if pod["metadata"]["uid"] not in old], 2),
            seconds=PATIENCE,
            selector=selector,
        )
        yield box
    finally:
        box.run("down")


def walk(box: Box, *, exclusive: int) -> Results:
    """Every cell between the pods of two nodes of a box, with what is wrong with it; the pods are gone again after it.

    ``exclusive``: how many pods with an ENI of their own the first node has room for.
    """
    status = box.status()
    kube = Kube(File(status.kubeconfig))
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    try:
        places = inhabit(kube, status, exclusive)
        numbers = {place.name: number for number, place in enumerate(places)}
        backends = [place.address for place in places]
        hosts = [Place(node.name, Kind.NODE, node.name, node.address) for node in status.nodes[:2]]
        hosts.append(Place(status.outside.name, Kind.OUTSIDE, status.outside.name, status.outside.address))
        for node in status.nodes[:2]:
            wait_for_kube_proxy(box, node.name, backends)
        with ExitStack() as stack:
            askers: dict[str, Asker] = {one.name: PodAsker(kube, NAMESPACE, one.name) for one in places}
            askers |= {one.name: stack.enter_context(OutsideAsker(box, one.name)) for one in hosts}
            vips = cluster_ips(kube, places)

            def ask(cell: Cell) -> tuple[Cell, str | None]:
                return cell, next(filter(None, (_complaint(cell, p, numbers, vips, askers) for p in (HTTP, UDP))), None)

            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                return list(pool.map(ask, cells([*places, *hosts])))
    finally:
        kube.delete(f"/api/v1/namespaces/{NAMESPACE}")
        kube.until(PODS, lambda pods: None if pods else True, seconds=PATIENCE)


def inhabit(kube: Kube, status: Status, exclusive: int) -> list[Place]:
    """Make the pods and their Services, and wait until all are Ready."""
    first, second = (node.name for node in status.nodes[:2])
    wanted = [(kind, first, n) for kind in KINDS for n in range(exclusive if kind is Kind.EXCLUSIVE else 2)]
    wanted += [(kind, second, 0) for kind in KINDS]
    kinds: dict[str, Kind] = {}
    for number, (kind, node, n) in enumerate(wanted):
        name = f"{kind}-{n}-{node}"
        kinds[name] = kind
        kube.apply(_pod(name, kind, node, number))
        for path in _SERVICES:
            kube.apply(_service(name, path, number))
    pods = kube.until(PODS, lambda found: ready(found, len(wanted)), seconds=PATIENCE)
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    pids = inside.pids(pod["metadata"]["uid"] for pod in pods)
    places = []
    for name, kind in kinds.items():
        pod = by_name[name]
        links = inside.links(pids[pod["metadata"]["uid"]])
        leg = links["veth1"].addresses[0] if kind is Kind.EXCLUSIVE else None
        places.append(Place(name, kind, pod["spec"]["nodeName"], IPv4Address(pod["status"]["podIP"]), leg))
    return places


def cluster_ips(kube: Kube, places: Sequence[Place]) -> dict[str, IPv4Address]:
    """ClusterIP of each pod's Service, by the pod's name."""
    services = f"/api/v1/namespaces/{NAMESPACE}/services"
    found = {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in kube.get(services)["items"]}
    return {place.name: IPv4Address(found[f"{place.name}-cluster"]) for place in places}


def wait_for_kube_proxy(box: Box, node: str, backends: Sequence[IPv4Address]) -> None:
    """Wait until kube-proxy of a node translates to each backend for both its Services, TCP and UDP.

    Nothing tells of it but its rules, in whichever mode.
    """
    deadline = time.monotonic() + PATIENCE
    script = "iptables-save -t nat; nft list table ip kube-proxy 2>/dev/null || true"
    while True:
        rules = [line for line in box.sh(node, ["sh", "-c", script]).lower().splitlines() if "dnat" in line]
        late = [one for one in backends if sum(f" {one}:" in line for line in rules) < 2 * len(_SERVICES)]
        if not late:
            return
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{node}: after {PATIENCE:.0f} s kube-proxy knows too little of {late}")
        time.sleep(0.3)


def port_of(path: Path, protocol: str, number: int) -> int:
    """The port of nodes that leads to the pod of that number."""
    return _FIRST_PORT[path] + number + (_UDP_PORTS if protocol == UDP else 0)


def _complaint(
    cell: Cell,
    protocol: str,
    numbers: Mapping[str, int],
    vips: Mapping[str, IPv4Address],
    askers: Mapping[str, Asker],
) -> str | None:
    match cell.path:
        case Path.DIRECT:
            host, port = cell.server.address, PORTS[protocol]
        case Path.CLUSTER_IP:
            host, port = vips[cell.server.name], SERVICE_PORTS[protocol]
        case path:
            assert cell.node is not None
            host, port = cell.node.address, port_of(path, protocol, numbers[cell.server.name])
    expected = str(source(cell))
    question = Question(
        group=str(cell.path),
        asker=cell.client.name,
        target=cell.server.name,
        host=host,
        port=port,
        protocol=protocol,
        request="clientip",
        allowed=frozenset({expected}),
        required=frozenset({expected}),
    )
    answer = askers[cell.client.name].ask(question)
    said = [response.rpartition(":")[0] for response in answer.responses]
    if said == [expected]:
        return None
    return f"{cell} ({host}:{port}, {protocol}): {', '.join([*said, *answer.errors])}, expected {expected}"


def _pod(name: str, kind: Kind, node: str, number: int) -> Object:
    container: Object = {
        "name": "server",
        "image": AGNHOST,
        "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", f"--http-port={PORTS[HTTP]}", f"--udp-port={PORTS[UDP]}"],
        "ports": [
            {
                "containerPort": PORTS[protocol],
                "hostPort": port_of(Path.HOST_PORT, protocol, number),
                "protocol": transport,
            }
            for protocol, transport in _TRANSPORTS.items()
        ],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORTS[HTTP]}, "periodSeconds": 1},
    }
    if kind is Kind.EXCLUSIVE:
        container["resources"] = {"limits": {"aliyun/eni": 1}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"pod": name},
            "annotations": {} if kind is Kind.EXCLUSIVE else {"eniway.io/network": str(kind)},
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "dnsPolicy": "Default",
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [container],
        },
    }


def _service(pod: str, path: Path, number: int) -> Object:
    policy = _SERVICES[path]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{pod}-{policy.lower()}", "namespace": NAMESPACE},
        "spec": {
            "type": "NodePort",
            "externalTrafficPolicy": policy,
            "selector": {"pod": pod},
            "ports": [
                {
                    "name": protocol,
                    "protocol": transport,
                    "port": SERVICE_PORTS[protocol],
                    "targetPort": PORTS[protocol],
                    "nodePort": port_of(path, protocol, number),
                }
                for protocol, transport in _TRANSPORTS.items()
            ],
        },
    }


if __name__ == "__main__":
    sys.exit(main())
