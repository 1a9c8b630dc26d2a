"""Wrong words, wrong keys, a cloud that is away or has nothing left: a clear error, and all else goes on."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml

from demo.box import Box
from demo.kube import ApiError, Kube, Object
from eniway.config import PoolConfig
from tests.box import hold

OPENAPI = "100.100.0.80"
CONFIG = "/api/v1/namespaces/kube-system/configmaps/eniway-config"
CREDENTIALS = "/api/v1/namespaces/kube-system/secrets/eniway-credentials"
PODS_POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/eniway-pods"


@pytest.fixture
def kube(box: Box) -> Kube:
    """The API server, and no pod of another test."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    return kube


@pytest.fixture
def node(box: Box) -> str:
    """The node that has it bad; the others go on as they were."""
    return box.status().nodes[0].name


@contextmanager
def changed(
    kube: Kube, path: str, change: Callable[[dict[str, str]], dict[str, str]], nodes: list[str]
) -> Iterator[None]:
    """The data of a ConfigMap or Secret changed; put right again, with new daemons on ``nodes``, at the end."""
    found = kube.get(path)
    kind = {"configmaps": "ConfigMap", "secrets": "Secret"}[path.split("/")[-2]]
    name = {"name": found["metadata"]["name"], "namespace": found["metadata"]["namespace"]}
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": name}
    kube.apply({**manifest, "data": change(found["data"])})
    try:
        yield
    finally:
        kube.apply({**manifest, "data": found["data"]})
        for one in nodes:
            hold.replace_daemon(kube, one)
        hold.await_daemons(kube, len(kube.get("/api/v1/nodes")["items"]))


def configured(data: dict[str, str], **settings: object) -> dict[str, str]:
    """The daemon's configuration with other settings."""
    return {"config.yaml": yaml.safe_dump(yaml.safe_load(data["config.yaml"]) | settings)}


def test_more_than_one_eni_is_refused_at_the_api_server(kube: Kube) -> None:
    """The sum over all containers counts, and the error names the field and the most there can be."""
    pod = hold.pod("two", exclusive=True)
    pod["spec"]["containers"].append({**pod["spec"]["containers"][0], "name": "another"})
    with pytest.raises(ApiError, match=r"limits\[aliyun/eni\].*at most 1 over all its containers, this one asks for 2"):
        kube.apply(pod)


def test_eni_on_the_host_network_is_refused_at_the_api_server(kube: Kube) -> None:
    """There is no network namespace to plug it into."""
    pod = hold.pod("hosted", exclusive=True)
    pod["spec"]["hostNetwork"] = True
    with pytest.raises(ApiError, match=r"spec\.hostNetwork: .*remove hostNetwork or the limit aliyun/eni"):
        kube.apply(pod)


def test_bad_annotation_is_refused_at_the_api_server(kube: Kube) -> None:
    """The error names the annotation, what was expected and what came."""
    with pytest.raises(ApiError, match=r"annotations\[eniway\.io/network\]: expected 'shared' or 'routed', got 'fast'"):
        kube.apply(hold.pod("fast", annotations={"eniway.io/network": "fast"}))


def test_bad_annotation_behind_the_api_server_is_refused_at_add(box: Box, kube: Kube, node: str) -> None:
    """Where the policy is not installed, the pod's own Event says what is wrong, and its neighbour runs."""
    binding = kube.get(PODS_POLICY)
    kept = {"apiVersion": binding["apiVersion"], "kind": binding["kind"], "metadata": {"name": "eniway-pods"}}
    kube.delete(PODS_POLICY)
    try:
        bad = hold.pod("fast", node=node, annotations={"eniway.io/network": "fast"})
        hold.settles(lambda: _refusals(kube, bad), seconds=hold.PATIENCE)
        message = hold.event(kube, "fast", "FailedCreatePodSandBox")
        assert "annotation eniway.io/network: expected 'shared' or 'routed', got 'fast'" in message
        hold.start(kube, [hold.pod("neighbour", node=node)])
    finally:
        kube.create(
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", kept | {"spec": binding["spec"]}
        )
    hold.clear(kube)
    hold.agree(box)


def test_unknown_configuration_key_is_refused_and_other_nodes_serve(box: Box, kube: Kube, node: str) -> None:
    """The daemon that reads it ends with the file, the key and its place; what runs goes on, other nodes take pods."""
    other = box.status().nodes[1].name
    hold.start(kube, [hold.pod("before", node=node)])
    with changed(kube, CONFIG, lambda data: configured(data, pool={"min_idle_adresses": 3}), [node]):
        name = hold.replace_daemon(kube, node)

        def ended(pods: list[Object]) -> str | None:
            statuses = [
                one
                for pod in pods
                if pod["metadata"]["name"] == name
                for one in pod["status"].get("containerStatuses", [])
            ]
            ends = (one.get("lastState", {}).get("terminated") or one["state"].get("terminated") for one in statuses)
            return next((str(end["exitCode"]) for end in ends if end), None)

        assert kube.until(hold.SYSTEM_PODS, ended, seconds=hold.PATIENCE) != "0"
        said = kube.raw("GET", f"{hold.SYSTEM_PODS}/{name}/log").decode()
        assert "/etc/eniway/config.yaml" in said
        assert "unknown field `min_idle_adresses` - at `$.pool`" in said
        assert kube.ask_pod(hold.HOLD, "before", 8080, "hostname") == b"before"
        hold.start(kube, [hold.pod("elsewhere", node=other)])
    hold.start(kube, [hold.pod("after", node=node)])
    hold.clear(kube)
    hold.agree(box)


