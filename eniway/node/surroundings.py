"""What is around the daemon on its node: the runtime's files, and kube-proxy's way of telling local pods."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from cni import conflist
from eniway.errors import NotReady
from eniway.node.diagnosis import Host

KUBE_PROXY: Final = "http://127.0.0.1:10249/configz"
"""Where kube-proxy says how it was configured: beside its metrics, at its default metricsBindAddress."""
_GROUP: Final = "kubeproxy.config.k8s.io"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2)


async def files(relay: Path) -> Host:
    """The runtime's; NotReady where they cannot be read."""
    try:
        return await asyncio.to_thread(lambda: Host(files=conflist.amiss(relay), first=conflist.chosen()))
    except OSError as error:
        raise NotReady(f"the runtime's files cannot be read: {error}") from error


async def local_pods(url: str = KUBE_PROXY) -> str:
    """How kube-proxy tells local pods, as ``InterfaceNamePrefix eniw``; NotReady where there is none to be asked."""
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(url) as response:
            raw = await response.read()
        if response.status != 200:
            raise NotReady(f"kube-proxy at {url}: HTTP {response.status}")
        return detected(msgspec.json.decode(raw))
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
        raise NotReady(f"kube-proxy does not answer at {url}: {str(error) or type(error).__name__}") from error


def detected(configz: Any) -> str:
    """The mode, with what belongs to it; NotReady where ``configz`` is no kube-proxy's. Field names are Go's."""
    config = configz.get(_GROUP) if isinstance(configz, dict) else None
    if not isinstance(config, dict):
        raise NotReady(f"no {_GROUP} in kube-proxy's configz")
    mode = str(config.get("DetectLocalMode") or "ClusterCIDR")
    detail = config.get("DetectLocal") or {}
    told = {
        "InterfaceNamePrefix": detail.get("InterfaceNamePrefix"),
        "BridgeInterface": detail.get("BridgeInterface"),
        "ClusterCIDR": config.get("ClusterCIDR"),
    }.get(mode)
    return f"{mode} {told}" if told else mode
