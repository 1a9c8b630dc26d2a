"""The debug socket and the verbs' way to it."""

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from eniway.cli.sources import OneNode
from eniway.errors import InvalidRequest, NotReady
from eniway.model import Card, ContainerId, EniId, Kind, Lease, LeaseKey, Mac, PodRef, PodUid, Slot
from eniway.node import debug
from eniway.node.diagnosis import Difference, Name, Party
from eniway.node.doctor import Report
from eniway.trace import Recent, Record, Step

KEY = LeaseKey("eniway", ContainerId("c1"), "eth0")
CARD = Card(
    EniId("eni-1"), Mac("00:16:3e:00:00:01"), Slot(1), IPv4Address("10.0.0.9"), IPv4Network("10.0.0.0/20"),
    IPv4Address("10.0.15.253"),
)  # fmt: skip
LEASE = Lease(
    KEY, PodRef("default", "web", PodUid("u1")), Kind.SHARED, "/run/netns/x", CARD, IPv4Address("10.0.0.7")
)  # fmt: skip


class Books:
    """A node with one pod."""

    def leases(self) -> Sequence[Lease]:
        return [LEASE]

    def since(self, key: LeaseKey) -> float | None:
        return 12.5 if key == KEY else None

    def status(self) -> dict[str, Any]:
        return {"conditions": []}


class Doctor:
    """Finds a link to mend, which cannot be done, and gets no answer of the cloud."""

    async def look(self) -> Report:
        found = Difference(Name.STRAY_LINK, "eniw0", ((Party.LEDGER, "no lease"), (Party.KERNEL, "a/b/c")))
        return Report((found,), ((Party.CLOUD, "throttled"),))

    async def mend(self) -> Report:
        return replace(await self.look(), left=frozenset({("stray-link", "eniw0")}))


@pytest.fixture
def path() -> Iterator[Path]:
    """Short, for a unix socket's has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="eniway-", dir="/tmp") as name:
        yield Path(name) / "run" / "debug.sock"


@pytest.fixture
async def served(path: Path) -> AsyncIterator[Path]:
    recent = Recent()
    for pod in ("default/web", "default/other"):
        recent.add(
            Record(
                verb="ADD",
                pod=pod,
                uid="u1",
                container="c1",
                kind="shared",
                result="success",
                at=1,
                seconds=0.5,
                steps=(Step("kernel", 0.5),),
            )
        )
    async with AsyncExitStack() as stack:
        await debug.serve(stack, Books(), recent, Doctor(), node="node-1", unhealthy=lambda: None, path=path)
        yield path


async def test_it_tells_what_the_daemon_knows(served: Path) -> None:
    """The node, its leases and what was done for a pod; each with the node's name."""
    node = OneNode(served)
    (about,) = (await node.nodes()).found
    assert (about["node"], about["unhealthy"], about["status"]) == ("node-1", None, {"conditions": []})
    (lease,) = (await node.leases()).found
    assert (lease["node"], lease["pod"], lease["kind"], lease["address"], lease["eni"], lease["since"]) == (
        *("node-1", "default/web", "shared", "10.0.0.7", "eni-1"),
        12.5,
    )
    (request,) = (await node.requests("default/web")).found
    assert (request["node"], request["steps"]) == ("node-1", [{"name": "kernel", "seconds": 0.5}])


async def test_it_tells_what_the_doctor_finds_and_what_mending_left(served: Path) -> None:
    """Each party's word; nothing where it has no part in it."""
    (node,) = (await OneNode(served).examine(None, fix=False)).found
    assert node == {
        "node": "node-1",
        "differences": [
            {
                "difference": "stray-link",
                "of": "eniw0",
                "means": "a pod's link that no lease accounts for",
                "since": None,
                "ledger": "no lease",
                "kernel": "a/b/c",
                "kubelet": None,
                "cloud": None,
                "host": None,
                "kubeProxy": None,
                "fix": "removes it",
                "byHand": None,
                "mended": None,
            }
        ],
        "unread": [{"party": "cloud", "why": "throttled"}],
    }
    (node,) = (await OneNode(served).examine("node-1", fix=True)).found
    assert [one["mended"] for one in node["differences"]] == [False]
    with pytest.raises(InvalidRequest, match="NODE: expected node-1"):
        await OneNode(served).examine("node-2", fix=True)


async def test_bad_questions_are_answered_with_what_was_expected(served: Path) -> None:
    """Not with a stack trace."""
    with pytest.raises(NotReady, match="pod: expected NAMESPACE/NAME, got 'web'"):
        await OneNode(served).requests("web")


def mode_of(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def open_to_all(path: Path) -> None:
    """As a careless hand may do."""
    path.chmod(0o666)
    for parent in (path.parent, path.parent.parent):
        parent.chmod(0o755)


async def test_it_is_roots_alone(served: Path) -> None:
    """By its mode from before it listened."""
    assert mode_of(served) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
async def test_others_are_refused_even_where_the_mode_lets_them_in(served: Path) -> None:
    """The kernel says who they are."""
    open_to_all(served)
    ask = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'GET /leases HTTP/1.0\\r\\n\\r\\n'); print(s.recv(4096).split()[1].decode())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", ask, str(served), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"403\n"


async def test_an_absent_daemon_is_said_so(path: Path) -> None:
    """With the socket that does not answer."""
    with pytest.raises(NotReady, match=r"does not answer at .*debug\.sock"):
        await OneNode(path).nodes()
