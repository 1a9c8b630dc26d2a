"""The leader's lock."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from eniway.kube.client import Connection, KubeClient
from eniway.kube.lease import LeaderLock, LeaseSpec, Sighting, Step, Timing, decide, held_by

WALL = datetime(2026, 1, 1, tzinfo=UTC)
TIMING = Timing(duration=15, renew_within=10, retry=2)


@pytest.mark.parametrize(
    ("spec", "now", "step"),
    [
        (None, 0.0, Step.CREATE),
        (LeaseSpec("me", 15), 100.0, Step.RENEW),
        (LeaseSpec("other", 15), 14.9, Step.WAIT),
        (LeaseSpec("other", 15), 15.0, Step.TAKE),
        (LeaseSpec("", 15), 0.0, Step.TAKE),
        (LeaseSpec(), 0.0, Step.TAKE),
    ],
    ids=["none", "mine", "held", "run out", "given back", "empty"],
)
def test_the_lease_is_taken_only_when_its_holder_is_silent(spec: LeaseSpec | None, now: float, step: Step) -> None:
    """Silence is counted from when it was first seen, on our own clock: the times in it are of another's."""
    assert decide(Sighting(spec, "1", since=0.0), me="me", now=now) is step


def test_transitions_count_holders() -> None:
    """A renewal keeps when it was acquired; a take-over counts."""
    mine = held_by("me", None, duration=15, wall=WALL)
    assert mine == LeaseSpec("me", 15, "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z", 0)
    later = held_by("me", mine, duration=15, wall=WALL.replace(second=2))
    assert (later.acquired, later.renewed) == (mine.acquired, "2026-01-01T00:00:02.000000Z")
    assert held_by("other", later, duration=15, wall=WALL).transitions == 1


@dataclass
class Candidate:
    """One process: when it looked, what it saw, and until when it acts."""

    me: str
    offset: float
    seen: Sighting | None = None
    looked_at: float = 0.0
    acts_until: float = -1.0


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 2.0, 2.0, 9.0, 14.0, 16.0, 40.0]), st.integers(0, 2), st.booleans()),
        max_size=60,
    ),
    st.lists(st.floats(-1000, 1000), min_size=3, max_size=3),
)
def test_never_do_two_act(steps: list[tuple[float, int, bool]], offsets: list[float]) -> None:
    """Whatever the order of looks and writes, the pauses between them, and what each one's clock says."""
    stored: LeaseSpec | None = None
    version, now = 0, 0.0
    candidates = [Candidate(f"c-{n}", offset) for n, offset in enumerate(offsets)]
    for passed, who, looks in steps:
        now += passed
        one = candidates[who]
        own = now + one.offset
        if looks:
            if one.seen is None or one.seen.version != str(version):
                one.seen = Sighting(stored, str(version), own)
            one.looked_at = own
        elif (
            one.seen is not None
            and one.seen.version == str(version)
            and decide(one.seen, me=one.me, now=one.looked_at) is not Step.WAIT
        ):
            version += 1
            stored = held_by(one.me, one.seen.spec, duration=TIMING.duration, wall=WALL)
            one.acts_until = one.looked_at - one.offset + TIMING.renew_within
        assert sum(candidate.acts_until > now for candidate in candidates) <= 1


@dataclass
class LeaseServer:
    """Leases as the API server keeps them: versions, and a conflict for who writes on top of another's."""

    lease: dict[str, Any] | None = None
    version: int = 0
    silent: bool = False
    written: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        if self.silent:
            return web.json_response({"message": "away"}, status=503)
        if request.method == "GET":
            return web.json_response(self.lease or {"message": "not found"}, status=200 if self.lease else 404)
        body = await request.json()
        there = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if body["metadata"].get("resourceVersion") != there:
            return web.json_response({"message": "conflict"}, status=409)
        self.put(body["spec"])
        return web.json_response(self.lease)

    def put(self, spec: dict[str, Any]) -> None:
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": json.loads(json.dumps(spec))}
        self.written.set()


class Work:
    """What is done under the lock; says when it begins and ends."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[LeaseServer, KubeClient]]:
    api = LeaseServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    async with TestServer(app) as server:
        connection = Connection(str(server.make_url("")).rstrip("/"), ssl.create_default_context(), lambda: None)
        async with KubeClient(connection) as client:
            yield api, client


@asynccontextmanager
async def candidate(client: KubeClient, me: str, work: Work) -> AsyncIterator[None]:
    lock = LeaderLock(
        client,
        namespace="kube-system",
        name="eniway",
        me=me,
        clock=time.monotonic,
        wall=lambda: WALL,
        timing=Timing(duration=2, renew_within=0.5, retry=0.05),
    )
    task = asyncio.ensure_future(lock.lead(work))
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_who_hears_nothing_stops_acting() -> None:
    """No renewal for a while: work ends though nobody else has the Lease; it begins again when there are answers."""
    async with serving() as (api, client):
        work = Work()
        async with candidate(client, "one", work):
            await work.began.wait()
            api.silent = True
            await work.ended.wait()
            work.began.clear()
            api.silent = False
            await work.began.wait()


async def test_who_is_replaced_stops_acting() -> None:
    """Somebody else's name in the Lease is enough."""
    async with serving() as (api, client):
        work = Work()
        async with candidate(client, "one", work):
            await work.began.wait()
            api.put({"holderIdentity": "other", "leaseDurationSeconds": 60})
            await work.ended.wait()
            assert api.lease is not None
            assert api.lease["spec"]["holderIdentity"] == "other"


async def test_who_ends_gives_the_lease_back_and_the_next_takes_it_at_once() -> None:
    """After the work has ended, not before."""
    async with serving() as (api, client):
        first, second = Work(), Work()
        async with candidate(client, "one", first):
            await first.began.wait()
        assert first.ended.is_set()
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == ""
        async with candidate(client, "two", second):
            await second.began.wait()
            assert api.lease["spec"]["leaseTransitions"] == 1


async def test_work_that_fails_is_not_hidden() -> None:
    """Its error ends the process; the Lease is given back."""

    async def broken() -> None:
        raise RuntimeError("broken")

    async with serving() as (api, client):
        lock = LeaderLock(
            client, namespace="n", name="l", me="one", clock=time.monotonic, wall=lambda: WALL, timing=TIMING
        )
        with pytest.raises(ExceptionGroup) as caught:
            await lock.lead(broken)
        assert isinstance(caught.value.exceptions[0], RuntimeError)
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == ""
