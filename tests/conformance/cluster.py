"""A box for suites that know nothing of eniway: their image under the names they ask for, pods of the kind under test.

The kind comes by an admission policy, so that the suites run as they are: ``exclusive`` gives every pod of theirs an
ENI, ``mixed`` those whose name ends in every other letter or digit.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from demo.box import Box
from vpcbox.cluster.components import ComponentSet, ensure
from vpcbox.cluster.images import Image, write_archive

INSTANCE_TYPE = "ecs.g7.16xlarge"
"""Eight ENIs with 30 addresses each."""
EXCLUSIVE_SLOTS = 6
KINDS = ("shared", "exclusive", "mixed")
_WHICH = {"exclusive": ".", "mixed": "[bdfhjlnprtvxz13579]$"}
_NAMESPACE = "kube-system"


class Cluster:
    """A box with its kubectl."""

    def __init__(self, box: Box, components: ComponentSet) -> None:
        self.box = box
        self.components = components
        self.kubeconfig = box.status().kubeconfig

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """What the real kubectl prints; CalledProcessError where it fails."""
        argv = [str(self.components.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *words]
        return subprocess.run(argv, input=stdin, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def cluster(
    state: Path, suite: str, *, kind: str, images: tuple[Image, ...], programs: tuple[str, ...]
) -> Iterator[Cluster]:
    """Three nodes with eniway, and pods of ``kind``, for as long as the context lasts.

    ``programs`` are what the suite's ``images`` are made of.
    """
    components = ensure(("kubernetes", suite), lambda line: print(line, flush=True))
    box = Box(state)
    box.run("down")
    try:
        box.run("up", "--nodes", "3", "--instance-type", INSTANCE_TYPE, "--install", "eniway")
        made = Cluster(box, components)
        archive = state / "suite.tar"
        write_archive(archive, map(components.path, programs), images)
        box.run("image", "load", str(archive))
        if kind != "shared":
            _give_cards(made, kind)
        yield made
    finally:
        box.run("down")


def _give_cards(made: Cluster, kind: str) -> None:
    config_map = json.loads(made.kubectl("get", "configmap", "eniway-config", f"--namespace={_NAMESPACE}", "-ojson"))
    config = yaml.safe_load(config_map["data"]["config.yaml"])
    pool = config.get("pool", {}) | {"exclusive_slots": EXCLUSIVE_SLOTS, "warm_exclusive": EXCLUSIVE_SLOTS}
    config_map["data"]["config.yaml"] = yaml.safe_dump(config | {"pool": pool})
    made.kubectl("replace", "-f", "-", stdin=json.dumps(config_map))
    for verb in ("restart", "status"):
        made.kubectl("rollout", verb, "daemonset/eniway-node", f"--namespace={_NAMESPACE}")
    name = {"name": f"conformance-{kind}"}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1beta1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": name,
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [_NAMESPACE]}
                    ]
                },
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                ],
            },
            "matchConditions": [
                {
                    "name": "chosen",
                    "expression": f"object.metadata.name.matches('{_WHICH[kind]}') && "
                    "!(has(object.spec.hostNetwork) && object.spec.hostNetwork)",
                }
            ],
            "mutations": [
                {
                    "patchType": "JSONPatch",
                    "jsonPatch": {
                        "expression": "[JSONPatch{op: 'add', path: '/spec/containers/0/resources', value: "
                        "{'limits': {'aliyun/eni': '1'}, 'requests': {'aliyun/eni': '1'}}}]"
                    },
                }
            ],
        },
    }
    binding = {
        "apiVersion": policy["apiVersion"],
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": name,
        "spec": {"policyName": name["name"]},
    }
    for manifest in (policy, binding):
        made.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
