from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import grpc
import pytest

from deviceplugin.allocations import Allocations
from deviceplugin.api.v1beta1 import api_pb2 as api
from deviceplugin.registration import DevicePlugin
from deviceplugin.server import listing, prefer
from eniway.model import PodRef, PodUid, Slot


@pytest.fixture
def slots(make_slots: Any) -> Any:
    """Three slots, the last one warm."""
    return make_slots((1, True, False), (2, True, False), (3, True, True))


@pytest.fixture
def allocations() -> Allocations:
    """Settled: only Allocates are open."""
    made = Allocations(now=0.0)
    made.listed({}, began=1000.0)
    return made


@pytest.fixture
async def plugin(kubelet: Any, slots: Any, allocations: Allocations) -> AsyncIterator[Any]:
    """A registered plugin, from kubelet's side."""
    task = asyncio.ensure_future(DevicePlugin(slots, allocations, directory=kubelet.directory, random=Random(1)).run())
    yield await kubelet.registered()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_allocate_wants_the_slot_and_opens_the_question_whose_it_is(
    plugin: Any, slots: Any, allocations: Allocations
) -> None:
    """One response a container, as kubelet counts them; again for the same slot, the same."""
    pod = PodRef("ns", "p", PodUid("u"))
    assert allocations.known(pod) == ()
    for _ in range(2):
        answer = await plugin.allocate("eni-slot-2")
        assert len(answer.container_responses) == 1
    assert slots.wanted == [Slot(2), Slot(2)]
    assert allocations.known(pod) is None


@pytest.mark.parametrize("device", ["eni-slot-9", "gpu-1", ""])
async def test_allocate_of_what_was_never_offered_is_refused_whole(plugin: Any, slots: Any, device: str) -> None:
    """The error names the device and what there is; kubelet shows it on the pod."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plugin.allocate("eni-slot-1", device)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "eni-slot-1, eni-slot-2, eni-slot-3" in caught.value.details()
    assert slots.wanted == []


async def test_warm_slots_are_preferred_over_the_wire(plugin: Any) -> None:
    """What must be comes first, then warm, then cold, each in order."""

    def container(size: int, *must: str) -> api.ContainerPreferredAllocationRequest:
        return api.ContainerPreferredAllocationRequest(
            available_deviceIDs=["eni-slot-2", "eni-slot-1", "eni-slot-3"],
            must_include_deviceIDs=must,
            allocation_size=size,
        )

    request = api.PreferredAllocationRequest(
        container_requests=[container(1), container(2), container(2, "eni-slot-2"), container(3)]
    )
    answer = await plugin.call("GetPreferredAllocation", request, api.PreferredAllocationResponse)
    assert [list(response.deviceIDs) for response in answer.container_responses] == [
        ["eni-slot-3"],
        ["eni-slot-3", "eni-slot-1"],
        ["eni-slot-2", "eni-slot-3"],
        ["eni-slot-3", "eni-slot-1", "eni-slot-2"],
    ]


def test_a_preference_is_never_for_what_kubelet_did_not_offer(device: Any) -> None:
    """A warm slot that is in use is not among the available."""
    request = api.ContainerPreferredAllocationRequest(
        available_deviceIDs=["eni-slot-10", "eni-slot-9"], allocation_size=1
    )
    assert prefer([device(1, warm=True)], request) == ["eni-slot-9"]


def test_equal_slots_make_equal_lists(device: Any) -> None:
    """Whatever their order; warmth is not kubelet's business."""
    assert listing([device(2), device(1, healthy=False)]) == listing([device(1, healthy=False), device(2, warm=True)])
