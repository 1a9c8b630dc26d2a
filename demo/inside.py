"""What the kernel of a running pod has: its links and addresses, read in its own network namespace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Link:
    """A network link of a pod with its IPv4 addresses."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[IPv4Address, ...]


def pids(uids: Iterable[str], proc: Path = Path("/proc")) -> dict[str, int]:
    """Pod UID → a process of the pod, found by the cgroups that kubelet names after the UID.

    Of a sandbox that is none any more perhaps, where a runtime has died: ``pids_in`` knows better.
    """
    return _by_cgroup({uid: (f"pod{uid}", f"pod{uid.replace('-', '_')}") for uid in uids}, proc)


def pids_in(containers: Iterable[str], proc: Path = Path("/proc")) -> dict[str, int]:
    """Container id, as of a pod's status without ``containerd://`` → a process in it."""
    return _by_cgroup({container: (container,) for container in containers}, proc)


def _by_cgroup(wanted: Mapping[str, tuple[str, ...]], proc: Path) -> dict[str, int]:
    found = dict[str, int]()
    for process in proc.glob("[0-9]*"):
        try:
            cgroups = (process / "cgroup").read_text()
        except OSError:  # it has ended meanwhile
            continue
        for key in wanted.keys() - found.keys():
            if any(word in cgroups for word in wanted[key]):
                found[key] = int(process.name)
    return found


def resident(container: str, proc: Path = Path("/proc")) -> int:
    """Resident memory of all processes of a container, by its id, in bytes."""
    total = 0
    for process in proc.glob("[0-9]*"):
        try:
            if container in (process / "cgroup").read_text():
                lines = (process / "status").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
        except OSError:  # it has ended meanwhile
            continue
    return total


def links(pid: int) -> dict[str, Link]:
    """The links in the network namespace of a process, by name, without the loopback."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "address", "show"]
    said = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    return {
        item["ifname"]: Link(
            name=item["ifname"],
            mac=item.get("address", ""),
            mtu=item["mtu"],
            addresses=tuple(IPv4Address(a["local"]) for a in item["addr_info"] if a["family"] == "inet"),
        )
        for item in said
        if item["ifname"] != "lo"
    }