def test_wrong_credentials_are_named_and_what_is_in_service_is_served(box: Box, kube: Kube, node: str) -> None:
    """The NodeNetwork and an Event on the Node say which file to look at; addresses in service still go to pods."""
    wrong = base64.b64encode(b"not-the-secret").decode()
    with changed(kube, CREDENTIALS, lambda data: {**data, "access_key_secret": wrong}, [node]):
        hold.replace_daemon(kube, node)
        hold.await_daemons(kube, len(box.status().nodes))
        hold.start(kube, [hold.pod(f"served-{number}", node=node) for number in range(3)])
        condition = hold.condition(kube, node, "CloudReachable", "False")
        assert condition["reason"] == "Credentials"
        assert "access_key_secret" in condition["message"]
        assert "not-the-secret" not in condition["message"]
        hold.event(kube, node, "Credentials", namespace="default")
    hold.condition(kube, node, "CloudReachable", "True")
    hold.clear(kube)
    hold.agree(box)


def test_unreachable_openapi_is_named_and_what_is_in_service_is_served(box: Box, kube: Kube, node: str) -> None:
    """A daemon that starts then serves from its ledger, and the NodeNetwork says which address does not answer."""
    rule = ["OUTPUT", "-d", OPENAPI, "-j", "REJECT"]
    # Those that cool down from the test before are not needed
    hold.settles(lambda: _short(box, node), seconds=hold.PATIENCE)
    box.sh(node, ["iptables", "-w", "-I", *rule])
    try:
        hold.replace_daemon(kube, node)
        hold.await_daemons(kube, len(box.status().nodes))
        hold.start(kube, [hold.pod(f"served-{number}", node=node) for number in range(3)])
        condition = hold.condition(kube, node, "CloudReachable", "False")
        assert OPENAPI in condition["message"]
    finally:
        box.sh(node, ["iptables", "-w", "-D", *rule])
    hold.condition(kube, node, "CloudReachable", "True")
    hold.clear(kube)
    hold.agree(box)


def test_empty_vswitches_are_named_and_addresses_in_service_are_served(box: Box, kube: Kube, node: str) -> None:
    """Every address in service goes to a pod; the next is told why it has to wait, and runs once there are more."""
    settings = {"add_deadline_seconds": 5.0, "pool": {"cooldown_seconds": 0.0}}
    with changed(kube, CONFIG, lambda data: configured(data, **settings), [node]):
        hold.replace_daemon(kube, node)
        hold.await_daemons(kube, len(box.status().nodes))
        # With enough ahead of demand, nothing is being assigned that could arrive later.
        hold.settles(lambda: _unsettled(box, node), seconds=hold.PATIENCE)
        for vswitch in box.status().vpc.vswitches:
            box.run("fault", "add", "vswitch-empty", f"target={vswitch.id}")
        try:
            served = _spare(box, node)
            hold.start(kube, [hold.pod(f"served-{number}", node=node) for number in range(served)])
            assert "vsw-" in hold.condition(kube, node, "SufficientIP", "False")["message"]
            # Placed by hand: the scheduler would keep it back.
            waits = hold.pod("waits")
            waits["spec"]["nodeName"] = node
            kube.apply(waits)
            assert "vsw-" in hold.event(kube, "waits", "FailedCreatePodSandBox")
            assert all(kube.ask_pod(hold.HOLD, f"served-{number}", 8080, "hostname") for number in range(served))
        finally:
            box.run("fault", "clear")
        hold.condition(kube, node, "SufficientIP", "True")
        hold.start(kube, [waits])
    hold.clear(kube)
    hold.agree(box)


def _words(box: Box, node: str) -> dict[str, int]:
    """The daemon's own words of capacity for addresses, as they are now: the NodeNetwork may be 5 s old."""
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9530/metrics').read().decode())"
    found = re.findall(
        r'eniway_capacity{what="addresses",word="(\w+)"} ([\d.]+)', box.sh(node, ["python3", "-c", fetch])
    )
    return {word: int(float(number)) for word, number in found}


def _spare(box: Box, node: str) -> int:
    """Addresses of a node that a pod can have without a call to the cloud."""
    words = _words(box, node)
    return words["in_service"] - words["used"] - words["cooling"] - words["orphaned"]


def _short(box: Box, node: str) -> list[str]:
    return [f"{node}: {_words(box, node)}"] if _spare(box, node) < PoolConfig().min_idle_addresses else []


def _unsettled(box: Box, node: str) -> list[str]:
    words = _words(box, node)
    return [*_short(box, node), *(f"{node}: {words}" for word in ("cooling", "orphaned") if words[word])]


def _refusals(kube: Kube, pod: Object) -> list[str]:
    """Apply a pod: the API server takes a moment to forget a policy."""
    try:
        kube.apply(pod)
    except ApiError as error:
        return [str(error)]
    return []
