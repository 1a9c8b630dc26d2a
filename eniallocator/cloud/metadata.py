"""The instance metadata service: who this node is. It says nothing that proves something gone.

Tokens as "Access instance metadata in security hardening mode": PUT /latest/api/token, then a header on each request; a
service without tokens is asked without.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Final, Self

import aiohttp

from eniallocator.records import Identity
from eniway.errors import NotReady
from eniway.model import EniId, InstanceId, Mac, VSwitchId

TOKEN_SECONDS: Final = 3600
_TTL_HEADER: Final = "X-aliyun-ecs-metadata-token-ttl-seconds"
_TOKEN_HEADER: Final = "X-aliyun-ecs-metadata-token"  # noqa: S105 -- the name of a header
_UNAUTHORIZED: Final = 401


class Metadata:
    """Client of the service at ``base``; use as a context manager. Errors are NotReady: the service comes back."""

    def __init__(self, base: str, *, timeout: float = 5.0) -> None:
        self._base = base.rstrip("/")
        # trust_env stays off: a link-local service is never behind a proxy.
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout))
        self._token: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()

    async def get(self, path: str) -> str:
        """The value at ``/latest/meta-data/<path>``."""
        if self._token is None:
            self._token = await self._new_token()
        status, text = await self._request(path)
        if status == _UNAUTHORIZED:
            self._token = await self._new_token()
            status, text = await self._request(path)
        if status != 200:
            raise NotReady(f"metadata {path}: HTTP {status}", after=1.0)
        return text

    async def identity(self) -> Identity:
        """Who this instance is."""
        primary = Mac((await self.get("mac")).lower())
        card = f"network/interfaces/macs/{primary}/"
        try:
            return Identity(
                instance_id=InstanceId(await self.get("instance-id")),
                instance_type=await self.get("instance/instance-type"),
                region=await self.get("region-id"),
                zone=await self.get("zone-id"),
                vpc_id=await self.get("vpc-id"),
                primary_eni=EniId(await self.get(card + "network-interface-id")),
                primary_mac=primary,
                primary_vswitch=VSwitchId(await self.get(card + "vswitch-id")),
                primary_address=IPv4Address(await self.get(card + "primary-ip-address")),
                primary_prefix=IPv4Network(await self.get(card + "vswitch-cidr-block")),
                primary_gateway=IPv4Address(await self.get(card + "gateway")),
            )
        except ValueError as error:
            raise NotReady(f"metadata: not an address: {error}", after=1.0) from error

    async def _request(self, path: str) -> tuple[int, str]:
        headers = {_TOKEN_HEADER: self._token} if self._token else {}
        return await self._send("GET", f"/latest/meta-data/{path}", headers)

    async def _new_token(self) -> str:
        """A token, or "" where the service has none to give."""
        status, text = await self._send("PUT", "/latest/api/token", {_TTL_HEADER: str(TOKEN_SECONDS)})
        return text.strip() if status == 200 else ""

    async def _send(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        try:
            async with self._session.request(method, self._base + path, headers=headers) as response:
                return response.status, (await response.text()).strip()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotReady(f"metadata {self._base}: {str(error) or type(error).__name__}", after=1.0) from error
