"""A hundred pods of all kinds, each with a flow of a hundred datagrams a second, none of which may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import inside
from demo.application import ready
from demo.box import Box
from demo.kube import Kube, Object
from tests.box import hold
from tests.soak.flows import flows

DAEMON_SET = "daemonset/eniway-node"
NAMESPACE = "--namespace=kube-system"
_MOST = 100
_EXCLUSIVE = 3
"""One a node: as many slots as the box's configuration keeps for them."""


def _pods() -> list[Object]:
    """They do nothing."""
    kinds = ["exclusive"] * _EXCLUSIVE
    kinds += ["shared" if number % 2 else "routed" for number in range(_MOST - _EXCLUSIVE)]
    pods = []
    for number, kind in enumerate(kinds):
        annotations = {} if kind == "exclusive" else {"eniway.io/network": kind}
        pod = hold.pod(f"{kind}-{number}", exclusive=kind == "exclusive", annotations=annotations)
        container = pod["spec"]["containers"][0]
        container["args"] = ["pause"]
        del container["readinessProbe"]
        pods.append(pod)
    return pods


@contextmanager
def crowd(box: Box, kube: Kube, scratch: Path) -> Iterator[None]:
    """They run, and their flows go to an instance outside the cluster and back; at the end all has to be in order."""
    hold.clear(kube)
    # An exclusive pod bound while kubelet does not have the devices back yet, it refuses for good
    hold.await_daemons(kube, len(box.status().nodes))
    hold.agree(box)
    for pod in _pods():
        kube.apply(pod)
    running = kube.until(hold.PODS, lambda pods: ready(pods, _MOST), seconds=600)
    pids = inside.pids(pod["metadata"]["uid"] for pod in running)
    with flows(scratch, box.status().outside) as sending:
        for pod in running:
            sending.begin(pod["metadata"]["name"], pids[pod["metadata"]["uid"]])
        yield
        counts = {name: sending.end(name) for name in sending.names()}
    assert len(counts) == _MOST
    complaints = {name: count.complaint for name, count in counts.items() if count and count.complaint}
    assert not complaints, complaints
    assert min(count.sent for count in counts.values() if count) > _MOST
    hold.agree(box)
    hold.clear(kube)
    hold.agree(box)
