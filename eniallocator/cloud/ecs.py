"""The OpenAPI of ECS: what is asked of it in our words, as the official SDK's requests, and what its answers say.

The SDK is synchronous: it is called in a few threads (``cloud.sdk``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final, TypeVar

from aliyunsdkcore.request import RpcRequest
from aliyunsdkecs.request.v20140526.AssignPrivateIpAddressesRequest import AssignPrivateIpAddressesRequest
from aliyunsdkecs.request.v20140526.AttachNetworkInterfaceRequest import AttachNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.CreateNetworkInterfaceRequest import CreateNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.DeleteNetworkInterfaceRequest import DeleteNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.DescribeInstanceTypesRequest import DescribeInstanceTypesRequest
from aliyunsdkecs.request.v20140526.DescribeNetworkInterfacesRequest import DescribeNetworkInterfacesRequest
from aliyunsdkecs.request.v20140526.DetachNetworkInterfaceRequest import DetachNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.ModifyNetworkInterfaceAttributeRequest import ModifyNetworkInterfaceAttributeRequest
from aliyunsdkecs.request.v20140526.UnassignPrivateIpAddressesRequest import UnassignPrivateIpAddressesRequest

from eniallocator.clock import Clock
from eniallocator.cloud.api import Eni, EniStatus, InstanceType, Trouble, VSwitch
from eniallocator.cloud.caller import Read, cursor_of, listed, nothing
from eniallocator.cloud.credentials import AccessKey, Keys
from eniallocator.cloud.errors import (
    ApiError,
    ClockOff,
    Credentials,
    Forbidden,
    Refused,
    Throttled,
    Transient,
    Withheld,
)
from eniallocator.cloud.flights import Flights
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.sdk import Sdk
from eniallocator.cloud.switch import Calls, Switch
from eniway import log, metrics
from eniway.errors import BadConfig, NotReady
from eniway.model import EniId, InstanceId, Mac, SecurityGroupId, VSwitchId

_log = log.get(__name__)

_T = TypeVar("_T")

THREADS: Final = 4
ENI_PAGE: Final = 500
VSWITCH_PAGE: Final = 50
IDS_A_CALL: Final = 100
VERSIONS: Final = {"Ecs": "2014-05-26", "Vpc": "2016-04-28"}


class EcsCloud:
    """``eniallocator.cloud.api.CloudApi`` for one region.

    ``endpoint``: URL that serves ECS and VPC, or "" for the region's own VPC endpoints over https.
    """

    def __init__(
        self, *, region: str, endpoint: str, keys: Keys, limiter: Limiter, clock: Clock, switch: Switch | None = None
    ) -> None:
        self._sdk = Sdk(region=region, endpoint=endpoint, connections=THREADS)
        self._keys = keys
        self._limiter = limiter
        self._switch = switch or Switch()
        self._flights = Flights()
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="openapi")
        self._trouble: Trouble | None = None

    @property
    def trouble(self) -> Trouble | None:
        """As CloudApi says."""
        return self._trouble

    @property
    def strained(self) -> bool:
        """As CloudApi says."""
        return self._limiter.strained

    def close(self) -> None:
        """Let go of threads and connections; calls under way end on their own."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._sdk.close()

    async def create_eni(
        self,
        *,
        vswitch_id: VSwitchId,
        security_groups: Sequence[SecurityGroupId],
        secondary: int,
        tags: Mapping[str, str],
        name: str,
        description: str,
        token: str,
    ) -> Eni:
        """As CloudApi says."""

        def build() -> Any:
            request = CreateNetworkInterfaceRequest()
            request.set_VSwitchId(vswitch_id)
            request.set_SecurityGroupIdss(list(security_groups))
            if secondary:
                request.set_SecondaryPrivateIpAddressCount(secondary)
            request.set_NetworkInterfaceName(name)
            request.set_Description(description)
            request.set_Tags(_tags(tags))
            request.set_DeleteOnRelease(value_of(flag=True))
            request.set_ClientToken(token)
            return request

        return await self._call("CreateNetworkInterface", build, _eni)

    async def attach_eni(self, eni_id: EniId, instance_id: InstanceId) -> None:
        """As CloudApi says."""

        def build() -> Any:
            request = AttachNetworkInterfaceRequest()
            request.set_NetworkInterfaceId(eni_id)
            request.set_InstanceId(instance_id)
            return request

        await self._call("AttachNetworkInterface", build, nothing)

    async def detach_eni(self, eni_id: EniId, instance_id: InstanceId) -> None:
        """As CloudApi says."""

        def build() -> Any:
            request = DetachNetworkInterfaceRequest()
            request.set_NetworkInterfaceId(eni_id)
            request.set_InstanceId(instance_id)
            return request

        await self._call("DetachNetworkInterface", build, nothing)

    async def delete_eni(self, eni_id: EniId) -> None:
        """As CloudApi says."""

        def build() -> Any:
            request = DeleteNetworkInterfaceRequest()
            request.set_NetworkInterfaceId(eni_id)
            return request

        await self._call("DeleteNetworkInterface", build, nothing)

    async def assign(self, eni_id: EniId, count: int, *, token: str) -> tuple[IPv4Address, ...]:
        """As CloudApi says."""

        def build() -> Any:
            request = AssignPrivateIpAddressesRequest()
            request.set_NetworkInterfaceId(eni_id)
            request.set_SecondaryPrivateIpAddressCount(count)
            request.set_ClientToken(token)
            return request

        def parse(answer: dict[str, Any]) -> tuple[IPv4Address, ...]:
            given = answer["AssignedPrivateIpAddressesSet"]["PrivateIpSet"]["PrivateIpAddress"]
            return tuple(IPv4Address(address) for address in given)

        return await self._call("AssignPrivateIpAddresses", build, parse)

    async def unassign(self, eni_id: EniId, addresses: Sequence[IPv4Address]) -> None:
        """As CloudApi says."""

        def build() -> Any:
            request = UnassignPrivateIpAddressesRequest()
            request.set_NetworkInterfaceId(eni_id)
            request.set_PrivateIpAddresss([str(address) for address in addresses])
            return request

        await self._call("UnassignPrivateIpAddresses", build, nothing)

    async def check_sources(self, eni_id: EniId, *, on: bool) -> None:
        """As CloudApi says."""

        def build() -> Any:
            request = ModifyNetworkInterfaceAttributeRequest()
            request.set_NetworkInterfaceId(eni_id)
            request.set_SourceDestCheck(value_of(flag=on))
            return request

        await self._call("ModifyNetworkInterfaceAttribute", build, nothing)

    async def enis(
        self,
        *,
        ids: Sequence[EniId] = (),
        instance_id: InstanceId | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> tuple[Eni, ...]:
        """As CloudApi says."""
        what = ("enis", tuple(ids), instance_id, tuple(sorted((tags or {}).items())))
        return await self._flights.share(what, lambda leave: self._enis(ids, instance_id, tags or {}, leave))

    async def _enis(
        self,
        ids: Sequence[EniId],
        instance_id: InstanceId | None,
        tags: Mapping[str, str],
        leave: Callable[[], None],
    ) -> tuple[Eni, ...]:
        chunks = [ids[start : start + IDS_A_CALL] for start in range(0, len(ids), IDS_A_CALL)] or [()]
        found: list[Eni] = []
        for chunk in chunks:
            cursor = ""
            while True:
                page, cursor = await self._call(
                    "DescribeNetworkInterfaces",
                    lambda: _describe_enis(chunk, instance_id, tags, cursor),  # noqa: B023 -- called at once
                    lambda answer: (
                        [_eni(item) for item in listed(answer, "NetworkInterfaceSets", "NetworkInterfaceSet")],
                        cursor_of(answer),
                    ),
                    leave,
                )
                found += page
                if not cursor:
                    break
        return tuple(found)

    async def vswitches(self, vpc_id: str) -> tuple[VSwitch, ...]:
        """As CloudApi says.

        Built by hand: the SDK's ECS package has only a deprecated twin of this Action, and of its VPC package nothing
        else is wanted here.
        """
        return await self._flights.share(("vswitches", vpc_id), lambda leave: self._vswitches(vpc_id, leave))

    async def _vswitches(self, vpc_id: str, leave: Callable[[], None]) -> tuple[VSwitch, ...]:
        found: list[VSwitch] = []
        page = 1
        while True:

            def build(page: int = page) -> Any:
                request = RpcRequest("Vpc", "2016-04-28", "DescribeVSwitches", "vpc")
                request.set_method("POST")
                request.add_query_param("VpcId", vpc_id)
                request.add_query_param("PageSize", VSWITCH_PAGE)
                request.add_query_param("PageNumber", page)
                return request

            read = await self._call(
                "DescribeVSwitches",
                build,
                lambda answer: [
                    VSwitch(
                        vswitch_id=VSwitchId(item["VSwitchId"]),
                        zone=item["ZoneId"],
                        cidr=IPv4Network(item["CidrBlock"]),
                        available=int(item["AvailableIpAddressCount"]),
                    )
                    for item in listed(answer, "VSwitches", "VSwitch")
                ],
                leave,
            )
            found += read
            if len(read) < VSWITCH_PAGE:
                return tuple(found)
            page += 1

    async def instance_type(self, name: str) -> InstanceType:
        """As CloudApi says."""

        def build() -> Any:
            request = DescribeInstanceTypesRequest()
            request.set_InstanceTypess([name])
            return request

        def parse(answer: dict[str, Any]) -> InstanceType:
            for item in listed(answer, "InstanceTypes", "InstanceType"):
                if item["InstanceTypeId"] == name:
                    return InstanceType(
                        name, enis=int(item["EniQuantity"]), addresses_per_eni=int(item["EniPrivateIpAddressQuantity"])
                    )
            raise Refused("DescribeInstanceTypes", "unknown", f"the region knows no instance type {name}")

        return await self._call("DescribeInstanceTypes", build, parse)

    async def call(
        self,
        product: str,
        action: str,
        params: Mapping[str, str],
        read: Read[_T],
        *,
        form: Mapping[str, str] | None = None,
    ) -> _T:
        """Any Action by name (``cloud.caller.Caller``); the body is for long lists, for which a URL has no room."""

        def build() -> Any:
            request = RpcRequest(product, VERSIONS[product], action, product.lower())
            request.set_method("POST")
            request.set_query_params(dict(params))
            request.set_body_params(dict(form or {}))
            return request

        return await self._call(action, build, read)

    async def _call(
        self,
        action: str,
        build: Callable[[], Any],
        parse: Read[_T],
        leave: Callable[[], None] | None = None,
    ) -> _T:
        """One call. Raises a class of ``cloud.errors`` and remembers trouble that concerns all calls.

        ``leave`` is called when it is about to be sent.
        """
        self._check_switch(action)
        await self._limiter.admit(action)
        # It may have waited for a minute.
        self._check_switch(action)
        if leave is not None:
            leave()
        started = time.perf_counter()
        key: AccessKey | None = None
        try:
            key = await self._key(action)
            loop = asyncio.get_running_loop()
            said = _read(action, await loop.run_in_executor(self._threads, self._sdk.send, action, key, build), parse)
        except ApiError as error:
            metrics.CLOUD_SECONDS.labels(action, error.code).observe(time.perf_counter() - started)
            if isinstance(error, Throttled):
                self._limiter.throttled(action)
            if isinstance(error, Credentials) and not isinstance(error, ClockOff) and key is not None:
                self._keys.rejected(key)
            if isinstance(error, Throttled | Transient | Credentials | Forbidden):
                self._note(error)
            _log.warning(
                "the OpenAPI refused",
                action=action,
                code=error.code,
                status=error.status,
                request=error.request_id,
                error=str(error),
                hint=error.hint,
            )
            raise
        metrics.CLOUD_SECONDS.labels(action, "").observe(time.perf_counter() - started)
        self._limiter.passed(action)
        self._trouble = None
        return said

    def _check_switch(self, action: str) -> None:
        if self._switch.forbids(action):
            error = Withheld(action, "Withheld", f"OpenAPI calls that may be made: {self._switch.calls}")
            if self._switch.calls is Calls.NONE:
                self._note(error)
            raise error

    def _note(self, error: ApiError) -> None:
        since = self._trouble.since if self._trouble else self._clock.wall()
        self._trouble = Trouble(type(error).__name__, error.lasting, since)

    async def _key(self, action: str) -> AccessKey:
        try:
            return await self._keys.key()
        except (BadConfig, NotReady) as error:
            raise Credentials(action, "NoAccessKey", str(error)) from error


def _read(action: str, answer: dict[str, Any], parse: Read[_T]) -> _T:
    """What an answer says; Transient for one that lacks what the API reference promises, or words it otherwise."""
    try:
        return parse(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(action, "Unreadable", f"the answer is not as documented: {error!r}") from error


def value_of(*, flag: bool) -> str:
    """A boolean as the API spells it."""
    return "true" if flag else "false"


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _describe_enis(ids: Sequence[EniId], instance_id: InstanceId | None, tags: Mapping[str, str], cursor: str) -> Any:
    request = DescribeNetworkInterfacesRequest()
    request.set_MaxResults(ENI_PAGE)
    if ids:
        request.set_NetworkInterfaceIds(list(ids))
    if instance_id is not None:
        request.set_InstanceId(instance_id)
    if tags:
        request.set_Tags(_tags(tags))
    if cursor:
        request.set_NextToken(cursor)
    return request


def _eni(item: Mapping[str, Any]) -> Eni:
    if not item.get("NetworkInterfaceId"):
        raise Transient("CreateNetworkInterface", "NoId", "the answer names no ENI; asking again")
    address = item["PrivateIpAddress"]
    status = item.get("Status", "")
    return Eni(
        eni_id=EniId(item["NetworkInterfaceId"]),
        mac=Mac(item["MacAddress"].lower()),
        status=EniStatus(status) if status in set(EniStatus) else EniStatus.OTHER,
        secondary_type=item.get("Type") == "Secondary",
        vswitch_id=VSwitchId(item["VSwitchId"]),
        zone=item.get("ZoneId", ""),
        address=IPv4Address(address),
        secondary=tuple(
            IPv4Address(entry["PrivateIpAddress"])
            for entry in listed(item, "PrivateIpSets", "PrivateIpSet")
            if not entry.get("Primary")
        ),
        instance_id=InstanceId(item["InstanceId"]) if item.get("InstanceId") else None,
        description=item.get("Description", ""),
        tags={tag["TagKey"]: tag["TagValue"] for tag in listed(item, "Tags", "Tag")},
        security_groups=tuple(map(SecurityGroupId, (item.get("SecurityGroupIds") or {}).get("SecurityGroupId") or ())),
        source_dest_check=item.get("SourceDestCheck"),
    )
