"""The OpenAPI's endpoint: every request passes gate, faults and token on its way to its Action."""

import json
import logging
import uuid
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from vpcbox.faults import Faults, Kind, Rule
from vpcbox.openapi import errors, sts
from vpcbox.openapi.actions import ACTIONS, ECS, WITH_CLIENT_TOKEN, WITHOUT_REGION
from vpcbox.openapi.credentials import Credentials
from vpcbox.openapi.gateway import Call, Gateway
from vpcbox.openapi.idempotency import Tokens
from vpcbox.openapi.params import Params, missing
from vpcbox.openapi.ram import Ram
from vpcbox.world.errors import Refused
from vpcbox.world.model import REGION
from vpcbox.world.world import World

LONGEST_LINE = 1 << 16  # of a request: the SDK's V1 sends all of it, even a list of 50 structures, in the URL

_log = logging.getLogger(__name__)


def application(world: World, credentials: Credentials, faults: Faults, ram: Ram | None = None) -> web.Application:
    """ECS, VPC and STS on one endpoint: GET and POST on any path, the version tells the product."""
    endpoint = _Endpoint(world, credentials, faults, ram or Ram())
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.handle)
    return app


class _Endpoint:
    def __init__(self, world: World, credentials: Credentials, faults: Faults, ram: Ram) -> None:
        self._world = world
        self._faults = faults
        self._actions = {**ACTIONS, sts.VERSION: sts.Sts(ram, credentials).actions}
        self._gateway = Gateway(credentials, world.clock, faults)
        self._tokens = Tokens(world.clock)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request, whatever it is."""
        request_id = str(uuid.uuid4()).upper()
        call = await _call(request)
        try:
            answer = await self._answer(call)
        except Refused as refused:
            status = errors.status(call.action, refused.code)
            return self._error(request, request_id, status, refused.code, refused.message)
        except _Faulty as faulty:
            rule = faulty.rule
            if rule.kind is Kind.NO_ANSWER and request.transport is not None:
                request.transport.abort()
            return self._error(request, request_id, rule.status, rule.code, rule.message)
        except Exception:  # noqa: BLE001 - a fault of the box is a 500 of the cloud, and a traceback in the box's log
            _log.exception("%s broke", call.action)
            message = "The request processing has failed due to some unknown error."
            return self._error(request, request_id, 500, "InternalError", message)
        return self._response(request_id, 200, {**answer, "RequestId": request_id})

    async def _answer(self, call: Call) -> Mapping[str, Any]:
        if call.method not in {"GET", "POST"}:
            raise Refused("UnsupportedHTTPMethod", "This http method is not supported.")
        for name, value in (("Action", call.action), ("Version", call.version)):
            if not value:
                raise missing(name)
        if call.version not in self._actions:
            raise Refused("InvalidVersion", "Specified parameter Version is not valid.")
        action = self._actions[call.version].get(call.action)
        if action is None:
            raise Refused("InvalidAction.NotFound", "Specified api is not found, please check your url and method.")
        caller = "" if call.action in sts.UNSIGNED else self._gateway.authenticate(call).id
        await self._misbehave(call.action)

        params = call.action_params
        token = params.pop("ClientToken", "") if call.action in WITH_CLIENT_TOKEN else ""
        p = Params(params)
        _check_region(p, mandatory=call.version == ECS and call.action not in WITHOUT_REGION)
        if token:
            answer: Mapping[str, Any] = await self._tokens.once(
                (caller, call.action, token), params, lambda: action(self._world, p)
            )
        else:
            answer = await action(self._world, p)
        for kind in (Kind.LOST_ANSWER, Kind.NO_ANSWER):
            if rule := self._faults.strike(kind, call.action):
                await self._world.clock.sleep(rule.seconds)
                raise _Faulty(rule)
        return _emptied(answer) if self._faults.strike(Kind.EMPTY_ANSWER, call.action) else answer

    async def _misbehave(self, action: str) -> None:
        if self._faults.throttled(action, self._world.clock.now()):
            raise Refused("Throttling.User", "Request was denied due to user flow control.")
        if rule := self._faults.strike(Kind.ERROR, action):
            raise _Faulty(rule)
        if rule := self._faults.strike(Kind.DELAY, action):
            await self._world.clock.sleep(rule.seconds)

    def _error(self, request: web.Request, request_id: str, status: int, code: str, message: str) -> web.Response:
        return self._response(
            request_id,
            status,
            {
                "RequestId": request_id,
                "HostId": request.host,
                "Code": code,
                "Message": message,
                "Recommend": f"https://api.aliyun.com/troubleshoot?q={code}&product=Ecs",
            },
        )

    def _response(self, request_id: str, status: int, body: Mapping[str, Any]) -> web.Response:
        return web.Response(
            status=status,
            body=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json;charset=utf-8",
                "Date": formatdate(self._gateway.now(), usegmt=True),
                "x-acs-request-id": request_id,
                "x-acs-trace-id": uuid.uuid4().hex,
            },
        )


class _Faulty(Exception):
    """A rule answers in place of the cloud."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.code)
        self.rule = rule


def _emptied(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same answer with nothing in its lists."""

    def without(name: str, value: Any) -> Any:
        if isinstance(value, dict) and value and all(isinstance(inner, list) for inner in value.values()):
            return {inner: [] for inner in value}
        return 0 if name == "TotalCount" else value

    return {name: without(name, value) for name, value in answer.items() if name != "NextToken"}


def _check_region(p: Params, *, mandatory: bool) -> None:
    region = p.required("RegionId") if mandatory else p.text("RegionId")
    if region not in {None, REGION}:
        raise Refused("InvalidRegionId.NotFound", f'The specified RegionId "{region}" does not exist.')


async def _call(request: web.Request) -> Call:
    body = await request.read()
    form = request.content_type == "application/x-www-form-urlencoded"
    path, _, query = request.raw_path.partition("?")
    return Call(
        method=request.method,
        path=path,
        query=parse_qsl(query, keep_blank_values=True),
        form=parse_qsl(body.decode(errors="replace"), keep_blank_values=True) if form else (),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
    )
