"""`python -m tests.bench.wake`: in a box with real nodes, from an address coming free to the bind of who waits for it.

No node has an address, and no vSwitch one to grow by; a pod sleeps in the scheduler's queue and has been told why. A
pod of another node ends, its address cools down, and the node's NodeNetwork says that it is free: from then on.
Nothing else happens in the cluster. The scheduler's configuration is that of manifests/control-plane.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

from demo.box import Box
from demo.kube import Kube, Object
from tests.bench.figures import LEAST_ROUNDS, Figure, table
from tests.box import hold

BUILD = Path("build/bench")
BOUND = 2.0
POOL = {"min_idle_addresses": 4, "max_idle_addresses": 8, "cooldown_seconds": 2}
VSWITCHES = "/apis/eniway.io/v1alpha1/vswitches"


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.wake", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help=f"at least {LEAST_ROUNDS}")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    box = Box(BUILD / "box-wake")
    with box.standing("--nodes", "2"):
        kube = hold.kube_of(box)
        hold.configure(kube, pool=POOL)
        times = _rounds(box, kube, max(options.rounds, LEAST_ROUNDS))
    (BUILD / "wake.json").write_text(json.dumps(times) + "\n")
    what = "an address comes free to the bind of the pod that waits, real nodes"
    figures = [
        Figure(f"{what}, p50", median(times), "s", BOUND),
        Figure(f"{what}, worst of {len(times)}", max(times), "s", BOUND),
    ]
    print(f"\n{table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


def _rounds(box: Box, kube: Kube, rounds: int) -> list[float]:
    for vswitch in box.status().vpc.vswitches:
        box.run("fault", "add", "vswitch-empty", f"target={vswitch.id}")
    kube.until(VSWITCHES, lambda found: True if found and not any(map(_stock, found)) else None, seconds=hold.PATIENCE)
    count = 0
    times = list[float]()
    while (waiting := _refused(kube)) is None:
        count += 1
        kube.apply(hold.pod(f"p{count}"))
        kube.until(hold.PODS, lambda pods: True if all(map(_judged, pods)) else None, seconds=hold.PATIENCE)
    for turn in range(rounds):
        oldest = min(_bound(kube), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        hold.delete(kube, [oldest["metadata"]["name"]])
        kube.until(hold.NODE_NETWORKS, lambda found: True if any(map(_free, found)) else None, seconds=hold.PATIENCE)
        began = time.perf_counter()
        kube.until(hold.PODS, lambda pods, name=waiting: _is_bound(pods, name), seconds=hold.PATIENCE)  # type: ignore[misc]
        times.append(time.perf_counter() - began)
        print(f"round {turn + 1}: bound {times[-1]:.2f} s after the address came free", flush=True)
        count += 1
        kube.apply(hold.pod(f"p{count}"))
        waiting = f"p{count}"
        kube.until(hold.PODS, lambda pods: True if all(map(_judged, pods)) else None, seconds=hold.PATIENCE)
        # The one before has its address, or it would be this one's turn
        kube.until(hold.NODE_NETWORKS, lambda found: None if any(map(_free, found)) else True, seconds=hold.PATIENCE)
    return times


def _stock(vswitch: Object) -> int:
    return int(vswitch.get("status", {}).get("available", 1))


def _free(network: Object) -> bool:
    words = network["status"]["capacity"]["addresses"]
    return bool(words["inService"] - words["cooling"] - words["orphaned"] - words["used"] > 0)


def _judged(pod: Object) -> bool:
    """Whether the scheduler has bound it, or said why not."""
    return bool(pod["spec"].get("nodeName")) or _unschedulable(pod)


def _unschedulable(pod: Object) -> bool:
    return any(one.get("reason") == "Unschedulable" for one in pod["status"].get("conditions", []))


def _refused(kube: Kube) -> str | None:
    return next((one["metadata"]["name"] for one in kube.get(hold.PODS)["items"] if _unschedulable(one)), None)


def _bound(kube: Kube) -> list[Object]:
    return [one for one in kube.get(hold.PODS)["items"] if one["spec"].get("nodeName")]


def _is_bound(pods: list[Object], name: str) -> bool | None:
    return next((True for one in pods if one["metadata"]["name"] == name and one["spec"].get("nodeName")), None)


if __name__ == "__main__":
    sys.exit(main())
