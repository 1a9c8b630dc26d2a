"""The SDK's adapter against the box's OpenAPI over real HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from eniallocator.clock import SystemClock
from eniallocator.cloud import errors
from eniallocator.cloud.api import EniStatus
from eniallocator.cloud.credentials import KeyFiles
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.limiter import Limiter
from eniway.errors import BadConfig
from eniway.model import EniId, InstanceId, SecurityGroupId, VSwitchId
from tests.box.allocator_world import KEY, SECRET, Rig, rig
from vpcbox.faults import Kind, Rule


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


def client(directory: Path, endpoint: str) -> EcsCloud:
    limiter = Limiter(calls_per_minute=1000, clock=SystemClock(), random=Random(1))
    return EcsCloud(region="cn-box", endpoint=endpoint, keys=KeyFiles(directory), limiter=limiter, clock=SystemClock())


@pytest.fixture
async def ecs(cloud: Rig) -> AsyncIterator[EcsCloud]:
    made = client(cloud.directory, cloud.endpoint)
    yield made
    made.close()


async def create(ecs: EcsCloud, cloud: Rig, token: str, *, secondary: int = 2) -> EniId:
    eni = await ecs.create_eni(
        vswitch_id=VSwitchId(cloud.vswitches[0]),
        security_groups=[SecurityGroupId(cloud.group)],
        secondary=secondary,
        tags={"b": "2", "a": "1"},
        name="eniway",
        description="of a test",
        token=token,
    )
    return eni.eni_id


async def test_a_card_is_told_as_it_is(ecs: EcsCloud, cloud: Rig) -> None:
    """What comes back of Create and of Describe is what the world has."""
    eni_id = await create(ecs, cloud, "t-1")
    there = cloud.world.enis[eni_id]
    (seen,) = await ecs.enis(ids=[eni_id])
    assert (seen.mac, seen.address, seen.secondary) == (there.mac, there.primary_address, there.secondary_addresses)
    assert (seen.status, seen.secondary_type, seen.instance_id) == (EniStatus.AVAILABLE, True, None)
    assert (seen.tags, seen.description, seen.vswitch_id) == ({"a": "1", "b": "2"}, "of a test", cloud.vswitches[0])
    assert there.delete_on_release


async def test_the_same_token_is_the_same_card(ecs: EcsCloud, cloud: Rig) -> None:
    """And so for addresses."""
    eni_id = await create(ecs, cloud, "t-1")
    assert await create(ecs, cloud, "t-1") == eni_id
    given = await ecs.assign(eni_id, 3, token="t-2")
    assert await ecs.assign(eni_id, 3, token="t-2") == given
    assert len(cloud.world.enis[eni_id].secondary_addresses) == 5


async def test_all_pages_are_read(ecs: EcsCloud, cloud: Rig) -> None:
    """More ids than one call takes, some of them unknown."""
    ids = [await create(ecs, cloud, f"t-{number}", secondary=0) for number in range(102)]
    seen = await ecs.enis(ids=[*ids, EniId("eni-unknown")])
    assert {eni.eni_id for eni in seen} == set(ids)
    assert cloud.calls.count("DescribeNetworkInterfaces") == 2
    assert len(await ecs.enis(tags={"a": "1"})) == 102


async def test_filters_are_joined_by_and(ecs: EcsCloud, cloud: Rig) -> None:
    """Instance and tags."""
    eni_id = await create(ecs, cloud, "t-1")
    instance = InstanceId(cloud.instance_id)
    assert await ecs.enis(instance_id=instance, tags={"a": "1"}) == ()
    await ecs.attach_eni(eni_id, instance)
    await cloud.until(lambda: bool(cloud.cards()))
    (seen,) = await ecs.enis(instance_id=instance, tags={"a": "1"})
    assert (seen.eni_id, seen.status, seen.instance_id) == (eni_id, EniStatus.IN_USE, instance)


async def test_limits_and_stock(ecs: EcsCloud, cloud: Rig) -> None:
    """What is learnt regularly."""
    limits = await ecs.instance_type("ecs.g7.xlarge")
    assert (limits.enis, limits.addresses_per_eni) == (4, 15)
    vpc_id = cloud.world.vswitches[cloud.vswitches[0]].vpc_id
    stock = {vswitch.vswitch_id: vswitch for vswitch in await ecs.vswitches(vpc_id)}
    assert len(stock) == 3
    assert stock[VSwitchId(cloud.vswitches[0])].available == 252
    with pytest.raises(errors.Refused, match=r"knows no instance type ecs\.none"):
        await ecs.instance_type("ecs.none")


async def test_nothing_is_tried_again_behind_our_back(ecs: EcsCloud, cloud: Rig) -> None:
    """The SDK's own retry would send a Create once more."""
    cloud.faults.add(Rule(Kind.ERROR, "*", status=503, code="ServiceUnavailable", count=1))
    with pytest.raises(errors.Transient):
        await create(ecs, cloud, "t-1")
    assert cloud.calls == ["CreateNetworkInterface"]


