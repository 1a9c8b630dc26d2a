"""What the container runtime remembers of its ADDs: libcni's cache, a file for each attachment that is there.

libcni (containernetworking/cni, libcni/api.go, cachedInfo) writes kind, containerId, ifName, networkName, cniArgs and
the result under /var/lib/cni/results. Read when our own books are lost: it names pod, sandbox and addresses of what is
running, and the kernel tells whether that is so.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, Final

import msgspec

from eniway import log, names
from eniway.model import ContainerId, LeaseKey, PodRef, PodUid, Sandbox

KIND: Final = "cniCacheV1"

_log = log.get(__name__)


class _Cached(msgspec.Struct, rename="camel"):
    kind: str
    container_id: str
    if_name: str
    network_name: str
    cni_args: list[list[str]] = []
    result: dict[str, Any] = {}


def remembered(directory: Path = Path(names.CNI_RESULTS), *, network: str = names.CNI_NETWORK) -> tuple[Sandbox, ...]:
    """All attachments to ``network``; what cannot be read is passed over, a directory that is not there is empty.

    Blocks.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.name.startswith(f"{network}-"))
    except OSError:
        return ()
    return tuple(_read(paths, network))


def _read(paths: list[Path], network: str) -> Iterator[Sandbox]:
    for path in paths:
        try:
            cached = msgspec.json.decode(path.read_bytes(), type=_Cached)
            if cached.kind == KIND and cached.network_name == network:
                yield _sandbox(cached)
        except (OSError, msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("the runtime's memory of an ADD is passed over", file=path.name, error=repr(error))


def _sandbox(cached: _Cached) -> Sandbox:
    args = {pair[0]: pair[1] for pair in cached.cni_args if len(pair) == 2}
    links = cached.result.get("interfaces") or []
    netns = next((link["sandbox"] for link in links if link.get("sandbox")), None)
    if netns is None:
        raise ValueError("the result names no sandbox")
    addresses = [IPv4Interface(found["address"]).ip for found in cached.result.get("ips") or []]
    return Sandbox(
        key=LeaseKey(cached.network_name, ContainerId(cached.container_id), cached.if_name),
        pod=PodRef(args["K8S_POD_NAMESPACE"], args["K8S_POD_NAME"], PodUid(args["K8S_POD_UID"])),
        netns=str(netns),
        addresses=tuple(IPv4Address(address) for address in addresses),
    )
