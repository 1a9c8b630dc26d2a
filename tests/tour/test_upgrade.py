"""eniway is upgraded and rolled back by its DaemonSet: what runs loses no packet."""

from __future__ import annotations

import json
from collections.abc import Callable

from demo.box import Box
from tests.box import hold
from tests.box.flow import flowing

NAMES = ("stays-shared", "stays-card", "stays-routed")
DAEMON_SET = "daemonset/eniway-node"
NAMESPACE = "--namespace=kube-system"


def test_upgrade_and_rollback_lose_no_packet(box: Box, kubectl_of: Callable[[Box], Callable[..., str]]) -> None:
    """Each replaces the daemon on every node; a pod of every kind answers all the while."""
    kube, kubectl, node = hold.kube_of(box), kubectl_of(box), box.status().nodes[-1].name
    pods = [
        hold.pod(NAMES[0], node=node),
        hold.pod(NAMES[1], node=node, exclusive=True),
        hold.pod(NAMES[2], node=node, annotations={"eniway.io/network": "routed"}),
    ]
    # An exclusive pod bound while kubelet does not have the devices back yet, it refuses for good
    hold.await_daemons(kube, len(box.status().nodes))
    hold.agree(box)
    addresses = [pod["status"]["podIP"] for pod in hold.start(kube, pods) if pod["metadata"]["name"] in NAMES]
    template = {"spec": {"template": {"metadata": {"annotations": {"eniway.io/upgraded": "yes"}}}}}
    with flowing(box, addresses) as flow:
        kubectl("patch", DAEMON_SET, NAMESPACE, "--patch", json.dumps(template))
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=120s")
        kubectl("rollout", "undo", DAEMON_SET, NAMESPACE)
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=120s")
    hold.clear(kube)
    assert flow.errors == []
    assert flow.lost == {}
    assert flow.sent > 0
    hold.agree(box)
