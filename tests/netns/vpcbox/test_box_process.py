import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

from vpcbox import control, state
from vpcbox.launch import Options, launch

CHECKOUT = Path(__file__).parents[3]

WHO_AM_I = """
import urllib.request
print(urllib.request.urlopen("http://100.100.100.200/latest/meta-data/instance-id").read().decode())
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[2]))
s.sendto(b"?", (sys.argv[1], 7))
try:
    print(s.recvfrom(9)[1][0])
except TimeoutError:
    print("silence")
"""
ANSWER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("172.20.1.5", 7))
print("bound", flush=True)
while True:
    s.sendto(b"!", s.recvfrom(9)[1])
"""


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
    verb = 2 if arguments[0] in {"fault", "instance"} else 1
    return subprocess.run(
        [sys.executable, "-m", "vpcbox", *arguments[:verb], "--state", str(directory), *arguments[verb:]],
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


Held = Callable[[int, str], int]


@pytest.fixture
def held() -> Iterator[Held]:
    """The inode number of a process's namespace, which nobody else gets while the test lasts: it is held open."""
    descriptors: list[int] = []

    def hold(pid: int, kind: str) -> int:
        descriptors.append(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
        return os.fstat(descriptors[-1]).st_ino

    yield hold
    for descriptor in descriptors:
        os.close(descriptor)


def _of_box(held: Held, status: dict[str, Any], kind: str) -> set[int]:
    return {held(node["pid"], kind) for node in (*status["nodes"], status["outside"])}


def _assert_nothing_left(
    directory: Path, record: state.Record, status: dict[str, Any], spaces: dict[str, set[int]]
) -> None:
    for kind, inodes in spaces.items():
        assert not inodes & _namespaces(kind), kind
    assert not Path(f"/proc/{status['pid']}/ns").exists() or state.start_time(status["pid"]) is None
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").rglob(record.cgroup))
    assert not directory.exists()


def test_a_killed_box_leaves_nothing_and_another_can_be_made_at_once(
    boxes: list[Path], held: Held, tmp_path: Path
) -> None:
    """SIGKILL, down: no process, namespace, mount, cgroup or file is left, and the same directory takes a new box."""
    directory = tmp_path / "box"
    record = _make(boxes, directory)
    status = _status(directory)
    cgroup = Path(
        "/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup/unified").is_dir() else "/sys/fs/cgroup", record.cgroup
    )
    (cgroup / "node-1" / "pods").mkdir(parents=True)
    spaces = {kind: _of_box(held, status, kind) for kind in ("net", "mnt", "uts", "pid")}
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


def test_two_boxes_live_side_by_side(boxes: list[Path], held: Held, tmp_path: Path) -> None:
    """They share no port, id or namespace, and the end of one does not touch the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    record = _make(boxes, first)
    _make(boxes, second)
    one, two = _status(first), _status(second)
    assert one["openapi"]["endpoint"] != two["openapi"]["endpoint"]
    assert not _of_box(held, one, "net") & _of_box(held, two, "net")
    spaces = {kind: _of_box(held, one, kind) for kind in ("net", "mnt", "uts", "pid")}
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
    for node in (status["nodes"][0], status["outside"]):
        answer = _vpcbox(tmp_path / "box", "sh", node["name"], "--", sys.executable, "-c", WHO_AM_I)
        assert answer.stdout.strip() == node["instance_id"], answer.stderr


def test_faults_are_added_listed_and_cleared(boxes: list[Path], tmp_path: Path) -> None:
    """A rule given on the command line is in force until it is cleared; a bad one is refused by its field's name."""
    _make(boxes, tmp_path / "box")

    def fault(*arguments: str) -> subprocess.CompletedProcess[str]:
        return _vpcbox(tmp_path / "box", "fault", *arguments)

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


def _cloud(status: dict[str, Any], product: str, action: str, **params: str) -> dict[str, Any]:
    """Make a call of the box's OpenAPI from the machine."""
    cloud = status["openapi"]
    client = AcsClient(cloud["access_key_id"], cloud["access_key_secret"], cloud["region"], auto_retry=False)
    request = CommonRequest(domain=cloud["endpoint"].removeprefix("http://"), version=product, action_name=action)
    request.set_method("POST")
    request.set_protocol_type("http")
    for name, value in params.items():
        request.add_query_param(name, value)
    answer: dict[str, Any] = json.loads(client.do_action_with_exception(request))
    return answer


def _asked(directory: Path, patience: float) -> str:
    """Say who answers outside's question to the pod's address."""
    answer = _vpcbox(directory, "sh", "outside", "--", sys.executable, "-c", ASK, "172.20.1.5", str(patience))
    return answer.stdout.strip()


