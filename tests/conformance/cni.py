"""The CNI door against cnitool and containerd, in boxes of its own, under each version of the specification.

Two containerds: 2.x, whose libcni knows all versions, and Debian 12's 1.6, which stops at 1.0.0 and has no STATUS.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
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
DEBIAN = Path("build/containerd/usr/bin")
NEWEST_OF_DEBIAN = "1.0.0"


def run() -> int:
    """Bring the boxes up, ask, and say what came of it; 0 only if every verb did what the specification says."""
    cnitool = ensure(["cnitool"]).path("cnitool")
    box = Box(STATE)
    with box.standing("--nodes", "1"):
        # cnitool's pods are nobody's: with policies an ADD waits until the API server tells of its pod.
        hold.configure(hold.kube_of(box), networkpolicy=False)
        findings = [*by_cnitool(box, cnitool), *by_containerd(box, on_node.VERSIONS)]
    with box.standing("--nodes", "1", "--containerd", str(DEBIAN)):
        known = [*takewhile(lambda version: version != NEWEST_OF_DEBIAN, on_node.VERSIONS), NEWEST_OF_DEBIAN]
        findings += by_containerd(box, known)
    for version, who, what, complaint in findings:
        sys.stdout.write(f"{version:12}  {who:17}  {what:10}  {complaint or 'as specified'}\n")
    return 1 if any(complaint for *_, complaint in findings) else 0


def by_cnitool(box: Box, cnitool: Path) -> list[Finding]:
    """All verbs, by the specification's own client."""
    [node] = box.status().nodes
    program = str(Path(on_node.__file__).absolute())
    told = json.loads(box.sh(node.name, [sys.executable, program, str(cnitool)]))
    return [(version, kind, verb, complaint) for version, kind, verb, complaint in told]


def by_containerd(box: Box, versions: Sequence[str]) -> Iterator[Finding]:
    """A pod's life by the box's containerd and kubelet, told by the conflist to speak one version; and as installed."""
    [node] = box.status().nodes
    kube = hold.kube_of(box)
    [found] = kube.get("/api/v1/nodes")["items"]
    runtime = found["status"]["nodeInfo"]["containerRuntimeVersion"].replace("://", " ").partition("~")[0]
    yield "as installed", runtime, "pods", _life_of(kube, "conformance-as-installed")
    installed = json.loads(box.sh(node.name, ["cat", str(on_node.CONFLIST)]))
    del installed["cniVersions"]
    for version in versions:
        text = json.dumps({**installed, "cniVersion": version})
        box.sh(node.name, ["sh", "-ec", 'printf %s "$1" >"$2.new" && mv "$2.new" "$2"', "sh", text, FIRST])
        yield version, runtime, "pods", _life_of(kube, f"conformance-{version.replace('.', '-')}")
    box.sh(node.name, ["rm", FIRST])
    hold.agree(box)


def _life_of(kube: Kube, name: str) -> str:
    """Start a pod of each kind and end them; what went wrong."""
    routed = hold.pod(f"{name}-routed", annotations={"eniway.io/network": "routed"})
    try:
        hold.start(kube, [hold.pod(name), hold.pod(f"{name}-exclusive", exclusive=True), routed])
        hold.delete(kube, [name, f"{name}-exclusive", f"{name}-routed"])
        kube.until(hold.PODS, lambda pods: None if pods else True, seconds=hold.PATIENCE)
    except (AssertionError, TimeoutError) as error:
        return str(error)
    return ""
