"""eniway is upgraded, rolled back, deleted and applied again under a hundred running pods: none loses a datagram."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo import inside
from demo.box import Box
from demo.kube import Object
from tests.box import hold
from tests.soak.flows import flows

PODS = 100
AT_ONCE = 20
ROUTED_EACH = 5
DAEMON_SET = "daemonset/eniway-node"
NAMESPACE = "--namespace=kube-system"


@pytest.fixture
def large_box(tmp_path: Path) -> Iterator[Box]:
    """Three nodes with room for a hundred pods."""
    box = Box(tmp_path / "box")
    with box.standing("--nodes", "3", "--instance-type", "ecs.g7.4xlarge"):
        yield box


def hundred(nodes: list[str]) -> list[Object]:
    """On each node one with an ENI of its own, some routed; all others share."""
    pods = [hold.pod(f"card-{node}", node=node, exclusive=True) for node in nodes]
    routed = {"eniway.io/network": "routed"}
    pods += [
        hold.pod(f"routed-{node}-{n}", node=node, annotations=routed) for node in nodes for n in range(ROUTED_EACH)
    ]
    pods += [hold.pod(f"shared-{n}", node=nodes[n % len(nodes)]) for n in range(PODS - len(pods))]
    return pods


def test_a_hundred_pods_do_not_notice(
    large_box: Box, tmp_path: Path, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """100 datagrams a second from each to an instance outside and back; a pod made meanwhile starts after."""
    box, kube, kubectl = large_box, hold.kube_of(large_box), kubectl_of(large_box)
    status, install = box.status(), str(box.state / "install")
    pods = hundred([node.name for node in status.nodes])
    names = {one["metadata"]["name"] for one in pods}
    for first in range(0, PODS, AT_ONCE):
        hold.start(kube, pods[first : first + AT_ONCE])
    uids = {one["metadata"]["uid"]: one["metadata"]["name"] for one in kube.get(hold.PODS)["items"]}
    assert set(uids.values()) == names

    def rolled_out() -> None:
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=180s")

    template = {"spec": {"template": {"metadata": {"annotations": {"eniway.io/upgraded": "yes"}}}}}
    comer = hold.pod("comes-between", node=status.nodes[-1].name)
    with flows(tmp_path, status.outside) as running:
        for uid, process in inside.pids(uids).items():
            running.begin(uids[uid], process)
        assert set(running.names()) == names
        kubectl("patch", DAEMON_SET, NAMESPACE, "--patch", json.dumps(template))
        rolled_out()
        kubectl("rollout", "undo", DAEMON_SET, NAMESPACE)
        rolled_out()
        kubectl("delete", "--kustomize", install)
        kube.until(hold.SYSTEM_PODS, lambda found: None if found else True, seconds=60, selector=hold.DAEMON)
        kube.apply(comer)
        hold.event(kube, "comes-between", "FailedScheduling")
        kubectl("apply", "--server-side", "--kustomize", install)
        rolled_out()
        hold.start(kube, [comer])
        counts = {name: running.end(name) for name in running.names()}
    assert {name: count for name, count in counts.items() if count is None or count.complaint} == {}
    assert {one["metadata"]["uid"] for one in kube.get(hold.PODS)["items"]} >= uids.keys()
    hold.agree(box)
