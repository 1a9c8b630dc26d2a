"""What each process may do it needs, and it may do nothing else; nobody else may ask what the daemon tells root."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from demo.box import Box
from demo.kube import Kube, Object
from tests.box import hold
from tests.box.scheduling import words

Right = tuple[str, str, str]
"""API group, resource with subresource, verb."""
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NODE = "eniway-node"
MERGE = "application/merge-patch+json"


def rights(kube: Kube) -> dict[str, set[Right]]:
    """What RBAC grants to each of our service accounts, by name."""
    granted: dict[str, set[Right]] = {}
    for kind in ("clusterrolebindings", "rolebindings"):
        for binding in kube.get(f"{RBAC}/{kind}")["items"]:
            accounts = [one["name"] for one in binding.get("subjects", []) if one["name"].startswith("eniway-")]
            if accounts:
                role, space = binding["roleRef"]["name"], binding["metadata"].get("namespace")
                path = f"{RBAC}/namespaces/{space}/roles/{role}" if space else f"{RBAC}/clusterroles/{role}"
                for account in accounts:
                    granted.setdefault(account, set()).update(listed(kube.get(path)["rules"]))
    return granted


def listed(rules: list[Object]) -> Iterator[Right]:
    """Rules one by one."""
    for rule in rules:
        for group in rule.get("apiGroups", []):
            for resource in rule["resources"]:
                yield from ((group, resource, verb) for verb in rule["verbs"])


def used(audit: Path) -> dict[str, set[Right]]:
    """What was asked for and granted, by the API server's audit log."""
    found: dict[str, set[Right]] = {}
    for line in audit.read_text().splitlines():
        event = json.loads(line)
        about, account = event.get("objectRef"), event["user"]["username"].rpartition(":")[2]
        status = event.get("responseStatus", {}).get("code", 0)
        if about is None or not 200 <= status < 300:
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        # An apply that makes the object needs both
        for verb in {event["verb"], "create"} if status == 201 else {event["verb"]}:
            found.setdefault(account, set()).add((about.get("apiGroup", ""), resource, verb))
    return found


@pytest.fixture
def told(box: Box) -> Iterator[None]:
    """Something to do for rights that a quiet cluster does not use.

    A Node wants a route that no VPC takes and a pod's bandwidth is changed: Events; a vSwitch that nobody draws on
    goes; an exclusive pod is told of its second address; a pod waits for a Node that has no room and is woken.
    """
    kube, node, ghost = hold.kube_of(box), box.status().nodes[0].name, "ghost"
    hold.clear(kube)  # the node has one slot, and the taker needs it
    try:
        kube.create("/api/v1/nodes", nobodys_node(ghost, f"{box.status().openapi.region}.i-ghost"))
        kube.create(hold.NODE_NETWORKS, network(ghost))
        say_room(kube, ghost, 0)
        waiter = hold.pod("waiter", node=ghost, annotations={"eniway.io/network": "routed"})
        waiter["spec"]["tolerations"] = [{"operator": "Exists"}]
        kube.apply(waiter)
        gone = {"apiVersion": "eniway.io/v1alpha1", "kind": "VSwitch", "metadata": {"name": "vsw-gone"}}
        kube.create("/apis/eniway.io/v1alpha1/vswitches", gone)
        taker = hold.pod("taker", node=node, exclusive=True)
        hold.start(kube, [taker])
        taker["metadata"]["annotations"]["kubernetes.io/ingress-bandwidth"] = "1G"
        kube.apply(taker)
        hold.event(kube, ghost, "RouteNotAllowed", namespace="default")
        hold.event(kube, "taker", "BandwidthChanged")
        hold.event(kube, "waiter", "FailedScheduling")
        say_room(kube, ghost, 1)
        yield
    finally:
        hold.delete(kube, ["taker"])
        hold.delete(kube, ["waiter"], grace=0)
        kube.delete(f"{hold.NODE_NETWORKS}/{ghost}")
        kube.delete(f"/api/v1/nodes/{ghost}")


def nobodys_node(name: str, provider_id: str) -> Object:
    """A Node without a kubelet: it has no label that a daemon's pod asks for, and no daemon."""
    room = {"cpu": "1", "memory": "1Gi", "pods": "9"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": "100.64.1.0/24", "providerID": provider_id},
        "status": {"capacity": room, "allocatable": room},
    }


