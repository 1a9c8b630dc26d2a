"""Where the VPC carries jumbo frames, pods have them: whole, on every way between pods, and with limits."""

from __future__ import annotations

import subprocess
from pathlib import Path

from demo import inside
from demo.box import Box
from tests.box import hold

MTU = 8500
HEADERS = 28
"""Of IPv4 and ICMP."""

_PING = """
import socket, struct, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
one.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
one.connect((sys.argv[1], 0))
words = [0x0800, 7, 1]
one.send(struct.pack("!4H", 0x0800, ~sum(words) & 0xFFFF, 7, 1) + bytes(int(sys.argv[2])))
end = time.monotonic() + 5
while True:
    one.settimeout(max(0.01, end - time.monotonic()))
    packet = one.recv(1 << 16)
    if packet[20] == 0 and len(packet) == 28 + int(sys.argv[2]):
        break
"""


def test_pods_have_the_cards_frames(tmp_path: Path) -> None:
    """Pods of every kind on two nodes, one of them limited: every pair, frames that may not be taken apart."""
    box = Box(tmp_path / "box")
    with box.standing("--nodes", "2", "--jumbo-frames"):
        kube = hold.kube_of(box)
        pods = []
        for node in box.status().nodes:
            pods += [
                hold.pod(f"shared-{node.name}", node=node.name),
                hold.pod(f"card-{node.name}", node=node.name, exclusive=True),
                hold.pod(f"routed-{node.name}", node=node.name, annotations={"eniway.io/network": "routed"}),
            ]
        pods[0]["metadata"]["annotations"] = {"kubernetes.io/egress-bandwidth": "100M"}
        running = hold.start(kube, pods)
        pids = inside.pids(pod["metadata"]["uid"] for pod in running)
        for pod in running:
            links = inside.links(pids[pod["metadata"]["uid"]])
            assert {name: link.mtu for name, link in links.items() if link.mtu != MTU} == {}
        lost = [
            f"{one['metadata']['name']} to {other['metadata']['name']}"
            for one in running
            for other in running
            if one is not other and not _arrives(pids[one["metadata"]["uid"]], other["status"]["podIP"], MTU - HEADERS)
        ]
        assert lost == []
        assert not _arrives(pids[running[0]["metadata"]["uid"]], running[-1]["status"]["podIP"], MTU - HEADERS + 1)
        hold.agree(box)


def _arrives(pid: int, address: str, payload: int) -> bool:
    """Whether an echo request with so many bytes, that may not be taken apart, is answered in a pod's namespace."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "python3", "-c", _PING, address, str(payload)]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0
