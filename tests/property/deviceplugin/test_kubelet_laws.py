from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from deviceplugin.allocations import SETTLE, Allocations
from deviceplugin.api.v1beta1 import api_pb2 as api
from deviceplugin.server import prefer
from eniway import names
from eniway.model import PodRef, PodUid, Slot


@dataclass(frozen=True)
class Device:
    """A slot as the books tell it."""

    slot: Slot
    warm: bool
    healthy: bool = True


@given(st.data())
def test_a_preference_is_a_choice_of_what_is_offered(data: st.DataObject) -> None:
    """Of the asked size, with all that must be in it, and no cold slot while a warm one is left out."""
    slots = data.draw(st.sets(st.integers(1, 20), min_size=1))
    warm = data.draw(st.sets(st.sampled_from(sorted(slots))))
    must = data.draw(st.sets(st.sampled_from(sorted(slots))))
    size = data.draw(st.integers(len(must), len(slots)))
    request = api.ContainerPreferredAllocationRequest(
        available_deviceIDs=[names.device_id(slot) for slot in slots],
        must_include_deviceIDs=[names.device_id(slot) for slot in must],
        allocation_size=size,
    )
    answer = prefer([Device(Slot(slot), slot in warm) for slot in slots], request)
    chosen = {names.slot_of(device) for device in answer}
    assert len(answer) == len(chosen) == size
    assert must <= chosen <= slots
    assert not (warm - chosen and chosen - warm - must)


@dataclass
class Pod:
    """A pod that kubelet has admitted."""

    ref: PodRef
    slots: tuple[Slot, ...]


class KubeletAndUs(RuleBasedStateMachine):
    """Pods come and go, kubelet and our process restart: whatever the order, each pod is told its own slots."""

    SLOTS = tuple(Slot(number) for number in range(1, 4))

    @initialize(settled=st.booleans())
    def begin(self, settled: bool) -> None:
        """One process, no pod."""
        self.now = 1000.0
        self.serial = 0
        self.pods: dict[str, Pod] = {}
        self.allocations = Allocations(now=self.now)
        if settled:
            self.now += SETTLE
            self.list()

    @rule(seconds=st.sampled_from([0.1, 5.0, SETTLE, 2 * SETTLE]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(name=st.sampled_from(["a", "b", "c", "d"]), exclusive=st.booleans(), listed=st.booleans())
    def admit(self, name: str, exclusive: bool, listed: bool) -> None:
        """A pod is admitted; with a device, Allocate is called. A pod of that name is gone before."""
        self.pods.pop(name, None)
        free = [slot for slot in self.SLOTS if all(slot not in pod.slots for pod in self.pods.values())]
        slots = (free[0],) if exclusive and free else ()
        self.serial += 1
        ref = PodRef("default", name, PodUid(f"uid-{self.serial}"))
        for slot in slots:
            self.allocations.allocated(slot, now=self.now)
        # A List that comes before kubelet has stored the assignment does not show it.
        if listed:
            self.list()
        self.pods[name] = Pod(ref, slots)

    @rule(name=st.sampled_from(["a", "b", "c", "d"]))
    def remove(self, name: str) -> None:
        """A pod goes, maybe before it ever had a sandbox."""
        self.pods.pop(name, None)

    @rule()
    def list(self) -> None:
        """A sweep may list at any time."""
        listing = {("default", name): frozenset(pod.slots) for name, pod in self.pods.items() if pod.slots}
        self.allocations.listed(listing, began=self.now)

    @rule()
    def restart(self) -> None:
        """Our process starts anew; kubelet does not call Allocate again for what it gave away."""
        self.now += 1.0
        self.allocations = Allocations(now=self.now)
        self.allocations.registered(now=self.now)

    @rule()
    def kubelet_restarts(self) -> None:
        """It registers us again."""
        self.allocations.registered(now=self.now)

    @rule(name=st.sampled_from(["a", "b", "c", "d"]))
    def add(self, name: str) -> None:
        """A sandbox is made for a pod, the first or another one: the answer is kubelet's own."""
        if (pod := self.pods.get(name)) is None:
            return
        if self.allocations.due(now=self.now):
            self.list()
            assert not self.allocations.due(now=self.now)
        slots = self.allocations.known(pod.ref)
        if slots is None:
            slots = pod.slots
            self.allocations.claim(pod.ref, slots)
        assert slots == pod.slots

    @invariant()
    def memory_is_bounded(self) -> None:
        """Names are kept for slots, not for pods that were."""
        if hasattr(self, "allocations"):
            assert len(self.allocations._named) <= len(self.SLOTS) * 4


KubeletAndUs.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestKubeletAndUs = KubeletAndUs.TestCase
