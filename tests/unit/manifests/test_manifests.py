"""The manifests say what the code says."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from eniway import config, names
from eniway.errors import BadConfig
from eniway.node.dropins import HOST_ETC, HostCards, render
from eniway.operator.app import LOCK, NAMESPACE
from image import build

TREE = Path(__file__).parents[3]
MANIFESTS = TREE / "manifests"
FILES = sorted(
    path
    for folder in ("base", "overlays")
    for path in (MANIFESTS / folder).rglob("*.yaml")
    if path.name != "config.yaml"
)


def objects() -> Iterator[dict[str, Any]]:
    for path in FILES:
        if path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text())


def one(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [item for item in objects() if item["kind"] == kind and (not name or item["metadata"]["name"] == name)]
    return found


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one("DaemonSet")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_manifest_names_its_kind(path: Path) -> None:
    """Each document is YAML and an object of a kind."""
    for item in yaml.safe_load_all(path.read_text()):
        assert item["apiVersion"], item
        assert item["kind"], item


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("config.yaml")), ids=lambda path: path.parent.name)
def test_the_daemon_takes_each_configuration(path: Path) -> None:
    """What stands in a ConfigMap is what eniway.config reads; a key more is refused."""
    text = path.read_text()
    config.parse(text, source=str(path))
    with pytest.raises(BadConfig, match="surplus"):
        config.parse(text + "surplus: 1\n", source=str(path))


def test_every_base_file_is_in_the_base() -> None:
    """No manifest is forgotten by kustomization.yaml."""
    listed = set(yaml.safe_load((MANIFESTS / "base/kustomization.yaml").read_text())["resources"])
    assert listed == {path.name for path in (MANIFESTS / "base").glob("*.yaml")} - {"kustomization.yaml", "config.yaml"}


def test_the_daemons_pod_runs_the_image_that_is_built(container: dict[str, Any]) -> None:
    """The tag is the version in setup.cfg."""
    assert container["image"] == build.settings(TREE, mtime=0, machine="x86_64").name
    (operator,) = one("Deployment", "eniway-operator")["spec"]["template"]["spec"]["containers"]
    assert operator["image"] == container["image"]
    assert operator["args"] == ["operator"]


def test_the_daemon_finds_its_files_where_names_says(container: dict[str, Any], pod: dict[str, Any]) -> None:
    """State, sockets, configuration, credentials and kubelet's folders are mounted at the paths the code uses."""
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    used = {
        names.STATE_DIRECTORY,
        names.RUN_DIRECTORY,
        names.CONFIG_FILE,
        names.CREDENTIALS_DIRECTORY,
        names.KUBELET_DEVICE_PLUGINS,
        str(Path(names.KUBELET_POD_RESOURCES).parent),
        f"{names.HOST_SYSCTLS}/net",
        *(str(HOST_ETC / path.partition("/")[0]) for path in render(HostCards("virtio_net", ("eth0",)))),
    }
    assert used <= set(mounts)
    assert {path for path in mounts if Path(path).is_relative_to(HOST_ETC)} <= used
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    for path, name in mounts.items():
        if "hostPath" in volumes[name]:
            source = volumes[name]["hostPath"]["path"].removeprefix("/var/run").removeprefix("/run")
            assert source == path.removeprefix("/run").removeprefix("/host")


def test_two_daemons_never_run_on_one_node(pod: dict[str, Any]) -> None:
    """The ledger and the device plugin's socket have one owner."""
    strategy = one("DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    assert pod["hostNetwork"]
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]


def test_the_daemon_has_three_capabilities_and_is_not_privileged(container: dict[str, Any]) -> None:
    """Each has its reason beside it in the manifest; one more needs one too."""
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"]}
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert "privileged" not in context
    text = (MANIFESTS / "base/daemonset.yaml").read_text()
    assert all(re.search(rf"- {name} +# \w", text) for name in context["capabilities"]["add"])


