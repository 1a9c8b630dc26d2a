"""A pod and the scheduler's nodes → a short list of nodes, on each a place held for the pod. Pure: time is an argument.

A bind that is under way is not seen by anybody until it is done, and up to a hundred are. So filter holds a place on
each node that it answers until the pod is seen bound, finished or gone. What that has to stand:

- **Other pods.** k places held by each pod in flight keep others out: the list is long while there is room (other
  scoring counts), and shrinks to one as room gets short, measured by the pods that hold already. Where holds alone
  stand in the way, the answer is an error: an empty list would be «unschedulable», and no event ends a hold.
- **The same pod again.** Its last attempt failed, but the bind of that attempt may still land (the API server was
  slow). Its places are answered again where the scheduler still offers them; those left out are kept for
  ``LINGER_SECONDS``, after which the API server has given the request up (``--request-timeout``). After some attempts
  they are left out of their own accord: it may be something about these nodes that fails after filter. Others are
  offered in turn, as long as there are any.
- **A pod that is not seen bound**: ``HOLD_SECONDS``. Between filter and bind its attempt may wait for its volumes, ten
  minutes by default (``bindTimeoutSeconds`` of the scheduler's VolumeBinding), and nobody asks for it meanwhile.
- **A restart**: what changes is returned for the journal, to be written before the answer leaves.
- **A pod that nobody has heard of** is one that our own watch is late for, or none at all: of those at most
  ``MOST_UNHEARD`` are remembered at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eniway.model import PodUid
from scheduler_extender import reasons
from scheduler_extender.index import CapacityIndex
from scheduler_extender.pods import Need, Pod, need_of
from scheduler_extender.stock import Group

MOST_OFFERED: Final = 8
HOLD_SECONDS: Final = 660.0
"""The wait for volumes, and a minute for the bind after it."""
LINGER_SECONDS: Final = 60.0
MOST_UNHEARD: Final = 4000
_EXPECTED: Final = 4
"""Pods that may come at once though none is in flight."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The places held for one pod; an empty one is the record that there are none any more."""

    uid: PodUid
    need: Need
    nodes: Mapping[str, float]
    """Until when (wall time), by node."""


@dataclass(slots=True)
class _Attempts:
    """Of a pod that comes again."""

    count: int = 0
    """Since the nodes offered were last changed."""
    spent: set[str] = field(default_factory=set)
    """Nodes that it has been offered often enough."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What filter answers; ``retry`` set: only that, as an error."""

    chosen: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    unresolvable: Mapping[str, str] = field(default_factory=dict)
    retry: str = ""
    journal: Sequence[Hold] = ()
    """To be written before the answer leaves."""


