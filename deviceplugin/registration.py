"""Being known to kubelet, for ever: serve, register, notice the loss, begin again.

What the life of a registration is like (kubernetes pkg/kubelet/cm/devicemanager):
- while it answers Register, kubelet dials the plugin's socket and asks for its options: the server runs first;
- a starting kubelet removes every socket in the directory and knows no plugin: a new kubelet.sock is a new kubelet;
- up to 1.35 kubelet keeps plugins by resource name only: the end of an old plugin's stream throws out the new one of
  that name. So the old server is fully closed before the new one registers, each has a socket name of its own, and a
  stream that ends is reason enough to register again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, NoReturn

from deviceplugin import server
from deviceplugin.allocations import Allocations
from deviceplugin.api.v1beta1 import api_pb2 as api
from deviceplugin.rpc import Channel, RpcFailed, Server
from deviceplugin.server import Devices, Service
from deviceplugin.watch import DirectoryWatch
from eniway import log, metrics, names
from eniway.backoff import full_jitter

KUBELET_SOCKET: Final = "kubelet.sock"
_REGISTER: Final = "/v1beta1.Registration/Register"
_REGISTER_SECONDS: Final = 15.0
"""kubelet itself gives up dialling back after 10 s."""
_STREAM_SECONDS: Final = 10.0
"""How long after its answer kubelet may take to open ListAndWatch."""
_POLL_SECONDS: Final = 5.0
_POLL_UNREGISTERED_SECONDS: Final = 1.0
_LASTING_SECONDS: Final = 10.0
"""A registration that lasted so long ends a series of failures."""

_log = log.get(__name__)

_Identity = tuple[int, int, int]


def remove_sockets(directory: Path = Path(names.KUBELET_DEVICE_PLUGINS)) -> None:
    """Take away sockets of processes that have ended; one that still answers stays."""
    for path in directory.glob("eniway-*.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)


class DevicePlugin:
    """Offers the slots of ``devices`` to kubelet as ``aliyun/eni``."""

    def __init__(
        self,
        devices: Devices,
        allocations: Allocations,
        *,
        directory: Path = Path(names.KUBELET_DEVICE_PLUGINS),
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = devices
        self._allocations = allocations
        self._directory = directory
        self._random = random or Random()  # noqa: S311 -- spreads retries and names sockets
        self._clock = clock
        self._wake = asyncio.Event()
        self._service: Service | None = None

    @property
    def registered(self) -> bool:
        """Kubelet knows the plugin and watches its list."""
        return self._service is not None and self._service.streams > 0

    async def run(self) -> NoReturn:
        """Serve and stay registered until cancelled. Needs nothing but the directory, which may appear later."""
        delays = self._delays()
        async with DirectoryWatch(self._directory, self._wake.set) as watch:
            while True:
                began = self._clock()
                kubelet = self._kubelet()
                if kubelet is not None:
                    try:
                        await self._live_with(kubelet, watch)
                    except (RpcFailed, OSError) as error:
                        metrics.REGISTRATIONS.labels("error").inc()
                        _log.warning("kubelet did not take the registration", error=str(error))
                if self._clock() - began >= _LASTING_SECONDS:
                    delays = self._delays()
                await self._until_another(kubelet, watch, next(delays))

    def _delays(self) -> Iterator[float]:
        return full_jitter(base=0.1, cap=5.0, random=self._random)

    async def _live_with(self, kubelet: _Identity, watch: DirectoryWatch) -> None:
        """One registration with the kubelet of that socket, from serving to its loss."""
        # One that still answers belongs to a process that is about to end
        remove_sockets(self._directory)
        path = self._directory / f"eniway-{self._random.getrandbits(32):08x}.sock"
        service = Service(self._devices, self._allocations, stirred=self._wake.set, clock=self._clock)
        self._service = service
        async with Server(path, server.SERVICE, service.methods()):
            await self._register(path.name)
            answered = self._clock()
            while True:
                self._wake.clear()
                watch.arm()
                if reason := self._lost(service, kubelet, path, answered):
                    _log.warning("registration lost", reason=reason)
                    return
                await self._wait(_POLL_SECONDS)

    async def _register(self, endpoint: str) -> None:
        request = api.RegisterRequest(
            version=server.VERSION,
            endpoint=endpoint,
            resource_name=names.RESOURCE_ENI,
            options=api.DevicePluginOptions(get_preferred_allocation_available=True),
        )
        async with Channel(self._directory / KUBELET_SOCKET) as channel:
            await channel.call(_REGISTER, request, api.Empty, seconds=_REGISTER_SECONDS)
        self._allocations.registered(now=self._clock())
        metrics.REGISTRATIONS.labels("success").inc()
        _log.info("registered with kubelet", resource=names.RESOURCE_ENI, endpoint=endpoint)

    def _lost(self, service: Service, kubelet: _Identity, path: Path, answered: float) -> str:
        if self._kubelet() != kubelet:
            return "kubelet's socket is another one or gone"
        if not path.exists():
            return "our socket was removed"
        if service.streams == 0 and (service.watched or self._clock() - answered >= _STREAM_SECONDS):
            return "kubelet does not watch our list"
        return ""

    async def _until_another(self, kubelet: _Identity | None, watch: DirectoryWatch, delay: float) -> None:
        """Wait for a kubelet.sock other than ``kubelet``, or for ``delay`` while there is one to try again."""
        until = self._clock() + delay
        while True:
            self._wake.clear()
            watch.arm()
            now = self._kubelet()
            if now is not None and (now != kubelet or self._clock() >= until):
                return
            remaining = until - self._clock()
            await self._wait(min(remaining, _POLL_UNREGISTERED_SECONDS) if now else _POLL_UNREGISTERED_SECONDS)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _kubelet(self) -> _Identity | None:
        """What tells one kubelet.sock from the next: inode numbers are used again, times of change are not."""
        try:
            found = (self._directory / KUBELET_SOCKET).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns
