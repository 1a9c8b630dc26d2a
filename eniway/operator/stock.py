"""Reads how many addresses the vSwitches have left, once for the cluster, and tells it in VSwitch objects."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Final, Protocol

from eniallocator import stock
from eniallocator.cloud.api import VSwitch
from eniallocator.cloud.errors import ApiError
from eniway import log, metrics, names
from eniway.backoff import full_jitter
from eniway.config import NodeConfig
from eniway.errors import KubeError
from eniway.kube import vswitch
from eniway.kube.client import KubeClient
from eniway.kube.events import Event, ObjectRef, Recorder
from eniway.kube.reflector import Reflector
from eniway.kube.views import NodeNetwork

_log = log.get(__name__)

READ_EVERY: Final = 15.0
"""Seconds; one call of DescribeVSwitches for each 50 vSwitches of the VPC."""


class StockApi(Protocol):
    """The OpenAPI, as far as stock needs it."""

    async def vswitches(self, vpc_id: str) -> Sequence[VSwitch]:
        """DescribeVSwitches of a VPC, all pages."""
        ...


class Stock:
    """``run`` while leading."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        vpc: str,
        api: StockApi,
        client: KubeClient,
        networks: Reflector[NodeNetwork],
        recorder: Recorder,
        random: Random,
    ) -> None:
        self._configured = frozenset(config.vswitches)
        self._vpc = vpc
        self._api = api
        self._client = client
        self._networks = networks
        self._recorder = recorder
        self._random = random
        self._unknown: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Read and tell until cancelled."""
        delays = self._delays()
        try:
            while True:
                try:
                    await self._once()
                except (ApiError, KubeError) as error:
                    delay = next(delays)
                    _log.warning("the vSwitches' stock is not told", error=str(error), retry_in=round(delay, 1))
                    await asyncio.sleep(delay)
                else:
                    delays = self._delays()
                    await asyncio.sleep(READ_EVERY)
        finally:
            metrics.VSWITCH_STOCK.clear()

    def _delays(self) -> Iterator[float]:
        return full_jitter(base=1, cap=READ_EVERY, random=self._random)

    async def _once(self) -> None:
        read_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        read = await self._api.vswitches(self._vpc)
        named = {name for network in self._networks.items.values() for name in network.status.vswitches}
        now = stock.telling(read, wanted=self._configured | named, told=await vswitch.told(self._client))
        self._measure(now.write)
        if now.unknown != self._unknown:
            _log.warning("vSwitches that the VPC does not have", vpc=self._vpc, vswitches=sorted(now.unknown))
            self._unknown = now.unknown
        for each in now.write:
            status = {"zone": each.zone, "cidr": str(each.cidr), "available": each.available, "readAt": read_at}
            await vswitch.write(self._client, each.vswitch_id, status)
            if not each.available:
                words = f"no free address in {each.cidr} ({each.zone}): pods that need one of it wait"
                about = ObjectRef(names.API_VERSION, vswitch.KIND, each.vswitch_id)
                self._recorder.tell(Event(about, "Warning", "VSwitchEmpty", words))
        for name in now.delete:
            await vswitch.delete(self._client, name)

    @staticmethod
    def _measure(read: Collection[VSwitch]) -> None:
        metrics.VSWITCH_STOCK.clear()
        for each in read:
            metrics.VSWITCH_STOCK.labels(each.vswitch_id, each.zone).set(each.available)