class Chooser:
    """``filter`` and ``prioritize`` over an index; ``settle`` and ``expire`` end holds. Times are wall time.

    ``other_nodes``: nodes without a NodeNetwork are passed on unjudged (virtual nodes, another pod network).
    """

    def __init__(self, index: CapacityIndex, *, most: int = MOST_OFFERED, other_nodes: bool = False) -> None:
        self._index = index
        self._most = most
        self._other_nodes = other_nodes
        self._holds: dict[PodUid, Hold] = {}
        self._scores: dict[PodUid, Mapping[str, int]] = {}
        """Of the nodes answered for a pod, as they were before places were held for it."""
        self._attempts: dict[PodUid, _Attempts] = {}
        """As long as something is held."""
        self._sampled: dict[PodUid, int] = {}
        self._unheard: dict[PodUid, float] = {}
        """Until when they are remembered."""
        self.refused: dict[PodUid, Need] = {}
        """Pods that sleep in the scheduler's queue until something happens in the cluster."""

    @property
    def holds(self) -> Mapping[PodUid, Hold]:
        """All of them."""
        return self._holds

    def resume(self, holds: Iterable[Hold]) -> None:
        """What a journal had, before the first question."""
        for hold in holds:
            self._set(hold)

    def filter(self, pod: Pod, names: Sequence[str], *, now: float) -> Verdict:
        """Choose and hold."""
        need = need_of(pod)
        if need is None:
            return Verdict(chosen=names)
        if retry := self._over(pod.uid) or self._unheard_of(pod.uid, now):
            return Verdict(retry=retry)
        before = self._holds.get(pod.uid)
        spent = self._spent(before) if before else set()
        chosen = self._choose(before, need, names, spent)
        if spent and not chosen:
            spent.clear()
            chosen = self._choose(before, need, names, spent)
        scores = {name: self._index.score(name, need, but=pod.uid) for name in chosen}
        journal = self._hold(pod.uid, need, chosen, before, now)
        if self._other_nodes:
            chosen += [name for name in names if not self._has_network(name)]
        if chosen:
            self._forget(pod.uid)
            if scores:
                self._scores[pod.uid] = scores
            return Verdict(chosen=chosen, journal=journal)
        if self._held_up(need, names):
            return Verdict(retry=reasons.HELD, journal=journal)
        if self._elsewhere(pod.uid, need, names):
            return Verdict(retry=reasons.SAMPLED, journal=journal)
        self.refused[pod.uid] = need
        failed: dict[str, str] = {}
        unresolvable: dict[str, str] = {}
        for name in names:
            why, lasting = self.why(name, need)
            (unresolvable if lasting else failed)[name] = why
        return Verdict(failed=failed, unresolvable=unresolvable, journal=journal)

    def reserve(self, uid: PodUid, name: str, *, now: float) -> Verdict:
        """For a pod that the extender itself is to bind to ``name``: ``retry`` says why it must not.

        Its place there is held already, or there is one, and it is held now. Also a place that is held may be no more:
        the node's daemon has told so since.
        """
        if retry := self._over(uid):
            return Verdict(retry=retry)
        before = self._holds.get(uid)
        held = before is not None and name in before.nodes
        if before is None and not self._index.knows(uid):
            return Verdict(retry=reasons.UNHEARD)
        need = before.need if before else self._index.need_of(uid)
        if need is None or (self._other_nodes and not self._has_network(name)):
            return Verdict(chosen=[name])
        places = self._index.places(name, need, but=uid)
        if not places.total or not (held or places.warm or self._may_draw(name, {})):
            return Verdict(retry=reasons.TAKEN)
        return Verdict(chosen=[name], journal=self._hold(uid, need, [name], before, now))

    def prioritize(self, pod: Pod, names: Sequence[str]) -> Mapping[str, int]:
        """A score for each node. A place held for this very pod counts as free."""
        need = need_of(pod)
        if need is None:
            return dict.fromkeys(names, 0)
        known = self._scores.get(pod.uid, {})
        return {name: known[name] if name in known else self._index.score(name, need, but=pod.uid) for name in names}

    def settle(self, uids: Collection[PodUid]) -> Sequence[Hold]:
        """Nothing need be held for these any more."""
        for uid in uids:
            self._forget(uid)
        return [self._set(Hold(uid, self._holds[uid].need, {})) for uid in uids if uid in self._holds]

    def expire(self, now: float) -> Sequence[Hold]:
        """End what has been held long enough."""
        ended = []
        for uid, end in list(self._unheard.items()):
            known = self._index.knows(uid)
            if known or end <= now:
                del self._unheard[uid]
            if not known and end <= now:
                self._forget(uid)
        for hold in list(self._holds.values()):
            nodes = {name: until for name, until in hold.nodes.items() if until > now}
            if len(nodes) < len(hold.nodes):
                ended.append(self._set(Hold(hold.uid, hold.need, nodes)))
        return ended

    def overlooked(self) -> str:
        """A node with room for a pod that sleeps: it was not shown, or does not pass; "" where there is no such pod."""
        for need in {need for uid, need in self.refused.items() if uid in self._sampled}:
            if name := self._with_room(need):
                return name
        return ""

    def forgotten(self) -> str:
        """A node by which to wake pods that a process which has just begun may have refused in its last life.

        One with room for some of them, else any: they are tried again, and those refused again are known then. "" where
        no pod waits, or no node is known.
        """
        waiting = self._index.waiting()
        if not waiting:
            return ""
        there = (name for name in self._index.nodes if self._has_network(name))
        return next(filter(None, map(self._with_room, waiting)), "") or next(there, "")

    def why(self, name: str, need: Need) -> tuple[str, bool]:
        """Why a node without room for ``need`` has none, and whether preemption could not change that."""
        node = self._index.nodes.get(name)
        if node is None or node.status is None:
            return reasons.NO_NETWORK, True
        if not node.ready:
            return reasons.NOT_READY, True
        if lasting := reasons.never(need, node.status):
            return lasting, True
        if self._index.places(name, need).total:
            return reasons.NO_STOCK, False
        return reasons.none_left(need, node.status), False

    # -- inside

    def _over(self, uid: PodUid) -> str:
        """Why nothing is to be decided for a pod any more; "" where there is."""
        bound = self._index.node_of(uid)
        if bound:
            return f"the pod is bound to {bound} already"
        return "the pod is no more" if self._index.ended(uid) else ""

    def _unheard_of(self, uid: PodUid, now: float) -> str:
        """Why not to believe in a pod; "" for one that has been heard of, and for the first of those that have not."""
        if not self._index.knows(uid):
            if uid not in self._unheard and len(self._unheard) >= MOST_UNHEARD:
                return reasons.UNHEARD
            self._unheard.setdefault(uid, now + HOLD_SECONDS)
        return ""

    def _spent(self, before: Hold) -> set[str]:
        """Nodes not to offer again to a pod that holds ``before`` and comes once more."""
        attempts = self._attempts.setdefault(before.uid, _Attempts())
        attempts.count += 1
        if attempts.count >= _ATTEMPTS:
            attempts.count = 0
            attempts.spent.update(before.nodes)
        return attempts.spent

    def _choose(self, before: Hold | None, need: Need, names: Sequence[str], spent: Collection[str]) -> list[str]:
        """The nodes whose places the pod has held, and the best of the others; none of ``spent``."""
        own = self._own(before, need, names, spent) if before else []
        return own + self._others(need, names, own, spent)

    def _own(self, before: Hold, need: Need, names: Sequence[str], spent: Collection[str]) -> list[str]:
        """The nodes whose place this pod has held, if they are offered and have it still."""
        if before.need is not need:
            return []
        offered = set(names).difference(spent)
        return [
            name for name in before.nodes if name in offered and self._index.places(name, need, but=before.uid).total
        ][: self._most]

    def _others(self, need: Need, names: Sequence[str], own: Sequence[str], spent: Collection[str]) -> list[str]:
        """The best of the other nodes that have room, the best first, as many as there is room for."""
        warm = list(map(self._index.warm[need].get, names))
        # Few clusters have nodes of both sorts by the thousand
        cold = list(map(self._index.cold[need].get, names)) if self._index.cold[need] else []
        found = len(warm) - warm.count(None) + len(cold) - cold.count(None)
        if not found:
            return []
        most = self._length(need, names, warm, cold, found) - len(own)
        chosen: list[str] = []
        drawn: dict[Group, int] = {}
        for mark in sorted({mark for mark in {*warm, *cold} if mark is not None}, reverse=True):
            for marks, draws in ((warm, False), (cold, True)):
                at = -1
                while len(chosen) < most:
                    try:
                        at = marks.index(mark, at + 1)
                    except ValueError:
                        break
                    name = names[at]
                    # None twice, though it be asked for twice
                    if name in own or name in chosen or name in spent:
                        continue
                    if draws and not self._may_draw(name, drawn):
                        continue
                    chosen.append(name)
        return chosen

    def _length(
        self, need: Need, names: Sequence[str], warm: Sequence[int | None], cold: Sequence[int | None], found: int
    ) -> int:
        """How many nodes to answer: the fewer places are left for each pod in flight, the fewer."""
        if found <= _FEW:
            marked = (name for marks in (warm, cold) for name, mark in zip(names, marks, strict=False) if mark)
            free = sum(self._index.places(name, need).total for name in marked)
        else:
            everywhere = len(self._index.warm[need]) + len(self._index.cold[need])
            free = self._index.free[need] * found // everywhere
        return max(1, min(self._most, free // (2 * (len(self._holds) + _EXPECTED))))

    def _may_draw(self, name: str, drawn: dict[Group, int]) -> bool:
        """Whether there is stock for one more place on ``name``, beside those chosen for this pod."""
        group = self._index.nodes[name].group
        left = self._index.stock.left(group)
        if left is None:
            return True
        # Overlapping groups: what is drawn in any of them counts in all, as the stock itself has it
        spent = sum(count for other, count in drawn.items() if not set(other).isdisjoint(group))
        if spent >= left:
            return False
        drawn[group] = drawn.get(group, 0) + 1
        return True

    def _held_up(self, need: Need, names: Sequence[str]) -> bool:
        """Whether some node would serve the pod if nothing were held for others."""
        asked: dict[Group, bool] = {}
        for name in names:
            node = self._index.nodes.get(name)
            if node is None or not node.ready:
                continue
            if self._index.places(name, need).total:
                # It lacks stock
                if node.group not in asked:
                    asked[node.group] = self._index.group_holds(node.group)
                if asked[node.group]:
                    return True
            elif node.held and self._index.places(name, need, held=False).total:
                return True
        return False

    def _elsewhere(self, uid: PodUid, need: Need, names: Sequence[str]) -> bool:
        """Whether nodes have room that the scheduler did not show, and it may show them next time.

        It shows as many of those that pass its own filters as it wants for scoring, beginning each time where it ended
        the last time, be it with another pod. After enough rounds to have shown all of them, most likely, those with
        room are none that pass; if they do all the same, the pod is ``overlooked``.
        """
        nodes = len(self._index.nodes)
        if len(names) < sample_size(nodes) or not self._with_room(need):
            self._sampled.pop(uid, None)
            return False
        rounds = self._sampled[uid] = self._sampled.get(uid, 0) + 1
        return rounds <= _ROUNDS * nodes // len(names) + 1

    def _with_room(self, need: Need) -> str:
        """A node that has room, stock left aside; "" where none has."""
        return next(iter(self._index.warm[need]), "") or next(iter(self._index.cold[need]), "")

    def _forget(self, uid: PodUid) -> None:
        self.refused.pop(uid, None)
        self._sampled.pop(uid, None)

    def _has_network(self, name: str) -> bool:
        node = self._index.nodes.get(name)
        return node is not None and node.status is not None

    def _hold(self, uid: PodUid, need: Need, chosen: Sequence[str], before: Hold | None, now: float) -> Sequence[Hold]:
        """Hold ``chosen``; what was held before and is not among them lingers."""
        nodes = {name: min(until, now + LINGER_SECONDS) for name, until in before.nodes.items()} if before else {}
        nodes |= dict.fromkeys(chosen, now + HOLD_SECONDS)
        if not nodes and before is None:
            return ()
        return [self._set(Hold(uid, need, nodes))]

    def _set(self, hold: Hold) -> Hold:
        """Make ``hold`` what is held for its pod."""
        before = self._holds.pop(hold.uid, None)
        for name in before.nodes if before else ():
            if name not in hold.nodes:
                self._index.release(hold.uid, name)
        for name in hold.nodes:
            self._index.hold(hold.uid, hold.need, name)
        if hold.nodes:
            self._holds[hold.uid] = hold
        else:
            self._scores.pop(hold.uid, None)
            self._attempts.pop(hold.uid, None)
        return hold


_ATTEMPTS: Final = 3
"""With the same nodes: seven seconds of kube-scheduler's back-off (1, 2, 4), for what passes by itself."""
_ROUNDS: Final = 10
"""Of ten samples, one is missed by a pod in 100 attempts in one case of 40,000; in 50 attempts in one of 200."""
_FEW: Final = 32
"""So few nodes are counted one by one; the room of more is estimated from the whole cluster's."""


def sample_size(nodes: int) -> int:
    """How many nodes kube-scheduler shows at most of ``nodes``, by default (numFeasibleNodesToFind)."""
    if nodes < _LEAST_SHOWN:
        return nodes
    return max(_LEAST_SHOWN, nodes * max(5, 50 - nodes // 125) // 100)


_LEAST_SHOWN: Final = 100
