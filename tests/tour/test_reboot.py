"""A node is drained, rebooted and uncordoned: its pods come back, and nothing leaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.application import ready
from demo.box import Box
from demo.kube import Kube, Object
from tests.box import hold

REPLICAS = {"shared": 4, "routed": 2, "exclusive": 1}


def deployment(kind: str, node: str) -> Object:
    """Pods of a kind that have to be on one node."""
    annotations = {} if kind == "exclusive" else {"eniway.io/network": kind}
    pod = hold.pod(kind, node=node, exclusive=kind == "exclusive", annotations=annotations)
    labels = {"app": kind}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": kind, "namespace": hold.HOLD},
        "spec": {
            "replicas": REPLICAS[kind],
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod["spec"]},
        },
    }


def refused(pod: Object) -> bool:
    """By a kubelet that starts before the devices are back: for good, and its Deployment makes another."""
    return bool(pod["status"].get("reason") == "UnexpectedAdmissionError")


def all_answer(kube: Kube) -> set[str]:
    """Wait for all pods; their uids once each answers."""
    wanted = sum(REPLICAS.values())
    pods = kube.until(hold.PODS, lambda found: ready([pod for pod in found if not refused(pod)], wanted), seconds=300)
    for pod in pods:
        name = pod["metadata"]["name"]
        assert kube.ask_pod(hold.HOLD, name, 8080, "hostname").decode() == name
    return {pod["metadata"]["uid"] for pod in pods}


@pytest.mark.parametrize("drained", [True, False], ids=["drained", "as-it-is"])
def test_pods_come_back_after_a_reboot(
    box: Box, kubectl_of: Callable[[Box], Callable[..., str]], drained: bool
) -> None:
    """Drained, new pods wait for it; as it is, kubelet starts its pods in sandboxes of the new boot."""
    kube, kubectl, node = hold.kube_of(box), kubectl_of(box), box.status().nodes[-1].name
    hold.clear(kube)
    hold.await_daemons(kube, len(box.status().nodes))
    hold.agree(box)
    for kind in REPLICAS:
        kube.apply(deployment(kind, node))
    before = all_answer(kube)
    hold.agree(box)
    if drained:
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        hold.agree(box)
    box.run("instance", "reboot", node)
    if drained:
        kubectl("uncordon", node)
    kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s")
    hold.await_daemons(kube, len(box.status().nodes))
    after = all_answer(kube)
    assert not (drained and before & after)
    hold.agree(box)
    hold.clear(kube)
    hold.agree(box)
