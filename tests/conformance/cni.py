"""The CNI door against cnitool and containerd, in a box of its own, under each version of the specification."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from demo.box import Box
from demo.kube import Kube
from tests.box import hold
from tests.conformance import on_node
from tests.conformance.on_node import Finding
from vpcbox.cluster.components import ensure

STATE = Path("build/conformance/cni-box")
FIRST = "/etc/cni/net.d/05-conformance.conflist"
"""The runtime takes the first file."""


def run() -> int:
    """Bring the box up, ask, and say what came of it; 0 only if every verb did what the specification says."""
    components = ensure(["cnitool"])
    box = Box(STATE)
    try:
        box.run("up", "--nodes", "1", "--install", "eniway")
        # cnitool's pods are nobody's: with policies an ADD waits until the API server tells of its pod.
        hold.configure(hold.kube_of(box), networkpolicy=False)
        findings = [*by_cnitool(box, components.path("cnitool")), *by_containerd(box)]
    finally:
        box.run("down")
    for version, who, what, complaint in findings:
        sys.stdout.write(f"{version}  {who:10}  {what:10}  {complaint or 'as specified'}\n")
    return 1 if any(complaint for *_, complaint in findings) else 0


def by_cnitool(box: Box, cnitool: Path) -> list[Finding]:
    """All verbs, by the specification's own client."""
    [node] = box.status().nodes
    program = str(Path(on_node.__file__).absolute())
    told = json.loads(box.sh(node.name, [sys.executable, program, str(cnitool)]))
    return [(version, kind, verb, complaint) for version, kind, verb, complaint in told]


def by_containerd(box: Box) -> Iterator[Finding]:
    """A pod's life by the box's containerd and kubelet, told by the conflist to speak one version."""
    [node] = box.status().nodes
    kube = hold.kube_of(box)
    installed = json.loads(box.sh(node.name, ["cat", str(on_node.CONFLIST)]))
    del installed["cniVersions"]
    for version in on_node.VERSIONS:
        text = json.dumps({**installed, "cniVersion": version})
        box.sh(node.name, ["sh", "-ec", 'printf %s "$1" >"$2.new" && mv "$2.new" "$2"', "sh", text, FIRST])
        name = f"conformance-{version.replace('.', '-')}"
        yield version, "containerd", "a pod", _life_of(kube, name)
    box.sh(node.name, ["rm", FIRST])
    hold.agree(box)


def _life_of(kube: Kube, name: str) -> str:
    """Start a pod and end it; what went wrong."""
    try:
        hold.start(kube, [hold.pod(name)])
        hold.delete(kube, [name])
        kube.until(hold.PODS, lambda pods: None if pods else True, seconds=hold.PATIENCE)
    except (AssertionError, TimeoutError) as error:
        return str(error)
    return ""
