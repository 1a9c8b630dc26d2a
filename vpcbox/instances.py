"""Instances as places: the namespaces of a guest, held by one tiny process, with files of its own where it counts.

A guest shares the machine's root file system read-mostly. Its own are /run, /etc and /opt (changes stay inside) and
what a node's daemons keep below /var. /sys is mounted anew, so that /sys/class/net shows the guest's cards, with the
machine's cgroups below, which `ip netns exec` would hide.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from vpcbox.cluster import cgroups
from vpcbox.fabric import netns
from vpcbox.processes import PATH, CommandFailedError

_OVERLAID = ("/etc", "/opt", "/var/lib")  # the machine's, with changes that stay inside
_KEPT = {  # of the instance, on disk
    "/var/lib/kubelet": "kubelet",
    "/var/lib/containerd": "containerd",
    "/var/lib/eniway": "eniway",
    "/var/log": "log",
    "/etc/cni/net.d": "cni-conf",
    "/opt/cni/bin": "cni-bin",
}


_PATIENCE = 30.0  # seconds for the kernel to end what runs in a guest


@dataclass(frozen=True)
class Guest:
    """A guest that is up: the process that holds its namespaces, and where its files are."""

    holder: asyncio.subprocess.Process
    directory: Path


async def boot(name: str, instance_id: str, address: IPv4Address, namespace: Path, state: Path) -> Guest:
    """Start the holder of a guest and wait until its file system stands; `state` is the box's directory."""
    directory = state / "nodes" / name
    for kept in _KEPT.values():
        (directory / kept).mkdir(parents=True, exist_ok=True)
    if not (directory / "containerd").is_mount():  # what an instance has on disk outlives its boots
        # Tens of thousands of small files for each node: in memory they come in seconds, and go in none
        netns.mount("containerd", str(directory / "containerd"), "tmpfs", 0, "mode=711")
    holder = await asyncio.create_subprocess_exec(
        "nsenter",
        f"--net={namespace}",
        "--",
        "unshare",
        "--mount",
        "--uts",
        "--",
        "sh",
        "-euc",
        _script(name, instance_id, address, state),
        env={"PATH": PATH},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    if await holder.stdout.readline() != b"up\n":
        said = (await holder.stderr.read()).decode(errors="replace").strip()
        raise CommandFailedError(f"namespaces of {name}: exit status {await holder.wait()}: {said}")
    return Guest(holder, directory)


def _script(name: str, instance_id: str, address: IPv4Address, state: Path) -> str:
    """Build the file system around a shell, which ends as the holder."""
    here = shlex.quote(str(state))
    lines = [
        f"umount --recursive {here}/netns",  # a copy would keep other instances' namespaces alive
        f"exec 9<{here}",  # what is mounted below may cover the box's own directory: this finds it again
        "mount -t tmpfs -o mode=755 run /run",
        "mkdir -p /run/lock /run/netns /run/cgroup",
        "mount --rbind /sys/fs/cgroup /run/cgroup",
        "mount -t sysfs sysfs /sys",
        "mount --move /run/cgroup /sys/fs/cgroup",
        "rmdir /run/cgroup",
        "cat /proc/sys/kernel/random/uuid >/run/boot_id",  # each boot has its own
        "mount --bind /run/boot_id /proc/sys/kernel/random/boot_id",
    ]
    for place in _OVERLAID:
        layer = f"/run/guest{place}"
        lines += [
            f"mkdir -p {layer}/upper {layer}/work",
            f"mount -t overlay -o lowerdir={place},upperdir={layer}/upper,workdir={layer}/work overlay {place}",
        ]
    machine_id = hashlib.md5(instance_id.encode(), usedforsecurity=False).hexdigest()
    files = {
        "/etc/hostname": name,
        "/etc/machine-id": machine_id,
        "/etc/hosts": f"127.0.0.1 localhost\n{address} {name}",
        "/etc/resolv.conf": "",  # the box has no name server
        "/proc/sys/kernel/hostname": name,
    }
    for file, text in files.items():
        if file.startswith("/etc/"):
            lines.append(f"rm -f {file}")  # the machine's may be a link to somewhere else
        lines.append(f"printf '%s\\n' {shlex.quote(text)} >{file}")
    lines += [f"mkdir -p {here}", f"mount --no-canonicalize --bind /proc/self/fd/9 {here}"]
    for place, kept in _KEPT.items():
        lines += [f"mkdir -p {place}", f"mount --no-canonicalize --bind /proc/self/fd/9/nodes/{name}/{kept} {place}"]
    lines += ["exec 9<&-", "mount --make-rshared /", "echo up", "exec sleep infinity"]
    return "\n".join(lines)


def boot_id(pid: int) -> str:
    """Return the id of the boot that a guest's process has seen."""
    return Path(f"/proc/{pid}/root/proc/sys/kernel/random/boot_id").read_text().strip()


async def halt(pid: int, cgroup: str) -> None:
    """Cut a guest's power: whatever shares a namespace with its holder, or runs in containers below its cgroup, dies.

    A process that is just being started can be missed in one round, and is seen in the next. The cgroups go, too: a
    kubelet that finds containers of an earlier boot takes its time over each.
    """
    spaces = _spaces(str(pid))
    async with asyncio.timeout(_PATIENCE):
        while (doomed := {*_inside(spaces), *cgroups.processes(cgroup)}) or not cgroups.remove(cgroup):
            for each in doomed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            await asyncio.sleep(0.02)


def _inside(spaces: AbstractSet[Path]) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile: a zombie has no namespaces, either
                if _spaces(process.name) & spaces:
                    yield int(process.name)


def _spaces(pid: str) -> AbstractSet[Path]:
    """The namespaces that a guest has for itself: net:[4026531840] and so on."""
    return {Path(f"/proc/{pid}/ns/{kind}").readlink() for kind in ("mnt", "net", "uts")}


def machine_pid(pid: int, machine_proc: int) -> int:
    """Return a child's pid as the machine sees it; `machine_proc` is a descriptor of the machine's /proc.

    A process sees pids of its own PID namespace only, but an older /proc lists its children by the pids of that one's
    namespace, each with the chain of its pids (proc(5): children, NSpid).
    """
    me = os.readlink("self", dir_fd=machine_proc)
    for child in _read(machine_proc, f"{me}/task/{me}/children").split():
        chain = next(
            (line for line in _read(machine_proc, f"{child}/status").splitlines() if line.startswith("NSpid:")), ""
        )
        if chain.split()[-1:] == [str(pid)]:
            return int(child)
    raise ProcessLookupError(f"no child {pid}")


def _read(directory: int, path: str) -> str:
    try:
        with open(os.open(path, os.O_RDONLY, dir_fd=directory)) as file:  # noqa: PTH123 - relative to a descriptor
            return file.read()
    except OSError:  # it ended meanwhile
        return ""