def test_the_probes_ask_the_port_that_is_served(container: dict[str, Any]) -> None:
    """The default of metrics_address and the port of the probes are one."""
    text = "cluster: c\nvswitches: [v]\nsecurity_groups: [s]\nservice_cidr: 10.0.0.0/16\n"
    served = config.parse(text, source="test").metrics_address.rpartition(":")[2]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == served
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}


def test_the_operators_lock_and_port_are_those_of_the_code() -> None:
    """Namespace and name of the Lease, and the default of operator.metrics_address."""
    assert (
        one("Deployment", "eniway-operator")["metadata"]["namespace"]
        == one("Role", "eniway-operator")["metadata"]["namespace"]
        == NAMESPACE
    )
    spec = one("Deployment", "eniway-operator")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == one("RoleBinding", "eniway-operator")["subjects"][0]["name"] == LOCK
    (container,) = spec["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == config.OperatorConfig().metrics_address.rpartition(":")[2]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {names.CONFIG_FILE, names.CREDENTIALS_DIRECTORY, str(Path(names.SWITCH_FILE).parent)}


@pytest.mark.parametrize(
    ("kind", "role", "rights"),
    [
        (
            "ClusterRole",
            "eniway-node",
            {
                ("", "nodes"): {"get"},
                ("", "pods"): {"list", "watch", "patch"},
                ("", "namespaces"): {"list", "watch"},
                ("networking.k8s.io", "networkpolicies"): {"list", "watch"},
                ("", "events"): {"create"},
                (names.GROUP, "nodenetworks"): {"create", "patch"},
                (names.GROUP, "nodenetworks/status"): {"patch"},
            },
        ),
        (
            "ClusterRole",
            "eniway-operator",
            {
                ("", "nodes"): {"list", "watch"},
                ("", "nodes/status"): {"patch"},
                ("", "events"): {"create"},
                (names.GROUP, "nodenetworks"): {"list", "watch"},
                (names.GROUP, "nodenetworks/status"): {"patch"},
                (names.GROUP, "vswitches"): {"list", "create", "patch", "delete"},
                (names.GROUP, "vswitches/status"): {"patch"},
            },
        ),
        (
            "Role",
            "eniway-operator",
            {
                ("coordination.k8s.io", "leases"): {"create"},
                ("coordination.k8s.io", f"leases/{LOCK}"): {"get", "update"},
            },
        ),
    ],
    ids=["node", "operator", "operator's lock"],
)
def test_each_process_has_these_rights_and_no_other(
    kind: str, role: str, rights: dict[tuple[str, str], set[str]]
) -> None:
    """A right that nobody uses is a right that somebody else will."""
    rules = defaultdict[tuple[str, str], set[str]](set)
    for rule in one(kind, role)["rules"]:
        for group, resource in product(rule["apiGroups"], rule["resources"]):
            rules[group, "/".join((resource, *rule.get("resourceNames", [])))] |= set(rule["verbs"])
    assert rules == rights


def test_no_credentials_stand_in_a_config_map() -> None:
    """They come from a Secret alone."""
    for path in MANIFESTS.rglob("config.yaml"):
        assert not re.search(r"access_key|secret", path.read_text(), re.IGNORECASE)
    secrets = [volume for volume in one("DaemonSet")["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    assert [volume["secret"]["secretName"] for volume in secrets] == ["eniway-credentials"]


def test_policies_use_the_names_of_the_code() -> None:
    """Resource, annotation, service account and group are those the daemon knows."""
    text = (MANIFESTS / "base/policies.yaml").read_text()
    assert names.RESOURCE_ENI in text
    assert names.ANNOTATION_NETWORK in text
    account = one("ServiceAccount", "eniway-node")["metadata"]
    assert f"system:serviceaccount:{account['namespace']}:{account['name']}" in text
    bound = {item["spec"]["policyName"] for item in objects() if item["kind"].endswith("PolicyBinding")}
    assert bound == {item["metadata"]["name"] for item in objects() if item["kind"].endswith("AdmissionPolicy")}


@pytest.mark.parametrize(("kind", "plural"), [("NodeNetwork", "nodenetworks"), ("VSwitch", "vswitches")])
def test_each_crd_is_the_one_that_is_written(kind: str, plural: str) -> None:
    """Group, version, plural and kind are those of the publishers' paths."""
    spec = one("CustomResourceDefinition", f"{plural}.{names.GROUP}")["spec"]
    assert [f"{spec['group']}/{version['name']}" for version in spec["versions"]] == [names.API_VERSION]
    assert (spec["names"]["kind"], spec["names"]["plural"], spec["scope"]) == (kind, plural, "Cluster")
    assert all("status" in version["subresources"] for version in spec["versions"])


def sidecars() -> Iterator[dict[str, Any]]:
    for path in ("control-plane/kube-scheduler.yaml", "second-scheduler/scheduler.yaml"):
        for item in yaml.safe_load_all((MANIFESTS / path).read_text()):
            spec = item["spec"] if item["kind"] == "Pod" else item.get("spec", {}).get("template", {}).get("spec", {})
            yield from (one for one in spec.get("containers", ()) if one["name"] == "eniway-extender")


def test_the_extender_beside_a_scheduler_is_the_image_that_is_built_and_keeps_its_journal() -> None:
    """In the static pod and in the second scheduler; where its configuration's defaults look for it."""
    defaults = config.ExtenderConfig()
    found = list(sidecars())
    assert len(found) == 2
    for container in found:
        assert container["image"] == build.settings(TREE, mtime=0, machine="x86_64").name
        assert container["args"][0] == "extender"
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert str(Path(defaults.journal).parent) in mounts
        assert container["livenessProbe"]["httpGet"]["port"] == int(defaults.address.rpartition(":")[2])
        (port,) = container["ports"]
        assert port == {"name": "metrics", "containerPort": int(defaults.metrics_address.rpartition(":")[2])}


@pytest.mark.parametrize("path", ["control-plane/scheduler.yaml", "second-scheduler/configuration.yaml"])
def test_the_scheduler_asks_the_extender_where_it_listens(path: str) -> None:
    """Names only, never ignorable, and no pod is left out; waiting pods are tried again in a second."""
    settings = yaml.safe_load((MANIFESTS / path).read_text())
    (extender,) = settings["extenders"]
    assert extender["urlPrefix"] == f"http://{config.ExtenderConfig().address}"
    assert (extender["nodeCacheCapable"], extender["ignorable"]) == (True, False)
    assert "managedResources" not in extender
    assert "bindVerb" not in extender
    assert settings["podMaxBackoffSeconds"] == 1


def test_the_extender_may_do_what_it_does_and_no_more() -> None:
    """It reads what feeds the index, and marks nodes."""
    rules = {
        (resource, verb)
        for rule in one("ClusterRole", "eniway-extender")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    read = {(what, verb) for what in ("pods", "nodenetworks", "vswitches") for verb in ("list", "watch")}
    assert rules == read | {("nodes/status", "patch")}


def test_what_binds_for_a_scheduler_has_a_right_of_its_own() -> None:
    """Nobody else has it: without this file the extender binds nothing, whatever its configuration says."""
    role, binding = yaml.safe_load_all((MANIFESTS / "control-plane/bind.yaml").read_text())
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods/binding"], "verbs": ["create"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == one("ClusterRoleBinding", "eniway-extender")["subjects"]


def test_the_second_scheduler_may_hold_its_lock() -> None:
    """No ConfigMap of a generator has the lock's name: kustomize would give the Role that one's, with its hash."""
    folder = MANIFESTS / "second-scheduler"
    lock = yaml.safe_load((folder / "configuration.yaml").read_text())["leaderElection"]["resourceName"]
    (rule,) = (
        rule
        for item in yaml.safe_load_all((folder / "scheduler.yaml").read_text())
        for rule in item.get("rules", ())
        if "resourceNames" in rule
    )
    assert rule["resourceNames"] == [lock]
    generated = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
    assert lock not in {one["name"] for one in generated}
