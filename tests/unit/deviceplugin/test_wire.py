"""Golden bytes of each message, written by hand from the field numbers of the original .proto files."""

from __future__ import annotations

from typing import Any

import pytest

from deviceplugin.api.podresources.v1 import api_pb2 as resources
from deviceplugin.api.v1beta1 import api_pb2 as api


def field(number: int, payload: bytes | str) -> bytes:
    """A length-delimited field, shorter than 128 bytes."""
    data = payload.encode() if isinstance(payload, str) else payload
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def varint(number: int, value: int) -> bytes:
    """A varint field, smaller than 128."""
    return bytes([number << 3, value])


GOLDEN: list[tuple[Any, bytes]] = [
    (
        api.RegisterRequest(
            version="v1beta1",
            endpoint="e.sock",
            resource_name="aliyun/eni",
            options=api.DevicePluginOptions(get_preferred_allocation_available=True),
        ),
        field(1, "v1beta1") + field(2, "e.sock") + field(3, "aliyun/eni") + field(4, varint(2, 1)),
    ),
    (api.DevicePluginOptions(get_preferred_allocation_available=True), b"\x10\x01"),
    (api.Empty(), b""),
    (
        api.ListAndWatchResponse(
            devices=[api.Device(ID="eni-slot-1", health="Healthy"), api.Device(ID="eni-slot-2", health="Unhealthy")]
        ),
        field(1, field(1, "eni-slot-1") + field(2, "Healthy"))
        + field(1, field(1, "eni-slot-2") + field(2, "Unhealthy")),
    ),
    (
        api.PreferredAllocationRequest(
            container_requests=[
                api.ContainerPreferredAllocationRequest(
                    available_deviceIDs=["a", "b"], must_include_deviceIDs=["a"], allocation_size=1
                )
            ]
        ),
        field(1, field(1, "a") + field(1, "b") + field(2, "a") + varint(3, 1)),
    ),
    (
        api.PreferredAllocationResponse(
            container_responses=[api.ContainerPreferredAllocationResponse(deviceIDs=["a", "b"])]
        ),
        field(1, field(1, "a") + field(1, "b")),
    ),
    (
        api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=["eni-slot-1"])]),
        field(1, field(1, "eni-slot-1")),
    ),
    (api.AllocateResponse(container_responses=[api.ContainerAllocateResponse()]), b"\x0a\x00"),
    (resources.ListPodResourcesRequest(), b""),
    (resources.AllocatableResourcesRequest(), b""),
    (resources.GetPodResourcesRequest(pod_name="p", pod_namespace="n"), field(1, "p") + field(2, "n")),
    (
        resources.AllocatableResourcesResponse(
            devices=[resources.ContainerDevices(resource_name="r", device_ids=["d", "e"])]
        ),
        field(1, field(1, "r") + field(2, "d") + field(2, "e")),
    ),
    (
        resources.GetPodResourcesResponse(
            pod_resources=resources.PodResources(
                name="p",
                namespace="n",
                containers=[
                    resources.ContainerResources(
                        name="c", devices=[resources.ContainerDevices(resource_name="r", device_ids=["d"])]
                    )
                ],
            )
        ),
        field(1, field(1, "p") + field(2, "n") + field(3, field(1, "c") + field(2, field(1, "r") + field(2, "d")))),
    ),
    (
        resources.ListPodResourcesResponse(pod_resources=[resources.PodResources(name="p", namespace="n")]),
        field(1, field(1, "p") + field(2, "n")),
    ),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=[type(message).__name__ for message, _ in GOLDEN])
def test_message_is_these_bytes(message: Any, golden: bytes) -> None:
    """Written and read."""
    assert message.SerializeToString(deterministic=True) == golden
    assert type(message).FromString(golden) == message


def test_fields_that_were_trimmed_are_read_over() -> None:
    """It sends more than we keep: topology, CPUs, memory, claims."""
    topology = field(3, field(1, varint(1, 1)))
    cpus = field(3, b"\x01\x02")
    container = (
        field(1, "c") + field(2, field(1, "aliyun/eni") + field(2, "eni-slot-1") + topology) + cpus + field(5, b"")
    )
    pod = resources.PodResources.FromString(field(1, "p") + field(2, "n") + field(3, container))
    assert list(pod.containers[0].devices[0].device_ids) == ["eni-slot-1"]


def test_every_message_has_golden_bytes() -> None:
    """A message added to a .proto file is added here; parts are covered by what holds them."""
    parts = {
        "Device",
        "ContainerPreferredAllocationRequest",
        "ContainerPreferredAllocationResponse",
        "ContainerAllocateRequest",
        "ContainerAllocateResponse",
        "PodResources",
        "ContainerResources",
        "ContainerDevices",
    }
    all_messages = {name for module in (api, resources) for name in module.DESCRIPTOR.message_types_by_name}
    assert {type(message).__name__ for message, _ in GOLDEN} | parts == all_messages
