import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vpcbox import control, state
from vpcbox.launch import Options, launch

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def boxes() -> Iterator[list[Path]]:
    """Directories of boxes that a test makes; ended after it."""
    made: list[Path] = []
    yield made
    for directory in made:
        state.clear(directory)


def _make(boxes: list[Path], directory: Path, nodes: int = 1) -> state.Record:
    boxes.append(directory)
    options = Options(state=str(directory), nodes=nodes, instance_type="ecs.g7.xlarge", install="none", cluster=False)
    assert [stage for _, stage in launch(options)]
    record = state.read(directory)
    assert record is not None
    return record


def _vpcbox(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    first, *rest = arguments
    return subprocess.run(
        [sys.executable, "-m", "vpcbox", first, "--state", str(directory), *rest],
        cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def _status(directory: Path) -> dict[str, Any]:
    answer = _vpcbox(directory, "status", "--json")
    assert answer.returncode == 0, answer.stderr
    status: dict[str, Any] = json.loads(answer.stdout)
    return status


def _namespaces(kind: str) -> set[int]:
    """Return the inode numbers of all namespaces that a process of the machine is in."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                found.add((process / "ns" / kind).stat().st_ino)
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours to look into
                continue
    return found


def _of_box(status: dict[str, Any], kind: str) -> set[int]:
    return {Path(f"/proc/{node['pid']}/ns/{kind}").stat().st_ino for node in (*status["nodes"], status["outside"])}


def _assert_nothing_left(
    directory: Path, record: state.Record, status: dict[str, Any], spaces: dict[str, set[int]]
) -> None:
    for kind, inodes in spaces.items():
        assert not inodes & _namespaces(kind), kind
    assert not Path(f"/proc/{status['pid']}/ns").exists() or state.start_time(status["pid"]) is None
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").rglob(record.cgroup))
    assert not directory.exists()


def test_a_killed_box_leaves_nothing_and_another_can_be_made_at_once(boxes: list[Path], tmp_path: Path) -> None:
    """SIGKILL, down: no process, namespace, mount, cgroup or file is left, and the same directory takes a new box."""
    directory = tmp_path / "box"
    record = _make(boxes, directory)
    status = _status(directory)
    cgroup = Path(
        "/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup/unified").is_dir() else "/sys/fs/cgroup", record.cgroup
    )
    (cgroup / "node-1" / "pods").mkdir(parents=True)
    spaces = {kind: _of_box(status, kind) for kind in ("net", "mnt", "uts", "pid")}
    process = os.pidfd_open(status["pid"])
    os.kill(status["pid"], signal.SIGKILL)
    os.waitid(os.P_PIDFD, process, os.WEXITED)
    os.close(process)
    for kind, inodes in spaces.items():
        assert not inodes & _namespaces(kind), f"{kind}: the kernel clears it, not `down`"
    assert _vpcbox(directory, "status").returncode != 0
    assert _vpcbox(directory, "down").returncode == 0
    _assert_nothing_left(directory, record, status, spaces)
    assert _vpcbox(directory, "down").returncode == 0
    _make(boxes, directory)
    assert _status(directory)["pid"] != status["pid"]


def test_two_boxes_live_side_by_side(boxes: list[Path], tmp_path: Path) -> None:
    """They share no port, id or namespace, and the end of one does not touch the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    record = _make(boxes, first)
    _make(boxes, second)
    one, two = _status(first), _status(second)
    assert one["openapi"]["endpoint"] != two["openapi"]["endpoint"]
    assert not _of_box(one, "net") & _of_box(two, "net")
    spaces = {kind: _of_box(one, kind) for kind in ("net", "mnt", "uts", "pid")}
    assert _vpcbox(first, "down").returncode == 0
    os.waitpid(one["pid"], 0)  # its parent is this process, not one that has ended
    _assert_nothing_left(first, record, one, spaces)
    answer = _vpcbox(second, "sh", "outside", "--", "cat", "/proc/sys/kernel/hostname")
    assert (answer.returncode, answer.stdout) == (0, "outside\n")


def test_sh_runs_in_the_instance_and_passes_its_status_on(boxes: list[Path], tmp_path: Path) -> None:
    """The command sees the instance's own address, hostname, files and the box's processes, and its status is sh's."""
    _make(boxes, tmp_path / "box")
    status = _status(tmp_path / "box")
    script = (
        "ip -4 -o addr show eth0; hostname; cat /etc/machine-id; ls /sys/class/net; ls /sys/fs/cgroup; "
        "touch /etc/mine /opt/mine; readlink /proc/1/exe; exit 7"
    )
    answer = _vpcbox(tmp_path / "box", "sh", "node-1", "--", "sh", "-c", script)
    assert answer.returncode == 7
    address, host, machine, *rest = answer.stdout.splitlines()
    assert f"inet {status['nodes'][0]['address']}/20" in address
    assert host == "node-1"
    assert machine != Path("/etc/machine-id").read_text().strip() if Path("/etc/machine-id").exists() else machine
    assert {"eth0", "lo"} <= set(rest)
    assert len(rest) > 4, "the machine's cgroups are below /sys/fs/cgroup"
    assert not Path("/etc/mine").exists()
    assert not Path("/opt/mine").exists()
    unknown = _vpcbox(tmp_path / "box", "sh", "node-9", "--", "true")
    assert unknown.returncode != 0
    assert "NODE: expected one of" in unknown.stderr


def test_the_machine_has_no_way_into_the_box_but_the_doors_on_loopback(boxes: list[Path], tmp_path: Path) -> None:
    """No route of the machine leads to an instance, and no new link appears beside its own."""
    before = set(Path("/sys/class/net").iterdir()), Path("/proc/net/route").read_text()
    _make(boxes, tmp_path / "box")
    assert (set(Path("/sys/class/net").iterdir()), Path("/proc/net/route").read_text()) == before
    control_socket = tmp_path / "box" / state.CONTROL
    assert control_socket.stat().st_mode & 0o777 == 0o600


def test_instances_reach_each_other_and_the_services_of_the_cloud(boxes: list[Path], tmp_path: Path) -> None:
    """From `outside`, metadata names the instance that asks, and a node's port answers it."""
    _make(boxes, tmp_path / "box")
    status = _status(tmp_path / "box")
    read = "import urllib.request as u; print(u.urlopen('http://100.100.100.200/latest/meta-data/instance-id').read().decode())"
    for node in (status["nodes"][0], status["outside"]):
        answer = _vpcbox(tmp_path / "box", "sh", node["name"], "--", sys.executable, "-c", read)
        assert answer.stdout.strip() == node["instance_id"], answer.stderr


def test_faults_are_added_listed_and_cleared(boxes: list[Path], tmp_path: Path) -> None:
    """A rule given on the command line is in force until it is cleared; a bad one is refused by its field's name."""
    _make(boxes, tmp_path / "box")

    def fault(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "vpcbox",
            "fault",
            arguments[0],
            "--state",
            str(tmp_path / "box"),
            *arguments[1:],
        ]
        return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)

    added = fault("add", "error", "target=CreateNetworkInterface", "code=Throttling", "status=503", "count=2")
    assert added.returncode == 0, added.stderr
    (rule,) = [json.loads(line) for line in fault("list").stdout.splitlines()]
    assert (rule["id"], rule["target"], rule["status"], rule["count"]) == (
        added.stdout.strip(), "CreateNetworkInterface", 503, 2,
    )  # fmt: skip
    assert fault("clear").stdout == "1 cleared\n"
    refused = fault("add", "error", "colour=red")
    assert refused.returncode != 0
    assert "colour" in refused.stderr


def test_a_directory_in_use_is_not_taken(boxes: list[Path], tmp_path: Path) -> None:
    """Neither that of a running box nor one with somebody's files in it."""
    _make(boxes, tmp_path / "box")
    with pytest.raises(state.StateError, match="a box runs there"):
        _make([], tmp_path / "box")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(state.StateError, match="expected an empty directory"):
        _make([], tmp_path / "mine")
    assert _vpcbox(tmp_path / "mine", "down").returncode == 0
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_orphans_are_reaped(boxes: list[Path], tmp_path: Path) -> None:
    """A process whose parent is gone does not stay a zombie."""
    _make(boxes, tmp_path / "box")
    answer = _vpcbox(tmp_path / "box", "sh", "node-1", "--", "sh", "-c", "(sleep 0.1 & echo $!)")
    orphan = answer.stdout.strip()
    ask = f"while test -d /proc/{orphan}; do sleep 0.1; done"
    assert _vpcbox(tmp_path / "box", "sh", "node-1", "--", "timeout", "10", "sh", "-c", ask).returncode == 0


def test_a_dead_box_is_told_apart_from_a_stranger_with_its_pid(tmp_path: Path) -> None:
    """A record whose start time is another's is not alive, and `clear` harms nobody."""
    directory = tmp_path / "box"
    directory.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state.write(directory, state.Record("abc123", stranger.pid, 1))
        assert state.clear(directory)
        assert stranger.poll() is None
        stranger.kill()


def test_a_question_nobody_knows_is_refused(boxes: list[Path], tmp_path: Path) -> None:
    """The box answers what it cannot do, and lives on."""
    _make(boxes, tmp_path / "box")
    with pytest.raises(control.RefusedError, match="verb: expected one of"):
        control.ask(tmp_path / "box", "dance")
    assert control.ask(tmp_path / "box", "status")["nodes"]