def test_a_route_entry_and_the_check_off_make_a_pod_reachable_from_outside(boxes: list[Path], tmp_path: Path) -> None:
    """From the API to the packet: neither the entry alone is enough nor the check alone."""
    directory = tmp_path / "box"
    _make(boxes, directory)
    status = _status(directory)
    node, table = status["nodes"][0], status["vpc"]["route_table_id"]
    assert _vpcbox(directory, "sh", "node-1", "--", "ip", "addr", "add", "172.20.1.5/32", "dev", "lo").returncode == 0
    command = [
        sys.executable,
        "-m",
        "vpcbox",
        "sh",
        "--state",
        str(directory),
        "node-1",
        "--",
        sys.executable,
        "-c",
        ANSWER,
    ]
    (primary,) = _cloud(status, "2014-05-26", "DescribeNetworkInterfaces", InstanceId=node["instance_id"])[
        "NetworkInterfaceSets"
    ]["NetworkInterfaceSet"]
    entry = {"RouteTableId": table, "DestinationCidrBlock": "172.20.1.0/24", "NextHopId": node["instance_id"]}

    def check(on: str) -> None:
        _cloud(
            status,
            "2014-05-26",
            "ModifyNetworkInterfaceAttribute",
            NetworkInterfaceId=primary["NetworkInterfaceId"],
            SourceDestCheck=on,
        )

    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as pod:
        assert pod.stdout is not None
        assert pod.stdout.readline() == "bound\n"
        check("false")
        assert _asked(directory, 0.3) == "silence"
        _cloud(status, "2016-04-28", "CreateRouteEntry", **entry)
        _settled(status, table)
        assert _asked(directory, 10) == "172.20.1.5"
        check("true")
        assert _asked(directory, 0.3) == "silence"
        check("false")
        assert _asked(directory, 10) == "172.20.1.5"
        _cloud(status, "2016-04-28", "DeleteRouteEntry", **entry)
        _settled(status, table)
        assert _asked(directory, 0.3) == "silence"
        pod.kill()


def _settled(status: dict[str, Any], table: str) -> None:
    """Return when the write to the table is in force."""
    while True:
        entries = _cloud(status, "2016-04-28", "DescribeRouteEntryList", RouteTableId=table)["RouteEntrys"][
            "RouteEntry"
        ]
        if {entry["Status"] for entry in entries} == {"Available"}:
            return
        time.sleep(0.1)


def test_a_rebooted_instance_keeps_its_disk_and_its_cards_and_nothing_else(
    boxes: list[Path], held: Held, tmp_path: Path
) -> None:
    """Another boot, the same address; processes, memory and namespaces are new; what was on disk is there."""
    directory = tmp_path / "box"
    _make(boxes, directory)
    status = _status(directory)
    before, outside = status["nodes"][0], status["outside"]["pid"]

    def sh(script: str) -> str:
        answer = _vpcbox(directory, "sh", "node-1", "--", "sh", "-euc", script)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    boot = sh("cat /proc/sys/kernel/random/boot_id")
    sh("touch /run/memory; echo disk >/var/lib/eniway/disk")
    sh("exec >/dev/null 2>&1; unshare --net --mount sleep 600 & sleep 600 &")
    spaces = {kind: held(before["pid"], kind) for kind in ("net", "mnt", "uts")}
    assert _vpcbox(directory, "instance", "reboot", "node-1").returncode == 0
    after = _status(directory)["nodes"][0]
    assert (after["address"], after["instance_id"]) == (before["address"], before["instance_id"])
    assert not set(spaces.values()) & {*_namespaces("net"), *_namespaces("mnt"), *_namespaces("uts")}
    assert Path(f"/proc/{outside}").exists(), "others go on"
    assert sh("cat /proc/sys/kernel/random/boot_id") != boot
    assert sh("ls /run/memory 2>/dev/null || cat /var/lib/eniway/disk") == "disk\n"
    assert sh(f"{sys.executable} -c '{WHO_AM_I}'").strip() == before["instance_id"]


def test_an_instance_stops_starts_and_is_released(boxes: list[Path], tmp_path: Path) -> None:
    """Each seen in the cloud and in `status`; what does not go together is refused by the instance's state."""
    directory = tmp_path / "box"
    _make(boxes, directory, nodes=2)

    def power(verb: str, name: str = "node-1") -> str:
        answer = _vpcbox(directory, "instance", verb, name)
        assert (answer.returncode == 0) == (not answer.stderr.startswith("vpcbox:")), answer.stderr
        return answer.stderr if answer.returncode else ""

    def cloud() -> dict[str, str]:
        rows = _cloud(_status(directory), "2014-05-26", "DescribeInstances")["Instances"]["Instance"]
        return {row["InstanceName"]: row["Status"] for row in rows if row["InstanceName"].startswith("node")}

    assert not power("stop")
    assert cloud() == {"node-1": "Stopped", "node-2": "Running"}
    stopped, other = _status(directory)["nodes"]
    assert (stopped["status"], stopped["pid"], stopped["netns"]) == ("Stopped", None, None)
    assert (other["status"], other["pid"] is not None) == ("Running", True)
    assert "node-1 is stopped" in power("stop")
    assert "node-1 is stopped" in power("reboot")
    assert "node-1 is stopped" in _vpcbox(directory, "sh", "node-1", "--", "true").stderr
    assert not power("start")
    assert "node-1 is running" in power("start")
    assert _vpcbox(directory, "sh", "node-1", "--", "true").returncode == 0
    assert not power("release")
    assert cloud() == {"node-2": "Running"}
    assert [node["name"] for node in _status(directory)["nodes"]] == ["node-2"]
    assert "NODE: expected one of node-2" in power("stop")
    assert not power("stop", "node-2")
    assert not power("release", "node-2")
    assert cloud() == {}
