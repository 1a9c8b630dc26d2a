"""More pods on a node than it has shared addresses: with `shared-else-routed` all of them run."""

from __future__ import annotations

from collections import Counter

from demo.box import Box
from tests.box import agreement, hold

PODS = 60
SHARED = 28
"""Two cards for shared pods with 14 secondary addresses each: ecs.g7.xlarge with one exclusive slot."""
SETTINGS = {"default_network": "shared-else-routed", "shared_patience_seconds": 30}


def soak_fallback(box: Box) -> list[str]:
    """Start them all at once; what was wrong."""
    kube = hold.kube_of(box)
    hold.configure(kube, **SETTINGS)
    [node] = box.status().nodes
    complaints: list[str] = []
    try:
        hold.start(kube, [hold.pod(f"many-{number}", node=node.name) for number in range(PODS)])
        leases, _ = agreement.read_ledger(box.state / "nodes" / node.name / "eniway" / "ledger.db")
        kinds = Counter(lease.kind for lease in leases)
        if kinds != {"shared": SHARED, "routed": PODS - SHARED}:
            complaints.append(f"{PODS} pods: expected {SHARED} shared and {PODS - SHARED} routed, got {dict(kinds)}")
        hold.agree(box)
    except (AssertionError, TimeoutError) as error:
        complaints.append(f"{PODS} pods with shared-else-routed: {error}")
    return complaints