async def test_trouble_is_remembered_until_a_call_gets_through(ecs: EcsCloud, cloud: Rig) -> None:
    """Trouble is what concerns every call; a refusal of one is none."""
    seen = [ecs.trouble]
    with pytest.raises(errors.NotFound):
        await ecs.delete_eni(EniId("eni-unknown"))
    seen.append(ecs.trouble)
    (cloud.directory / "access_key_id").write_text("LTAIwrong")
    with pytest.raises(errors.Credentials, match=r"InvalidAccessKeyId\.NotFound"):
        await ecs.enis()
    seen.append(ecs.trouble)
    (cloud.directory / "access_key_id").write_text(KEY)
    await ecs.enis()
    seen.append(ecs.trouble)
    assert [trouble and trouble.reason for trouble in seen] == [None, None, "Credentials", None]


@pytest.mark.parametrize(("seconds", "words"), [(1200.0, "20 min behind"), (-1200.0, "20 min ahead of")])
async def test_a_clock_that_is_off_is_told_by_how_much(
    ecs: EcsCloud, cloud: Rig, monkeypatch: pytest.MonkeyPatch, seconds: float, words: str
) -> None:
    """In the same words each time; the key is not doubted; and it is over when the clock is right."""
    doubted: list[object] = []
    monkeypatch.setattr(ecs._keys, "rejected", doubted.append)
    cloud.faults.add(Rule(Kind.CLOCK_OFF, seconds=seconds))
    told = set()
    for _ in range(2):
        with pytest.raises(errors.ClockOff, match=rf"InvalidTimeStamp\.Expired.*clock is {words}.*NTP"):
            await ecs.enis()
        assert ecs.trouble is not None
        told.add((ecs.trouble.reason, ecs.trouble.message))
    assert [reason for reason, _ in told] == ["ClockOff"]
    assert not doubted
    cloud.faults.clear()
    await ecs.enis()
    assert ecs.trouble is None


async def test_a_wrong_secret_and_an_absent_server_tell_no_secrets(ecs: EcsCloud, cloud: Rig) -> None:
    """The SDK quotes signed URLs and strings to sign; our errors do not."""
    (cloud.directory / "access_key_secret").write_text("wrong-secret")
    with pytest.raises(errors.Credentials) as refused:
        await ecs.enis()
    away = client(cloud.directory, "http://127.0.0.1:1")
    refusal = r"cannot reach http://127\.0\.0\.1:1: connection refused; check cloud\.endpoint"
    with pytest.raises(errors.Unreachable, match=refusal) as unheard:
        await away.enis()
    away.close()
    for told in (str(refused.value), str(unheard.value)):
        for secret in ("wrong-secret", SECRET, KEY, "Signature="):
            assert secret not in told


@pytest.mark.parametrize("answer", ["{}", '{"NetworkInterfaceSets": {"NetworkInterfaceSet": [{"Status": 7}]}}', "[]"])
async def test_an_answer_that_cannot_be_read_is_an_error_like_another(cloud: Rig, answer: str) -> None:
    """A field that is missing or odd: asked again, said as trouble, and the end of nothing."""

    async def speak(_: web.Request) -> web.Response:
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_route("*", "/", speak)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    ecs = client(cloud.directory, f"http://{host}:{port}")
    with pytest.raises(errors.Transient):
        await create(ecs, cloud, "t-1")
    with pytest.raises(errors.Transient):
        await ecs.assign(EniId("eni-1"), 1, token="t-2")
    assert ecs.trouble is not None
    if "Status" in answer:
        with pytest.raises(errors.Transient):
            await ecs.enis()
    ecs.close()
    await runner.cleanup()


async def test_no_proxy_is_used(cloud: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would send even loopback calls to HTTP_PROXY."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    ecs = client(cloud.directory, cloud.endpoint)
    assert len(await ecs.enis(instance_id=InstanceId(cloud.instance_id))) == 1
    ecs.close()


@pytest.mark.parametrize("endpoint", ["127.0.0.1:80", "ftp://somewhere", "http://"])
def test_an_endpoint_is_a_url(tmp_path: Path, endpoint: str) -> None:
    """The error names the key and shows what was expected."""
    with pytest.raises(BadConfig, match=r"`\$\.cloud\.endpoint`: expected a URL such as https://"):
        client(tmp_path, endpoint)
