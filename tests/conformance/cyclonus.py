"""Cyclonus: generated policies, every pair of nine pods probed, compared with its own idea of the outcome.

All of its 230 cases are run, those included that it leaves out by default. They are cut into parts by their tags, each
case in the first part whose tag it has, so that a run that was ended goes on. The cases, the idea of the outcome and
the comparison are cyclonus' own; a pod is asked once for all its connections, since an exec for each of them loads two
cores until answers come late (vpcbox/cluster/components/cyclonus).
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.conformance.cluster import Cluster
from tests.conformance.progress import Outcome
from vpcbox.cluster.images import Image

IMAGES = (Image("docker.io/mfenwick100/cyclonus-worker:latest", ("/agnhost",), ("pause",)),)
PROGRAMS = ("agnhost", "worker")
_TAGS = (
    *("upstream-e2e", "example", "conflict", "action", "target", "end-port", "named-port", "pathological"),
    *("peer-ipblock", "namespaces-by-label", "all-namespaces", "egress"),
)
_REST = "all else"
PARTS = (*_TAGS, _REST)
_RELABELLING = ("upstream-e2e", "action")
"""Cyclonus forgets the address of a Service once it has given its pod other labels (probe.Pod.SetLabels), and then asks
each client's own loopback: the cases of these parts go to the pods' addresses, all others to Services. To its own
address a pod goes by its loopback, which no policy is about."""
_PATIENCE = 6 * 3600  # seconds of one part


def run(made: Cluster, scratch: Path, name: str, *, full: bool) -> Outcome:
    """One part; ``full`` probes two ports and two protocols, else one port over TCP."""
    report, began = scratch / "cyclonus.xml", time.monotonic()
    report.unlink(missing_ok=True)
    before = PARTS[: PARTS.index(name)]
    argv = [
        str(made.components.path("cyclonus")),
        f"--exclude={','.join(before)}",
        *([] if name == _REST else [f"--include={name}"]),
        *(["--to=pod-ip", "--ignore-loopback"] if name in _RELABELLING else ["--to=service-ip"]),
        *(["--full"] if full else []),
        f"--junit={report}",
    ]
    environment = {**os.environ, "KUBECONFIG": made.kubeconfig}
    done = subprocess.run(
        argv,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE,
        env=environment,
        cwd=scratch,
    )
    (scratch / f"cyclonus-{name.replace(' ', '-')}.log").write_text(done.stdout)
    cases = ET.parse(report).getroot().findall("testcase") if report.exists() else []
    failed = [case.get("name", "") for case in cases if case.find("failure") is not None]
    probes = re.findall(r"^\| probe on \w+ +\| +(\d+) \| +(\d+) \|", done.stdout, re.MULTILINE)
    passed = done.returncode == 0 and not failed and report.exists()
    failures = "failed: " + "; ".join(failed) if failed else done.stdout[-3000:]
    said = f"{len(cases)} cases" if passed else failures
    return Outcome(
        name,
        passed,
        round(time.monotonic() - began, 1),
        checks=sum(int(good) + int(bad) for good, bad in probes),
        said=said,
    )
