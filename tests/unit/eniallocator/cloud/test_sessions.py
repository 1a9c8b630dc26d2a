"""Keys that end: by a clock that moves when told, and against the services themselves."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from eniallocator.cloud import sessions
from eniallocator.cloud.credentials import AccessKey
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.sessions import RENEW_SECONDS, RETRY_SECONDS, Session, Sessions
from eniway.errors import BadConfig, NotReady
from vpcbox.faults import Faults
from vpcbox.metadata.server import application as metadata
from vpcbox.openapi.credentials import Credentials
from vpcbox.world.clock import Clock as BoxClock
from vpcbox.world.instance_types import load
from vpcbox.world.world import World

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now, self.offset = 1000.0, 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def timeout_at(self, when: float) -> AbstractAsyncContextManager[object]:
        raise NotImplementedError


class Source:
    """Hands out a new session each time, or refuses."""

    def __init__(self, clock: Clock, *, lasting: float) -> None:
        self.clock, self.lasting = clock, lasting
        self.handed_out = 0
        self.away = False

    async def __call__(self) -> Session:
        await asyncio.sleep(0)
        if self.away:
            raise NotReady("nobody there")
        self.handed_out += 1
        return Session(AccessKey(f"STS.{self.handed_out}", "s", "t"), self.clock.wall() + self.lasting)


def made(*, lasting: float = 6 * HOUR) -> tuple[Sessions, Source, Clock]:
    clock = Clock()
    source = Source(clock, lasting=lasting)
    return Sessions(source, clock=clock), source, clock


async def test_one_session_for_all_who_ask_at_once() -> None:
    """And for all who ask while it is good."""
    keys, source, _ = made()
    assert {key.key_id for key in await asyncio.gather(*(keys.key() for _ in range(5)))} == {"STS.1"}
    assert source.handed_out == 1


async def test_a_session_is_renewed_before_it_ends() -> None:
    """Twenty minutes before, when a new one has long been there."""
    keys, _, clock = made()
    await keys.key()
    clock.now += 6 * HOUR - RENEW_SECONDS - 1
    assert (await keys.key()).key_id == "STS.1"
    clock.now += 2
    assert (await keys.key()).key_id == "STS.2"


async def test_a_short_session_is_renewed_in_its_last_fifth() -> None:
    """Not all the time."""
    keys, _, clock = made(lasting=900.0)
    await keys.key()
    clock.now += 719
    assert (await keys.key()).key_id == "STS.1"
    clock.now += 2
    assert (await keys.key()).key_id == "STS.2"


async def test_a_session_that_cannot_be_renewed_is_used_to_its_end() -> None:
    """Renewing is tried now and then; after the end the error is told."""
    keys, source, clock = made()
    await keys.key()
    source.away = True
    clock.now += 6 * HOUR - 60
    assert (await keys.key()).key_id == "STS.1"
    clock.now += 61
    with pytest.raises(NotReady, match="nobody there"):
        await keys.key()
    source.away = False
    assert (await keys.key()).key_id == "STS.2"


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
async def test_a_wall_clock_that_jumps_ends_no_session(jump: float) -> None:
    """Nor does it lengthen one."""
    keys, _, clock = made(lasting=HOUR)
    await keys.key()
    clock.offset += jump
    clock.now += 100
    assert (await keys.key()).key_id == "STS.1"
    clock.now += HOUR
    assert (await keys.key()).key_id == "STS.2"


async def test_a_refused_session_is_replaced_and_not_at_every_call() -> None:
    """One that was handed out a moment ago is given time: a new one would fare no better."""
    keys, source, clock = made()
    key = await keys.key()
    keys.rejected(key)
    assert (await keys.key()).key_id == "STS.1"
    clock.now += RETRY_SECONDS
    keys.rejected(key)
    assert (await keys.key()).key_id == "STS.2"
    keys.rejected(key)
    assert (await keys.key()).key_id == "STS.2"
    assert source.handed_out == 2


def test_no_secret_is_in_a_repr() -> None:
    """Neither secret nor token."""
    text = repr(Session(AccessKey("STS.1", "top-secret", "top-token"), 0.0))
    assert "top" not in text


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class NoWire:
    async def plug(self, card: object) -> None: ...

    async def unplug(self, eni_id: str) -> None: ...

    async def update(self, card: object) -> None: ...

    async def route(self, table: object) -> None: ...


@pytest.mark.parametrize("http_tokens", ["optional", "required"])
@pytest.mark.parametrize("role", ["", "eniway-node"])
async def test_the_instances_role_is_had_of_the_metadata_service(http_tokens: str, role: str) -> None:
    """Hardened or not, its name known or asked for: the key is the one that the OpenAPI knows."""
    from ipaddress import IPv4Network  # noqa: PLC0415 -- of this one test
    from random import Random  # noqa: PLC0415

    clock = BoxClock()
    world = World(clock, NoWire(), Random(1), load(), faults=Faults())
    vpc = world.create_vpc("box", IPv4Network("10.0.0.0/16"))
    vswitch = world.create_vswitch("nodes", vpc.id, IPv4Network("10.0.0.0/20"))
    group = world.create_security_group("box", vpc.id)
    instance = await world.create_instance(
        "node", "ecs.g7.xlarge", vswitch.id, [group.id], http_tokens=http_tokens, ram_role="eniway-node"
    )
    credentials = Credentials(clock)
    async with (
        served(metadata(world, lambda _: instance.id, credentials)) as url,
        Metadata(url) as service,
    ):
        session = await sessions.of_instance(service, role=role)()
    known = credentials.find(session.key.key_id)
    assert known is not None
    assert (known.secret, known.token) == (session.key.secret, session.key.token)
    assert session.ends == pytest.approx(known.expires, abs=1)


async def test_an_instance_without_a_role_is_told_so() -> None:
    """It is the likeliest mistake."""

    async def missing(_request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", missing)
    async with served(app) as url, Metadata(url) as service:
        with pytest.raises(NotReady, match="has this instance a RAM role"):
            await sessions.of_instance(service)()


ENVIRON = {
    "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/eniway",
    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/ack",
}


def sts(answer: Mapping[str, object], *, status: int = 200) -> tuple[web.Application, list[dict[str, list[str]]]]:
    """Whatever is asked, ``answer``; and what was asked."""
    asked: list[dict[str, list[str]]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(parse_qs(await request.text()))
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_post("/", handle)
    return app, asked


async def test_a_role_by_oidc_is_had_of_sts(tmp_path: Path) -> None:
    """By the wire format of AssumeRoleWithOIDC; the token file is read each time."""
    token = tmp_path / "token"
    token.write_text("a.b.c\n")
    answer = {
        "RequestId": "R-1",
        "Credentials": {
            "AccessKeyId": "STS.1",
            "AccessKeySecret": "secret",
            "SecurityToken": "token",
            "Expiration": "2026-01-01T01:00:00Z",
        },
    }
    app, asked = sts(answer)
    environ = {**ENVIRON, "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token)}
    async with served(app) as url:
        fetch = sessions.by_oidc(environ, endpoint=url, clock=Clock())
        session = await fetch()
        token.write_text("d.e.f")
        await fetch()
    assert session.key == AccessKey("STS.1", "secret", "token")
    assert [one["OIDCToken"] for one in asked] == [["a.b.c"], ["d.e.f"]]
    assert asked[0]["Action"] == ["AssumeRoleWithOIDC"]
    assert asked[0]["RoleArn"] == ["acs:ram::1:role/eniway"]
    assert "Signature" not in asked[0]


async def test_a_refusal_of_sts_is_told_without_the_token(tmp_path: Path) -> None:
    """Code and message; the token was in what was sent."""
    token = tmp_path / "token"
    token.write_text("a.secret.token")
    app, _ = sts({"Code": "AuthenticationFail.OIDCToken.Expired", "Message": "expired."}, status=400)
    environ = {**ENVIRON, "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token)}
    async with served(app) as url:
        with pytest.raises(NotReady, match=r"AuthenticationFail\.OIDCToken\.Expired: expired") as raised:
            await sessions.by_oidc(environ, endpoint=url, clock=Clock())()
    assert "a.secret.token" not in str(raised.value)


@pytest.mark.parametrize("answer", [{}, {"Credentials": None}, {"Credentials": {"AccessKeyId": "x"}}, []])
async def test_an_answer_that_is_none_is_not_ready(tmp_path: Path, answer: object) -> None:
    """And is no crash."""
    token = tmp_path / "token"
    token.write_text("a.b.c")
    app, _ = sts(json.loads(json.dumps(answer)))
    environ = {**ENVIRON, "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token)}
    async with served(app) as url:
        with pytest.raises(NotReady, match="STS gave no session"):
            await sessions.by_oidc(environ, endpoint=url, clock=Clock())()


def test_a_pod_without_the_webhooks_variables_is_told_which() -> None:
    """At the start, not at the first call."""
    with pytest.raises(BadConfig, match="ALIBABA_CLOUD_OIDC_TOKEN_FILE: not set"):
        sessions.by_oidc(ENVIRON, endpoint="http://127.0.0.1:1", clock=Clock())
