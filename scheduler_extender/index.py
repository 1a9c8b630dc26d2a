"""All nodes' room, kept up to date event by event, so that one filter costs one look-up a node. Pure.

Whose place on a node is taken: pods bound there and not finished, pods held for, and pods that have just gone. The last
are counted until the daemon has told of the node after that (by then they are in its cooling, or still among its
holders), or for ``GONE_SECONDS``, since it does not tell again where nothing has changed. What came after what is told
by resource versions, for two watches may run apart by seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eniway.config import ExtenderWeights
from eniway.model import PodUid, VSwitchId
from scheduler_extender import room as rooms
from scheduler_extender.pods import Need, Pod, need_of
from scheduler_extender.room import NONE, NodeNetwork, NodeNetworkStatus, Places, Room, Taken, leased, taken_by
from scheduler_extender.score import score
from scheduler_extender.stock import Group, Stock, VSwitch

GONE_SECONDS: Final = 10.0
"""Twice the interval at which a daemon tells of changes."""
_REMEMBERED: Final = 10_000
_NEEDS: Final = tuple(Need)
_NOWHERE: Final = dict.fromkeys(Need, NONE)


@dataclass(frozen=True, slots=True)
class Gone:
    """A pod that has left its node."""

    need: Need
    until: float
    """It counts no longer than that."""
    version: int
    """Resource version of the news; 0: not known."""


@dataclass(slots=True)
class NodeView:
    """One node, as the index has it."""

    status: NodeNetworkStatus | None = None
    said_ready: bool = False
    """``status.ready``, looked up once."""
    daemon_ready: bool | None = None
    """Of the daemon's pod; None: there is none, so that the NodeNetwork alone counts."""
    bound: dict[PodUid, Need] = field(default_factory=dict)
    held: dict[PodUid, Need] = field(default_factory=dict)
    gone: dict[PodUid, Gone] = field(default_factory=dict)
    takers: dict[PodUid, Need] = field(default_factory=dict)
    """Whose places are taken: pods bound, else held for, else gone a moment ago."""
    taken: Taken = field(default_factory=Taken)
    """How many of them by what they get, leases left out."""
    drafts: tuple[Group, int, int] = ((), 0, 0)
    """What the stock was last told: the vSwitches, what stands in service there, what is drawn in all."""
    room: Room | None = None

    @property
    def group(self) -> Group:
        """The vSwitches it draws on."""
        return self.drafts[0]

    @property
    def ready(self) -> bool:
        """Whether its daemon serves."""
        return self.said_ready and self.daemon_ready is not False

    def tell(self, status: NodeNetworkStatus | None) -> None:
        """The daemon said something new."""
        self.status = status
        self.said_ready = status is not None and status.ready
        self.taken = taken_by(status, self.takers) if status else Taken()

    def count(self, uid: PodUid) -> None:
        """After a change of one pod in bound, held or gone."""
        gone = self.gone.get(uid)
        after = self.bound.get(uid) or self.held.get(uid) or (gone.need if gone else None)
        before = self.takers.pop(uid, None)
        if after is not None:
            self.takers[uid] = after
        if before is after or self.status is None or leased(self.status, uid):
            return
        for need, change in ((before, -1), (after, 1)):
            if need is not None:
                self.taken.add(need, self.status.default, change)

    def forget_gone(self, ended: Callable[[Gone], bool]) -> None:
        """Pods that are gone need not be counted any more where ``ended`` says so."""
        for uid in [uid for uid, gone in self.gone.items() if ended(gone)]:
            del self.gone[uid]
            self.count(uid)


@dataclass(frozen=True, slots=True)
class _Known:
    """A pod that exists."""

    uid: PodUid
    holder: PodUid
    """By which it counts on its node."""
    need: Need | None
    node: str
    """"" while it is not bound, or does not count: of the host's network, or finished."""

    @property
    def place(self) -> tuple[PodUid, str]:
        """Who takes it, and where."""
        return self.holder, self.node


