"""What nodes may still draw from the vSwitches they share: each free address there is promised to one node only. Pure.

Every daemon counts the stock of its vSwitches as its own growth, and so do all others in the zone. The cluster has it
once: a group is the nodes that draw on the same vSwitches, and what it has left is

    the stock of its vSwitches, as last read - all that has been drawn since, by every group that shares one of them

where a node has drawn what stands in service there, or is promised to pods there, beyond what stood in service when the
stock was read. Counting the whole of an overlapping group against one's own vSwitches may promise too little, never too
much: of any set of groups, the last one promised anything had room for all that overlap with it, and the others did,
one after the other, before.

A vSwitch without an object has no known stock: the nodes' own view of it is all there is.
"""

from __future__ import annotations

import msgspec

from eniway.kube.views import ObjectMeta
from eniway.model import VSwitchId

Group = tuple[VSwitchId, ...]
"""The vSwitches of a node, sorted."""


class VSwitchStatus(msgspec.Struct, frozen=True, gc=False):
    """Of a VSwitch."""

    zone: str = ""
    available: int | None = None
    """Free addresses."""
    read_at: str = msgspec.field(default="", name="readAt")
    """RFC 3339; sorts as text."""


class VSwitch(msgspec.Struct, frozen=True, gc=False):
    """eniway.io/v1alpha1 VSwitch, named as the vSwitch's id."""

    metadata: ObjectMeta = ObjectMeta()
    status: VSwitchStatus = VSwitchStatus()


class _Ledger:
    """One group's: what stood in service on each node when the stock was read, and what has been drawn since."""

    __slots__ = ("base", "drawn", "neighbours", "read_at", "standing")

    def __init__(self) -> None:
        self.read_at = ""
        self.base: dict[str, int] = {}
        self.standing: dict[str, tuple[int, int]] = {}
        self.drawn = 0
        self.neighbours: set[Group] = set()


class Stock:
    """``set_vswitch`` and ``set_node`` keep it up to date; ``left`` tells."""

    def __init__(self) -> None:
        self._vswitches: dict[VSwitchId, VSwitchStatus] = {}
        self._groups: dict[Group, _Ledger] = {}

    def set_vswitch(self, vswitch_id: VSwitchId, status: VSwitchStatus | None) -> None:
        """A vSwitch's stock as read; None: it is not read any more."""
        if status is None or status.available is None:
            self._vswitches.pop(vswitch_id, None)
        else:
            self._vswitches[vswitch_id] = status
        for group, ledger in self._groups.items():
            if vswitch_id in group:
                self._rebase(group, ledger)

    def set_node(self, node: str, group: Group, *, standing: int, drawn: int) -> None:
        """What a node has in service, and what it has drawn in all."""
        ledger = self._groups.get(group)
        if ledger is None:
            ledger = self._groups[group] = _Ledger()
            for other, beside in self._groups.items():
                if not set(other).isdisjoint(group):
                    ledger.neighbours.add(other)
                    beside.neighbours.add(group)
            ledger.neighbours.add(group)
            self._rebase(group, ledger)
        base = ledger.base.setdefault(node, standing)
        before = ledger.standing.get(node)
        if before is not None:
            ledger.drawn -= max(0, before[1] - base)
        ledger.standing[node] = (standing, drawn)
        ledger.drawn += max(0, drawn - base)

    def drop_node(self, node: str, group: Group) -> None:
        """The node is gone, or draws on other vSwitches now."""
        ledger = self._groups[group]
        ledger.drawn -= max(0, ledger.standing.pop(node)[1] - ledger.base.pop(node))
        if not ledger.standing:
            del self._groups[group]
            for other in self._groups.values():
                other.neighbours.discard(group)

    def left(self, group: Group) -> int | None:
        """How many more addresses nodes of that group may draw; None: not known."""
        ledger = self._groups.get(group)
        available = self._available(group)
        if ledger is None or available is None:
            return None
        return max(0, available - sum(self._groups[other].drawn for other in ledger.neighbours))

    def available(self, group: Group) -> int | None:
        """Free addresses of its vSwitches as last read."""
        return self._available(group)

    def _available(self, group: Group) -> int | None:
        total = 0
        for vswitch_id in group:
            status = self._vswitches.get(vswitch_id)
            if status is None or status.available is None:
                return None
            total += status.available
        return total if group else None

    def _rebase(self, group: Group, ledger: _Ledger) -> None:
        """Begin anew once every vSwitch of the group has been read again: before, something would be forgotten."""
        read = [self._vswitches[vswitch_id].read_at for vswitch_id in group if vswitch_id in self._vswitches]
        oldest = min(read, default="") if len(read) == len(group) else ""
        if oldest <= ledger.read_at:
            return
        ledger.read_at = oldest
        ledger.base = {node: standing for node, (standing, _) in ledger.standing.items()}
        ledger.drawn = sum(max(0, drawn - standing) for standing, drawn in ledger.standing.values())
