from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deviceplugin import podresources
from deviceplugin.allocations import SETTLE, Allocations
from deviceplugin.podresources import PodResources
from eniway.errors import NotReady
from eniway.model import PodRef, PodUid, Slot


class Clock:
    """Time that the test sets, or that passes with each look."""

    now = 1000.0
    step = 0.0

    def __call__(self) -> float:
        """Monotonic seconds."""
        self.now += self.step
        return self.now


def pod(name: str) -> PodRef:
    """A pod of the default namespace."""
    return PodRef("default", name, PodUid(f"uid-{name}"))


@pytest.fixture
def clock() -> Clock:
    """Stands still."""
    return Clock()


@pytest.fixture
def allocations(clock: Clock) -> Allocations:
    """Settled."""
    made = Allocations(now=clock.now - SETTLE)
    made.listed({}, began=clock.now)
    return made


@pytest.fixture
async def resources(root: Path, allocations: Allocations, clock: Clock) -> AsyncIterator[PodResources]:
    """A client of the kubelet under ``root``."""
    client = PodResources(allocations, path=root / "pod-resources" / "kubelet.sock", random=Random(1), clock=clock)
    yield client
    await client.close()


async def test_kubelet_is_asked_only_while_an_allocate_is_unclaimed(
    kubelet: Any, resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """Its limit is a burst of ten; other resources of the pod are not ours."""
    kubelet.pods = {("default", "shared"): [], ("default", "db"): ["eni-slot-3"]}
    assert await resources.slots_of(pod("shared")) == ()
    assert kubelet.calls == []
    allocations.allocated(Slot(3), now=clock.now)
    assert await resources.slots_of(pod("shared")) == ()
    assert await resources.slots_of(pod("db")) == (Slot(3),)
    assert await resources.slots_of(pod("db")) == (Slot(3),)
    assert await resources.slots_of(pod("another")) == ()
    assert kubelet.calls == ["Get", "Get"]


async def test_a_burst_beyond_kubelets_limit_is_asked_again(
    kubelet: Any, resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """Refused calls are no answer."""
    allocations.allocated(Slot(1), now=clock.now)
    kubelet.pods = {("default", f"p{number}"): [] for number in range(20)} | {("default", "db"): ["eni-slot-1"]}
    kubelet.refuse = 10
    names = [*(f"p{number}" for number in range(20)), "db"]
    answers = await asyncio.gather(*(resources.slots_of(pod(name)) for name in names))
    assert answers[-1] == (Slot(1),)
    assert set(answers[:-1]) == {()}


async def test_a_burst_is_one_question_more(
    kubelet: Any, resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """Pods that come while kubelet is asked share a List; each has its own answer, and one that goes away no harm."""
    allocations.allocated(Slot(1), now=clock.now)
    kubelet.pods = {("default", f"p{number}"): [] for number in range(20)} | {("default", "db"): ["eni-slot-1"]}
    names = ["p0", "ghost", *(f"p{number}" for number in range(1, 20)), "db"]
    tasks = [asyncio.ensure_future(resources.slots_of(pod(name))) for name in names]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[5].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [at in {0, 5} for at in range(22)]
    assert [answer for answer in answers if answer and isinstance(answer, tuple)] == [(Slot(1),)]
    assert answers[-1] == (Slot(1),)
    assert kubelet.calls[-1] == "List"
    assert len(kubelet.calls) <= 2
    assert allocations.known(pod("ghost")) == ()
    allocations.allocated(Slot(2), now=clock.now)
    assert allocations.known(pod("p7")) == ()
    assert allocations.known(pod("ghost")) is None


async def test_a_pod_that_kubelet_does_not_know_has_none_and_is_not_remembered(
    kubelet: Any, resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """It may come back by that UID, after kubelet has read its pods."""
    allocations.allocated(Slot(1), now=clock.now)
    assert await resources.slots_of(pod("ghost")) == ()
    kubelet.pods[("default", "ghost")] = ["eni-slot-1"]
    assert await resources.slots_of(pod("ghost")) == (Slot(1),)


async def test_two_devices_are_both_told(
    kubelet: Any, resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """The door refuses such a pod; here it is only seen."""
    allocations.allocated(Slot(2), now=clock.now)
    kubelet.pods = {("default", "greedy"): ["eni-slot-2", "eni-slot-1"]}
    assert await resources.slots_of(pod("greedy")) == (Slot(1), Slot(2))


async def test_a_restarted_kubelet_is_found_again(
    root: Path, kubelet_class: Any, resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """Within the patience of one request, over a new socket of the same name."""
    for name in ("a", "b"):
        async with kubelet_class(root) as kubelet:
            kubelet.pods = {("default", name): []}
            allocations.allocated(Slot(1), now=clock.now)
            assert await resources.slots_of(pod(name)) == ()
            assert kubelet.calls == ["Get"]


async def test_a_kubelet_that_stays_away_is_an_error_that_may_be_asked_again(
    resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """Never taken for "no device": an exclusive pod must not be connected as a shared one."""
    allocations.allocated(Slot(1), now=clock.now)
    clock.step = 4.0
    with pytest.raises(NotReady, match="kubelet"):
        await resources.slots_of(pod("a"))


async def test_a_kubelet_that_stays_away_is_an_error_for_all_who_ask(
    resources: PodResources, allocations: Allocations, clock: Clock
) -> None:
    """Also for those who share a question; and the next one asks again."""
    allocations.allocated(Slot(1), now=clock.now)
    clock.step = 4.0
    for _ in range(2):
        answers = await asyncio.gather(*(resources.slots_of(pod(f"p{n}")) for n in range(5)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotReady] * 5


async def test_a_new_process_asks_and_then_settles_by_one_list(kubelet: Any, clock: Clock) -> None:
    """Get for each pod at first; after SETTLE one List, and Get only for names from it."""
    allocations = Allocations(now=clock.now)
    resources = PodResources(allocations, path=kubelet.pod_resources, random=Random(1), clock=clock)
    kubelet.pods = {("default", "a"): [], ("default", "db"): ["eni-slot-3"], ("default", "b"): []}
    assert await resources.slots_of(pod("a")) == ()
    clock.now += SETTLE
    assert await resources.slots_of(pod("b")) == ()
    assert await resources.slots_of(pod("db")) == (Slot(3),)
    assert await resources.slots_of(pod("c")) == ()
    assert kubelet.calls == ["Get", "List", "Get"]
    await resources.close()


async def test_allocatable_and_list_tell_our_slots_alone(kubelet: Any, resources: PodResources) -> None:
    """By (namespace, name); pods without a slot are left out."""
    kubelet.pods = {("default", "a"): [], ("default", "db"): ["eni-slot-3"]}
    kubelet.last_list = {"eni-slot-1": "Healthy", "eni-slot-2": "Unhealthy", "eni-slot-3": "Healthy"}
    assert await resources.list() == {("default", "db"): (Slot(3),)}
    assert await resources.allocatable() == {Slot(1), Slot(3)}


async def test_a_device_of_another_plugin_stops_nobody(
    kubelet: Any, resources: PodResources, allocations: Allocations, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was switched without a drain still has pods with Terway's ids of the same resource."""
    kubelet.pods = {("default", "a"): [], ("default", "old"): ["eni-3"], ("default", "db"): ["eni-3", "eni-slot-3"]}
    kubelet.last_list = {"eni-1": "Healthy", "eni-slot-1": "Healthy"}
    allocations.allocated(Slot(3), now=clock.now)
    told: list[str] = []
    monkeypatch.setattr(podresources._log, "warning", lambda _event, error: told.append(error.split()[0]))
    assert await resources.slots_of(pod("old")) == ()
    assert await resources.slots_of(pod("db")) == (Slot(3),)
    assert await resources.list() == {("default", "db"): (Slot(3),)}
    assert await resources.slots() == {Slot(1), Slot(3)}
    assert told == ["'eni-3'", "'eni-1'"]
