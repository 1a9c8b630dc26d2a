"""The processes of a box: started in an instance's namespaces, logged, stopped, and reaped when nobody else waits.

The box process is pid 1 of the box's PID namespace, so everything started here ends with it, whatever happens.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandFailedError(Exception):
    """A short command ended with a status other than 0; the text has the command and what it said."""


@dataclass(frozen=True)
class Node:
    """An instance of the VPC as processes see it: a namespace for each of network, mounts and hostname.

    Inside, these are the instance's own: /run (tmpfs), /etc and /opt (changes stay inside), /var/log, /var/lib/kubelet,
    /var/lib/containerd, /var/lib/eniway, /etc/cni/net.d, /opt/cni/bin, /etc/machine-id, /etc/hostname, /sys.
    All mounts are shared inside, so pods may ask for mount propagation. `directory` is the same path in and outside.
    """

    name: str  # node-1, …, outside, control; the hostname inside, too
    instance_id: str
    instance_type: str
    address: IPv4Address  # primary address of the primary ENI
    netns: Path  # in the mount namespace of the box process
    pid: int  # of the process that holds the namespaces, in the PID namespace of the box
    boot_id: str  # another one after each boot
    directory: Path  # what the instance keeps on disk


@dataclass(frozen=True)
class Vpc:
    """The facts of the box's VPC that a cluster or an installation needs."""

    region: str
    zone: str
    vpc_id: str
    route_table_id: str
    security_group_id: str
    node_vswitch_id: str
    pod_vswitch_ids: tuple[str, ...]
    access_key_id: str
    access_key_secret: str


class BoxContext(Protocol):
    """What the cluster is given of the box."""

    id: str  # short, unlike that of any other box on the machine
    cgroup: str  # "vpcbox-<id>": every cgroup of the box lies below, in each hierarchy; `down` removes all of it
    state: Path  # absolute
    processes: Processes
    control: Node
    outside: Node
    vpc: Vpc
    api_port: int  # 127.0.0.1:api_port on the machine leads to control:6443 (from before the cluster starts)

    def stage(self, text: str) -> None:
        """Tell whoever waits for the box what happens now; the elapsed time is added."""


class Process:
    """A child of the box."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Take the child over."""
        self.name = name
        self._process = process

    @property
    def pid(self) -> int:
        """Its pid in the PID namespace of the box."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, -signal, or None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end and say how it ended."""
        return await self._process.wait()

    async def stop(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - a grace given to the child, not to the caller
        """Ask it to end, and make it end after `timeout` seconds."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Processes:
    """Starts what runs in a box: children of the box process, each in a session of its own, stdin at /dev/null."""

    async def start(
        self, name: str, argv: Sequence[str], *, node: Node | None, env: Mapping[str, str], log: Path
    ) -> Process:
        """Start a program in the namespaces of `node`, or in the box's own for None; its output is appended to `log`.

        `env` is its whole environment except for PATH, which has a default. A relative program is looked up inside.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *inside(node, argv),
                env={"PATH": PATH, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        return Process(name, process)

    async def run(
        self,
        argv: Sequence[str],
        *,
        node: Node | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a short command to its end and return status and output; with `check`, another status than 0 raises."""
        process = await asyncio.create_subprocess_exec(
            *inside(node, argv),
            env={"PATH": PATH, **(env or {})},
            cwd="/",
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = await process.communicate(stdin)
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        done = subprocess.CompletedProcess(list(argv), process.returncode or 0, out, err)
        if check and done.returncode != 0:
            where = f" on {node.name}" if node else ""
            said = (err or out).decode(errors="replace").strip()[-2000:]
            raise CommandFailedError(f"{' '.join(argv)}{where}: exit status {done.returncode}: {said}")
        return done


def inside(node: Node | None, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in the node's namespaces, without a process in between."""
    if node is None:
        return list(argv)
    return ["nsenter", f"--target={node.pid}", "--mount", "--net", "--uts", "--", *argv]
