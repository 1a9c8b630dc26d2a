"""HTTP for kube-scheduler: POST /filter, /prioritize and, where it is wanted, /bind; GET /healthz, /readyz, /metrics.

A body of more than the limit is read to its end, kept nowhere, and refused in a reply that the scheduler reads; one
that does not end is cut off, as is who does not read the reply. What bodies take in memory is bounded for all of them
together, by ``_AT_ONCE`` times the limit, and not by a queue: who sends slowly must not make others wait.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from eniway import http, log, metrics
from eniway.errors import BadConfig, EniwayError
from scheduler_extender import wire
from scheduler_extender.filter import Verdict
from scheduler_extender.pods import Pod
from scheduler_extender.wire import Asked, BindingArgs, BindingResult, HostPriority

_log = log.get(__name__)

_AT_ONCE: Final = 8
_PATIENCE: Final = 5.0
"""Seconds for a body to arrive, and for a reply to be read: what kube-scheduler gives the whole call by default."""
_BEYOND: Final = 8
"""A body is read as far as so many times the limit."""
_T = TypeVar("_T")


class Answers(Protocol):
    """What stands behind the door. All raise NotReady while the cluster is not known yet."""

    async def turn(self) -> None:
        """Return when a pod may be chosen for: not while too many are being bound."""

    def filter(self, pod: Pod, names: Sequence[str]) -> Verdict:
        """The nodes that can serve the pod; their places are held, durably, when this returns."""

    def prioritize(self, pod: Pod, names: Sequence[str]) -> Mapping[str, int]:
        """0 … 10 for each of the nodes."""

    async def bind(self, asked: BindingArgs) -> None:
        """Bind the pod; NotReady, or KubeError, where it is not bound as far as is known."""


class BadRequest(EniwayError):
    """It cannot be answered; the text goes to the scheduler."""


class _Body:
    """A request's body; what it takes in memory comes from ``store`` and goes back with ``close``."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._content = bytearray()
        self.refused = ""

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self._content)

    async def read(self, request: web.Request) -> bytes:
        """The body; BadRequest when it is too large or does not come."""
        size, most = 0, self._store.most
        self._store.coming.add(self)
        try:
            async with asyncio.timeout(_PATIENCE):
                async for chunk in request.content.iter_any():
                    size += len(chunk)
                    if size > most:
                        self.refuse(
                            f"a body of more than {most} bytes: raise max_request_bytes, or have the scheduler send "
                            "names only (nodeCacheCapable: true)"
                        )
                    else:
                        self._store.make_room(len(chunk), self)
                    if not self.refused:
                        self._store.left -= len(chunk)
                        self._content += chunk
                    if size > most * _BEYOND:
                        request.protocol.close()
                        break
        except TimeoutError:
            request.protocol.close()
            raise BadRequest(f"no whole body within {_PATIENCE:.0f} s") from None
        finally:
            self._store.coming.discard(self)
        if self.refused:
            metrics.INVALID_REQUESTS.labels("extender").inc()
            raise BadRequest(self.refused)
        return bytes(self._content)

    def refuse(self, why: str) -> None:
        """Keep nothing of it, of what is still to come neither."""
        self.refused = self.refused or why
        self.close()

    def close(self) -> None:
        """It is not needed any more."""
        self._store.left += len(self._content)
        self._content = bytearray()


class _Store:
    """Bytes that bodies may take: ``most`` for one, ``left`` for all together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.left = most * _AT_ONCE
        self.coming: set[_Body] = set()

    def make_room(self, size: int, asking: _Body) -> None:
        """Refuse the largest of those that are coming in: it need not be the scheduler's, that is small."""
        while self.left < size and not asking.refused:
            largest = max(self.coming, key=lambda body: body.size)
            (largest if largest.size else asking).refuse("too many large requests at once")


class _Verbs:
    """Each takes a body; what became of it, and the reply."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def filter(self, content: bytes) -> tuple[str, bytes]:
        asked = _understood(Asked, content, "ExtenderArgs")
        await self._answers.turn()
        verdict = self._answers.filter(asked.pod, asked.names)
        if verdict.retry:
            return "retry", wire.refusal(verdict.retry)
        result = "some" if verdict.chosen else "none"
        return result, asked.answer(verdict.chosen, verdict.failed, verdict.unresolvable)

    async def prioritize(self, content: bytes) -> tuple[str, bytes]:
        asked = _understood(Asked, content, "ExtenderArgs")
        scores = self._answers.prioritize(asked.pod, asked.names)
        return "some", wire.encode([HostPriority(name, score) for name, score in scores.items()])

    async def bind(self, content: bytes) -> tuple[str, bytes]:
        await self._answers.bind(_understood(wire.binding, content, "ExtenderBindingArgs"))
        return "some", wire.encode(BindingResult())


def application(
    answers: Answers, *, most_bytes: int, unready: Callable[[], str | None], refresh: Callable[[], None]
) -> web.Application:
    """``unready()`` says what is missing, or None; ``refresh()`` brings gauges up to date before they are read."""
    store, verbs = _Store(most_bytes), _Verbs(answers)

    async def readyz(_request: web.Request) -> web.Response:
        reason = unready()
        return web.Response(text="ok\n") if reason is None else web.Response(text=f"{reason}\n", status=503)

    app = http.application(lambda: None, refresh)
    app.router.add_post("/filter", _served(store, "filter", verbs.filter, wire.refusal))
    # The protocol has no place for an error there
    app.router.add_post("/prioritize", _served(store, "prioritize", verbs.prioritize, lambda _error: b"[]"))
    app.router.add_post("/bind", _served(store, "bind", verbs.bind, wire.refused_binding))
    app.router.add_get("/readyz", readyz)
    return app


def _served(
    store: _Store, verb: str, answer: Callable[[bytes], Awaitable[tuple[str, bytes]]], refusal: Callable[[str], bytes]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of one verb."""

    async def handle(request: web.Request) -> web.Response:
        began = time.perf_counter()
        body = _Body(store)
        try:
            try:
                result, reply = await answer(await body.read(request))
            except EniwayError as error:
                _log.warning(verb, error=str(error))
                result, reply = "error", refusal(f"eniway: {error}")
            metrics.EXTENDER_SECONDS.labels(verb, result).observe(time.perf_counter() - began)
            return await _sent(request, reply)
        finally:
            body.close()

    return handle


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """For serving; BadConfig names the file that is wrong."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise BadConfig(f"tls: {certificate}, {key}: {error.strerror or error}") from error
    return context


def _understood(read: Callable[[bytes], _T], content: bytes, what: str) -> _T:
    try:
        return read(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        metrics.INVALID_REQUESTS.labels("extender").inc()
        raise BadRequest(f"not {what}: {error}") from error


async def _sent(request: web.Request, reply: bytes) -> web.Response:
    """The reply, read by the other end as far as the kernel does not keep it."""
    response = web.Response(body=reply, content_type="application/json")
    try:
        async with asyncio.timeout(_PATIENCE):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response
