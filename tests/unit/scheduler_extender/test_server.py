"""The scheduler's door over HTTP: whatever is sent, an answer in words or an end, and the next honest one is served."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from io import BytesIO
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from eniway import http
from eniway.extender.app import Answers
from eniway.kube.client import KubeClient
from scheduler_extender import server
from scheduler_extender.filter import Chooser
from scheduler_extender.index import CapacityIndex
from scheduler_extender.journal import Journal
from tests.box.apiserver import free_ports
from tests.property.scheduler_extender import cluster

LIMIT = 1 << 20
POD = {"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": []}}


class Door:
    def __init__(self, port: int, session: ClientSession, chooser: Chooser) -> None:
        self.port = port
        self.session = session
        self.chooser = chooser

    async def post(self, verb: str, body: bytes, headers: dict[str, str] | None = None) -> object:
        url = f"http://127.0.0.1:{self.port}/{verb}"
        async with self.session.post(url, data=BytesIO(body), headers=headers) as answer:
            assert answer.status == 200
            return await answer.json()

    async def filter(self, body: bytes, headers: dict[str, str] | None = None) -> dict[str, object]:
        answer = await self.post("filter", body, headers)
        assert isinstance(answer, dict)
        return answer

    async def is_open(self) -> None:
        """An honest request is served."""
        answer = await self.filter(json.dumps({"Pod": POD, "NodeNames": ["a"]}).encode())
        assert (answer["NodeNames"], answer["Error"]) == (["a"], "")

    async def connect(self, head: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode())
        await writer.drain()
        return reader, writer


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    index = CapacityIndex()
    index.set_network("a", cluster.network(addresses=cluster.words(1)), 1)
    chooser = Chooser(index)
    async with AsyncExitStack() as stack:
        journal = Journal(tmp_path / "holds")
        stack.callback(journal.close)
        client = KubeClient(None)  # type: ignore[arg-type]
        answers = Answers(chooser, journal, client=client, binds=0, clock=lambda: 0.0)
        answers.unready = None
        app = server.application(answers, most_bytes=LIMIT, unready=lambda: None, refresh=lambda: None)
        (port,) = free_ports(1)
        stack.push_async_callback((await http.serve(app, host="127.0.0.1", port=port)).cleanup)
        yield Door(port, await stack.enter_async_context(ClientSession()), chooser)


def asks(pod: object = POD, names: object = ("a",), **beside: object) -> bytes:
    return json.dumps({"Pod": pod, "NodeNames": names, **beside}).encode()


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{", id="not whole"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(b'{"Pod": {"metadata": {"uid": "\xff"}}, "NodeNames": ["a"]}', id="not UTF-8"),
        pytest.param(b'{"Pod": {"metadata": {"uid": "\\ud800"}}, "NodeNames": ["a"]}', id="half a character"),
        pytest.param(b'{"NodeNames": ["a"]}', id="no pod"),
        pytest.param(asks({"metadata": {"uid": ""}}), id="no UID"),
        pytest.param(asks({"metadata": {"uid": 7}}), id="a UID that is a number"),
        pytest.param(asks(names="a"), id="names that are no list"),
        pytest.param(asks(names=[1]), id="a name that is a number"),
        pytest.param(asks(names=[None]), id="a name that is none"),
        pytest.param(b'{"Pod": ' + DEEP + b"}", id="deep where a pod should be"),
        pytest.param(b'{"X": ' + DEEP + b', "NodeNames": ["a"]}', id="deep where nobody looks"),
        pytest.param(asks(names=None, Nodes={"items": [{}]}), id="a node without a name"),
        pytest.param(asks(names=None, Nodes={"items": 7}), id="nodes that are a number"),
    ],
)
async def test_what_is_no_request_is_refused_in_words(door: Door, body: bytes) -> None:
    """By filter and by bind with HTTP 200, or the scheduler would not read them; by prioritize with no scores."""
    answer = await door.filter(body)
    assert str(answer["Error"]).startswith("eniway: not ExtenderArgs: ")
    assert await door.post("prioritize", body) == []
    refused = await door.post("bind", body)
    assert isinstance(refused, dict)
    assert str(refused["Error"]).startswith("eniway: not ExtenderBindingArgs: ")
    await door.is_open()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"X": 1e999999, "Y": -' + b"9" * 5000 + b", " + asks()[1:], id="huge numbers"),
        pytest.param(asks({**POD, "status": {"x" * 100_000: "y" * 100_000}}), id="long words"),
        pytest.param(asks(names=["a"] * 20_000), id="one name many times"),
    ],
)
async def test_what_is_odd_beside_the_request_does_no_harm(door: Door, body: bytes) -> None:
    """Huge numbers and long words in fields that nobody reads; a node named twice is answered, and held, once."""
    answer = await door.filter(body)
    assert (answer["NodeNames"], answer["Error"]) == (["a"], "")
    assert [list(hold.nodes) for hold in door.chooser.holds.values()] == [["a"]]


async def test_a_hundred_thousand_names_are_answered(door: Door) -> None:
    """One of them is a node; within the limit on bytes, there is none on names."""
    answer = await door.filter(asks(names=[f"{number:x}" for number in range(100_000)] + ["a"]))
    assert (answer["NodeNames"], answer["Error"]) == (["a"], "")


async def test_what_is_packed_is_not_unpacked(door: Door) -> None:
    """A body of a kilobyte that would be a gigabyte's beginning."""
    packed = gzip.compress(b" " * (4 << 20))
    assert len(packed) < 10_000
    answer = await door.filter(packed, {"Content-Encoding": "gzip"})
    assert "not ExtenderArgs" in str(answer["Error"])
    await door.is_open()


