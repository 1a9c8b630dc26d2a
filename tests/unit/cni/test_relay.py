"""One suite for both relays: the C program that ships, and the Python text that specifies it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cni import wire
from cni.shim.build import SOURCE, build

COMPILER = shutil.which("musl-gcc") or shutil.which("cc")
QEMU = shutil.which("qemu-aarch64")
FOREIGN = ["c-arm64"] if QEMU and shutil.which("aarch64-linux-gnu-gcc") else []
"""`make arm` installs both and runs these."""
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (musl-gcc or cc) for the relay")
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Relay:
    """How to start a relay, and where its daemon is."""

    command: tuple[str, ...]
    socket: Path

    async def start(self, verb: str, **variables: str) -> asyncio.subprocess.Process:
        """The relay as a process, with nothing but what a runtime gives it."""
        return await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"CNI_COMMAND": verb, "PATH": "/nowhere", "PYTHONPATH": str(ROOT), **variables},
        )

    async def run(self, verb: str, config: bytes = b"{}", **variables: str) -> tuple[int, bytes]:
        """Exit status and standard output; standard error has to be empty."""
        process = await self.start(verb, **variables)
        out, err = await process.communicate(config)
        assert err == b""
        assert process.returncode is not None
        return process.returncode, out


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A short path, for a unix socket's has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="eniway-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def compiled(directory: Path) -> Path:
    """The relay as it ships, for a daemon in ``directory``."""
    build(directory / "eniway", socket=str(directory / "cni.sock"))
    return directory / "eniway"


@pytest.fixture(scope="module")
def compiled_for_arm64(directory: Path) -> Path:
    """As ``compiled``, by the cross compiler."""
    build(directory / "arm64", architecture="arm64", socket=str(directory / "cni.sock"))
    return directory / "arm64"


@pytest.fixture(params=[pytest.param("c", marks=needs_compiler), *FOREIGN, "python"])
def relay(request: pytest.FixtureRequest, directory: Path) -> Relay:
    """Each of the two."""
    socket = directory / "cni.sock"
    socket.unlink(missing_ok=True)
    if request.param == "c":
        return Relay((str(request.getfixturevalue("compiled")),), socket)
    if request.param == "c-arm64":
        return Relay((str(QEMU), str(request.getfixturevalue("compiled_for_arm64"))), socket)
    code = f"from cni.shim.reference import relay; relay({str(socket)!r})"
    return Relay((sys.executable, "-S", "-E", "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]; {code}"), socket)


@contextlib.asynccontextmanager
async def daemon(
    path: Path, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    """A daemon that treats each connection as ``serve`` does."""
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def served() -> None:
            with contextlib.closing(writer):
                await serve(reader, writer)

        tasks.add(asyncio.ensure_future(served()))

    async with await asyncio.start_unix_server(connected, path):
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(status: int, output: bytes, seen: list[wire.Request]) -> Callable[..., Awaitable[None]]:
    """Read a request and answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await wire.read_request(reader))
        writer.write(wire.reply_bytes(wire.Reply(status, output)))
        await writer.drain()

    return serve


async def test_passes_variables_and_stdin_and_prints_the_answer(relay: Relay) -> None:
    """Every CNI_ variable and no other, stdin byte for byte; the answer byte for byte, and its status."""
    seen: list[wire.Request] = []
    config = bytes(range(256))
    async with daemon(relay.socket, answering(3, b"\x00out\xff\n", seen)):
        assert await relay.run("ADD", config, CNI_ARGS="A=1;B=ü", CNI_NETNS="", OTHER="x") == (3, b"\x00out\xff\n")
    variables = {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=1;B=ü", "CNI_NETNS": ""}
    assert seen == [wire.Request(variables, config)]


@pytest.mark.parametrize("size", [0, 1, 65536, 3 << 20])
async def test_long_configurations_pass(relay: Relay, size: int) -> None:
    """Also those that fill the socket's buffer many times, and answers as long."""
    seen: list[wire.Request] = []
    config = b"x" * size
    async with daemon(relay.socket, answering(0, config, seen)):
        assert await relay.run("ADD", config) == (0, config)
    assert seen[0].config == config


async def test_a_configuration_without_end_is_refused(relay: Relay) -> None:
    """4 MiB is too long, and said so."""
    status, out = await relay.run("ADD", b" " * (4 << 20))
    assert status == 1
    assert json.loads(out)["code"] == 7
    assert "4 MiB" in json.loads(out)["msg"]


async def test_an_answer_in_pieces_is_put_together(relay: Relay) -> None:
    """Neither reads nor writes are taken for whole."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        for byte in wire.reply_bytes(wire.Reply(0, b"piecemeal\n")):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with daemon(relay.socket, serve):
        assert await relay.run("ADD") == (0, b"piecemeal\n")


AWAY = {"ADD": 11, "CHECK": 11, "GC": 11, "": 11, "UPDATE": 11, "DEL": 0, "STATUS": 0}


def away(verb: str, answer: tuple[int, bytes]) -> None:
    """Hold ``answer`` against the table of what is said with the daemon away."""
    status, out = answer
    if AWAY[verb] == 0:
        assert (status, out) == (0, b"")
    else:
        assert status == 1
        error = json.loads(out)
        assert error["code"] == 11
        assert error["cniVersion"] == "1.0.0"
        assert "try again later" in error["msg"]


@pytest.mark.parametrize("verb", AWAY)
async def test_without_a_daemon(relay: Relay, verb: str) -> None:
    """No socket, and a socket that nobody serves."""
    away(verb, await relay.run(verb))
    server = await asyncio.start_unix_server(lambda _reader, _writer: None, relay.socket)
    server.close()
    await server.wait_closed()
    assert relay.socket.is_socket()
    away(verb, await relay.run(verb))


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize(
    "reply",
    [b"", b"EW\x01", b"EW\x02\x00\x00\x00\x00\x00", b"HT\x01\x00\x00\x00\x00\x00", b"EW\x01\x00\x00\x00\x00\x09{}"],
)
async def test_with_a_daemon_that_breaks_off(relay: Relay, verb: str, reply: bytes) -> None:
    """No answer, half an answer, and an answer of another protocol are no answer: nothing of them is printed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.write(reply)
        await writer.drain()

    async with daemon(relay.socket, serve):
        away(verb, await relay.run(verb))


async def test_with_a_daemon_that_does_not_even_read(relay: Relay) -> None:
    """A connection cut in the middle of the request is the daemon away, not a signal's death."""

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)

    async with daemon(relay.socket, serve):
        away("ADD", await relay.run("ADD", b"x" * (3 << 20)))


