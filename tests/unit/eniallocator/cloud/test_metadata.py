"""The metadata client against the box's metadata service, with and without tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eniallocator.cloud.metadata import Metadata
from eniway.errors import NotReady
from tests.box.allocator_world import Rig, rig


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def identity_of(cloud: Rig, instance_id: str) -> None:
    """The service and the world agree on who the instance is."""
    cloud.become(instance_id)
    async with Metadata(cloud.metadata_url) as metadata:
        found = await metadata.identity()
    (primary,) = (eni for eni in cloud.world.enis.values() if eni.instance_id == instance_id)
    vswitch = cloud.world.vswitches[primary.vswitch_id]
    assert (found.instance_id, found.instance_type) == (instance_id, "ecs.g7.xlarge")
    assert (found.primary_eni, found.primary_mac, found.primary_address) == (
        primary.id,
        primary.mac,
        primary.primary_address,
    )
    assert (found.primary_vswitch, found.primary_prefix) == (vswitch.id, vswitch.cidr)
    assert found.primary_gateway == vswitch.cidr.broadcast_address - 2


async def test_who_we_are(cloud: Rig) -> None:
    """An ordinary instance."""
    await identity_of(cloud, cloud.instance_id)


async def test_who_we_are_on_a_hardened_instance(cloud: Rig) -> None:
    """One that answers only with a token."""
    nodes = next(iter(cloud.world.vswitches))
    hardened = await cloud.world.create_instance(
        "hardened", "ecs.g7.xlarge", nodes, [cloud.group], http_tokens="required"
    )
    await identity_of(cloud, hardened.id)


async def test_a_token_that_is_no_longer_good_is_replaced(cloud: Rig) -> None:
    """Expired, or of a service that was restarted."""
    async with Metadata(cloud.metadata_url) as metadata:
        metadata._token = "stale"
        assert await metadata.get("instance-id") == cloud.instance_id


async def test_a_service_that_is_away_is_not_ready() -> None:
    """With the address it was looked for at."""
    async with Metadata("http://127.0.0.1:1") as metadata:
        with pytest.raises(NotReady, match=r"metadata http://127\.0\.0\.1:1: "):
            await metadata.identity()


async def test_what_is_not_there_is_not_ready(cloud: Rig) -> None:
    """The path and the status."""
    async with Metadata(cloud.metadata_url) as metadata:
        with pytest.raises(NotReady, match="metadata no/such/thing: HTTP 404"):
            await metadata.get("no/such/thing")
