"""Boxes with a cluster on them come, die and go."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.box import Box
from vpcbox.cluster.images import AGNHOST
from vpcbox.state import read, start_time

Kubectl = Callable[..., str]
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


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Box]:
    """A place for a box of a test's own."""
    if os.geteuid() != 0:
        pytest.skip("a box is made of namespaces, mounts and cgroups: it needs root")
    box = Box(tmp_path / "box")
    yield box
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


def test_a_killed_box_with_running_pods_leaves_nothing_and_comes_up_again(
    doomed: Box, box: Box, kubectl_of: Callable[[Box], Kubectl]
) -> None:
    """SIGKILL clears containers with the rest, down removes cgroups and files, up in the same place works at once.

    Another box beside it goes on.
    """
    doomed.run("up", "--nodes", "1", "--install", "none")
    kubectl = kubectl_of(doomed)
    kubectl("create", "--filename=-", stdin=POD)
    kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/resident")
    pid, record = doomed.status().pid, read(doomed.state)
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
    doomed.run("down")
    assert not list(Path("/sys/fs/cgroup").rglob(record.cgroup))
    assert str(doomed.state) not in Path("/proc/self/mountinfo").read_text()
    assert not doomed.state.exists()
    kubectl_of(box)("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
    doomed.run("up", "--nodes", "1", "--install", "none")
    assert kubectl_of(doomed)("get", "nodes", "--output=name").split() == ["node/node-1"]
    doomed.run("down")
    doomed.run("down")


def test_an_interrupted_up_leaves_nothing(doomed: Box) -> None:
    """Ctrl-C while the box is being made ends it and removes its directory."""
    argv = [sys.executable, "-m", "vpcbox", "up", "--state", str(doomed.state), "--nodes", "1", "--install", "none"]
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
    assert not doomed.state.exists()
    assert str(doomed.state) not in "".join(_command_lines())


def _command_lines() -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                found.append((process / "cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
