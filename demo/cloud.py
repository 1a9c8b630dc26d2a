"""The cloud's side of the story: its ENIs as the official SDK lists them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import urlsplit

from aliyunsdkcore.client import AcsClient
from aliyunsdkecs.request.v20140526.DescribeNetworkInterfacesRequest import DescribeNetworkInterfacesRequest

from demo.box import OpenApi

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Eni:
    """An ENI; ``secondary`` is without the primary address, ``instance_id`` is None where it is not attached."""

    id: str
    type: str
    status: str
    mac: str
    vswitch_id: str
    instance_id: str | None
    primary: IPv4Address
    secondary: frozenset[IPv4Address]
    tags: frozenset[tuple[str, str]]

    @property
    def addresses(self) -> frozenset[IPv4Address]:
        """All of its addresses."""
        return self.secondary | {self.primary}


def client(openapi: OpenApi) -> AcsClient:
    """The official SDK (V1), its own retries off so that an error is seen as it is."""
    return AcsClient(openapi.access_key_id, openapi.access_key_secret, openapi.region, auto_retry=False, timeout=10)


def enis(openapi: OpenApi) -> list[Eni]:
    """Every ENI of the account."""
    sdk, found = client(openapi), []
    # The client goes in a cycle, and its connection unclosed where the collector takes that first
    with closing(sdk.session):
        for page in range(1, 1000):
            request = DescribeNetworkInterfacesRequest()
            request.set_accept_format("json")
            request.set_protocol_type(urlsplit(openapi.endpoint).scheme)
            request.set_endpoint(urlsplit(openapi.endpoint).netloc)
            request.set_PageNumber(page)
            request.set_PageSize(_PAGE)
            items = json.loads(sdk.do_action_with_exception(request))["NetworkInterfaceSets"]["NetworkInterfaceSet"]
            found += [_eni(item) for item in items]
            if len(items) < _PAGE:
                break
    return found


def _eni(item: dict[str, Any]) -> Eni:
    primary = IPv4Address(item["PrivateIpAddress"])
    addresses = {IPv4Address(entry["PrivateIpAddress"]) for entry in item["PrivateIpSets"]["PrivateIpSet"]}
    tags = {(tag["TagKey"], tag["TagValue"]) for tag in item.get("Tags", {}).get("Tag", [])}
    return Eni(
        id=item["NetworkInterfaceId"],
        type=item["Type"],
        status=item["Status"],
        mac=item["MacAddress"].lower(),
        vswitch_id=item["VSwitchId"],
        instance_id=item.get("InstanceId") or None,
        primary=primary,
        secondary=frozenset(addresses - {primary}),
        tags=frozenset(tags),
    )
