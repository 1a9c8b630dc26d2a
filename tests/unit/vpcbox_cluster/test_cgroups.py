"""The laws of nodes' cgroups, on this machine's own hierarchies."""

import os
import subprocess
import time
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


def test_a_cgroup_goes_when_the_last_process_below_it_has_gone(path: str) -> None:
    """Processes are found in any hierarchy and however deep; while one is there, so is the cgroup."""
    below = f"{path}/kubepods"
    cgroups.create(f"{below}/pod")
    folder = next(h / below / "pod" for h in cgroups.hierarchies() if _takes_processes(h / below / "pod"))
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        (folder / "cgroup.procs").write_text(str(sleeper.pid))
        assert cgroups.processes(below) == {sleeper.pid}
        assert not cgroups.remove(below)
        sleeper.kill()
    while not cgroups.remove(below):
        time.sleep(0.01)
    assert not any((hierarchy / below).exists() for hierarchy in cgroups.hierarchies())
    assert cgroups.processes(below) == set()
    assert cgroups.remove(below), "a second time there is nothing to do"
