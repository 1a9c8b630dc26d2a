"""Which pods kubelet has to be asked about: what it may have given away and no pod has claimed. Pure.

kubelet's Allocate names slots, never the pod, and PodResources tells the pod's slots, but only a hundred times a
second (burst 10, kubernetes pkg/kubelet/apis/podresources/constants.go). So a pod is asked about only if a slot could
be its own. The rule:

1. A pod whose UID was asked about before is not asked about again: devices belong to a pod for life, also over new
   sandboxes. A new Allocate of a slot ends what was known of the slot's former owner.
2. A pod is asked about while an Allocate is *unclaimed*, that is, no pod has been found to own the slot.
3. A new process knows nothing of what its predecessor answered, and kubelet gives devices from its checkpoint back to
   their pods without an Allocate. So after a start every pod is asked about (``unsettled``), until a List taken
   SETTLE seconds or more after the start and after the last registration (kubelet's own start) has shown who owns
   what.
4. An Allocate still unclaimed after SETTLE seconds is closed by a List too: its pod failed before it had a sandbox,
   and the slot is free again, or it waits for something.
5. PodResources knows pods by name, not by UID. So a pod whose name was ever answered with slots, by a List or for
   another UID (the predecessor in a StatefulSet), is asked about until the slots are allocated anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from eniway.model import PodRef, PodUid, Slot

SETTLE: Final = 60.0
"""Seconds after which a List settles what is open: kubelet has long stored an answered Allocate and read its pods."""
_REMEMBERED: Final = 4096

PodName = tuple[str, str]
"""(namespace, name)"""


class Allocations:
    """What is known of kubelet's allocations. ``now`` is monotonic, seconds."""

    def __init__(self, *, now: float) -> None:
        self._unsettled_since: float | None = now
        self._unclaimed: dict[Slot, float] = {}
        self._named: dict[PodName, frozenset[Slot]] = {}
        self._owners: OrderedDict[PodUid, tuple[Slot, ...]] = OrderedDict()

    def registered(self, *, now: float) -> None:
        """Kubelet has (re)started: it may not have all its pods yet, so a List has to wait."""
        if self._unsettled_since is not None:
            self._unsettled_since = now

    def allocated(self, slot: Slot, *, now: float) -> None:
        """Kubelet gave ``slot`` to a pod that it does not name."""
        self._forget({slot})
        self._unclaimed[slot] = now

    def known(self, pod: PodRef) -> tuple[Slot, ...] | None:
        """The slots of ``pod``; None if kubelet has to be asked."""
        if (slots := self._owners.get(pod.uid)) is not None:
            return slots
        if self._unsettled_since is not None or self._unclaimed or (pod.namespace, pod.name) in self._named:
            return None
        return ()

    def claim(self, pod: PodRef, slots: tuple[Slot, ...]) -> None:
        """Kubelet answered that ``pod`` has ``slots``."""
        for slot in slots:
            self._unclaimed.pop(slot, None)
        if slots:
            self._named[pod.namespace, pod.name] = frozenset(slots)
        self._owners[pod.uid] = slots
        while len(self._owners) > _REMEMBERED:
            self._owners.popitem(last=False)

    def due(self, *, now: float) -> bool:
        """Something has been open for so long that a List is worth its cost."""
        since = [*self._unclaimed.values()]
        if self._unsettled_since is not None:
            since.append(self._unsettled_since)
        return any(now - moment >= SETTLE for moment in since)

    def listed(self, pods: Mapping[PodName, frozenset[Slot]], *, began: float) -> None:
        """A List that began at ``began`` shows ``pods`` with their slots, of all active pods."""
        stale = {slot for slot, moment in self._unclaimed.items() if began - moment >= SETTLE}
        settles = self._unsettled_since is not None and began - self._unsettled_since >= SETTLE
        for slot in stale:
            del self._unclaimed[slot]
        if settles:
            self._unsettled_since = None
        for name, slots in pods.items():
            if settles or stale & slots:
                self._named[name] = slots

    def _forget(self, slots: set[Slot]) -> None:
        for name in [name for name, named in self._named.items() if named & slots]:
            del self._named[name]
        for uid in [uid for uid, owned in self._owners.items() if slots & set(owned)]:
            del self._owners[uid]
