"""The container runtime's part on a node: sandboxes, and what the relay asks the daemon for them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import msgspec

from cni import results, wire
from cni.conflist import render
from cni.wire import Reply, Request
from datapath import netns as kernel_netns
from eniway import names
from eniway.model import ContainerId, LeaseKey
from tests.box import own_machine
from vpcbox.fabric import netns

_SIOCGIFADDR: Final = 0x8915
_GONE_WITHIN: Final = 15.0
"""Real seconds for the kernel to take away what belonged to a namespace."""


@dataclass(frozen=True)
class Pod:
    """A sandbox."""

    name: str
    serial: int
    annotations: dict[str, str]

    @property
    def netns(self) -> Path:
        """Its network namespace."""
        return own_machine.NAMESPACES / f"{self.name}-{self.serial}"

    @property
    def key(self) -> LeaseKey:
        """Whose its lease is."""
        return LeaseKey(names.CNI_NETWORK, ContainerId(f"{self.name}-{self.serial}"), names.POD_LINK)

    @property
    def _about(self) -> dict[str, str]:
        return {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": self.name, "K8S_POD_UID": f"uid-{self.serial}"}

    @property
    def _memory(self) -> Path:
        return Path(names.CNI_RESULTS, f"{names.CNI_NETWORK}-{self.key.container_id}-{names.POD_LINK}")

    def remember(self, result: Mapping[str, Any]) -> None:
        """As libcni does after an ADD."""
        cached = {
            "kind": results.KIND,
            "containerId": self.key.container_id,
            "ifName": names.POD_LINK,
            "networkName": names.CNI_NETWORK,
            "cniArgs": list(self._about.items()),
            "result": result,
        }
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        self._memory.write_bytes(msgspec.json.encode(cached))

    def forget(self) -> None:
        """And after a DEL."""
        self._memory.unlink(missing_ok=True)

    def request(self, verb: str) -> Request:
        """As the relay sends it."""
        plugin = json.loads(render())["plugins"][0]
        config = {
            **plugin,
            "name": names.CNI_NETWORK,
            "cniVersion": names.CNI_VERSION,
            "runtimeConfig": {names.CAPABILITY_POD_ANNOTATIONS: self.annotations},
        }
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.key.container_id,
            "CNI_IFNAME": names.POD_LINK,
            "CNI_NETNS": str(self.netns),
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in self._about.items()),
        }
        return Request(environment, msgspec.json.encode(config))


async def ask(request: Request, seconds: float) -> Reply | None:
    """The daemon's reply; None where it is away, goes away, or takes longer."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(names.CNI_SOCKET)
            with contextlib.closing(writer):
                writer.write(wire.request_bytes(request))
                head = await reader.readexactly(8)
                _, _, status, length = struct.unpack(">2sBBI", head)
                return Reply(status, await reader.readexactly(length))
    except (OSError, EOFError):
        return None


def address(path: Path) -> IPv4Address:
    """Of eth0 in a namespace, as a program there would ask for it."""
    with kernel_netns.opened(str(path)) as descriptor, kernel_netns.entered(descriptor):
        inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside:
        said = fcntl.ioctl(inside, _SIOCGIFADDR, struct.pack("16s16x", names.POD_LINK.encode()))
    return IPv4Address(said[20:24])


def destroy(pod: Pod) -> None:
    """End a namespace, and wait until the kernel has taken away what was in it."""
    netns.destroy(pod.netns)
    until = time.monotonic() + _GONE_WITHIN
    with contextlib.suppress(OSError):
        while socket.if_nametoindex(names.host_link(pod.key)):
            assert time.monotonic() < until, f"the link of {pod} is still there"
            time.sleep(0.002)
