from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cni import wire
from cni.handler import Handler
from cni.server import Door
from cni.wire import Reply, Request


@contextlib.asynccontextmanager
async def running(door: Door) -> AsyncIterator[None]:
    """Serve for the length of the context."""
    door.open()
    task = asyncio.ensure_future(door.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def mode_of(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def open_to_all(path: Path) -> None:
    """As a careless hand may do."""
    path.chmod(0o666)


async def ask(path: Path, request: Request) -> Reply:
    """What a relay does."""
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.closing(writer):
        writer.write(wire.request_bytes(request))
        header = await reader.readexactly(8)
        assert header[:3] == b"EW\x01"
        return Reply(header[3], await reader.readexactly(int.from_bytes(header[4:], "big")))


@pytest.fixture
def path(short: Path) -> Path:
    """Where the door is."""
    return short / "run" / "cni.sock"


async def test_the_socket_is_roots_alone_and_replaces_an_earlier_one(path: Path) -> None:
    """0600 from the first moment, and a dead daemon's socket is no obstacle."""

    async def handle(_request: Request) -> Reply:
        return Reply(0, b"ok")

    for _ in range(2):
        async with running(Door(handle, path=path)):
            assert mode_of(path) == 0o600
            assert await ask(path, Request({}, b"")) == Reply(0, b"ok")
    assert [entry.name for entry in path.parent.iterdir()] == ["cni.sock"]


async def test_many_at_once_are_all_answered(rooms: Any, request_of: Any, path: Path) -> None:
    """A node's worth of pods in one burst."""
    async with running(Door(Handler(rooms, rooms, rooms, add_seconds=9).handle, path=path)):
        replies = await asyncio.gather(*(ask(path, request_of("ADD", container=f"c{n}")) for n in range(100)))
        assert {reply.status for reply in replies} == {0}
        assert len({msgspec.json.decode(reply.output)["ips"][0]["address"] for reply in replies}) == 100


async def test_a_relay_that_goes_away_cancels_its_add(rooms: Any, request_of: Any, path: Path) -> None:
    """The runtime gave up: what the ADD took is free again, and the door serves on."""
    entered, undone = asyncio.Event(), asyncio.Event()

    class Slow(type(rooms)):  # type: ignore[misc]
        async def attach(self, _lease: Any) -> Any:
            entered.set()
            await asyncio.Event().wait()

        async def release(self, key: Any) -> None:
            await super().release(key)
            undone.set()

    slow = Slow()
    async with running(Door(Handler(slow, slow, slow, add_seconds=9).handle, path=path)):
        _reader, writer = await asyncio.open_unix_connection(path)
        writer.write(wire.request_bytes(request_of("ADD")))
        await entered.wait()
        writer.close()
        await undone.wait()
        assert not slow.held
        assert (await ask(path, request_of("STATUS", version="1.1.0"))).status == 0


async def test_a_del_once_read_is_done_to_its_end(rooms: Any, request_of: Any, path: Path) -> None:
    """Also when its relay has gone: nobody may come back for it."""
    entered, free = asyncio.Event(), asyncio.Event()
    released = asyncio.Event()

    class Slow(type(rooms)):  # type: ignore[misc]
        async def detach(self, lease: Any) -> None:
            entered.set()
            await free.wait()
            await super().detach(lease)

        async def release(self, key: Any) -> None:
            await super().release(key)
            released.set()

    slow = Slow()
    async with running(Door(Handler(slow, slow, slow, add_seconds=9).handle, path=path)):
        assert (await ask(path, request_of("ADD"))).status == 0
        _reader, writer = await asyncio.open_unix_connection(path)
        writer.write(wire.request_bytes(request_of("DEL")))
        await entered.wait()
        writer.close()
        await writer.wait_closed()
        # Another request is answered after the door has seen the first relay go.
        assert (await ask(path, request_of("STATUS", version="1.1.0"))).status == 0
        free.set()
        await released.wait()
        assert not slow.held


async def test_the_end_of_the_daemon_cancels_what_is_under_way(rooms: Any, request_of: Any, path: Path) -> None:
    """An ADD that waits for an address is taken back, and its relay sees the connection end."""
    entered = asyncio.Event()

    class Waiting(type(rooms)):  # type: ignore[misc]
        async def attach(self, _lease: Any) -> Any:
            entered.set()
            await asyncio.Event().wait()

    waiting = Waiting()
    async with running(Door(Handler(waiting, waiting, waiting, add_seconds=9).handle, path=path)):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(wire.request_bytes(request_of("ADD")))
        await entered.wait()
    assert not waiting.held
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"EW\x02\x00" + bytes(8), b"EW\x01\x00" + b"\xff" * 8])
async def test_what_is_no_request_is_told_so(rooms: Any, path: Path, noise: bytes) -> None:
    """With an error object in a reply that every version of the relay reads."""
    async with running(Door(Handler(rooms, rooms, rooms, add_seconds=9).handle, path=path)):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(noise)
        header = await reader.readexactly(8)
        assert header[:4] == b"EW\x01\x01"
        assert "expected" in msgspec.json.decode(await reader.read())["msg"]
        writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
async def test_another_user_is_refused_whatever_the_mode(rooms: Any, path: Path) -> None:
    """Peer credentials decide, also where the socket's mode was loosened."""
    async with running(Door(Handler(rooms, rooms, rooms, add_seconds=9).handle, path=path)):
        open_to_all(path)
        code = (
            "import os, socket, sys\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            f"os.chdir({str(path.parent)!r})\n"
            "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
            "s.connect('cni.sock')\n"
            # Refused before or after the request is sent: either way no byte comes back.
            "try:\n"
            f"    s.sendall({wire.request_bytes(Request({'CNI_COMMAND': 'VERSION'}, b''))!r})\n"
            "    sys.stdout.write(repr(s.recv(100)))\n"
            "except (BrokenPipeError, ConnectionResetError): sys.stdout.write(repr(b''))\n"
        )
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        assert out == b"b''"
        assert (await ask(path, Request({"CNI_COMMAND": "VERSION"}, b""))).status == 0
