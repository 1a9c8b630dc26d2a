"""/metrics and /healthz of a daemon: GET only, nothing else is served to anybody who can reach the port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from eniway import metrics
from eniway.errors import BadConfig, InvariantBroken

MOST_CONNECTIONS: Final = 256
_IDLE_SECONDS: Final = 75.0


def parse_address(text: str) -> tuple[str | None, int]:
    """``[HOST]:PORT``; None for all addresses."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadConfig(f"metrics_address: expected [HOST]:PORT, got {text!r}")
    return host.strip("[]") or None, int(port)


def application(unhealthy: Callable[[], str | None], refresh: Callable[[], None]) -> web.Application:
    """``unhealthy()`` says what is wrong, or None; ``refresh()`` brings gauges up to date before they are read."""

    async def healthz(_request: web.Request) -> web.Response:
        reason = unhealthy()
        return web.Response(text="ok\n") if reason is None else web.Response(text=f"{reason}\n", status=503)

    async def exposition(request: web.Request) -> web.Response:
        refresh()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(metrics.REGISTRY), headers={"Content-Type": content_type})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", exposition)
    return app


async def serve(
    app: web.Application, *, host: str | None, port: int, tls: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Start serving; the caller cleans the runner up.

    A connection without a whole request on its way is closed after a while, and at once with a body that nobody reads,
    or when there are ``MOST_CONNECTIONS`` already: each may have some 400 KiB come in before anybody looks at it.
    Nothing is unpacked, for a few bytes of a compressed body may be a gigabyte.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=0.0,
        auto_decompress=False,
    )
    await runner.setup()
    await _Site(runner, host, port, tls).start()
    return runner


class _Site(web.BaseSite):
    """As aiohttp's TCPSite, with a bound on connections."""

    def __init__(self, runner: web.AppRunner, host: str | None, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner, ssl_context=tls)
        self._where = (host, port)

    @property
    def name(self) -> str:
        """For aiohttp's own messages."""
        return "{}:{}".format(*self._where)

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        if server is None:
            raise InvariantBroken("the runner is not set up")

        def connection() -> asyncio.BaseProtocol:
            return server() if len(server.connections) < MOST_CONNECTIONS else _Refused()

        self._server = await asyncio.get_running_loop().create_server(
            connection, *self._where, ssl=self._ssl_context, backlog=self._backlog, reuse_address=True
        )


class _Refused(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it."""
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