async def test_a_body_beyond_the_limit_is_refused_and_one_without_end_is_cut(door: Door) -> None:
    """The first in words that say which key it is; the second when it is many times too large."""
    answer = await door.filter(b" " * (LIMIT + 1))
    assert f"more than {LIMIT} bytes: raise max_request_bytes" in str(answer["Error"])

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536

    async def answered() -> None:
        async with door.session.post(f"http://127.0.0.1:{door.port}/filter", data=endless()) as answer:
            # Where the refusal is read before the end of the connection is noticed
            assert "max_request_bytes" in (await answer.json())["Error"]
            raise ClientError

    with pytest.raises(ClientError):
        await answered()
    await door.is_open()


async def test_who_sends_slowly_makes_nobody_wait(door: Door) -> None:
    """Half a head, or half a body, from two hundred at once; an honest request is served while all of them wait."""
    body = asks()
    slow = [await door.connect("POST /filter HTTP/1.1\r\nHost: x\r\n") for _ in range(100)]
    head = f"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    slow += [await door.connect(head + body[:-1].decode()) for _ in range(100)]
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(reader.read(1)) for reader, _ in slow]
        for _ in range(20):
            await door.is_open()
        assert not any(read.done() for read in reads)
        for read in reads:
            read.cancel()
    for _, writer in slow:
        writer.close()


async def test_who_is_connected_is_served_though_others_take_all_connections(door: Door) -> None:
    """One too many is closed at once."""
    await door.is_open()
    idle = [await door.connect() for _ in range(http.MOST_CONNECTIONS)]
    reader, _ = idle[-1]
    with suppress(ConnectionError):
        assert await reader.read() == b""
    await door.is_open()
    for _, writer in idle:
        writer.close()


async def test_large_bodies_share_what_memory_there_is_for_them(door: Door) -> None:
    """As many bytes as eight whole requests: beyond, the largest is refused, not who asks for little."""
    head = f"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT}\r\n\r\n"
    kept = [await door.connect(head) for _ in range(9)]
    for _, writer in kept:
        writer.write(b" " * (LIMIT - 1))
        await writer.drain()
    for _ in range(20):
        await door.is_open()
    replies = []
    for reader, writer in kept:
        writer.write(b" ")
        await writer.drain()
        replies.append(await reader.readuntil(b'"}'))
        writer.close()
    refused = sum(b"too many large requests at once" in reply for reply in replies)
    # One makes room for what the others lack, or two where it had not come as far
    assert refused in (1, 2)
    assert sum(b"not ExtenderArgs" in reply for reply in replies) == 9 - refused


async def test_who_does_not_read_the_reply_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies of megabytes are not kept for somebody who asks and asks and never reads."""
    monkeypatch.setattr(server, "_PATIENCE", 0.1)
    body = asks(names=[f"{number:x}" for number in range(60_000)])
    head = f"POST /prioritize HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    # Its reader takes some 100 KiB of its own accord, and no more
    _, writer = await door.connect()

    async def ask_on() -> None:
        while True:
            writer.write(head + body)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await ask_on()
    await door.is_open()


async def test_binding_is_refused_where_it_is_not_asked_for(door: Door) -> None:
    """Without `binds`: nobody who reaches the port has pods bound."""
    asked = {"PodName": "p", "PodNamespace": "d", "PodUID": "u", "Node": "a"}
    assert await door.post("bind", json.dumps(asked).encode()) == {
        "Error": "eniway: binding is not the extender's here: set `binds`, or leave bindVerb out"
    }
