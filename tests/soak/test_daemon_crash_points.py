"""A crash of the daemon at each point of a short story of pods, the kernel's among them: the next start puts it right.

What the points and laws are says ``tests.box.daemon_crash_points``, which a process of its own tells for each part.
"""

import json
import os
import subprocess
import sys

import pytest

PARTS = 4
KERNEL = {
    "start",
    "claim_ranges",
    "prepare_card",
    "retire_card",
    "park_card",
    "attach",
    "detach",
}
MESSAGES = {"Veth", "Addr", "Route", "Neigh", "Mark", "Member"}
CLOUD = {
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DescribeNetworkInterfaces",
}


@pytest.mark.parametrize("part", range(PARTS))
def test_after_a_crash_at_any_point_the_next_start_finishes_or_undoes(part: int) -> None:
    """All points of a part, one after the other; and the story has a point of each kind."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    program = [sys.executable, "-m", "tests.box.daemon_crash_points", str(part), str(PARTS)]
    told = subprocess.run(program, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    points = set(json.loads(told.stdout))
    expected = {f"{when} {what}" for when in ("before", "after") for what in ("write", *CLOUD, *KERNEL)}
    # Hot-plug and its end: the card changes namespace. The rule is the shared card's.
    expected |= {f"before Add {what}" for what in (*MESSAGES, "Rule")} | {"before Change Eni", "before Remove Rule"}
    expected |= {f"before Remove {what}" for what in ("Veth", "Route", "Mark", "Member")}
    assert expected <= points, expected - points
