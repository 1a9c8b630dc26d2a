"""What is around the daemon on its node: the runtime's files, and kube-proxy's configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from cni import conflist
from eniway.errors import NotReady
from eniway.node.diagnosis import Host, KubeProxy

KUBE_PROXY: Final = "http://127.0.0.1:10249/configz"
"""Where kube-proxy says how it was configured: beside its metrics, at its default metricsBindAddress."""
_GROUP: Final = "kubeproxy.config.k8s.io"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2)


async def files(relay: Path) -> Host:
    """The runtime's; NotReady where they cannot be read."""
    try:
        return await asyncio.to_thread(
            lambda: Host(files=conflist.amiss(relay), first=conflist.chosen(), portmap=conflist.has_portmap())
        )
    except OSError as error:
        raise NotReady(f"the runtime's files cannot be read: {error}") from error


async def kube_proxy(url: str = KUBE_PROXY) -> KubeProxy:
    """How it was configured; NotReady where there is none to be asked."""
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(url) as response:
            raw = await response.read()
        if response.status != 200:
            raise NotReady(f"kube-proxy at {url}: HTTP {response.status}")
        return read(msgspec.json.decode(raw))
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
        raise NotReady(f"kube-proxy does not answer at {url}: {str(error) or type(error).__name__}") from error


def read(configz: Any) -> KubeProxy:
    """NotReady where ``configz`` is no kube-proxy's. Its fields are those of kube-proxy's own types, named as in Go."""
    config = configz.get(_GROUP) if isinstance(configz, dict) else None
    if not isinstance(config, dict):
        raise NotReady(f"no {_GROUP} in kube-proxy's configz")
    mode = str(config.get("DetectLocalMode") or "ClusterCIDR")
    detail = config.get("DetectLocal") or {}
    told = {
        "InterfaceNamePrefix": detail.get("InterfaceNamePrefix"),
        "BridgeInterface": detail.get("BridgeInterface"),
        "ClusterCIDR": ",".join(detail.get("ClusterCIDRs") or ()),
    }.get(mode)
    marks = config.get("NFTables" if config.get("Mode") == "nftables" else "IPTables") or {}
    return KubeProxy(f"{mode} {told}" if told else mode, marks.get("MasqueradeBit"))
