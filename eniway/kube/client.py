"""A thin asynchronous client of the API server: JSON in, JSON out, one error type.

In a pod the connection is made from the three files every container gets (Kubernetes docs, "Accessing the API from a
Pod"): the node daemon writes two kinds of object, and the full client library would add 20 MiB and half a second to
each node for it.
Outside a cluster, ``from_kubeconfig`` leaves the many ways of a kubeconfig to that library.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from eniway.errors import KubeError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
APPLY = "application/apply-patch+yaml"
"""Content type of a server-side apply; JSON is YAML."""
_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)


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
    from kubernetes.aio import client, config  # noqa: PLC0415 -- half a second that only the command line pays

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
            connector=aiohttp.TCPConnector(ssl=self._connection.tls), timeout=_TIMEOUT, trust_env=False
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
        if self._session is None:
            raise KubeError("the client is closed")
        headers = {"Accept": "application/json"}
        try:
            if token := self._connection.token():
                headers["Authorization"] = f"Bearer {token}"
            data = None
            if body is not None:
                data = msgspec.json.encode(body, enc_hook=str)
                headers["Content-Type"] = content_type
            url = self._connection.server + path
            async with self._session.request(method, url, data=data, headers=headers, params=query) as response:
                raw = await response.read()
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise KubeError(f"{method} {path}: {str(error) or type(error).__name__}") from error
        try:
            answer: dict[str, Any] = msgspec.json.decode(raw, type=dict) if raw else {}
        except msgspec.DecodeError as error:
            raise KubeError(f"{method} {path}: HTTP {status}, not JSON", status=status) from error
        if status >= 400:
            raise KubeError(f"{method} {path}: {answer.get('message') or f'HTTP {status}'}", status=status)
        return answer
