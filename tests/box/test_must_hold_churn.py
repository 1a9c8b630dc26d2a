"""Pods come and go, some by force, and nothing is left that nobody owns."""

from __future__ import annotations

from demo.box import Box
from tests.box import hold

ROUNDS, EXCLUSIVE = 3, 3
SHARED = (31, 31, 29)


def test_a_hundred_pods_in_three_rounds_leave_no_trace(box: Box) -> None:
    """Every pod ran; half go by force, in turn; then ledger, kernel, kubelet and cloud agree."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    ran = 0
    for turn in range(ROUNDS):
        pods = [hold.pod(f"card-{turn}-{number}", exclusive=True) for number in range(EXCLUSIVE)]
        pods += [hold.pod(f"web-{turn}-{number}") for number in range(SHARED[turn])]
        running = hold.start(kube, pods)
        addresses = {one["status"]["podIP"] for one in running}
        assert len(addresses) == len(pods), "two pods have one address"
        ran += len(running)
        names = sorted(one["metadata"]["name"] for one in running)
        hold.delete(kube, names[::2], grace=0)
        hold.delete(kube, names[1::2])
    assert ran == 100
    hold.clear(kube)
    hold.agree(box)
