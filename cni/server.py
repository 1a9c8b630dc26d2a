"""The daemon's socket: one request on a connection, only from root, until the relay goes away.

A relay that goes away (the runtime gave up, or the node's limit passed) cancels its request, which then takes back
what it did; but a DEL, once read, is done to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NoReturn

from cni import types, wire
from cni.wire import Reply, Request
from eniway import log, names, peers

_BACKLOG: Final = 512
"""More than the pods of a node: a burst waits in the kernel, not in the relay's retries."""
_REQUEST_SECONDS: Final = 10.0

_log = log.get(__name__)


class Door:
    """Hands requests to ``handle`` and its replies back."""

    def __init__(self, handle: Callable[[Request], Awaitable[Reply]], *, path: Path = Path(names.CNI_SOCKET)) -> None:
        self._handle = handle
        self._path = path
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen, in the place of any earlier socket; relays wait until ``run`` serves them. OSError if it fails."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(fresh))
            # Before it listens nobody can connect, whatever the umask was.
            fresh.chmod(0o600)
            listener.listen(_BACKLOG)
            fresh.replace(self._path)
        except OSError:
            listener.close()
            raise
        self._socket = listener

    async def run(self) -> NoReturn:
        """Serve until cancelled; then requests under way are cancelled too."""
        if self._socket is None:
            self.open()
        async with asyncio.TaskGroup() as group:
            ending = False

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if ending:
                    # Accepted in the instant before the end; its relay takes it for a daemon that is away.
                    writer.close()
                else:
                    group.create_task(self._serve(reader, writer, group))

            server = await asyncio.start_unix_server(connected, sock=self._socket, backlog=_BACKLOG)
            _log.info("serving CNI", socket=str(self._path))
            try:
                async with server:
                    await server.serve_forever()
            finally:
                ending = True
        raise AssertionError("serve_forever ends")

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, group: asyncio.TaskGroup
    ) -> None:
        with contextlib.closing(writer):
            if not _trusted(writer.get_extra_info("socket")):
                return
            try:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    request = await wire.read_request(reader)
            except wire.BadRequest as error:
                _log.warning("not a request", error=str(error))
                output = types.error_output(error, verb="", version=names.CNI_VERSION)
                writer.write(wire.reply_bytes(Reply(1, output)))
                return
            except (asyncio.IncompleteReadError, OSError, TimeoutError):
                return
            reply = await self._until_gone(request, reader, group)
            if reply is not None:
                with contextlib.suppress(OSError):
                    writer.write(wire.reply_bytes(reply))
                    await writer.drain()

    async def _until_gone(
        self, request: Request, reader: asyncio.StreamReader, group: asyncio.TaskGroup
    ) -> Reply | None:
        """The reply, or None if the relay goes away before there is one."""
        work = group.create_task(self._work(request))
        gone = group.create_task(_gone(reader))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            _log.info("the runtime went away", verb=request.environment.get("CNI_COMMAND", ""))
            if request.environment.get("CNI_COMMAND") != "DEL":
                work.cancel()
            return None
        finally:
            gone.cancel()

    async def _work(self, request: Request) -> Reply:
        return await self._handle(request)


async def _gone(reader: asyncio.StreamReader) -> None:
    """Return when the other end has closed; a relay sends nothing after its request."""
    with contextlib.suppress(OSError):
        await reader.read(1)


def _trusted(connection: socket.socket) -> bool:
    """The other end runs as the daemon's own user, which is root."""
    trusted, uid = peers.is_own_user(connection)
    if not trusted:
        _log.warning("connection refused", uid=uid)
    return trusted