class CapacityIndex:
    """``gained`` is told of each node that can serve a need it could not serve before."""

    def __init__(
        self, *, weights: ExtenderWeights | None = None, gained: Callable[[Need, str], None] = lambda _need, _node: None
    ) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.warm: Mapping[Need, dict[str, int]] = {need: {} for need in Need}
        """Nodes that serve a need without a cloud call: name → score + 1."""
        self.cold: Mapping[Need, dict[str, int]] = {need: {} for need in Need}
        """Nodes that need a cloud call first, and stock of a vSwitch (``stocked``)."""
        self.free = dict.fromkeys(Need, 0)
        """Places in the cluster, were there stock for all of them."""
        self.stock = Stock()
        self._weights = weights or ExtenderWeights()
        self._gained = gained
        self._pods: dict[str, _Known] = {}
        self._uids: dict[PodUid, str] = {}
        self._ended: dict[PodUid, None] = {}
        """The last ones, oldest first: the scheduler may ask for a pod whose end it has not heard of yet."""
        self._daemons: dict[str, str] = {}
        self._members: dict[Group, set[str]] = {}
        self._gone: dict[str, None] = {}
        """Nodes with somebody gone, as an ordered set."""

    # -- what the API server says

    def set_network(self, name: str, network: NodeNetwork | None, version: int) -> None:
        """A NodeNetwork was made or changed; None: it is gone."""
        node = self._node(name)
        node.tell(network.status if network else None)
        node.forget_gone(lambda gone: 0 < gone.version < version)
        if not node.gone:
            self._gone.pop(name, None)
        self._refresh(name, node)

    def set_pod(self, key: str, pod: Pod | None, version: int, *, now: float) -> Sequence[PodUid]:
        """A pod, by namespace/name, was made or changed; None: it is gone.

        Returns the UIDs for which nothing need be held any more: bound, finished or gone.
        """
        before = self._pods.get(key)
        if pod is not None and pod.is_daemon:
            self._set_daemon(key, pod)
        elif key in self._daemons:
            self._set_daemon(key, None)
        after = None if pod is None else self._known(pod)
        settled: list[PodUid] = []
        if before is not None and (after is None or after.uid != before.uid):
            settled.append(before.uid)
            self._uids.pop(before.uid, None)
            self._ended[before.uid] = None
            if len(self._ended) > _REMEMBERED:
                del self._ended[next(iter(self._ended))]
        if after is None:
            self._pods.pop(key, None)
        else:
            self._pods[key] = after
            self._uids[after.uid] = key
            if pod is not None and (pod.spec.node_name or pod.finished):
                settled.append(after.uid)
        if before is not None and before.node and not (after and after.place == before.place):
            self._leave(before, version, now)
        if after is not None and after.node and after.need is not None:
            node = self._node(after.node)
            if node.bound.get(after.holder) is not after.need:
                node.bound[after.holder] = after.need
                node.count(after.holder)
                self._refresh(after.node, node)
        return settled

    def set_vswitch(self, name: str, vswitch: VSwitch | None, _version: int = 0) -> None:
        """A VSwitch was made or changed; None: it is gone."""
        # All groups: what is no longer counted as drawn by one is there again for those that overlap with it
        empty = [group for group in self._members if not self.stocked(group)]
        self.stock.set_vswitch(VSwitchId(name), vswitch.status if vswitch else None)
        for group in empty:
            if self.stocked(group):
                self._tell_group(group)

    def expire(self, now: float) -> None:
        """Forget pods that have been gone long enough."""
        for name in list(self._gone):
            node = self.nodes[name]
            node.forget_gone(lambda gone: gone.until <= now)
            if not node.gone:
                del self._gone[name]
            self._refresh(name, node)

    # -- holds

    def hold(self, uid: PodUid, need: Need, name: str) -> None:
        """A place on ``name`` is kept for a pod that may be bound there."""
        node = self._node(name)
        if node.held.get(uid) is not need:
            node.held[uid] = need
            node.count(uid)
            self._refresh(name, node)

    def release(self, uid: PodUid, name: str) -> None:
        """It is not kept any more."""
        node = self.nodes.get(name)
        if node is not None and node.held.pop(uid, None) is not None:
            node.count(uid)
            self._refresh(name, node)

    # -- questions

    def knows(self, uid: PodUid) -> bool:
        """Whether the pod exists, as far as has been heard."""
        return uid in self._uids

    def ended(self, uid: PodUid) -> bool:
        """Whether the pod is known to be no more."""
        return uid in self._ended

    def node_of(self, uid: PodUid) -> str:
        """The node that the pod is bound to, and counted on; "" where there is none."""
        key = self._uids.get(uid)
        return self._pods[key].node if key else ""

    def need_of(self, uid: PodUid) -> Need | None:
        """What a pod that exists takes."""
        return self._pods[self._uids[uid]].need

    def waiting(self) -> Collection[Need]:
        """What is needed by pods that exist and are not bound."""
        return {pod.need for pod in self._pods.values() if pod.need is not None and not pod.node}

    def stocked(self, group: Group) -> bool:
        """Whether nodes of that group may draw on their vSwitches."""
        left = self.stock.left(group)
        return left is None or left > 0

    def places(self, name: str, need: Need, *, held: bool = True, but: PodUid | None = None) -> Places:
        """Room on one node, stock left aside: as if nothing were held, or as if one pod had no place there."""
        node = self.nodes.get(name)
        if node is None or node.status is None or not node.ready:
            return NONE
        if not held:
            standing = {uid: gone.need for uid, gone in node.gone.items()} | node.bound
            return rooms.room(node.status, standing).places[need]
        room = self._room_but(node, node.status, but) if but else node.room
        return room.places[need] if room else NONE

    def score(self, name: str, need: Need, *, but: PodUid) -> int:
        """Of a node, as if pod ``but`` had no place there yet; 0 where there is no room."""
        node = self.nodes.get(name)
        if node is None or node.status is None or node.room is None or not node.ready:
            return 0
        room = self._room_but(node, node.status, but)
        if room is None or not room.places[need].total:
            return 0
        return score(room, need, weights=self._weights, stocked=self._stocked_part(node.group))

    def group_holds(self, group: Group) -> bool:
        """Whether places are held on nodes that draw on the same vSwitches."""
        near = (members for other, members in self._members.items() if not set(other).isdisjoint(group))
        return any(self.nodes[name].held for members in near for name in members)

    # -- inside

    def _known(self, pod: Pod) -> _Known:
        need = need_of(pod)
        counts = not pod.finished and need is not None
        return _Known(pod.uid, pod.holder, need, pod.spec.node_name if counts else "")

    def _set_daemon(self, key: str, pod: Pod | None) -> None:
        """The daemon's pod on a node: the newest that is heard of, since one is replaced by the next."""
        if pod is None or pod.finished or not pod.spec.node_name:
            name = self._daemons.pop(key, "")
            ready = None
        else:
            name = self._daemons[key] = pod.spec.node_name
            ready = pod.ready
        if not name:
            return
        if ready is None and name in self._daemons.values():
            return
        node = self._node(name)
        if node.daemon_ready is not ready:
            node.daemon_ready = ready
            self._refresh(name, node)

    def _leave(self, pod: _Known, version: int, now: float) -> None:
        node = self._node(pod.node)
        need = node.bound.pop(pod.holder, None)
        if need is not None:
            node.gone[pod.holder] = Gone(need, now + GONE_SECONDS, version)
            node.count(pod.holder)
            self._gone[pod.node] = None
            self._refresh(pod.node, node)

    def _node(self, name: str) -> NodeView:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = NodeView()
        return node

    def _room_but(self, node: NodeView, status: NodeNetworkStatus, uid: PodUid) -> Room | None:
        """As if that pod had no place there."""
        if uid not in node.takers:
            return node.room
        return rooms.room(status, {other: need for other, need in node.takers.items() if other != uid})

    def _refresh(self, name: str, node: NodeView) -> None:
        """After any change of a node: its room, its stock, and who finds it."""
        before = node.room
        if node.status is None:
            node.room = None
            self._draw(name, node, (), standing=0, drawn=0)
            if not (node.takers or node.daemon_ready is not None):
                del self.nodes[name]
        else:
            room = rooms.room_beside(node.status, node.taken)
            group = tuple(sorted(node.status.vswitches))
            self._draw(name, node, group, standing=rooms.in_service(node.status), drawn=room.drawn)
            node.room = room if node.ready else Room(_NOWHERE, room.fallback, room.slots, room.drawn)
        self._mark(name, node, before)

    def _mark(self, name: str, node: NodeView, before: Room | None) -> None:
        """Who finds the node, now that its room is another than ``before``."""
        room = node.room
        part, stocked = self._stocked_part(node.group), self.stocked(node.group)
        for need in _NEEDS:
            was = before.places[need] if before else NONE
            places = room.places[need] if room else NONE
            self.free[need] += places.total - was.total
            if room is not None and places.total:
                mark = score(room, need, weights=self._weights, stocked=part) + 1
                here, there = (self.warm, self.cold) if places.warm else (self.cold, self.warm)
                here[need][name] = mark
                there[need].pop(name, None)
                if (places.warm or stocked) and not (was.warm or (was.total and stocked)):
                    self._gained(need, name)
            elif was.total:
                self.warm[need].pop(name, None)
                self.cold[need].pop(name, None)

    def _draw(self, name: str, node: NodeView, group: Group, *, standing: int, drawn: int) -> None:
        """Tell the stock of a node's drafts. When that frees some, others in its zone can grow again."""
        drafts = (group, standing, drawn)
        if drafts == node.drafts:
            return
        near = {*node.group, *group}
        empty = [other for other in self._members if not near.isdisjoint(other) and not self.stocked(other)]
        if node.group != group:
            if node.group:
                self.stock.drop_node(name, node.group)
                self._members[node.group].discard(name)
                if not self._members[node.group]:
                    del self._members[node.group]
            if group:
                self._members.setdefault(group, set()).add(name)
        node.drafts = drafts
        if group:
            self.stock.set_node(name, group, standing=standing, drawn=drawn)
        for other in empty:
            if other in self._members and self.stocked(other):
                self._tell_group(other)

    def _tell_group(self, group: Group) -> None:
        """Nodes that only lacked stock can serve again: one of them a need is enough to be told of."""
        for need in Need:
            found = next((name for name in self._members[group] if name in self.cold[need]), None)
            if found is not None:
                self._gained(need, found)

    def _stocked_part(self, group: Group) -> float | None:
        left, available = self.stock.left(group), self.stock.available(group)
        if left is None or not available:
            return None
        return min(1.0, left / available)
