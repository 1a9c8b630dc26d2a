"""Boxes with a cluster on them come, grow, die and go."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vpcbox.cluster.components import ensure
from vpcbox.cluster.images import AGNHOST
from vpcbox.state import read, start_time

CHECKOUT = Path(__file__).parents[2]
POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: resident, namespace: default}}
spec:
  hostNetwork: true
  nodeName: node-1
  containers:
    - {{name: pause, image: "{AGNHOST}", args: [pause], volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}
  volumes: [{{name: scratch, emptyDir: {{medium: Memory}}}}]
"""


class Box:
    """A directory, and the commands on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *words: str) -> str:
        """Run a command of vpcbox that must succeed."""
        verb = words[:2] if words[0] in {"node", "instance", "image", "fault"} else words[:1]
        argv = [sys.executable, "-m", "vpcbox", *verb, "--state", str(self.directory), *words[len(verb) :]]
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        status: dict[str, Any] = json.loads(self.run("status", "--json"))
        return status

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl on the box's cluster."""
        argv = [str(ensure(["kubernetes"]).path("kubectl")), f"--kubeconfig={self.status()['kubeconfig']}", *words]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def nodes(self) -> list[str]:
        """Names of the cluster's nodes, in order."""
        return sorted(self.kubectl("get", "nodes", "--output=jsonpath={.items[*].metadata.name}").split())


@pytest.fixture(scope="module")
def make_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Box]]:
    """Make boxes that end with the tests of this file."""
    if os.geteuid() != 0:
        pytest.skip("a box is made of namespaces, mounts and cgroups: it needs root")
    made: list[Box] = []

    def make(name: str) -> Box:
        made.append(Box(tmp_path_factory.mktemp(name) / "box"))
        return made[-1]

    yield make
    for box in made:
        box.run("down")


def _descendants(ancestor: int) -> dict[int, int]:
    """Return every process below one, containers' too: when it started by pid."""
    parents = {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, generation = set(), {ancestor}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        found |= generation
    return {pid: started for pid in found if (started := start_time(pid))}


def test_a_killed_box_with_running_pods_leaves_nothing_and_comes_up_again(make_box: Callable[[str], Box]) -> None:
    """SIGKILL clears containers with the rest, down removes cgroups and files, up in the same place works at once."""
    box = make_box("killed")
    box.run("up", "--nodes", "1", "--install", "none")
    box.kubectl("create", "--filename=-", stdin=POD)
    box.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/resident")
    pid, record = box.status()["pid"], read(box.directory)
    assert record is not None
    below = _descendants(pid)
    commands = [Path(f"/proc/{each}/cmdline").read_text() for each in below]
    assert sum("agnhost" in command for command in commands) >= 2, "the sandbox's pause and the container's"
    assert list(Path("/sys/fs/cgroup").rglob(f"{record.cgroup}/node-1/kubepods*"))
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    # its parent has ended, so it is somebody else's to reap: poll says when it is dead, and with it all below
    with os.fdopen(process, "rb", buffering=0) as ended:
        assert select.select([ended], [], [], 30)[0]
    assert not [each for each, started in below.items() if start_time(each) == started]
    box.run("down")
    assert not list(Path("/sys/fs/cgroup").rglob(record.cgroup))
    assert str(box.directory) not in Path("/proc/self/mountinfo").read_text()
    assert not box.directory.exists()
    box.run("up", "--nodes", "1", "--install", "none")
    assert box.nodes() == ["node-1"]
    box.run("down")
    box.run("down")


def test_two_clusters_side_by_side_and_one_of_them_grows(make_box: Callable[[str], Box]) -> None:
    """Each answers for itself; a node that is added joins its own cluster only and takes images."""
    first, second = make_box("first"), make_box("second")
    first.run("up", "--nodes", "1", "--install", "none")
    second.run("up", "--nodes", "1", "--install", "none")
    assert first.status()["kubeconfig"] != second.status()["kubeconfig"]
    assert first.run("node", "add").strip() == "node-2"
    assert first.nodes() == ["node-1", "node-2"]
    assert second.nodes() == ["node-1"]
    (archive,) = first.directory.rglob("box-images.tar")
    first.run("sh", "node-2", "--", "ctr", "-n", "k8s.io", "images", "rm", AGNHOST)
    first.run("image", "load", str(archive))
    assert AGNHOST in first.run("sh", "node-2", "--", "ctr", "-n", "k8s.io", "images", "ls", "-q").split()
    first.run("down")
    assert second.nodes() == ["node-1"]


@pytest.mark.usefixtures("make_box")
def test_an_interrupted_up_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the box is being made ends it and removes its directory."""
    argv = [sys.executable, "-m", "vpcbox", "up", "--state", str(tmp_path / "box"), "--nodes", "1", "--install", "none"]
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        making = subprocess.Popen(argv, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, interrupted)
    with making:
        assert making.stderr is not None
        for line in making.stderr:
            if "control plane" in line:
                os.kill(making.pid, signal.SIGINT)
                break
        rest = making.stderr.read()
    assert making.returncode != 0, rest
    assert not (tmp_path / "box").exists()
    assert str(tmp_path) not in "".join(_command_lines())


def _command_lines() -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                found.append((process / "cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_a_node_comes_back_from_a_reboot_and_is_forgotten_when_its_instance_is_released(
    make_box: Callable[[str], Box],
) -> None:
    """The same Node by another boot, its pods started again; of a released one neither instance nor Node is left."""
    box = make_box("power")
    box.run("up", "--nodes", "2", "--install", "none")
    box.kubectl("create", "--filename=-", stdin=POD)
    box.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/resident")
    asked = ("get", "node", "node-1", "--output=jsonpath={.status.nodeInfo.bootID} {.metadata.uid} {.spec.podCIDR}")
    before = box.kubectl(*asked).split()
    box.run("instance", "reboot", "node-1")
    after = box.kubectl(*asked).split()
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    box.kubectl("wait", restarted, "--timeout=90s", "pod/resident")
    box.kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod/resident")
    box.run("instance", "release", "node-1")
    assert box.nodes() == ["node-2"]
    assert box.run("node", "add").strip() == "node-3"
    assert box.nodes() == ["node-2", "node-3"]
    box.run("down")
