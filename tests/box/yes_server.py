"""The API server as far as a node's daemon needs one: its Node, no pods, and a yes to whatever it writes."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web


class YesServer:
    """``application`` serves it; ``away`` makes it answer 503."""

    def __init__(self, node: str, *, pod_cidr: str) -> None:
        self.node = {"metadata": {"name": node, "uid": "uid-of-the-node"}, "spec": {"podCIDRs": [pod_cidr]}}
        self.away = False
        self.reasons: set[str] = set()
        """Of all Events."""

    def application(self) -> web.Application:
        """Requests and answers."""
        app = web.Application(middlewares=[self._unless_away])
        app.router.add_get("/api/v1/nodes/{name}", self._read)
        app.router.add_get("/api/v1/pods", self._pods)
        app.router.add_post("/api/v1/namespaces/{namespace}/events", self._event)
        app.router.add_patch("/{path:.*}", self._write)
        return app

    @web.middleware
    async def _unless_away(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.away:
            raise web.HTTPServiceUnavailable
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _read(self, _request: web.Request) -> web.Response:
        return web.json_response(self.node)

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.sleep(float(request.query["timeoutSeconds"]))
        return answer

    async def _event(self, request: web.Request) -> web.Response:
        self.reasons.add((await request.json())["reason"])
        return web.json_response({})

    async def _write(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({})
