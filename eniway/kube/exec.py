"""Run a program in a container, as `kubectl exec` does (Kubernetes' remotecommand over websockets, KEP-4006)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aiohttp
import msgspec

from eniway.errors import KubeError
from eniway.kube.client import KubeClient

_PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT, _STDERR, _STATUS = 1, 2, 3


async def run(
    client: KubeClient, *, namespace: str, pod: str, container: str, argv: Sequence[str]
) -> tuple[int, bytes, bytes]:
    """Exit status, stdout and stderr. KubeError where it could not be run."""
    query = [("command", word) for word in argv]
    query += [("container", container), ("stdout", "true"), ("stderr", "true")]
    streams = {_STDOUT: b"", _STDERR: b"", _STATUS: b""}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    async with client.websocket(path, query=query, protocols=_PROTOCOLS) as connected:
        async for message in connected:
            if message.type is aiohttp.WSMsgType.BINARY and message.data and message.data[0] in streams:
                streams[message.data[0]] += message.data[1:]
    return _exit_status(streams[_STATUS], f"{namespace}/{pod}"), streams[_STDOUT], streams[_STDERR]


def _exit_status(said: bytes, where: str) -> int:
    """Of the Status object on the error channel."""
    if not said:
        raise KubeError(f"exec in {where}: the connection ended before the program did")
    status = msgspec.json.decode(said, type=dict)
    if status.get("status") == "Success":
        return 0
    if status.get("reason") == "NonZeroExitCode":
        causes = status.get("details", {}).get("causes", [])
        return next(int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode")
    raise KubeError(f"exec in {where}: {status.get('message', 'failed')}")
