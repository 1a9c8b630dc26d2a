"""TCP from the machine into the box: a door on 127.0.0.1, since the machine has no route inside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from ipaddress import IPv4Address
from pathlib import Path

from vpcbox.fabric import netns

_CHUNK = 1 << 16


def local_listener() -> socket.socket:
    """Listen on a free port of 127.0.0.1 of the machine."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    listening.setblocking(False)
    return listening


async def forward(listening: socket.socket, namespace: Path, address: IPv4Address, port: int) -> None:
    """Carry each connection to `address` as reached from a namespace of the box, until cancelled."""

    async def carry(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await _connect(namespace, address, port)
        except OSError:
            near_writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(near_reader, far_writer))
                both.create_task(_pump(far_reader, near_writer))
        except* OSError:  # a side that breaks off ends the other
            pass
        finally:
            near_writer.close()
            far_writer.close()

    async with await asyncio.start_server(carry, sock=listening, limit=_CHUNK) as server:
        await server.serve_forever()


async def _connect(
    namespace: Path, address: IPv4Address, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    connection = netns.made_inside(namespace, make)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        return await asyncio.open_connection(sock=connection, limit=_CHUNK)
    except BaseException:
        connection.close()
        raise


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
