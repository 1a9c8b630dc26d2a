"""The capacity index, kept up to date event by event, against a recount of everything after each."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eniway.model import PodUid, Wish
from scheduler_extender.index import GONE_SECONDS, CapacityIndex
from scheduler_extender.pods import Need, Pod, need_of, settled
from scheduler_extender.room import EitherUse, NodeNetwork, room
from tests.property.scheduler_extender import cluster

NODES = ("a", "b", "c")
UIDS = tuple(f"p{number}" for number in range(8))
small = st.integers(0, 4)
some_words = st.builds(cluster.words, small, small, st.integers(0, 2), st.integers(0, 1))
some_uids = st.frozensets(st.sampled_from(UIDS), max_size=3)


@st.composite
def networks(draw: st.DrawFn) -> NodeNetwork:
    slots, addresses, routed = draw(some_uids), draw(some_uids), draw(some_uids)
    cards, shared = draw(some_words), draw(some_words)
    either = EitherUse(
        slots=draw(st.integers(0, cards.growable)),
        addresses=draw(st.integers(0, shared.growable)),
        per_slot=draw(st.integers(1, 3)),
    )
    return cluster.network(
        slots=cards,
        addresses=shared,
        either=draw(st.sampled_from([EitherUse(), either])),
        routed=draw(some_words),
        services=draw(st.none() | some_words),
        default=draw(st.sampled_from(Wish)),
        holders={"slots": slots, "addresses": addresses - slots, "routed": routed - addresses - slots},
        ready=draw(st.integers(0, 5)) > 0,
    )


node = st.sampled_from(NODES)
uid = st.sampled_from(UIDS)
events = st.one_of(
    st.tuples(st.just("network"), node, st.none() | networks()),
    st.tuples(
        st.just("pod"),
        uid,
        st.none() | st.tuples(st.sampled_from([*Need, None]), st.sampled_from(["", *NODES]), st.booleans()),
    ),
    st.tuples(st.just("hold"), uid, node),
    st.tuples(st.just("release"), uid, node),
    st.tuples(st.just("pass"), st.just(""), st.floats(0, 2 * GONE_SECONDS)),
)


class Naive:
    """The same facts, and no cleverness: everything is counted anew."""

    def __init__(self) -> None:
        self.networks: dict[str, NodeNetwork] = {}
        self.pods: dict[str, Pod] = {}
        self.held: dict[tuple[str, str], Need] = {}
        self.gone: dict[tuple[str, str], tuple[Need, float]] = {}

    def takers(self, name: str, now: float) -> dict[str, Need]:
        taken = {pod: need for (pod, where), (need, until) in self.gone.items() if where == name and until > now}
        taken |= {pod: need for (pod, where), need in self.held.items() if where == name}
        for uid_, found in self.pods.items():
            if (need := counted(found, name)) is not None:
                taken[uid_] = need
        return taken

    def places(self, name: str, need: Need, now: float) -> int:
        network = self.networks.get(name)
        if network is None or not network.status.ready:
            return 0
        status, takers = network.status, self.takers(name, now)
        capacity, holders = status.capacity, status.holders
        leases = {
            Need.EXCLUSIVE: holders.slots,
            Need.SHARED: holders.addresses,
            Need.ROUTED: holders.routed,
        }
        everyone = holders.slots | holders.addresses | holders.routed
        count: dict[Need, int] = {kind: len(found) for kind, found in leases.items()}
        either = 0
        for uid_, wanted in takers.items():
            if uid_ in everyone:
                continue
            kind = settled(wanted, status.default)
            if kind is Need.DEFAULT:
                either += 1
            else:
                count[kind] += 1

        def usable(words: Any) -> int:
            found: int = words.in_service + words.growable - words.cooling - words.orphaned
            return found

        def left(words: Any, kind: Need) -> int:
            return max(0, usable(words) - count[kind])

        lost_slots, lost_addresses = lost(
            status.either,
            count[Need.EXCLUSIVE] - usable(capacity.slots) + status.either.slots,
            count[Need.SHARED] + either - usable(capacity.addresses) + status.either.addresses,
        )
        shared = max(0, left(capacity.addresses, Need.SHARED) - lost_addresses)
        routed = left(capacity.routed, Need.ROUTED)
        cards = max(0, left(capacity.slots, Need.EXCLUSIVE) - lost_slots)
        if capacity.services is not None:
            cards = min(cards, left(capacity.services, Need.EXCLUSIVE))
        kind = settled(need, status.default)
        return {
            Need.SHARED: max(0, shared - either),
            Need.ROUTED: max(0, routed - either),
            Need.EXCLUSIVE: cards,
            Need.DEFAULT: max(0, shared + routed - either),
        }[kind]


def lost(both: EitherUse, exclusive: int, shared: int) -> tuple[int, int]:
    """Slots and addresses of ``both`` that the other use has, given away one by one, beyond what is its own."""
    slots = addresses = 0
    for number in range(both.slots):
        if exclusive > number:
            addresses = min(both.addresses, addresses + both.per_slot)
    for number in range(both.addresses):
        if shared > number:
            slots = min(both.slots, number // both.per_slot + 1)
    return slots, addresses


def counted(pod: Pod, name: str) -> Need | None:
    return need_of(pod) if pod.spec.node_name == name and not pod.finished else None


class Both:
    """Index and recount, told the same."""

    def __init__(self) -> None:
        self.naive = Naive()
        self.gained: list[tuple[Need, str]] = []
        self.index = CapacityIndex(gained=lambda need, name: self.gained.append((need, name)))
        self.now = 0.0
        self.version = 0

    def tell(self, kind: str, who: str, what: Any) -> None:
        self.version += 1
        getattr(self, f"tell_{kind}")(who, what)

    def tell_network(self, who: str, what: NodeNetwork | None) -> None:
        self.naive.networks.pop(who, None)
        if what is not None:
            self.naive.networks[who] = what
        self.naive.gone = {key: gone for key, gone in self.naive.gone.items() if key[1] != who}
        self.index.set_network(who, what, self.version)

    def tell_pod(self, who: str, what: tuple[Need | None, str, bool] | None) -> None:
        pod = None if what is None else cluster.pod(who, what[0], node=what[1], phase="Failed" if what[2] else "")
        old = self.naive.pods.pop(who, None)
        for name in NODES if old else ():
            assert old is not None
            if (need := counted(old, name)) and (pod is None or counted(pod, name) is None):
                self.naive.gone[who, name] = (need, self.now + GONE_SECONDS)
        if pod is not None:
            self.naive.pods[who] = pod
        self.index.set_pod(who, pod, self.version, now=self.now)

    def tell_hold(self, who: str, what: str) -> None:
        self.naive.held[who, what] = Need.SHARED
        self.index.hold(PodUid(who), Need.SHARED, what)

    def tell_release(self, who: str, what: str) -> None:
        self.naive.held.pop((who, what), None)
        self.index.release(PodUid(who), what)

    def tell_pass(self, _who: str, seconds: float) -> None:
        self.now += seconds
        self.index.expire(self.now)

    def compare(self, before: dict[tuple[Need, str], int]) -> None:
        for need in Need:
            for name in NODES:
                places, found = self.naive.places(name, need, self.now), self.index.places(name, need)
                assert found.total == places
                assert (name in self.index.warm[need]) == (found.warm > 0)
                assert (name in self.index.cold[need]) == (found.cold > 0 and not found.warm)
                if places and not before[need, name]:
                    assert (need, name) in self.gained
            assert self.index.free[need] == sum(self.naive.places(name, need, self.now) for name in NODES)


@given(st.lists(events, max_size=40))
@settings(max_examples=300)
def test_the_index_says_what_a_recount_says(script: list[tuple[str, str, Any]]) -> None:
    """After every event, on every node, for every need; the look-ups of filter agree, and what was gained is told."""
    both = Both()
    for kind, who, what in script:
        before = {(need, name): both.naive.places(name, need, both.now) for need in Need for name in NODES}
        both.gained.clear()
        both.tell(kind, who, what)
        both.compare(before)


@given(
    own_slots=st.integers(0, 3),
    own_addresses=st.integers(0, 6),
    both=st.integers(0, 3),
    per_slot=st.integers(1, 4),
    stock=small,
    wishes=st.lists(st.booleans(), max_size=30),
)
@settings(max_examples=300)
def test_a_slot_of_either_use_is_promised_once(
    *, own_slots: int, own_addresses: int, both: int, per_slot: int, stock: int, wishes: list[bool]
) -> None:
    """Exclusive and shared pods as they come: those let in fit a division of the slots; those kept out, none."""
    more = min(both * per_slot, stock)
    status = cluster.network(
        slots=cluster.words(0, own_slots + both),
        addresses=cluster.words(0, own_addresses + more),
        either=EitherUse(both, more, per_slot),
    ).status

    def fits(exclusive: int, shared: int) -> bool:
        cards = max(0, exclusive - own_slots)
        left = both - cards
        return left >= 0 and shared <= own_addresses + min(more, left * per_slot)

    takers: dict[PodUid, Need] = {}
    for number, whole in enumerate(wishes):
        need = Need.EXCLUSIVE if whole else Need.SHARED
        kinds = [*takers.values(), need]
        possible = fits(kinds.count(Need.EXCLUSIVE), kinds.count(Need.SHARED))
        if room(status, takers).places[need].total:
            assert possible
            takers[PodUid(f"p{number}")] = need
        elif more == both * per_slot:
            # Where stock ends before the slots do, which slot lacks its addresses is not known: none is counted on
            assert not possible
