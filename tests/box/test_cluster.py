"""The cluster of a box is a real Kubernetes: here with no network of ours, and another one put on it."""

import json
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest

from demo.box import Box
from vpcbox.cluster.config import CLUSTER_CIDR
from vpcbox.cluster.images import AGNHOST

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def kubectl(bare_box: Box, kubectl_of: Callable[[Box], Kubectl]) -> Kubectl:
    """The real kubectl on the bare box."""
    return kubectl_of(bare_box)


def test_the_api_server_is_reached_from_the_machine(kubectl: Kubectl) -> None:
    """The kubeconfig of the status works on the machine itself, and every check of the API server passes."""
    assert "readyz check passed" in kubectl("get", "--raw", "/readyz?verbose")
    assert json.loads(kubectl("get", "--raw", "/version"))["gitVersion"].startswith("v1.34.")


def test_every_instance_is_registered_as_itself(bare_box: Box, kubectl: Kubectl) -> None:
    """Address, provider id, type and zone of a Node are its instance's; each has a pod CIDR of its own."""
    status = bare_box.status()
    nodes = {node["metadata"]["name"]: node for node in _items(kubectl, "nodes")}
    assert set(nodes) == {instance.name for instance in status.nodes}
    for instance in status.nodes:
        node = nodes[instance.name]
        assert {"type": "InternalIP", "address": str(instance.address)} in node["status"]["addresses"]
        assert node["spec"]["providerID"] == f"{status.openapi.region}.{instance.instance_id}"
        labels = node["metadata"]["labels"]
        assert labels["node.kubernetes.io/instance-type"] == instance.instance_type
        assert labels["topology.kubernetes.io/zone"] == status.openapi.zone
    cidrs = [IPv4Network(node["spec"]["podCIDR"]) for node in nodes.values()]
    assert len(set(cidrs)) == len(cidrs)
    assert all(cidr.subnet_of(CLUSTER_CIDR) for cidr in cidrs)


def test_a_nodes_kubelet_may_change_only_its_own_node(bare_box: Box, kubectl: Kubectl) -> None:
    """Node authorization and NodeRestriction hold: a kubelet's certificate is good for its own node only."""
    folder = "kubernetes/kubelet.conf"
    kubelet = [f"--kubeconfig={bare_box.state}/nodes/node-1/{folder}", "annotate", "--overwrite", "node"]
    bare_box.sh("node-1", ["kubectl", *kubelet, "node-1", "test/own=yes"])
    refused = ["sh", "-c", '! "$@" 2>&1', "sh", "kubectl", *kubelet, "node-2", "test/own=no"]
    assert "only its own Node object" in bare_box.sh("node-1", refused)
    annotations = json.loads(kubectl("get", "node", "node-2", "-ojson"))["metadata"]["annotations"]
    assert "test/own" not in annotations


def test_a_node_comes_back_from_a_reboot_and_is_forgotten_when_its_instance_is_released(
    bare_box: Box, kubectl: Kubectl
) -> None:
    """The same Node by another boot, its pods started again; of a released one neither instance nor Node is left."""
    *staying, node = (instance.name for instance in bare_box.status().nodes)
    container = {"name": "pause", "image": AGNHOST, "args": ["pause"]}
    spec = {"hostNetwork": True, "nodeName": node, "containers": [container]}
    kubectl("create", "--filename=-", stdin=json.dumps(_object("v1", "Pod", "resident", spec)))
    kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/resident")
    asked = ("get", "node", node, "--output=jsonpath={.status.nodeInfo.bootID} {.metadata.uid} {.spec.podCIDR}")
    before = kubectl(*asked).split()
    bare_box.run("instance", "reboot", node)
    after = kubectl(*asked).split()
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    kubectl("wait", restarted, "--timeout=90s", "pod/resident")
    kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod/resident")
    bare_box.run("instance", "release", node)
    assert _names(kubectl) == [instance.name for instance in bare_box.status().nodes] == staying


def test_of_two_clusters_side_by_side_one_grows(
    bare_box: Box, box: Box, kubectl: Kubectl, kubectl_of: Callable[[Box], Kubectl]
) -> None:
    """Each answers for itself; a node that is added has a name of its own, joins its cluster only and takes images."""
    before, others = _names(kubectl), _names(kubectl_of(box))
    assert bare_box.status().kubeconfig != box.status().kubeconfig
    bare_box.run("node", "add")
    assert _names(kubectl) == [*before, "node-4"]
    assert _names(kubectl_of(box)) == others
    (archive,) = bare_box.state.rglob("box-images.tar")
    images = ("ctr", "-n", "k8s.io", "images")
    bare_box.sh("node-4", [*images, "rm", AGNHOST])
    bare_box.run("image", "load", str(archive))
    assert AGNHOST in bare_box.sh("node-4", [*images, "ls", "-q"]).split()


