"""A kubelet for the wire: Registration that dials back, ListAndWatch, and PodResources, on real sockets.

It does what kubernetes 1.34 pkg/kubelet/cm/devicemanager/plugin/v1beta1 does, its trap included: plugins are kept by
resource name only, so the end of an old plugin's stream throws out the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from deviceplugin import rpc
from deviceplugin.api.podresources.v1 import api_pb2 as resources
from deviceplugin.api.v1beta1 import api_pb2 as api
from eniway import names
from eniway.model import Slot


@dataclass(frozen=True)
class Device:
    """A slot as the books tell it."""

    slot: Slot
    healthy: bool = True
    warm: bool = False


class Slots:
    """The books' part that kubelet's door needs, in memory."""

    def __init__(self, *devices: Device) -> None:
        """Begin with ``devices``."""
        self._devices = devices
        self._change = asyncio.Event()
        self.wanted: list[Slot] = []

    def devices(self) -> tuple[Device, ...]:
        """All slots."""
        return self._devices

    async def devices_changed(self) -> None:
        """Return at the next ``become``."""
        await self._change.wait()

    def want_slot(self, slot: Slot) -> None:
        """Note it."""
        self.wanted.append(slot)

    def become(self, *devices: Device) -> None:
        """Change, or say that there was a change when there was none."""
        self._devices = devices
        self._change.set()
        self._change = asyncio.Event()


@dataclass
class Plugin:
    """A plugin that has registered, from kubelet's side."""

    request: api.RegisterRequest
    options: api.DevicePluginOptions
    channel: Any
    lists: asyncio.Queue[dict[str, str]] = field(default_factory=asyncio.Queue)

    async def call(self, method: str, request: Any, response: Any) -> Any:
        """Call the plugin as kubelet does, over the connection made at registration."""
        return await self.channel.unary_unary(
            f"/v1beta1.DevicePlugin/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, timeout=5)

    async def allocate(self, *devices: str) -> api.AllocateResponse:
        """One container's Allocate."""
        request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=devices)])
        answer: api.AllocateResponse = await self.call("Allocate", request, api.AllocateResponse)
        return answer


class Kubelet:
    """Serves both of kubelet's sockets under ``root`` while in its context."""

    def __init__(self, root: Path) -> None:
        """``root`` takes the part of /var/lib/kubelet."""
        self.directory = root / "device-plugins"
        self.pod_resources = root / "pod-resources" / "kubelet.sock"
        self.registrations: asyncio.Queue[Plugin] = asyncio.Queue()
        self.plugins: dict[str, Plugin] = {}
        self.pods: dict[tuple[str, str], list[str]] = {}
        self.calls: list[str] = []
        self.last_list: dict[str, str] = {}
        """Health by device, as a plugin last told."""
        self.refuse = 0
        """How many PodResources calls the rate limit refuses from now on."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start as kubelet does: clear the directory of sockets, then listen."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.pod_resources.parent.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if path.is_socket():
                path.unlink()
        methods = {"Register": rpc.unary(api.RegisterRequest, self._register)}
        await self._stack.enter_async_context(
            rpc.Server(self.directory / "kubelet.sock", "v1beta1.Registration", methods)
        )
        methods = {
            "Get": self._limited("Get", resources.GetPodResourcesRequest, self._get),
            "List": self._limited("List", resources.ListPodResourcesRequest, self._list),
            "GetAllocatableResources": self._limited(
                "GetAllocatableResources", resources.AllocatableResourcesRequest, self._allocatable
            ),
        }
        await self._stack.enter_async_context(rpc.Server(self.pod_resources, "v1.PodResourcesLister", methods))
        self._streams = await self._stack.enter_async_context(asyncio.TaskGroup())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Go as a killed kubelet does."""
        for plugin in self.plugins.values():
            await plugin.channel.close()
        self.plugins.clear()
        for task in list(self._streams._tasks):
            task.cancel()
        await self._stack.aclose()

    async def registered(self) -> Plugin:
        """The next plugin that registers, within kubelet's patience."""
        return await asyncio.wait_for(self.registrations.get(), 20)

    async def _register(self, request: api.RegisterRequest) -> api.Empty:
        socket = self.directory / request.endpoint
        channel: Any = grpc.aio.insecure_channel(f"unix://{socket}")
        await asyncio.wait_for(channel.channel_ready(), 10)
        plugin = Plugin(request, api.DevicePluginOptions(), channel)
        plugin.options = await plugin.call("GetDevicePluginOptions", api.Empty(), api.DevicePluginOptions)
        self.plugins[request.resource_name] = plugin
        self._streams.create_task(self._watch(plugin))
        return api.Empty()

    async def _watch(self, plugin: Plugin) -> None:
        call = plugin.channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch",
            request_serializer=api.Empty.SerializeToString,
            response_deserializer=api.ListAndWatchResponse.FromString,
        )(api.Empty())
        first = True
        try:
            async for message in call:
                self.last_list = {device.ID: device.health for device in message.devices}
                plugin.lists.put_nowait(self.last_list)
                if first:
                    self.registrations.put_nowait(plugin)
                    first = False
        except grpc.aio.AioRpcError:
            pass
        finally:
            await plugin.channel.close()
        # By name alone, as kubelet 1.34 does: whoever has the name now is disconnected.
        if (named := self.plugins.pop(plugin.request.resource_name, None)) is not None:
            await named.channel.close()

    def _limited(self, name: str, request: Any, answer: Callable[[Any], Any]) -> rpc.Handler:
        async def behaviour(message: Any, context: Any) -> Any:
            self.calls.append(name)
            if self.refuse > 0:
                self.refuse -= 1
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
            try:
                return answer(message)
            except LookupError as error:
                await context.abort(grpc.StatusCode.UNKNOWN, str(error.args[0]))

        return grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _pod(self, namespace: str, name: str) -> resources.PodResources:
        if (namespace, name) not in self.pods:
            raise LookupError(f"pod {name} in namespace {namespace} not found")
        devices = [
            resources.ContainerDevices(resource_name=names.RESOURCE_ENI, device_ids=[device])
            for device in self.pods[namespace, name]
        ]
        other = resources.ContainerDevices(resource_name="example.com/gpu", device_ids=["gpu-1"])
        container = resources.ContainerResources(name="main", devices=[*devices, other])
        return resources.PodResources(name=name, namespace=namespace, containers=[container])

    def _get(self, request: resources.GetPodResourcesRequest) -> resources.GetPodResourcesResponse:
        return resources.GetPodResourcesResponse(pod_resources=self._pod(request.pod_namespace, request.pod_name))

    def _list(self, _request: resources.ListPodResourcesRequest) -> resources.ListPodResourcesResponse:
        return resources.ListPodResourcesResponse(pod_resources=[self._pod(*pod) for pod in self.pods])

    def _allocatable(self, _request: resources.AllocatableResourcesRequest) -> resources.AllocatableResourcesResponse:
        healthy = [device for device, health in self.last_list.items() if health == "Healthy"]
        return resources.AllocatableResourcesResponse(
            devices=[
                resources.ContainerDevices(resource_name=names.RESOURCE_ENI, device_ids=[device]) for device in healthy
            ]
        )