@pytest.mark.parametrize("verb", AWAY)
async def test_at_its_limit_a_wait_ends_as_with_the_daemon_away(relay: Relay, verb: str) -> None:
    """The limit is an alarm; here it comes as soon as the daemon has the request."""
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        asked.set()
        await reader.read()

    async with daemon(relay.socket, serve):
        process = await relay.start(verb)
        assert process.stdin is not None
        process.stdin.close()
        await asked.wait()
        process.send_signal(signal.SIGALRM)
        out, err = await process.communicate()
        assert err == b""
        assert process.returncode is not None
        away(verb, (process.returncode, out))


async def test_status_waits_a_second_at_most(relay: Relay) -> None:
    """With the alarm that the relay itself has set, and a daemon that never answers."""

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with daemon(relay.socket, serve):
        away("STATUS", await relay.run("STATUS"))


LIMITS = {"ADD": 220, "DEL": 60, "STATUS": 1, "CHECK": 10, "GC": 10, "": 10}


@needs_compiler
@pytest.mark.parametrize("verb", LIMITS)
def test_limits_of_the_c_relay(directory: Path, verb: str) -> None:
    """The alarms that it sets: the verb's, and none any more once it has the answer or fails."""
    header = directory / "alarm.h"
    header.write_text(
        '#include <stdio.h>\n#include <unistd.h>\n#define alarm(n) (dprintf(2, "%d\\n", (n)), (alarm)(n))\n'
    )
    program = directory / "traced"
    if not program.exists():
        flags = ["-std=gnu11", "-static", "-include", str(header), f'-DSOCKET="{directory}/nobody.sock"']
        subprocess.run([str(COMPILER), *flags, "-o", str(program), str(SOURCE)], check=True)
    done = subprocess.run([str(program)], env={"CNI_COMMAND": verb}, input=b"{}", capture_output=True, check=False)
    assert done.stderr == b"%d\n" % LIMITS[verb]


@pytest.mark.parametrize("verb", LIMITS)
def test_limits_of_the_reference(directory: Path, verb: str) -> None:
    """The same table."""
    code = (
        "import os, signal; signal.alarm = lambda n: os.write(2, b'%d\\n' % n); "
        f"from cni.shim.reference import relay; relay('{directory}/nobody.sock')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"CNI_COMMAND": verb, "PYTHONPATH": str(ROOT)},
        input=b"{}",
        capture_output=True,
        check=False,
    )
    assert done.stderr == b"%d\n" % LIMITS[verb]


async def test_version_is_answered_without_daemon_and_stdin(relay: Relay) -> None:
    """It does not even wait for the end of stdin."""
    process = await relay.start("VERSION")
    assert process.stdout is not None
    out = await process.stdout.read()
    assert await process.wait() == 0
    assert json.loads(out) == {
        "cniVersion": "1.1.0",
        "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }
    assert process.stdin is not None
    process.stdin.close()


@needs_compiler
def test_the_shipped_relay_is_small_and_static(compiled: Path) -> None:
    """At most 90 lines of source, and a program that needs nothing of its node."""
    assert len(SOURCE.read_text().splitlines()) <= 90
    assert compiled.stat().st_mode & 0o111
    assert b"ld-linux" not in compiled.read_bytes()
    assert re.search(rb"eniway-[^/]*/cni\.sock", compiled.read_bytes())
    assert compiled.stat().st_size < 1 << 20
