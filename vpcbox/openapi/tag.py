"""Tags of ENIs and instances.

https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-tagresources
"""

from collections.abc import Mapping
from typing import Any

from vpcbox.openapi.paging import Paging
from vpcbox.openapi.params import Params, missing
from vpcbox.world.errors import Refused
from vpcbox.world.model import Eni, Instance
from vpcbox.world.world import World

MOST_RESOURCES = 50


async def tag_resources(world: World, p: Params) -> dict[str, Any]:
    """TagResources: sets tags of up to 50 resources of one kind, all or none."""
    resources, ids = _resources(world, p)
    tags = p.tags()
    p.finish()
    if not tags:
        raise missing("Tag")
    for resource_id in ids:
        if resource_id not in resources:
            raise Refused("InvalidResourceId.NotFound", "The specified ResourceIds are not found in our records.")
    for resource_id in ids:
        world.check_tags(resource_id, tags)
    for resource_id in ids:
        world.tag(resource_id, tags)
    return {}


async def untag_resources(world: World, p: Params) -> dict[str, Any]:
    """UntagResources: takes some tags away, or all."""
    resources, ids = _resources(world, p)
    keys = p.texts("TagKey", 20)
    everything = p.flag("All")
    p.finish()
    if not keys and not everything:
        raise missing("TagKey")
    for resource_id in ids:
        if resource_id not in resources:
            raise Refused("InvalidResourceId.NotFound", "The specified ResourceIds are not found in our records.")
    for resource_id in ids:
        gone = keys or tuple(resources[resource_id].tags)
        world.tag(resource_id, dict.fromkeys(gone))
    return {}


async def list_tag_resources(world: World, p: Params) -> dict[str, Any]:
    """ListTagResources: the tags of some resources, of all resources with some tags, or both."""
    kind, resources = _kind(world, p)
    ids = p.texts("ResourceId", MOST_RESOURCES)
    tags = p.tags()
    paging = Paging.by_token(p, most=1000, default=50)
    p.finish()
    if not ids and not tags:
        raise missing("ResourceId")
    rows = [
        (resource.id, key, value)
        for resource in resources.values()
        if (not ids or resource.id in ids)
        and all(key in resource.tags and value in {"", resource.tags[key]} for key, value in tags.items())
        for key, value in resource.tags.items()
        if not tags or key in tags
    ]
    page = paging.cut(rows, key=lambda row: f"{row[0]} {row[1]}")
    return {
        "TagResources": {
            "TagResource": [
                {"ResourceId": resource_id, "ResourceType": kind, "TagKey": key, "TagValue": value}
                for resource_id, key, value in page.items
            ]
        },
        "NextToken": page.next_token,
    }


def _kind(world: World, p: Params) -> tuple[str, Mapping[str, Eni | Instance]]:
    kind = p.required("ResourceType").lower()
    if kind == "eni":
        return kind, world.enis
    if kind == "instance":
        return kind, world.instances
    raise Refused("InvalidResourceType.NotFound", "The ResourceType provided does not exist in our records.")


def _resources(world: World, p: Params) -> tuple[Mapping[str, Eni | Instance], tuple[str, ...]]:
    _, resources = _kind(world, p)
    ids = p.texts("ResourceId", MOST_RESOURCES)
    if not ids:
        raise missing("ResourceId")
    return resources, ids
