"""Short stories of a whole daemon, faults and kills; `python -m tests.soak.daemon` tells long ones.

A seed that fails is kept here. A process of its own plays the node: it leaves the machine's namespaces for good.
"""

import os
import subprocess
import sys

import pytest

STEPS = 150


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_story_of_a_daemon_ends_badly(seed: int) -> None:
    """No double lease, nothing lost that was told, no ENI twice, nothing left behind in cloud or kernel."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    words = ["--seed", str(seed), "--steps", str(STEPS), "--each", str(STEPS), "--log", "critical"]
    told = subprocess.run(
        [sys.executable, "-m", "tests.soak.daemon", *words], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert f"{STEPS} steps held" in told.stdout
