"""eniway is upgraded, rolled back, deleted and applied again under a hundred pods: what runs loses no packet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from demo import inside
from demo.application import ready
from demo.box import Box
from demo.kube import Kube, Object
from tests.box import hold
from tests.soak.flows import flows

DAEMON_SET = "daemonset/eniway-node"
NAMESPACE = "--namespace=kube-system"
MOST = 100
EXCLUSIVE = 3
"""One a node: as many slots as the box's configuration keeps for them."""
COMERS = ("comes-bound", "comes-between")


def crowd() -> list[Object]:
    """A hundred pods of all kinds that do nothing."""
    kinds = ["exclusive"] * EXCLUSIVE
    kinds += ["shared" if number % 2 else "routed" for number in range(MOST - EXCLUSIVE)]
    pods = []
    for number, kind in enumerate(kinds):
        annotations = {} if kind == "exclusive" else {"eniway.io/network": kind}
        pod = hold.pod(f"{kind}-{number}", exclusive=kind == "exclusive", annotations=annotations)
        container = pod["spec"]["containers"][0]
        container["args"] = ["pause"]
        del container["readinessProbe"]
        pods.append(pod)
    return pods


def roll(kubectl: Callable[..., str], *words: str) -> None:
    """Change the DaemonSet and wait until every node has it."""
    kubectl(*words, NAMESPACE)
    kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=300s")


def delete_and_apply(box: Box, kube: Kube, kubectl: Callable[..., str]) -> None:
    """Pods that come in between wait, one in its kubelet, for it is bound, one with the scheduler; then they start."""
    install, node = str(box.state / "install"), box.status().nodes[-1].name
    comers = [hold.pod(name, node=node) for name in COMERS]
    comers[0]["spec"]["nodeName"] = node
    try:
        kubectl("delete", "--kustomize", install)
        kube.until(hold.SYSTEM_PODS, lambda pods: None if pods else True, seconds=60, selector=hold.DAEMON)
        for comer in comers:
            kube.apply(comer)
        hold.event(kube, COMERS[0], "FailedCreatePodSandBox")
        hold.event(kube, COMERS[1], "FailedScheduling")
    finally:
        kubectl("apply", "--server-side", "--kustomize", install)
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=300s")
    hold.start(kube, comers)


def test_a_hundred_pods_lose_no_packet(
    box: Box, tmp_path: Path, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """Each has a flow of a hundred datagrams a second to an instance outside the cluster and back."""
    kube, kubectl = hold.kube_of(box), kubectl_of(box)
    hold.clear(kube)
    # An exclusive pod bound while kubelet does not have the devices back yet, it refuses for good
    hold.await_daemons(kube, len(box.status().nodes))
    hold.agree(box)
    for pod in crowd():
        kube.apply(pod)
    running = kube.until(hold.PODS, lambda pods: ready(pods, MOST), seconds=600)
    pids = inside.pids(pod["metadata"]["uid"] for pod in running)
    template = {"spec": {"template": {"metadata": {"annotations": {"eniway.io/upgraded": "yes"}}}}}
    with flows(tmp_path, box.status().outside) as sending:
        for pod in running:
            sending.begin(pod["metadata"]["name"], pids[pod["metadata"]["uid"]])
        roll(kubectl, "patch", DAEMON_SET, "--patch", json.dumps(template))
        roll(kubectl, "rollout", "undo", DAEMON_SET)
        delete_and_apply(box, kube, kubectl)
        counts = {name: sending.end(name) for name in sending.names()}
    hold.delete(kube, COMERS)
    assert len(counts) == MOST
    assert {name: count.complaint for name, count in counts.items() if count and count.complaint} == {}
    assert min(count.sent for count in counts.values() if count) > MOST
    hold.agree(box)
    hold.clear(kube)
    hold.agree(box)
