"""The v1beta1 DevicePlugin service (k8s.io/kubelet pkg/apis/deviceplugin/v1beta1): slots of the instance as devices.

Allocate runs in kubelet's one sync loop, without a deadline, and an error there fails the pod for good: it answers
from memory and only starts the attach of a cold slot. It is idempotent, for kubelet reuses an init container's device
for the pod's next container.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from google.protobuf.message import Message

from deviceplugin import rpc
from deviceplugin.allocations import Allocations
from deviceplugin.api.v1beta1 import api_pb2 as api
from eniway import log, names
from eniway.errors import InvalidRequest
from eniway.model import Slot

SERVICE: Final = "v1beta1.DevicePlugin"
VERSION: Final = "v1beta1"
HEALTHY: Final = "Healthy"
UNHEALTHY: Final = "Unhealthy"

_log = log.get(__name__)


class Device(Protocol):
    """One slot as kubelet is to see it."""

    @property
    def slot(self) -> Slot:
        """Its place, stable for life."""

    @property
    def healthy(self) -> bool:
        """It holds a card, or one can be attached."""

    @property
    def warm(self) -> bool:
        """It holds a card that is free to be plugged."""


class Devices(Protocol):
    """The slots that exclusive pods may have; implemented by the books."""

    def devices(self) -> Sequence[Device]:
        """All of them, slots in use included."""

    async def devices_changed(self) -> None:
        """Return at the next change of ``devices()``."""

    def want_slot(self, slot: Slot) -> None:
        """Kubelet gave the slot away: begin to attach a card if it has none. Returns at once."""


def listing(devices: Iterable[Device]) -> api.ListAndWatchResponse:
    """The complete list, in order of slots so that equal lists are equal messages."""
    return api.ListAndWatchResponse(
        devices=[
            api.Device(ID=names.device_id(device.slot), health=HEALTHY if device.healthy else UNHEALTHY)
            for device in sorted(devices, key=lambda device: device.slot)
        ]
    )


def prefer(devices: Iterable[Device], request: api.ContainerPreferredAllocationRequest) -> list[str]:
    """``allocation_size`` ids: those that must be, then warm slots, then the others, each in order of slots."""
    warm = {names.device_id(device.slot) for device in devices if device.warm}
    must = list(request.must_include_deviceIDs)
    others = sorted(
        set(request.available_deviceIDs) - set(must), key=lambda device: (device not in warm, names.slot_of(device))
    )
    return (must + others)[: max(request.allocation_size, len(must))]


class Service:
    """Answers one kubelet, from registration to the end of its ListAndWatch."""

    def __init__(
        self,
        devices: Devices,
        allocations: Allocations,
        *,
        stirred: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``stirred`` is called when a ListAndWatch begins or ends."""
        self._devices = devices
        self._allocations = allocations
        self._stirred = stirred
        self._clock = clock
        self.streams = 0
        """ListAndWatch streams that are open."""
        self.watched = False
        """One was open at some time."""

    def methods(self) -> Mapping[str, rpc.Handler]:
        """The service as a table for ``rpc.Server``."""
        return {
            "GetDevicePluginOptions": rpc.unary(api.Empty, self.options),
            "ListAndWatch": rpc.stream(api.Empty, self.list_and_watch),
            "GetPreferredAllocation": rpc.unary(api.PreferredAllocationRequest, self.preferred),
            "Allocate": rpc.unary(api.AllocateRequest, self.allocate),
        }

    async def options(self, _request: api.Empty) -> api.DevicePluginOptions:
        """Preferences are had, PreStartContainer is not needed."""
        return api.DevicePluginOptions(get_preferred_allocation_available=True)

    async def list_and_watch(self, _request: api.Empty, send: Callable[[Message], Awaitable[None]]) -> None:
        """Send the list now and at each change, never twice the same: kubelet writes a file for each message."""
        self.streams += 1
        self.watched = True
        self._stirred()
        sent: api.ListAndWatchResponse | None = None
        try:
            while True:
                # Nothing is awaited between a look that shows no change and the wait for one, so none is missed.
                message = listing(self._devices.devices())
                if message == sent:
                    await self._devices.devices_changed()
                else:
                    await send(message)
                    sent = message
        finally:
            self.streams -= 1
            self._stirred()

    async def preferred(self, request: api.PreferredAllocationRequest) -> api.PreferredAllocationResponse:
        """Slots that already hold a free card first."""
        devices = self._devices.devices()
        return api.PreferredAllocationResponse(
            container_responses=[
                api.ContainerPreferredAllocationResponse(deviceIDs=prefer(devices, container))
                for container in request.container_requests
            ]
        )

    async def allocate(self, request: api.AllocateRequest) -> api.AllocateResponse:
        """Note the slots as given away; all or none. InvalidRequest for a device that was never offered."""
        offered = {names.device_id(device.slot): device.slot for device in self._devices.devices()}
        wanted = [device for container in request.container_requests for device in container.devices_ids]
        if unknown := [device for device in wanted if device not in offered]:
            raise InvalidRequest(
                f"devices_ids: {', '.join(unknown)}: no device of {names.RESOURCE_ENI} on this node; expected some of "
                + ", ".join(sorted(offered))
            )
        for device in wanted:
            self._allocations.allocated(offered[device], now=self._clock())
            self._devices.want_slot(offered[device])
        _log.info("slots allocated", devices=wanted)
        return api.AllocateResponse(
            container_responses=[api.ContainerAllocateResponse() for _ in request.container_requests]
        )
