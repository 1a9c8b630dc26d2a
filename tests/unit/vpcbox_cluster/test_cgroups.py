"""The laws of nodes' cgroups, on this machine's own hierarchies."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpcbox.cluster import cgroups

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.access(cgroups.ROOT, os.W_OK), reason="cgroups need root")


@pytest.fixture
def path() -> Iterator[str]:
    """A cgroup nobody else uses, gone afterwards."""
    name = f"vpcbox-test-{os.getpid()}"
    yield f"{name}/node-1"
    for hierarchy in cgroups.hierarchies():
        (hierarchy / name / "node-1").rmdir()
        (hierarchy / name).rmdir()


def test_a_process_can_enter_a_nodes_cgroup_in_every_hierarchy(path: str) -> None:
    """Made once or twice, the cgroup takes processes: a cpuset without processors would refuse them."""
    cgroups.create(path)
    cgroups.create(path)
    enter = "for cgroup; do echo $$ > $cgroup/cgroup.procs; done; cat /proc/self/cgroup"
    folders = [str(hierarchy / path) for hierarchy in cgroups.hierarchies() if _takes_processes(hierarchy / path)]
    entered = subprocess.run(["sh", "-euc", enter, "sh", *folders], capture_output=True, text=True, check=True).stdout
    assert entered.count(f"/{path}\n") == len(folders) > 0


def _takes_processes(cgroup: Path) -> bool:
    """Under v2 a cgroup that hands controllers down has processes only in its children."""
    control = cgroup / "cgroup.subtree_control"
    return not control.exists() or not control.read_text().strip()
