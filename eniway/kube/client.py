"""A thin asynchronous client of the API server: JSON in, JSON out, one error type.

In a pod the connection is made from the three files every container gets (Kubernetes docs, "Accessing the API from a
Pod"): the node daemon writes two kinds of object, and the full client library would add 20 MiB and half a second to
each node for it.
Outside a cluster, ``from_kubeconfig`` reads a plain kubeconfig itself and leaves its many other ways to that library.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from eniway.errors import KubeError
from eniway.kube.kubeconfig import plain

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
APPLY = "application/apply-patch+yaml"
"""Content type of a server-side apply; JSON is YAML."""
MERGE = "application/strategic-merge-patch+json"
"""Content type of a patch that merges lists of built-in types by their keys."""
_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=3)
_LATE = 15
"""Seconds that the end of a watch may come late."""
SILENT = 120
"""Seconds without a byte after which a watch is given up: a server that hangs still answers the kernel's probes.

The API server sends bookmarks about once a minute to who asks for them (KEP-956); of a collection in which nothing has
happened since it started it may send none, and that watch is merely begun anew.
"""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API server is and how to be believed there.

    ``token`` is asked for each request: tokens are rotated in place.
    """

    server: str
    tls: ssl.SSLContext
    token: Callable[[], str | None]


def in_cluster(environ: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> Connection:
    """The connection of a pod; KubeError where this is not one."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise KubeError("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    try:
        tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    except OSError as error:
        raise KubeError(f"{directory / 'ca.crt'}: {error}") from error
    return Connection(f"https://{host}:{port}", tls, lambda: (directory / "token").read_text().strip())


async def from_kubeconfig(path: Path | None) -> Connection:
    """The connection of the current context of a kubeconfig (``path``, or $KUBECONFIG, or ~/.kube/config)."""
    if path is not None and (found := plain(path)) is not None:
        return Connection(*found)
    try:
        from kubernetes.aio import client, config  # noqa: PLC0415 -- half a second that only the command line pays
    except ImportError as error:
        # It is not in the image: on a node there is no kubeconfig.
        raise KubeError("this needs a kubeconfig: run it outside the cluster, not in a container of eniway") from error

    settings = client.Configuration()
    try:
        load: Callable[..., Awaitable[None]] = config.load_kube_config
        await load(config_file=str(path) if path else None, client_configuration=settings)
    except config.ConfigException as error:
        raise KubeError(f"kubeconfig: {error}") from error
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if settings.cert_file:
        tls.load_cert_chain(settings.cert_file, settings.key_file)
    header: str | None = await settings.get_api_key_with_prefix("BearerToken")
    return Connection(settings.host, tls, lambda: header.removeprefix("Bearer ") if header else None)


class KubeClient:
    """Requests to one API server over kept-alive connections; use as an asynchronous context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._connection.tls, socket_factory=_kept_alive), trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; the decoded answer. KubeError carries the HTTP status, or None where there was no answer."""
        data = None if body is None else msgspec.json.encode(body, enc_hook=str)
        headers = {} if data is None else {"Content-Type": content_type}
        async with self._send(method, path, query, timeout=_TIMEOUT, data=data, headers=headers) as response:
            raw, status = await response.read(), response.status
        try:
            answer: dict[str, Any] = msgspec.json.decode(raw, type=dict) if raw else {}
        except msgspec.DecodeError as error:
            raise KubeError(f"{method} {path}: HTTP {status}, not JSON", status=status) from error
        return answer

    async def read(self, path: str, *, query: Mapping[str, str] | None = None) -> bytes:
        """GET; the answer as it came, for a caller that decodes only what it needs."""
        async with self._send("GET", path, query, timeout=_LIST_TIMEOUT) as response:
            return await response.read()

    async def watch(self, path: str, *, query: Mapping[str, str], seconds: int) -> AsyncGenerator[bytes, None]:
        """GET with watch=1: the lines as they come, until the server ends the watch, after ``seconds`` at the latest.

        Close the generator (``contextlib.aclosing``) when not reading to the end. A connection that died without a word
        is noticed by keep-alive probes of the kernel, a server that is silent after ``SILENT``: ask for bookmarks.
        """
        query = {**query, "watch": "1", "timeoutSeconds": str(seconds)}
        timeout = aiohttp.ClientTimeout(total=seconds + _LATE, sock_connect=3, sock_read=SILENT)
        async with self._send("GET", path, query, timeout=timeout) as response:
            # Not readline: its limit is 64 KiB, an object's is 1.5 MiB
            begun = b""
            async for chunk in response.content.iter_any():
                *lines, rest = chunk.split(b"\n")
                if lines:
                    lines[0] = begun + lines[0]
                    begun = b""
                begun += rest
                for line in lines:
                    yield line

    @asynccontextmanager
    async def websocket(
        self, path: str, *, query: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket at ``path``, as exec and port-forward want one; KubeError where there is none."""
        if self._session is None:
            raise KubeError("the client is closed")
        token = self._connection.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._session.ws_connect(
                self._connection.server + path, params=query, protocols=protocols, headers=headers, max_msg_size=0
            ) as connected:
                yield connected
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            status = error.status if isinstance(error, aiohttp.WSServerHandshakeError) else None
            raise KubeError(f"{path}: {str(error) or type(error).__name__}", status=status) from error

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- aiohttp's own, which also bounds the parts of a request
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request, if it is a success; its body is still to be read."""
        if self._session is None:
            raise KubeError("the client is closed")
        try:
            sent = {"Accept": "application/json", **(headers or {})}
            if token := self._connection.token():
                sent["Authorization"] = f"Bearer {token}"
            url = self._connection.server + path
            async with self._session.request(
                method, url, data=data, headers=sent, params=query, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise _refusal(method, path, response.status, await response.read())
                yield response
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise KubeError(f"{method} {path}: {str(error) or type(error).__name__}") from error


def _refusal(method: str, path: str, status: int, body: bytes) -> KubeError:
    """In the server's own words, a Status object's message."""
    try:
        said = msgspec.json.decode(body, type=dict).get("message") if body else None
    except msgspec.DecodeError:
        said = None
    return KubeError(f"{method} {path}: {said or f'HTTP {status}'}", status=status)


def _kept_alive(address: tuple[int, int, int, str, Any]) -> socket.socket:
    """A socket that finds out within half a minute that the other end is gone, though nothing is sent on it."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
