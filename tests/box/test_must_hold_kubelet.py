"""kubelet is restarted: the devices are there again at once, and what runs does not notice."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from demo.box import Box, Instance
from demo.kube import Object
from tests.box import hold

MOST_SECONDS = 2.0
"""From kubelet's socket to the registration of the devices."""
_REGISTERED = re.compile(r"^I(\d{4} \d\d:\d\d:\d\d\.\d{6}).*Got registration request.*aliyun/eni", re.MULTILINE)


def test_devices_are_registered_again_and_running_pods_untouched(box: Box) -> None:
    """Within two seconds of the new kubelet's socket, by kubelet's own log; containers and leases stay as they were."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    node = box.status().nodes[0]
    names = ["card", "web"]
    before = hold.start(kube, [hold.pod("card", node=node.name, exclusive=True), hold.pod("web", node=node.name)])
    log = box.state / "log" / node.name / "kubelet.log"
    already = len(_REGISTERED.findall(log.read_text()))
    socket = Path(f"/proc/{node.pid}/root/var/lib/kubelet/device-plugins/kubelet.sock")
    old = socket.stat().st_ctime_ns
    os.kill(kubelet(node), signal.SIGTERM)

    deadline = time.monotonic() + hold.PATIENCE
    while len(found := _REGISTERED.findall(log.read_text())) == already:
        assert time.monotonic() < deadline, "kubelet has not seen the devices again"
        time.sleep(0.1)
    made = socket.stat()
    assert made.st_ctime_ns != old
    assert _time(found[-1]) - made.st_ctime <= MOST_SECONDS

    for name in names:
        assert kube.ask_pod(hold.HOLD, name, 8080, "hostname").decode() == name
    hold.start(kube, [hold.pod("after", node=node.name)])
    after = [one for one in kube.get(hold.PODS)["items"] if one["metadata"]["name"] in names]
    assert _containers(after) == _containers(before)
    hold.agree(box)


def kubelet(node: Instance) -> int:
    """Pid of a node's kubelet: the one that has the node's mounts."""
    mounts = Path(f"/proc/{node.pid}/ns/mnt").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() == "kubelet\n" and (process / "ns/mnt").readlink() == mounts:
                return int(process.name)
        except OSError:  # it has ended meanwhile
            continue
    raise AssertionError(f"no kubelet on {node.name}")


def _time(klog: str) -> float:
    """Seconds since the epoch of a time in kubelet's log, which is local and has no year."""
    year = datetime.now(UTC).year
    return datetime.strptime(f"{year}{klog}", "%Y%m%d %H:%M:%S.%f").astimezone().timestamp()


def _containers(pods: list[Object]) -> set[str]:
    return {f"{one['containerID']} {one['restartCount']}" for pod in pods for one in pod["status"]["containerStatuses"]}
