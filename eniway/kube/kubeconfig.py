"""A kubeconfig of the plain kind: a server, and a certificate or token for it (client-go, tools/clientcmd/api/v1).

This is what a component's own kubeconfig is; those that run programs to log in are left to the client library, which
is not in the image.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from eniway.errors import KubeError


class _Named(msgspec.Struct, frozen=True):
    name: str
    cluster: dict[str, Any] = {}
    user: dict[str, Any] = {}
    context: dict[str, Any] = {}


class _File(msgspec.Struct, frozen=True):
    clusters: list[_Named] = []
    users: list[_Named] = []
    contexts: list[_Named] = []
    current: str = msgspec.field(default="", name="current-context")


_BEYOND: Final = {"exec", "auth-provider", "username", "as", "proxy-url", "tls-server-name", "insecure-skip-tls-verify"}
"""Keys that change who connects, or how, in ways that are not done here."""


def plain(path: Path) -> tuple[str, ssl.SSLContext, Callable[[], str | None]] | None:
    """Server, TLS and token of the current context; None where it takes more than that. KubeError for a wrong file."""
    try:
        found = msgspec.yaml.decode(path.read_bytes(), type=_File)
        context = _one(found.contexts, found.current, "context").context
        cluster = _one(found.clusters, context.get("cluster", ""), "cluster").cluster
        user = _one(found.users, context.get("user", ""), "user").user
        if _BEYOND & (cluster.keys() | user.keys()):
            return None
        authority = _content(cluster, "certificate-authority", path)
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        certificate, key = _content(user, "client-certificate", path), _content(user, "client-key", path)
        if certificate and key:
            _load(tls, certificate, key)
        return cluster["server"], tls, _token(user, path)
    except (OSError, ssl.SSLError) as error:
        raise KubeError(f"kubeconfig {path}: {error}") from error
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise KubeError(f"kubeconfig {path}: expected a kubeconfig: {error}") from error


def _one(items: list[_Named], name: str, what: str) -> _Named:
    found = next((item for item in items if item.name == name), None)
    if found is None:
        raise ValueError(f"there is no {what} {name!r}")
    return found


def _content(section: dict[str, Any], key: str, path: Path) -> bytes | None:
    if data := section.get(f"{key}-data"):
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, TypeError) as error:
            raise ValueError(f"{key}-data: {error}") from error
    file = section.get(key)
    return (path.parent / file).read_bytes() if file else None


def _token(user: dict[str, Any], path: Path) -> Callable[[], str | None]:
    """Read anew each time where it stands in a file: tokens are rotated."""
    file, token = user.get("tokenFile"), user.get("token")
    return (lambda: (path.parent / file).read_text().strip()) if file else lambda: token


def _load(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """``load_cert_chain`` takes files only: one in memory, or where there is no /proc a short-lived one."""
    pem = certificate + b"\n" + key
    if Path("/proc/self/fd").exists():
        descriptor = os.memfd_create("eniway-client")
        try:
            os.write(descriptor, pem)
            tls.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        tls.load_cert_chain(file.name)
