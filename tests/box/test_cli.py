"""The verbs that look, from outside with a kubeconfig and on the node, at real pods."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from demo.box import Box
from tests.box import hold

Eniway = Callable[..., Any]


@pytest.fixture
def outside(box: Box) -> Eniway:
    """The command with the administrator's kubeconfig: what it found, and its exit status."""

    def run(*words: str, status: int = 0) -> Any:
        kubeconfig = f"--kubeconfig={box.status().kubeconfig}"
        argv = [sys.executable, "-m", "eniway.cli.main", *words, kubeconfig, "--output=json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    return run


def test_pods_of_each_kind_are_told_alike_from_outside_and_on_the_node(
    box: Box, outside: Eniway, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """Kind, address, card and the steps of the ADD: by the API server's exec, and by the socket alone."""
    kube = hold.kube_of(box)
    node = box.status().nodes[0].name
    names = ["told-shared", "told-card"]
    running = hold.start(kube, [hold.pod(names[0], node=node), hold.pod(names[1], node=node, exclusive=True)])
    try:
        found = {lease["pod"].partition("/")[2]: lease for lease in outside("pods")}
        for pod in running:
            name = pod["metadata"]["name"]
            if name in names:
                lease = found[name]
                assert lease["address"] == pod["status"]["podIP"]
                assert (lease["node"], lease["uid"]) == (node, pod["metadata"]["uid"])
                assert lease["kind"] == ("exclusive" if name == "told-card" else "shared")
                assert (lease["serviceAddress"] is not None) == (lease["kind"] == "exclusive")
        (added,) = outside("trace", "told-shared", f"--namespace={hold.HOLD}")
        assert (added["verb"], added["kind"], added["result"]) == ("ADD", "shared", "success")
        assert [step["name"] for step in added["steps"]] == ["turn", "kubelet", "lease", "kernel", "books"]
        assert sum(step["seconds"] for step in added["steps"]) <= added["seconds"]
        daemon = hold.daemons(kube)[node]["metadata"]["name"]
        inside = kubectl_of(box)("exec", "-n", "kube-system", daemon, "--", "eniway", "pods", "-o", "json")
        assert json.loads(inside) == [lease for lease in outside("pods") if lease["node"] == node]
    finally:
        hold.delete(kube, names)


def test_a_pod_that_is_gone_leaves_its_trace(box: Box, outside: Eniway) -> None:
    """As long as its node's daemon runs: its ADD and its DEL."""
    kube = hold.kube_of(box)
    hold.start(kube, [hold.pod("was")])
    hold.delete(kube, ["was"])
    kube.until(
        hold.PODS,
        lambda pods: None if any(pod["metadata"]["name"] == "was" for pod in pods) else True,
        seconds=hold.PATIENCE,
    )
    verbs = [request["verb"] for request in outside("trace", f"{hold.HOLD}/was")]
    assert verbs[0] == "ADD"
    assert "DEL" in verbs


def test_status_names_every_node(box: Box, outside: Eniway) -> None:
    """With its capacity, and a daemon that is ready."""
    nodes = {node["node"]: node for node in outside("status")}
    assert set(nodes) == {node.name for node in box.status().nodes}
    for node in nodes.values():
        assert node["unhealthy"] is None
        assert node["status"]["capacity"]["addresses"]["free"] > 0


def test_a_pod_nobody_knows_is_no_success(outside: Eniway) -> None:
    """Its exit status says so."""
    assert outside("trace", "default/nobody", status=3) == []
