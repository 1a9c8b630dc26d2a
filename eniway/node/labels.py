"""The labels of this Node, by which node pools are told apart: kept on disk, so a restart needs no API server for them.

Only where the configuration has node pools is any of this done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from eniway import log
from eniway.backoff import full_jitter
from eniway.config import NodeConfig
from eniway.errors import KubeError, Outdated
from eniway.kube.client import KubeClient

AGAIN_SECONDS: Final = 300.0
_Labels = dict[str, str]
_log = log.get(__name__)


class NodeLabels:
    """The labels of ``node``, as read last, in the file ``kept``."""

    def __init__(self, client: KubeClient, *, node: str, kept: Path, random: Random) -> None:
        self._client = client
        self._node = node
        self._kept = kept
        self._random = random

    async def resolve(self, config: NodeConfig) -> NodeConfig:
        """``config`` for this Node, by the labels on disk; where there are none, the API server is waited for."""
        if not config.node_pools:
            return config
        labels = await asyncio.to_thread(self._load)
        if labels is None:
            labels = await self._read()
            await asyncio.to_thread(self._keep, labels)
        return config.for_node(labels)

    async def run(self, given: NodeConfig, resolved: NodeConfig) -> None:
        """Read the labels now and then, for ever.

        Outdated: they make another configuration of ``given`` than ``resolved``; the next start knows it.
        """
        while given.node_pools:
            labels = await self._read()
            await asyncio.to_thread(self._keep, labels)
            if given.for_node(labels) != resolved:
                raise Outdated(f"the labels of Node {self._node} lead to another of node_pools: starting anew")
            await asyncio.sleep(self._random.uniform(0.8, 1.2) * AGAIN_SECONDS)

    async def _read(self) -> Mapping[str, str]:
        for delay in full_jitter(base=1, cap=60, random=self._random):
            try:
                node = await self._client.request("GET", f"/api/v1/nodes/{self._node}")
            except KubeError as error:
                _log.warning("the Node's labels are not read", error=str(error), retry_in=round(delay, 1))
                await asyncio.sleep(delay)
            else:
                return msgspec.convert(node["metadata"].get("labels", {}), _Labels)
        raise AssertionError("full_jitter is endless")

    def _load(self) -> Mapping[str, str] | None:
        try:
            return msgspec.json.decode(self._kept.read_bytes(), type=_Labels)
        except (OSError, msgspec.DecodeError):
            return None

    def _keep(self, labels: Mapping[str, str]) -> None:
        """What cannot be written is read again at the next start."""
        fresh = self._kept.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(labels))
            fresh.replace(self._kept)
        except OSError as error:
            _log.warning("the Node's labels are not kept", error=str(error))