@pytest.fixture(scope="module")
def pods(bare_box: Box, kubectl: Kubectl) -> Iterator[dict[str, dict[str, Any]]]:
    """The reference plugins as pod network (no way between nodes), and a pod on each node; by node."""
    for number, instance in enumerate(bare_box.status().nodes):
        write = [
            "sh",
            "-c",
            'printf %s "$1" > /etc/cni/net.d/10-bridge.conflist',
            "sh",
            _conflist(f"172.20.{200 + number}.0/24"),
        ]
        bare_box.sh(instance.name, write)
    kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
    kubectl("apply", "-f-", stdin=json.dumps(_daemon_set("web")))
    kubectl("rollout", "status", "daemonset/web", "--timeout=120s")
    yield _by_node(kubectl)
    kubectl("delete", "daemonset/web", "--wait", "--timeout=60s")


def test_kubectl_exec_and_logs_reach_every_node(kubectl: Kubectl, pods: dict[str, dict[str, Any]]) -> None:
    """The API server finds each kubelet, and each believes the other's certificate."""
    assert len(pods) == 3
    for pod in pods.values():
        name = pod["metadata"]["name"]
        assert "netexec" in kubectl("exec", name, "--", "/agnhost", "help")
        assert "Started HTTP server" in kubectl("logs", name)


def test_a_pod_reaches_the_api_server_by_its_service(kubectl: Kubectl, pods: dict[str, dict[str, Any]]) -> None:
    """kube-proxy translates 172.21.0.1 on every node, and the certificate the pod is shown holds for it."""
    for pod in pods.values():
        kubectl("exec", pod["metadata"]["name"], "--", "/agnhost", "connect", "172.21.0.1:443", "--timeout=5s")


def test_a_kubelet_that_ends_is_started_again_and_its_pods_go_on(
    bare_box: Box, kubectl: Kubectl, pods: dict[str, dict[str, Any]]
) -> None:
    """The containers of before still run under their ids, and the new kubelet takes new pods."""
    before = _end(bare_box, "node-1", "kubelet")
    _until(lambda: _pid(bare_box, "node-1", "kubelet") not in ("", before), "another kubelet")
    _new_pod(kubectl, "after-kubelet", "node-1")
    assert _identity(_by_node(kubectl)["node-1"]) == _identity(pods["node-1"])


def test_a_containerd_that_ends_is_started_again_and_its_pods_go_on(
    bare_box: Box, kubectl: Kubectl, pods: dict[str, dict[str, Any]]
) -> None:
    """The shims keep the containers, and the new containerd finds them."""
    before = _end(bare_box, "node-2", "containerd")
    _until(lambda: _pid(bare_box, "node-2", "containerd") not in ("", before), "another containerd")
    _new_pod(kubectl, "after-containerd", "node-2")
    assert _identity(_by_node(kubectl)["node-2"]) == _identity(pods["node-2"])


def _names(kubectl: Kubectl) -> list[str]:
    return [node["metadata"]["name"] for node in _items(kubectl, "nodes")]


def _items(kubectl: Kubectl, *what: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(kubectl("get", *what, "-ojson"))["items"]
    return items


def _by_node(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    return {pod["spec"]["nodeName"]: pod for pod in _items(kubectl, "pods", "-lapp=web")}


def _identity(pod: dict[str, Any]) -> tuple[str, list[tuple[str, int]]]:
    statuses = pod["status"]["containerStatuses"]
    return pod["metadata"]["uid"], [(status["containerID"], status["restartCount"]) for status in statuses]


def _pid(box: Box, node: str, program: str) -> str:
    """One PID namespace holds the whole box: the node's own process is the one that has its mounts."""
    return box.sh(node, ["sh", "-c", 'pgrep -x "$1" --ns $$ --nslist mnt || true', "sh", program]).strip()


def _end(box: Box, node: str, program: str) -> str:
    pid = _pid(box, node, program)
    box.sh(node, ["kill", pid])
    return pid


def _new_pod(kubectl: Kubectl, name: str, node: str) -> None:
    """Run a pod on the node, to its end."""
    container = {"name": "c", "image": AGNHOST, "args": ["help"]}
    spec = {"nodeName": node, "restartPolicy": "Never", "containers": [container]}
    kubectl("apply", "-f-", stdin=json.dumps(_object("v1", "Pod", name, spec)))
    kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=60s")
    kubectl("delete", f"pod/{name}", "--wait", "--timeout=60s")


def _until(holds: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def _object(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _daemon_set(name: str) -> dict[str, Any]:
    ready = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}
    container = {"name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=8080"], "readinessProbe": ready}
    pod = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    return _object("apps/v1", "DaemonSet", name, {"selector": {"matchLabels": {"app": name}}, "template": template})


def _conflist(subnet: str) -> str:
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": ipam}
    return json.dumps({"cniVersion": "1.0.0", "name": "reference", "plugins": [bridge]})