def say_room(kube: Kube, node: str, routed: int) -> None:
    """What a daemon of that Node would say."""
    none, ready = words(0, most=1), {"type": "Ready", "status": "True", "reason": "Serving", "message": ""}
    capacity = {"slots": none, "addresses": none, "routed": words(routed, most=1)}
    conditions = [{**ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    status = {"defaultNetwork": "shared", "capacity": capacity, "holders": {}, "conditions": conditions}
    kube.raw("PATCH", f"{hold.NODE_NETWORKS}/{node}/status", body=json.dumps({"status": status}).encode(), kind=MERGE)


@pytest.mark.usefixtures("told")
def test_every_right_is_used(box: Box) -> None:
    """By what the API server wrote down since the box came up: a right that nobody uses is one for a thief."""
    kube = hold.kube_of(box)
    (audit,) = box.state.rglob("audit.log")
    granted = rights(kube)
    assert granted.keys() == {NODE, "eniway-operator", "eniway-extender"}

    def unused() -> list[str]:
        seen = used(audit)
        return [f"{who}: {right}" for who, has in granted.items() for right in sorted(has - seen.get(who, set()))]

    hold.settles(unused, seconds=60)


@dataclass(frozen=True)
class Daemon:
    """A daemon's pod and what its token can do."""

    node: str
    name: str
    server: str
    authority: bytes
    token: str

    def ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> int:
        """The HTTP status of a request as this daemon."""
        context = ssl.create_default_context(cadata=self.authority.decode())
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        return (
            urllib3.PoolManager(ssl_context=context)
            .request(method, self.server + path, body=data, headers=headers, retries=False)
            .status
        )


@pytest.fixture
def daemon(box: Box, kubectl_of: Callable[[Box], Callable[..., str]]) -> Daemon:
    """The one on the first node, with the token it uses itself."""
    kubectl = kubectl_of(box)
    kube = hold.kube_of(box)
    node = min(hold.daemons(kube))
    name = hold.daemons(kube)[node]["metadata"]["name"]
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    token = kubectl("exec", "-n", "kube-system", name, "--", "cat", f"{folder}/token")
    authority = kubectl("exec", "-n", "kube-system", name, "--", "cat", f"{folder}/ca.crt")
    server = yaml.safe_load(Path(box.status().kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    return Daemon(node, name, server, authority.encode(), token)


def network(name: str) -> Object:
    """A NodeNetwork to apply."""
    return {"apiVersion": "eniway.io/v1alpha1", "kind": "NodeNetwork", "metadata": {"name": name}}


def event(about: str, host: str) -> Object:
    """An Event about a node, told by the daemon of ``host``."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{about}.", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": about, "uid": about},
        "type": "Normal",
        "reason": "Tried",
        "message": "by a test",
        "source": {"component": "eniway", "host": host},
    }


def test_a_daemons_token_does_what_the_manifests_list_for_its_own_node(box: Box, daemon: Daemon) -> None:
    """And all else is refused: other nodes' objects, secrets, its own DaemonSet, Events in another's name."""
    others = [node.name for node in box.status().nodes if node.name != daemon.node]
    apply, query = "application/apply-patch+yaml", "?fieldManager=trust&force=true"
    for path in ("", "/status"):
        own = daemon.ask("PATCH", f"{hold.NODE_NETWORKS}/{daemon.node}{path}{query}", network(daemon.node), apply)
        assert own in {200, 201}
        for other in others:
            where = f"{hold.NODE_NETWORKS}/{other}{path}{query}"
            assert daemon.ask("PATCH", where, network(other), apply) == 403, other
    assert daemon.ask("GET", f"/api/v1/nodes/{daemon.node}") == 200
    assert daemon.ask("POST", "/api/v1/namespaces/default/events", event(daemon.node, daemon.node)) == 201
    assert daemon.ask("POST", "/api/v1/namespaces/default/events", event(others[0], others[0])) == 403
    pods, merge = {node: one["metadata"]["name"] for node, one in hold.daemons(hold.kube_of(box)).items()}, MERGE
    address = {"metadata": {"annotations": {"eniway.io/service-address": "10.9.9.9"}}}
    assert daemon.ask("PATCH", f"{hold.SYSTEM_PODS}/{pods[others[0]]}", address, merge) in {403, 422}
    for change in ({"metadata": {"labels": {"app": "other"}}}, {"spec": {"activeDeadlineSeconds": 1}}):
        assert daemon.ask("PATCH", f"{hold.SYSTEM_PODS}/{daemon.name}", change, merge) in {403, 422}
    for method, path in (
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/kube-system/secrets/eniway-credentials"),
        ("GET", "/api/v1/namespaces/kube-system/configmaps/eniway-config"),
        ("DELETE", f"/api/v1/nodes/{daemon.node}"),
        ("DELETE", f"{hold.NODE_NETWORKS}/{daemon.node}"),
        ("DELETE", "/apis/apps/v1/namespaces/kube-system/daemonsets/eniway-node"),
        ("DELETE", f"/api/v1/namespaces/kube-system/pods/{daemon.name}"),
        ("GET", f"{RBAC}/clusterroles"),
        ("GET", "/apis/coordination.k8s.io/v1/leases"),
    ):
        assert daemon.ask(method, path) == 403, f"{method} {path}"


def test_rbac_grants_a_daemon_what_the_manifests_list(box: Box, daemon: Daemon) -> None:
    """By the API server's own account of it: besides what every account has, nothing that is not in our roles."""
    kube = hold.kube_of(box)
    context = ssl.create_default_context(cadata=daemon.authority.decode())
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": "kube-system"},
    }
    answer = urllib3.PoolManager(ssl_context=context).request(
        "POST",
        f"{daemon.server}/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        body=json.dumps(review).encode(),
        headers={"Authorization": f"Bearer {daemon.token}", "Content-Type": "application/json"},
    )
    found = set(listed(json.loads(answer.data)["status"]["resourceRules"]))
    everybodys = {right for right in found if right[0] in {"authorization.k8s.io", "authentication.k8s.io"}}
    assert found - everybodys == rights(kube)[NODE]


CONNECT = """
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("connected to", path)
    except PermissionError:
        print("refused")
"""
FROM_A_POD = """
import sys, urllib.error, urllib.request
def ask(method, path):
    try:
        with urllib.request.urlopen(urllib.request.Request(sys.argv[1] + path, method=method), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
for line in sys.argv[2:]:
    print(ask(*line.split()))
"""
LISTENING = """
import os
held = {os.readlink(f"/proc/1/fd/{one}") for one in os.listdir("/proc/1/fd") if os.path.islink(f"/proc/1/fd/{one}")}
for table in ("tcp", "tcp6", "udp", "udp6"):
    for line in open(f"/proc/1/net/{table}").readlines()[1:]:
        part = line.split()
        if f"socket:[{part[9]}]" in held and part[3] == ("0A" if table.startswith("tcp") else "07"):
            print(table[:3], int(part[1].rpartition(":")[2], 16))
"""


def test_sockets_refuse_other_users(box: Box, daemon: Daemon) -> None:
    """The CNI's and the debug socket, on the node itself."""
    paths = ("/run/eniway/cni.sock", "/run/eniway/debug.sock")
    assert box.sh(daemon.node, ["python3", "-c", CONNECT, *paths]).split() == ["refused", "refused"]


def test_a_pod_reaches_metrics_and_health_and_nothing_else(
    box: Box, daemon: Daemon, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """One port, two paths, GET: whatever else is asked for is not there."""
    listening = kubectl_of(box)("exec", "-n", "kube-system", daemon.name, "--", "python3.11", "-c", LISTENING)
    assert set(listening.splitlines()) == {"tcp 9530"}
    kube = hold.kube_of(box)
    hold.start(kube, [hold.pod("asker", node=daemon.node)])
    try:
        (lease,) = [one for one in leases(box) if one["pod"] == f"{hold.HOLD}/asker"]
        (address,) = [str(node.address) for node in box.status().nodes if node.name == daemon.node]
        asked = ["GET /metrics", "GET /healthz", "POST /metrics", "DELETE /healthz", "PUT /", "GET /", "GET /leases"]
        asked += ["GET /node", "GET /debug/pprof", "GET /metrics/../etc/passwd"]
        command = ["nsenter", f"--net={lease['netns']}", "python3", "-c", FROM_A_POD, f"http://{address}:9530", *asked]
        said = [int(one) for one in box.sh(daemon.node, command).split()]
        assert said == [200, 200, 405, 405, 404, 404, 404, 404, 404, 404]
    finally:
        hold.delete(kube, ["asker"])


def leases(box: Box) -> list[dict[str, Any]]:
    """By the command, from outside."""
    return json.loads(run(box, "pods"))  # type: ignore[no-any-return]


def run(box: Box, *words: str) -> str:
    """What `eniway WORDS -o json` prints, from outside the cluster, with its administrator's kubeconfig."""
    argv = [sys.executable, "-m", "eniway.cli.main", *words, f"--kubeconfig={box.status().kubeconfig}", "--output=json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 3}, done.stderr
    return done.stdout
