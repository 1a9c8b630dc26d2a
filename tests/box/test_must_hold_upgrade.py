"""eniway is deleted and applied again: what runs loses no packet, what comes waits.

Roll-outs are in `make tour`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from demo.box import Box
from demo.kube import Kube
from tests.box import hold
from tests.box.flow import flowing

Kubectl = Callable[..., str]
NAMES = ("stays-shared", "stays-card", "stays-routed")
DAEMON_SET = "daemonset/eniway-node"


@pytest.fixture
def kube(box: Box) -> Kube:
    """Its API server."""
    return hold.kube_of(box)


@pytest.fixture
def addresses(box: Box, kube: Kube) -> Iterator[list[str]]:
    """Those of a pod of each kind that runs throughout."""
    node = box.status().nodes[-1].name
    pods = [
        hold.pod(NAMES[0], node=node),
        hold.pod(NAMES[1], node=node, exclusive=True),
        hold.pod(NAMES[2], node=node, annotations={"eniway.io/network": "routed"}),
    ]
    # An exclusive pod bound while kubelet does not have the devices back yet, it refuses for good
    hold.await_daemons(kube, len(box.status().nodes))
    hold.agree(box)
    running = hold.start(kube, pods)
    yield [pod["status"]["podIP"] for pod in running if pod["metadata"]["name"] in NAMES]
    hold.clear(kube)


def test_eniway_deleted_leaves_what_runs_and_what_comes_waits(
    box: Box, kube: Kube, addresses: list[str], kubectl_of: Callable[[Box], Kubectl]
) -> None:
    """`kubectl delete -k` and `apply -k`: no packet is lost; pods made in between start after.

    One waits in its kubelet, for it is bound already; the other with the scheduler, whose extender knows of no room.
    """
    kubectl, install, node = kubectl_of(box), str(box.state / "install"), box.status().nodes[-1].name
    comers = [hold.pod("comes-bound", node=node), hold.pod("comes-between", node=node)]
    comers[0]["spec"]["nodeName"] = node
    with flowing(box, addresses) as flow:
        try:
            kubectl("delete", "--kustomize", install)
            kube.until(hold.SYSTEM_PODS, lambda pods: None if pods else True, seconds=60, selector=hold.DAEMON)
            for comer in comers:
                kube.apply(comer)
            hold.event(kube, "comes-bound", "FailedCreatePodSandBox")
            hold.event(kube, "comes-between", "FailedScheduling")
        finally:
            kubectl("apply", "--server-side", "--kustomize", install)
            kubectl("rollout", "status", DAEMON_SET, "-n", "kube-system", "--timeout=120s")
        hold.start(kube, comers)
    hold.delete(kube, ["comes-bound", "comes-between"])
    assert flow.errors == []
    assert flow.lost == {}, f"of {flow.sent} to {addresses}, each of {sorted(NAMES)}"
    assert flow.sent > 0
    hold.agree(box)
