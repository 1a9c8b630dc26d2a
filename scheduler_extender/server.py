"""HTTP for kube-scheduler: POST /filter and /prioritize; GET /healthz, /readyz, /metrics.

A body of more than the limit is read to its end, kept nowhere, and refused in a reply that the scheduler reads; one
that does not end is cut off. So memory is bounded by the limit for each of ``_AT_ONCE`` requests.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
from aiohttp import web

from eniway import http, log, metrics
from eniway.errors import BadConfig, EniwayError
from scheduler_extender import wire
from scheduler_extender.filter import Verdict
from scheduler_extender.pods import Pod
from scheduler_extender.wire import Asked, HostPriority

_log = log.get(__name__)

_AT_ONCE: Final = 8
_PATIENCE: Final = 5.0
"""Seconds for a body to arrive: what kube-scheduler gives the whole call by default."""
_BEYOND: Final = 8
"""A body is read as far as so many times the limit."""


class Answers(Protocol):
    """What stands behind the door. Both raise NotReady while the cluster is not known yet."""

    def filter(self, pod: Pod, names: Sequence[str]) -> Verdict:
        """The nodes that can serve the pod; their places are held, durably, when this returns."""

    def prioritize(self, pod: Pod, names: Sequence[str]) -> Mapping[str, int]:
        """0 … 10 for each of the nodes."""


class BadRequest(EniwayError):
    """It cannot be answered; the text goes to the scheduler."""


def application(
    answers: Answers, *, most_bytes: int, unready: Callable[[], str | None], refresh: Callable[[], None]
) -> web.Application:
    """``unready()`` says what is missing, or None; ``refresh()`` brings gauges up to date before they are read."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def filter_(request: web.Request) -> web.Response:
        async with turn:
            began = time.perf_counter()
            result = "error"
            try:
                asked = _understood(await _body(request, most_bytes))
                verdict = answers.filter(asked.pod, asked.names)
                if verdict.retry:
                    result, body = "retry", wire.refusal(verdict.retry)
                else:
                    result = "some" if verdict.chosen else "none"
                    body = asked.answer(verdict.chosen, verdict.failed, verdict.unresolvable)
            except EniwayError as error:
                _log.warning("filter", error=str(error))
                body = wire.refusal(f"eniway: {error}")
            metrics.EXTENDER_SECONDS.labels("filter", result).observe(time.perf_counter() - began)
            return _json(body)

    async def prioritize(request: web.Request) -> web.Response:
        async with turn:
            began = time.perf_counter()
            result = "some"
            try:
                asked = _understood(await _body(request, most_bytes))
                scores = answers.prioritize(asked.pod, asked.names)
            except EniwayError as error:
                # The protocol has no place for an error here
                _log.warning("prioritize", error=str(error))
                result, scores = "error", {}
            metrics.EXTENDER_SECONDS.labels("prioritize", result).observe(time.perf_counter() - began)
            return _json(wire.encode([HostPriority(name, score) for name, score in scores.items()]))

    async def readyz(_request: web.Request) -> web.Response:
        reason = unready()
        return web.Response(text="ok\n") if reason is None else web.Response(text=f"{reason}\n", status=503)

    app = http.application(lambda: None, refresh)
    app.router.add_post("/filter", filter_)
    app.router.add_post("/prioritize", prioritize)
    app.router.add_get("/readyz", readyz)
    return app


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """For serving; BadConfig names the file that is wrong."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise BadConfig(f"tls: {certificate}, {key}: {error.strerror or error}") from error
    return context


def _understood(body: bytes) -> Asked:
    try:
        return Asked(body)
    except (msgspec.DecodeError, ValueError) as error:
        metrics.INVALID_REQUESTS.labels("extender").inc()
        raise BadRequest(f"not ExtenderArgs: {error}") from error


async def _body(request: web.Request, most: int) -> bytes:
    """The body; BadRequest when it is too large or does not come."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size <= most:
                    chunks.append(chunk)
                else:
                    chunks.clear()
                if size > most * _BEYOND:
                    request.protocol.close()
                    break
    except TimeoutError:
        request.protocol.close()
        raise BadRequest(f"no whole body within {_PATIENCE:.0f} s") from None
    if size > most:
        metrics.INVALID_REQUESTS.labels("extender").inc()
        raise BadRequest(
            f"a body of more than {most} bytes: raise max_request_bytes, or have the scheduler send names only "
            "(nodeCacheCapable: true)"
        )
    return b"".join(chunks)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
