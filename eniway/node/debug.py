"""The debug socket: what this node's daemon knows, for `eniway` on the node. Root only, never on a network.

/node       {node, version, unhealthy, status}: ``status`` is what its NodeNetwork says
/leases     [{pod, uid, kind, address, serviceAddress, eni, slot, mac, link, netns, container, since}]
/requests   ?pod=NAMESPACE/NAME: its last CNI requests, oldest first (eniway/trace.py: Record)
/doctor     {node, differences, unread} (doctor.py: Report); POST has the daemon mend, all else is GET
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from eniway import log, names, peers
from eniway.model import Lease, LeaseKey
from eniway.node.doctor import Report
from eniway.trace import Recent

_log = log.get(__name__)
_BACKLOG: Final = 16


class Books(Protocol):
    """What the socket tells of the books."""

    def leases(self) -> Sequence[Lease]:
        """All leases."""

    def since(self, key: LeaseKey) -> float | None:
        """When a lease began, in seconds since the epoch."""

    def status(self) -> dict[str, Any]:
        """The status of the node's NodeNetwork."""


class Doctor(Protocol):
    """What compares and mends."""

    async def look(self) -> Report:
        """What differs."""

    async def mend(self) -> Report:
        """Mend it."""


def application(
    books: Books, recent: Recent, doctor: Doctor, *, node: str, unhealthy: Callable[[], str | None]
) -> web.Application:
    """``node``: this one's name. ``unhealthy()``: what is wrong, or None."""
    said = {"node": node, "version": version("eniway")}

    async def about(_request: web.Request) -> web.Response:
        return _json({**said, "unhealthy": unhealthy(), "status": books.status()})

    async def leases(_request: web.Request) -> web.Response:
        held = sorted(books.leases(), key=lambda lease: (lease.pod, lease.key))
        return _json([_told(lease, books.since(lease.key)) for lease in held])

    async def requests(request: web.Request) -> web.Response:
        pod = request.query.get("pod", "")
        if pod.count("/") != 1:
            raise web.HTTPBadRequest(text=f"pod: expected NAMESPACE/NAME, got {pod!r}\n")
        return _json(recent.of(pod))

    async def examine(request: web.Request) -> web.Response:
        if (reason := unhealthy()) is not None:
            raise web.HTTPServiceUnavailable(text=f"{reason}\n")
        report = await (doctor.mend() if request.method == "POST" else doctor.look())
        return _json({"node": node, **report.told()})

    app = web.Application(client_max_size=1024, middlewares=[_own_user_only])
    app.router.add_get("/node", about)
    app.router.add_get("/leases", leases)
    app.router.add_get("/requests", requests)
    app.router.add_get("/doctor", examine)
    app.router.add_post("/doctor", examine)
    return app


@web.middleware
async def _own_user_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A descriptor may have been handed on: the mode of the file is not all."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    trusted, uid = (False, -1) if connection is None else peers.is_own_user(connection)
    if not trusted:
        _log.warning("debug connection refused", uid=uid)
        raise web.HTTPForbidden(text="only root may ask here\n")
    return await handler(request)


async def serve(
    stack: AsyncExitStack,
    books: Books,
    recent: Recent,
    doctor: Doctor,
    *,
    node: str,
    unhealthy: Callable[[], str | None],
    path: Path = Path(names.DEBUG_SOCKET),
) -> None:
    """Serve until ``stack`` closes, in the place of any earlier socket. OSError if it cannot listen."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(fresh))
        # Before it listens nobody can connect, whatever the umask was.
        fresh.chmod(0o600)
        listener.listen(_BACKLOG)  # from here on; SockSite does so again
        fresh.replace(path)
    except OSError:
        listener.close()
        raise
    app = application(books, recent, doctor, node=node, unhealthy=unhealthy)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener, backlog=_BACKLOG).start()


def _told(lease: Lease, since: float | None) -> dict[str, Any]:
    return {
        "pod": str(lease.pod),
        "uid": lease.pod.uid,
        "kind": lease.kind.value,
        "address": str(lease.address),
        "serviceAddress": None if lease.service_address is None else str(lease.service_address),
        "eni": lease.card.eni_id,
        "slot": lease.card.slot,
        "mac": lease.card.mac,
        "link": names.host_link(lease.key),
        "netns": lease.netns,
        "container": lease.key.container_id,
        "since": since,
    }


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", content_type="application/json")
