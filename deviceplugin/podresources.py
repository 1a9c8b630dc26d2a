"""kubelet's answer to "whose is this slot": the PodResources API, v1 (k8s.io/kubelet pkg/apis/podresources/v1).

kubelet stores a pod's devices before it asks the runtime for the sandbox (kubernetes pkg/kubelet: admission, then the
pod worker), so at a pod's ADD the answer is final: a pod that kubelet knows and that has no device gets none later.
The API has names and no UIDs: whether the pod of that name is the caller is for the books to judge by the UID of who
holds the slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from google.protobuf.message import Message

from deviceplugin.allocations import Allocations, PodName
from deviceplugin.api.podresources.v1 import api_pb2 as api
from deviceplugin.rpc import Channel, RpcFailed
from eniway import log, names
from eniway.backoff import full_jitter
from eniway.errors import NotReady
from eniway.model import PodRef, Slot

_SERVICE: Final = "/v1.PodResourcesLister/"
_CALL_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 10.0
_SETTLE_AGAIN_SECONDS: Final = 30.0
_AGAIN: Final = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})

_Response = TypeVar("_Response", bound=Message)
_log = log.get(__name__)


class PodResources:
    """Client of kubelet's PodResources socket; close it when done."""

    def __init__(
        self,
        allocations: Allocations,
        *,
        path: Path = Path(names.KUBELET_POD_RESOURCES),
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allocations = allocations
        self._path = path
        self._random = random or Random()  # noqa: S311 -- spreads retries
        self._clock = clock
        self._channel: Channel | None = None
        self._settling = asyncio.Lock()
        self._settle_after = 0.0
        self._asking = asyncio.Lock()
        self._asked: dict[asyncio.Future[tuple[Slot, ...]], PodRef] = {}
        """Who waits for an answer."""
        self._strangers: set[str] = set()
        """Device ids of another plugin's making that were met, and told of."""

    async def close(self) -> None:
        """End the connection; a later call makes a new one."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def slots_of(self, pod: PodRef) -> tuple[Slot, ...]:
        """The slots kubelet has given to ``pod``, in order; mostly known without asking (see ``allocations``).

        A pod that kubelet does not know has none: an ADD whose kubelet went away is cancelled by the runtime, so this
        is either a pod deleted meanwhile or a sandbox that somebody else made. NotReady when kubelet cannot be asked.
        """
        if (slots := self._allocations.known(pod)) is not None:
            return slots
        if self._allocations.due(now=self._clock()):
            await self._settle()
            if (slots := self._allocations.known(pod)) is not None:
                return slots
        return await self._ask(pod)

    async def _ask(self, pod: PodRef) -> tuple[Slot, ...]:
        """Kubelet's answer about ``pod``: pods that come while it is being asked share the next question, a List.

        So a burst of ADDs is two calls, far from kubelet's limit.
        """
        answer: asyncio.Future[tuple[Slot, ...]] = asyncio.get_running_loop().create_future()
        self._asked[answer] = pod
        try:
            async with self._asking:
                if not answer.done():
                    # Who was answered a moment ago may still be here.
                    await self._answer({one: who for one, who in self._asked.items() if not one.done()})
            return answer.result()
        finally:
            del self._asked[answer]

    async def _answer(self, asked: Mapping[asyncio.Future[tuple[Slot, ...]], PodRef]) -> None:
        try:
            slots = await self._get(*asked.values()) if len(asked) == 1 else await self.active()
        except NotReady as error:
            for answer in asked:
                if answer in self._asked:
                    answer.set_exception(NotReady(str(error)))
            return
        for answer, pod in asked.items():
            found = slots.get((pod.namespace, pod.name))
            if found is None:
                _log.info("kubelet does not know the pod", pod=str(pod))
            else:
                self._allocations.claim(pod, found)
            answer.set_result(found or ())

    async def _get(self, pod: PodRef) -> Mapping[PodName, tuple[Slot, ...]]:
        """The one pod with its slots, if kubelet knows it."""
        request = api.GetPodResourcesRequest(pod_name=pod.name, pod_namespace=pod.namespace)
        try:
            answer = await self._call("Get", request, api.GetPodResourcesResponse)
        except RpcFailed as error:
            if error.code in {"UNKNOWN", "NOT_FOUND"} and "not found" in error.details:
                return {}
            if "disabled" in error.details:
                # kubelet before 1.34, or KubeletPodResourcesGet switched off
                return await self.active()
            raise NotReady(f"kubelet cannot say which ENI slots pod {pod} has: {error}") from error
        return {(pod.namespace, pod.name): self._slots(answer.pod_resources)}

    async def _settle(self) -> None:
        """One List for all who would have it; where it fails, Get still knows the one pod."""
        async with self._settling:
            if not self._allocations.due(now=self._clock()) or self._clock() < self._settle_after:
                return
            try:
                await self.list()
            except NotReady as error:
                self._settle_after = self._clock() + _SETTLE_AGAIN_SECONDS
                _log.warning("kubelet's allocations are not settled yet", error=str(error))

    async def list(self) -> Mapping[PodName, tuple[Slot, ...]]:
        """All active pods that have slots, by (namespace, name); NotReady when kubelet cannot be asked.

        Not for every minute: kubelet renews its own picture of what is in use with each List.
        """
        return {name: slots for name, slots in (await self.active()).items() if slots}

    async def active(self) -> Mapping[PodName, tuple[Slot, ...]]:
        """As ``list``, with the pods that have no slots."""
        began = self._clock()
        try:
            answer = await self._call("List", api.ListPodResourcesRequest(), api.ListPodResourcesResponse)
        except RpcFailed as error:
            raise NotReady(f"kubelet cannot list the resources of its pods: {error}") from error
        pods = {(pod.namespace, pod.name): self._slots(pod) for pod in answer.pod_resources}
        self._allocations.listed({name: frozenset(slots) for name, slots in pods.items() if slots}, began=began)
        return pods

    async def allocatable(self) -> frozenset[Slot]:
        """The slots kubelet would give away or has given away: those it was told are healthy. NotReady as above."""
        try:
            answer = await self._call(
                "GetAllocatableResources", api.AllocatableResourcesRequest(), api.AllocatableResourcesResponse
            )
        except RpcFailed as error:
            raise NotReady(f"kubelet cannot list its allocatable resources: {error}") from error
        return frozenset(self._ours(answer.devices))

    async def slots(self) -> frozenset[Slot]:
        """The slots kubelet may give away, and those that a pod has, healthy or not. NotReady as above."""
        free = await self.allocatable()
        given = await self.list()
        return free.union(*given.values())

    async def _call(self, method: str, request: Message, response: type[_Response]) -> _Response:
        """Call, again with jitter while kubelet is busy (its rate limit) or away, for at most _PATIENCE_SECONDS."""
        if self._channel is None:
            self._channel = Channel(self._path)
        until = self._clock() + _PATIENCE_SECONDS
        for delay in full_jitter(base=0.02, cap=0.5, random=self._random):
            try:
                return await self._channel.call(_SERVICE + method, request, response, seconds=_CALL_SECONDS)
            except RpcFailed as error:
                if error.code not in _AGAIN or self._clock() + delay > until:
                    raise
                _log.debug("kubelet is asked again", error=str(error))
            await asyncio.sleep(delay)
        raise AssertionError("full_jitter ends")

    def _slots(self, pod: api.PodResources) -> tuple[Slot, ...]:
        return tuple(sorted({slot for container in pod.containers for slot in self._ours(container.devices)}))

    def _ours(self, devices: Iterable[api.ContainerDevices]) -> Iterable[Slot]:
        """The slots among ``devices``.

        Another plugin of the same resource, as Terway's with its ``eni-%d``, may have left pods on the node.
        """
        for device in devices:
            if device.resource_name != names.RESOURCE_ENI:
                continue
            for identifier in device.device_ids:
                try:
                    yield Slot(names.slot_of(identifier))
                except ValueError as error:
                    if identifier not in self._strangers:
                        self._strangers.add(identifier)
                        _log.warning("a device of another plugin is passed over", error=str(error))
