"""Kubernetes' own end-to-end specs of NetworkPolicy, each in a process of its own.

Left out are the specs that need SCTP sockets, which few kernels have: ``[Feature:SCTPConnectivity]``.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.cluster import Cluster
from tests.conformance.progress import Outcome
from vpcbox.cluster.images import Image

IMAGES = (Image("registry.k8s.io/e2e-test-images/agnhost:2.56", ("/agnhost",), ("pause",)),)
PROGRAMS = ("agnhost",)
_FOCUS, _SKIP = r"\[sig-network\] Netpol", r"SCTPConnectivity"
_PATIENCE = 900  # seconds of one spec


def names(made: Cluster, scratch: Path) -> list[str]:
    """The full texts of the specs, in the suite's order."""
    report = scratch / "specs.json"
    _suite(made, scratch, "--ginkgo.dry-run", f"--ginkgo.focus={_FOCUS}", f"--ginkgo.json-report={report}")
    return [text for text, state in _states(report) if state != "skipped"]


def run(made: Cluster, scratch: Path, name: str) -> Outcome:
    """One spec."""
    report, began = scratch / "spec.json", time.monotonic()
    report.unlink(missing_ok=True)
    done = _suite(made, scratch, f"--ginkgo.focus={_pattern(name)}$", f"--ginkgo.json-report={report}")
    states = [state for text, state in _states(report) if text == name] if report.exists() else []
    passed = done.returncode == 0 and states == ["passed"]
    said = "" if passed else done.stdout[-3000:]
    return Outcome(name, passed, round(time.monotonic() - began, 1), checks=len(states), said=said)


def _suite(made: Cluster, scratch: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [
        str(made.components.path("e2e.test")),
        f"--kubeconfig={made.kubeconfig}",
        "--provider=skeleton",
        f"--ginkgo.skip={_SKIP}",
        "--ginkgo.no-color",
        "--dump-logs-on-failure=false",
        f"--report-dir={scratch}",
        *words,
    ]
    return subprocess.run(
        argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_PATIENCE, cwd=scratch
    )


def _pattern(text: str) -> str:
    """What matches just this text, in Go's syntax, which knows no escaped blank as Python's does."""
    return re.sub(r"[^\w\s/,-]", lambda found: f"\\{found[0]}", text)


def _states(report: Path) -> Iterator[tuple[str, str]]:
    for suite in json.loads(report.read_text()):
        for spec in suite["SpecReports"] or ():
            if spec["LeafNodeType"] == "It":
                yield " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]]), spec["State"]
