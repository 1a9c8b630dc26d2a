"""What the tests of «must hold» share: pods of a namespace of their own, the daemon's pods, and the end of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from demo.application import NAMESPACE as DEMO
from demo.application import Application, ready
from demo.box import Box
from demo.kube import ApiError, Kube, Object
from tests.box import agreement

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.53"
HOLD = "hold"
PODS = f"/api/v1/namespaces/{HOLD}/pods"
DAEMON = "app.kubernetes.io/name=eniway-node"
SYSTEM_PODS = "/api/v1/namespaces/kube-system/pods"
CONFIG = "/api/v1/namespaces/kube-system/configmaps/eniway-config"
NODE_NETWORKS = "/apis/eniway.io/v1alpha1/nodenetworks"
PATIENCE = 120.0


def pod(
    name: str, *, node: str | None = None, exclusive: bool = False, annotations: dict[str, str] | None = None
) -> Object:
    """A pod that serves /hostname on port 8080; on one node, or wherever the scheduler likes."""
    container: Object = {
        "name": "server",
        "image": AGNHOST,
        "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
        "resources": {"limits": {"aliyun/eni": 1}} if exclusive else {},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
    }
    placed = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": HOLD, "annotations": annotations or {}},
        # A volume with a token would be one thing more to wait for at a pod's start and end
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "dnsPolicy": "Default",
            "containers": [container],
            **placed,
        },
    }


def kube_of(box: Box) -> Kube:
    """The box's API server, with the namespace of these tests in it."""
    kube = Kube(Path(box.status().kubeconfig))
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOLD}})
    return kube


def start(kube: Kube, pods: Sequence[Object]) -> list[Object]:
    """Create pods and wait until they are Ready and answer by their own name."""
    for one in pods:
        kube.apply(one)
    names = {one["metadata"]["name"] for one in pods}
    running = kube.until(
        PODS,
        lambda found: ready([one for one in found if one["metadata"]["name"] in names], len(names)),
        seconds=PATIENCE,
    )
    for name in names:
        assert kube.ask_pod(HOLD, name, 8080, "hostname").decode() == name
    return running


def delete(kube: Kube, names: Collection[str], *, grace: int = 1) -> None:
    """Ask for the end of pods; ``grace`` 0 forces it."""
    for name in names:
        kube.delete(f"{PODS}/{name}", grace=grace)


def clear(kube: Kube) -> None:
    """End all pods of these tests and of the demonstration."""
    for namespace in (HOLD, DEMO):
        try:
            kube.delete(f"/apis/apps/v1/namespaces/{namespace}/deployments")
            kube.delete(f"/api/v1/namespaces/{namespace}/pods", grace=1)
        except ApiError as error:
            if error.status != 404:
                raise
        kube.until(f"/api/v1/namespaces/{namespace}/pods", lambda pods: None if pods else True, seconds=PATIENCE)


def cool(kube: Kube) -> None:
    """Wait until no node has an address that cools down."""

    def cooling(network: Object) -> int:
        return int(network["status"]["capacity"]["addresses"]["cooling"])

    kube.until(NODE_NETWORKS, lambda networks: None if any(map(cooling, networks)) else True, seconds=PATIENCE)


def daemons(kube: Kube) -> dict[str, Object]:
    """The daemon's pod on each node."""
    found = kube.get(f"{SYSTEM_PODS}?labelSelector={DAEMON.replace('=', '%3D')}")["items"]
    return {one["spec"]["nodeName"]: one for one in found}


def replace_daemon(kube: Kube, node: str) -> str:
    """Delete the daemon's pod on a node; the name of the one that takes its place, as soon as that exists."""
    old = daemons(kube)[node]["metadata"]
    kube.delete(f"{SYSTEM_PODS}/{old['name']}")

    def new(pods: list[Object]) -> str | None:
        there = [one["metadata"] for one in pods if one["spec"].get("nodeName") == node]
        return next((str(one["name"]) for one in there if one["uid"] != old["uid"]), None)

    return kube.until(SYSTEM_PODS, new, seconds=PATIENCE, selector=DAEMON)


