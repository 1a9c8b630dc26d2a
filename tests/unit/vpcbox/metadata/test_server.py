"""The metadata service over HTTP, as an instance reads it."""

import json
from typing import Any

import pytest

TTL = "X-aliyun-ecs-metadata-token-ttl-seconds"
TOKEN = "X-aliyun-ecs-metadata-token"
MACS = "meta-data/network/interfaces/macs"


@pytest.fixture
def me(box: Any) -> Any:
    """The box, where loopback stands for the instance that is not hardened."""
    box.asks["127.0.0.1"] = box.instance.id
    return box


async def _get(box: Any, path: str, **headers: str) -> tuple[int, str]:
    async with box.http.get(f"{box.metadata_url}/{path}", headers=headers) as response:
        return response.status, await response.text()


async def _token(box: Any, **headers: str) -> tuple[int, str]:
    async with box.http.put(f"{box.metadata_url}/api/token", headers=headers) as response:
        return response.status, await response.text()


async def test_an_instance_reads_who_and_where_it_is(me: Any) -> None:
    """Leaves as plain text, inner names as lists, what is not there as 404."""
    primary = me.world.primary(me.instance.id)
    for path, text in {
        "meta-data/instance-id": me.instance.id,
        "meta-data/instance/instance-type": "ecs.g7.xlarge",
        "meta-data/region-id": "cn-box",
        "meta-data/zone-id": "cn-box-a",
        "meta-data/mac": primary.mac,
        "meta-data/private-ipv4": str(primary.primary_address),
        "meta-data/vpc-id": me.vpc_id,
        "meta-data/vpc-cidr-block": "10.0.0.0/16",
        "meta-data/vswitch-cidr-block": "10.0.16.0/20",
        f"{MACS}/": f"{primary.mac}/",
        f"{MACS}/{primary.mac}/gateway": "10.0.31.253",
        f"{MACS}/{primary.mac}/netmask": "255.255.240.0",
        f"{MACS}/{primary.mac}/network-interface-id": primary.id,
    }.items():
        assert await _get(me, path) == (200, text), path
    assert "instance-id" in (await _get(me, "meta-data/"))[1].split("\n")
    for path in ("meta-data/no-such", f"{MACS}/{primary.mac}/ipv6s", "meta-data/mac/", "meta-data/mac/x"):
        assert (await _get(me, path))[0] == 404, path
    document = json.loads((await _get(me, "dynamic/instance-identity/document"))[1])
    assert document["instance-id"] == me.instance.id


async def test_what_the_api_did_is_seen_a_second_later(me: Any) -> None:
    """A new address, and a card that left, show with the lag of the service."""
    eni_id = await me.attach(await me.create())
    eni = await me.eni(eni_id)
    path = f"{MACS}/{eni['MacAddress']}/private-ipv4s"
    assert json.loads((await _get(me, path))[1]) == [eni["PrivateIpAddress"]]

    await me.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=1)
    await me.clock.advance(0.9)
    assert len(json.loads((await _get(me, path))[1])) == 1
    await me.clock.advance(0.2)
    assert len(json.loads((await _get(me, path))[1])) == 2

    await me.call("DetachNetworkInterface", NetworkInterfaceId=eni_id, InstanceId=me.instance.id)
    await me.clock.advance(3.5)
    assert (await me.eni(eni_id))["Status"] == "Available"
    assert (await _get(me, path))[0] == 200
    await me.clock.advance(1)
    assert (await _get(me, path))[0] == 404


async def test_a_hardened_instance_needs_a_token(box: Any) -> None:
    """403 without, 401 with a bad or ended one or another instance's, 200 with a good one."""
    box.asks["127.0.0.1"] = box.hardened.id
    assert (await _get(box, "meta-data/mac"))[0] == 403
    assert (await _get(box, "meta-data/mac", **{TOKEN: "made-up"}))[0] == 401
    status, token = await _token(box, **{TTL: "60"})
    assert status == 200
    assert (await _get(box, "meta-data/instance-id", **{TOKEN: token})) == (200, box.hardened.id)
    box.asks["127.0.0.1"] = box.instance.id
    assert (await _get(box, "meta-data/mac", **{TOKEN: token}))[0] == 401
    box.asks["127.0.0.1"] = box.hardened.id
    await box.clock.advance(61)
    assert (await _get(box, "meta-data/mac", **{TOKEN: token}))[0] == 401


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "soon", "٣"])
async def test_a_token_lasts_one_second_to_six_hours(me: Any, ttl: str) -> None:
    """Anything else is a bad request; so is no header at all."""
    assert (await _token(me, **{TTL: ttl}))[0] == 400
    assert (await _token(me))[0] == 400


async def test_a_forwarded_request_gets_no_token(me: Any) -> None:
    """X-Forwarded-For gives a proxy away."""
    assert (await _token(me, **{TTL: "60", "X-Forwarded-For": "10.0.0.9"}))[0] == 403


async def test_a_role_gives_keys_that_work(me: Any) -> None:
    """The role's name, and keys the OpenAPI accepts; an instance without a role has none."""
    assert await _get(me, "meta-data/ram/security-credentials/") == (200, "node-role")
    keys = json.loads((await _get(me, "meta-data/ram/security-credentials/node-role"))[1])
    assert keys["Code"] == "Success"
    assert me.credentials.find(keys["AccessKeyId"]).token == keys["SecurityToken"]
    me.asks["127.0.0.1"] = me.hardened.id
    _, token = await _token(me, **{TTL: "60"})
    assert (await _get(me, "meta-data/ram/security-credentials/", **{TOKEN: token}))[0] == 404


async def test_a_stranger_gets_nothing(box: Any) -> None:
    """An address no card holds."""
    assert (await _get(box, "meta-data/instance-id"))[0] == 404
    assert (await _token(box, **{TTL: "60"}))[0] == 404
