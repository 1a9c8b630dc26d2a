"""Pods go to nodes that have addresses for them, and wait in the scheduler's queue where none has."""

from __future__ import annotations

from demo.application import ready
from demo.box import Box
from demo.kube import Object
from tests.box import hold

VSWITCHES = "/apis/eniway.io/v1alpha1/vswitches"
REASONS = ("no free address", "cooling down", "Insufficient aliyun/eni-ip")


def test_pods_go_where_addresses_are_and_wait_where_there_are_none(box: Box) -> None:
    """Two nodes are full, the vSwitches empty: pods go to the third, then to none, until there are addresses again."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    # What cools now would come free in the middle of it
    hold.cool(kube)
    *full, roomy = [node.name for node in box.status().nodes]
    for vswitch in box.status().vpc.vswitches:
        box.run("fault", "add", "vswitch-empty", f"target={vswitch.id}")
    try:
        kube.until(VSWITCHES, lambda found: _empty(found) or None, seconds=hold.PATIENCE)
        warm = {one["metadata"]["name"]: _warm(one) for one in kube.get(hold.NODE_NETWORKS)["items"]}
        # One more than there are: it stays, and takes what may come back
        for node in full:
            for number in range(warm[node] + 1):
                kube.apply(hold.pod(f"{node}-{number}", node=node))
        kube.until(hold.PODS, lambda pods: _judged(pods, full) or None, seconds=hold.PATIENCE)
        kube.apply(hold.pod("first"))
        kube.apply(hold.pod("second"))
        bound = kube.until(hold.PODS, lambda pods: _bound(pods, "first", "second"), seconds=hold.PATIENCE)
        assert {one["spec"]["nodeName"] for one in bound} == {roomy}
        for number in range(warm[roomy]):
            kube.apply(hold.pod(f"late-{number}"))
        waiting = kube.until(hold.PODS, _told, seconds=hold.PATIENCE)
        assert waiting
        # Whoever is bound is served, though nothing can grow
        names = {one["metadata"]["name"] for one in waiting}

        def served(pods: list[Object]) -> object:
            bound = [one for one in pods if one["metadata"]["name"] not in names]
            return ready(bound, len(bound))

        kube.until(hold.PODS, served, seconds=hold.PATIENCE)
    finally:
        box.run("fault", "clear")
    kube.until(hold.PODS, lambda pods: _bound(pods, *names), seconds=hold.PATIENCE)
    hold.clear(kube)
    hold.agree(box)


def _empty(vswitches: list[Object]) -> bool:
    return bool(vswitches) and all(one.get("status", {}).get("available") == 0 for one in vswitches)


def _warm(network: Object) -> int:
    words = network["status"]["capacity"]["addresses"]
    return int(words["inService"] - words["orphaned"] - words["used"])


def _reason(pod: Object) -> str:
    """Why the scheduler has not bound it; "" where it says nothing of it."""
    conditions = pod["status"].get("conditions", [])
    return next((one.get("message", "") for one in conditions if one.get("reason") == "Unschedulable"), "")


def _judged(pods: list[Object], nodes: list[str]) -> bool:
    """Whether a pod waits for each of the nodes, and all others are bound."""
    waiting = [one for one in pods if not one["spec"].get("nodeName")]
    wanted = {one["spec"]["nodeSelector"]["kubernetes.io/hostname"] for one in waiting}
    return wanted == set(nodes) and all(any(why in _reason(one) for why in REASONS) for one in waiting)


def _bound(pods: list[Object], *names: str) -> list[Object] | None:
    found = [one for one in pods if one["metadata"]["name"] in names and one["spec"].get("nodeName")]
    return found if len(found) == len(names) else None


def _told(pods: list[Object]) -> list[Object] | None:
    """The pods that wait, once one that any node would do for is among them and all of them know why."""
    waiting = [one for one in pods if not one["spec"].get("nodeName")]
    free = [one for one in waiting if "nodeSelector" not in one["spec"]]
    return waiting if free and all(any(why in _reason(one) for why in REASONS) for one in waiting) else None