def await_daemons(kube: Kube, count: int) -> None:
    """Wait until so many daemons are Ready, and no other is there."""
    kube.until(SYSTEM_PODS, lambda pods: ready(pods, count), seconds=PATIENCE, selector=DAEMON)


def configure(kube: Kube, **settings: object) -> str:
    """Other settings for all daemons, which begin anew; the configuration as it was, for ``restore``."""
    before: str = kube.get(CONFIG)["data"]["config.yaml"]
    restore(kube, yaml.safe_dump(yaml.safe_load(before) | settings))
    return before


def write_configuration(kube: Kube, text: str) -> None:
    """What a daemon reads at its next start."""
    metadata = {"name": "eniway-config", "namespace": "kube-system"}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.yaml": text}})


def restore(kube: Kube, text: str) -> None:
    """The daemons' configuration; they begin anew with it, one after the other."""
    write_configuration(kube, text)
    nodes = list(daemons(kube))
    for node in nodes:
        replace_daemon(kube, node)
        await_daemons(kube, len(nodes))


def restart(kube: Kube, node: str) -> None:
    """A new daemon on a node, Ready."""
    replace_daemon(kube, node)
    await_daemons(kube, len(kube.get("/api/v1/nodes")["items"]))


@contextmanager
def configured(kube: Kube, node: str, **settings: object) -> Iterator[None]:
    """The daemon of one node with other settings; as before at the end. The others do not begin anew, so read none."""
    before: str = kube.get(CONFIG)["data"]["config.yaml"]
    try:
        write_configuration(kube, yaml.safe_dump(yaml.safe_load(before) | settings))
        restart(kube, node)
        yield
    finally:
        write_configuration(kube, before)
        restart(kube, node)


def condition(kube: Kube, node: str, kind: str, status: str) -> Object:
    """Wait until a condition of a NodeNetwork has a status; the condition."""

    def find(networks: list[Object]) -> Object | None:
        conditions = (
            one
            for network in networks
            if network["metadata"]["name"] == node
            for one in network.get("status", {}).get("conditions", [])
        )
        return next((one for one in conditions if (one["type"], one["status"]) == (kind, status)), None)

    return kube.until(NODE_NETWORKS, find, seconds=PATIENCE)


def event(kube: Kube, name: str, reason: str, *, namespace: str = HOLD) -> str:
    """Wait for an Event about an object; its message."""

    def find(events: list[Object]) -> str | None:
        about = (one for one in events if one["involvedObject"]["name"] == name and one["reason"] == reason)
        return next((str(one["message"]) for one in about), None)

    return kube.until(f"/api/v1/namespaces/{namespace}/events", find, seconds=PATIENCE)


def agree(box: Box, *, seconds: float = PATIENCE) -> None:
    """Ledger, kernel, kubelet and cloud come to agree; what they still dispute at the end fails the test."""
    settles(lambda: agreement.read(box), seconds=seconds)


def every_path_holds_after(box: Box, command: str) -> None:
    """Within a sweep (60 s) after a command on node-1, all pods of the demonstration reach each other as before it."""
    clear(kube_of(box))
    application = Application(box)
    application.deploy()
    endpoints, wrong = application.endpoints(application.pods())
    assert wrong == []
    box.sh("node-1", ["sh", "-c", command])
    settles(lambda: [complaint for _, complaint in application.walk(endpoints) if complaint], seconds=90)
    agree(box)


def settles(complaints: Callable[[], list[str]], *, seconds: float) -> None:
    """Ask for complaints until there are none; there is no event to wait for where five parties have to agree."""
    deadline = time.monotonic() + seconds
    while wrong := complaints():
        assert time.monotonic() < deadline, "\n".join(wrong)
        time.sleep(0.5)
