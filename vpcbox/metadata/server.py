"""The metadata service: plain text by path, with a token where the instance is hardened.

https://help.aliyun.com/zh/ecs/user-guide/view-instance-metadata (normal and security hardened mode)
"""

import secrets
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address

from aiohttp import web

from vpcbox.faults import Kind
from vpcbox.metadata.tree import read, tree
from vpcbox.openapi.credentials import Credentials
from vpcbox.world.model import Instance
from vpcbox.world.world import World

TTL_HEADER = "X-aliyun-ecs-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aliyun-ecs-metadata-token"  # noqa: S105 - the header's name
LONGEST_TTL = 21600


def application(
    world: World, instance_of: Callable[[IPv4Address], str | None], credentials: Credentials | None = None
) -> web.Application:
    """What answers at 100.100.100.200; the peer's address says which instance asks.

    ``instance_of`` maps any address of an instance's cards to the instance; without ``credentials`` no instance can
    read keys of its RAM role.
    """
    service = _Service(world, instance_of, credentials)
    app = web.Application()
    app.router.add_put("/latest/api/token", service.token)
    app.router.add_get("/latest", service.read)
    app.router.add_get("/latest/{path:.*}", service.read)
    return app


class _Service:
    def __init__(
        self, world: World, instance_of: Callable[[IPv4Address], str | None], credentials: Credentials | None
    ) -> None:
        self._world = world
        self._instance_of = instance_of
        self._credentials = credentials
        self._tokens: dict[str, tuple[str, float]] = {}  # the instance it was given to, and its end

    async def token(self, request: web.Request) -> web.Response:
        """A token for the instance that asks, good for as many seconds as it asks for."""
        instance = self._instance(request)
        if "X-Forwarded-For" in request.headers:
            raise web.HTTPForbidden(text="403 - Forbidden")
        ttl = request.headers.get(TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= LONGEST_TTL):
            raise web.HTTPBadRequest(text="400 - Bad Request")
        now = self._world.clock.wall()
        self._tokens = {token: held for token, held in self._tokens.items() if held[1] > now}
        token = secrets.token_urlsafe(40)
        self._tokens[token] = instance.id, now + int(ttl)
        return web.Response(text=token)

    async def read(self, request: web.Request) -> web.Response:
        """One name of the tree."""
        instance = self._instance(request)
        self._check_token(request, instance)
        lag = self._world.latency.metadata
        if rule := self._world.faults.standing(Kind.METADATA_LAG, "*"):
            lag = rule.seconds
        role = instance.ram_role
        below_latest = tree(
            instance,
            self._world.seen(instance.id, lag),
            self._world.vpcs[instance.vpc_id],
            self._world.vswitches,
            self._credentials.session(role) if role and self._credentials else None,
        )
        text = read(below_latest, request.match_info.get("path", ""))
        if text is None:
            raise web.HTTPNotFound(text="404 - Not Found")
        return web.Response(text=text)

    def _instance(self, request: web.Request) -> Instance:
        try:
            instance_id = self._instance_of(IPv4Address(request.remote or ""))
        except AddressValueError:
            instance_id = None
        if instance_id is None or instance_id not in self._world.instances:
            raise web.HTTPNotFound(text="404 - Not Found")
        return self._world.instances[instance_id]

    def _check_token(self, request: web.Request, instance: Instance) -> None:
        token = request.headers.get(TOKEN_HEADER)
        if token is None:
            if instance.http_tokens == "required":
                raise web.HTTPForbidden(text="403 - Forbidden")
            return
        holder, end = self._tokens.get(token, ("", 0.0))
        if holder != instance.id or end <= self._world.clock.wall():
            raise web.HTTPUnauthorized(text="401 - Unauthorized")
