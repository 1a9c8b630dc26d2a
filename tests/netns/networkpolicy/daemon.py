"""The enforcers of several nodes as a process of their own, which can be killed: calls in, a byte back when in force.

Frames on standard input are a length and a pickle: first what there is, then lists of calls on every model.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Self

from eniway.model import Lease
from networkpolicy.enforcer import Enforcer
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.property.networkpolicy.oracle import Json, World
from tests.property.networkpolicy.worlds import namespace, view

Call = tuple[str, Json]
"""put_pod, put_namespace or put_policy with an object; drop_policy with its metadata."""


@dataclass(frozen=True)
class Place:
    """A node."""

    path: str
    address: IPv4Address
    leases: tuple[Lease, ...]


def world_calls(world: World) -> list[Call]:
    """All that there is."""
    return [
        *(("put_namespace", namespace(name, labels)) for name, labels in world.namespaces.items()),
        *(("put_pod", made) for made in world.pods),
        *(("put_policy", made) for made in world.policies),
    ]


class Daemon:
    """The process, from outside."""

    def __init__(self, nodes: Iterable[Place], calls: list[Call]) -> None:
        self._child = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.send((tuple(nodes), calls))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def send(self, frame: Any) -> None:
        """Say something, and go on."""
        data = pickle.dumps(frame)
        assert self._child.stdin is not None
        self._child.stdin.write(struct.pack("=I", len(data)) + data)
        self._child.stdin.flush()

    def wait(self) -> None:
        """Until what was said is in force."""
        assert self._child.stdout is not None
        assert self._child.stdout.read(1) == b"."

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()
        self._child.communicate()


def _carry_out(model: Model, call: Call) -> None:
    method, made = call
    match method:
        case "put_pod":
            model.put_pod(view(PodView, made))
        case "put_namespace":
            model.put_namespace(view(NamespaceView, made))
        case "put_policy":
            model.put_policy(view(PolicyView, made))
        case _:
            model.drop_policy(made["namespace"], made["name"])


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)

    async def frame() -> Any:
        (length,) = struct.unpack("=I", await reader.readexactly(4))
        return pickle.loads(await reader.readexactly(length))

    nodes, calls = await frame()
    with ExitStack() as stack:
        enforcers = []
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                enforcer = Enforcer(Model(4, sampled=True), path=node.path, six=True)
                stack.callback(enforcer.close)
                for call in calls:
                    _carry_out(enforcer.model, call)
                enforcer.start(node.leases, nodes=[node.address])
                group.create_task(enforcer.run())
                enforcers.append(enforcer)
            while True:
                for enforcer in enforcers:
                    await enforcer.in_force()
                sys.stdout.buffer.write(b".")
                sys.stdout.buffer.flush()
                for call in await frame():
                    for enforcer in enforcers:
                        _carry_out(enforcer.model, call)


if __name__ == "__main__":
    asyncio.run(main())
