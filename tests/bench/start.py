"""How long a pod takes from kubelet's admission to Running: with an ENI of its own that is warm, and with a shared one.

A pod is created on its node, past the scheduler, so that kubelet's Allocate is the first thing that happens to it.
kubelet looks once a second whether a container runs, which hides what the network takes: so there is a second figure,
by containerd's log, from the sandbox's beginning to the container's start.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from demo.kube import Kube, Object
from tests.bench.figures import Figure, median_of_ratios, rotated

KINDS = ("exclusive", "shared")
_PATIENCE = 60.0


_BEGAN = re.compile(r'^time="([^"]+)" level=info msg="RunPodSandbox for ', re.MULTILINE)
_STARTED = re.compile(r'^time="([^"]+)" level=info msg="StartContainer .* returns successfully"', re.MULTILINE)


def starts(kube: Kube, pods: str, manifests: dict[str, Object], turn: int, *, log: Path) -> dict[str, float]:
    """Milliseconds of one start of each kind, one after the other; the pods are gone at the end.

    ``log``: containerd's on their node, where nothing else starts meanwhile.
    """
    took: dict[str, float] = {}
    for kind in rotated(KINDS, turn):
        took[kind], took[f"{kind} sandbox"] = _start(kube, pods, manifests[kind], log)
    return took


def figures(rounds: list[dict[str, float]]) -> list[Figure]:
    """Both ratios, with how long a shared pod takes beside them."""
    return [
        _figure("from Allocate to Running", rounds, ""),
        _figure("from RunPodSandbox to the container's start", rounds, " sandbox"),
    ]


def _figure(what: str, rounds: list[dict[str, float]], which: str) -> Figure:
    ratio = median_of_ratios(rounds, f"exclusive{which}", f"shared{which}")
    beside = f"shared pod {median(one[f'shared{which}'] for one in rounds):.0f} ms"
    return Figure(f"exclusive pod, warm slot ÷ shared pod: {what}", ratio, "x", 1.2, beside=beside)


def _start(kube: Kube, pods: str, manifest: Object, log: Path) -> tuple[float, float]:
    name = manifest["metadata"]["name"]
    told = log.stat().st_size
    began = time.perf_counter()
    kube.create(pods, manifest)
    kube.until(pods, lambda found: _phase(found, name) == "Running" or None, seconds=_PATIENCE)
    took = (time.perf_counter() - began) * 1000
    with log.open("rb") as lines:
        lines.seek(told)
        said = lines.read().decode(errors="replace")
    kube.delete(f"{pods}/{name}", grace=1)
    kube.until(pods, lambda found: _phase(found, name) is None or None, seconds=_PATIENCE)
    return took, (_time(_STARTED, said) - _time(_BEGAN, said)) * 1000


def _time(what: re.Pattern[str], log: str) -> float:
    """Seconds since the epoch of the first such line; containerd writes nanoseconds."""
    if (found := what.search(log)) is None:
        raise RuntimeError(f"containerd's log has no {what.pattern}")
    return datetime.fromisoformat(found[1]).timestamp()


def _phase(pods: list[Object], name: str) -> str | None:
    return next((str(pod["status"].get("phase")) for pod in pods if pod["metadata"]["name"] == name), None)
