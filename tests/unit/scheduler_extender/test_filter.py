"""Whom filter believes in, and what a bind has to find."""

from __future__ import annotations

from eniway.model import PodUid
from scheduler_extender import reasons
from scheduler_extender.filter import HOLD_SECONDS, LINGER_SECONDS, MOST_UNHEARD, Chooser
from scheduler_extender.index import CapacityIndex
from scheduler_extender.pods import Need
from tests.property.scheduler_extender import cluster


def test_of_pods_that_nobody_has_heard_of_only_so_many_are_remembered() -> None:
    """Beyond them only pods that the API server has told of; after a while the strangers are forgotten."""
    index = CapacityIndex()
    index.set_network("a", cluster.network(addresses=cluster.words(1)), 1)
    chooser = Chooser(index, most=1)
    for number in range(MOST_UNHEARD):
        chooser.filter(cluster.pod(f"x{number}"), ["a"], now=0)
    assert chooser.filter(cluster.pod("one-more"), ["a"], now=0).retry == reasons.UNHEARD
    assert PodUid("one-more") not in chooser.refused
    index.set_pod("d/known", cluster.pod("known"), 1, now=0)
    assert chooser.filter(cluster.pod("known"), ["a"], now=0).retry == reasons.HELD
    chooser.expire(HOLD_SECONDS)
    assert not chooser.holds
    assert not chooser.refused
    assert chooser.filter(cluster.pod("one-more"), ["a"], now=HOLD_SECONDS).chosen == ["a"]


def test_a_place_is_held_while_a_pod_may_wait_for_its_volumes() -> None:
    """Ten minutes by the scheduler's default, and its bind after that; what is never bound is given up in the end."""
    index = CapacityIndex()
    index.set_network("a", cluster.network(addresses=cluster.words(1)), 1)
    for uid in ("p", "q"):
        index.set_pod(f"d/{uid}", cluster.pod(uid), 1, now=0)
    chooser = Chooser(index)
    assert chooser.filter(cluster.pod("p"), ["a"], now=0).chosen == ["a"]
    chooser.expire(600 + LINGER_SECONDS - 1)
    assert chooser.filter(cluster.pod("q"), ["a"], now=600 + LINGER_SECONDS - 1).retry == reasons.HELD
    chooser.expire(HOLD_SECONDS)
    assert chooser.filter(cluster.pod("q"), ["a"], now=HOLD_SECONDS).chosen == ["a"]


def test_a_pod_that_fails_on_its_nodes_is_offered_others_in_the_end_and_all_in_turn() -> None:
    """Something after filter fails there. Eight at a time, three times each, and from the beginning when all had been.

    Nodes it is not offered any more keep its place for a while: a bind of the last attempt may still land.
    """
    index = CapacityIndex()
    names = [f"n{number:02}" for number in range(24)]
    for name in names:
        index.set_network(name, cluster.network(addresses=cluster.words(10)), 1)
    index.set_pod("d/p", cluster.pod("p"), 1, now=0)
    chooser = Chooser(index)
    offered = [frozenset(chooser.filter(cluster.pod("p"), names, now=0).chosen) for _ in range(12)]
    first, second, third, again = offered[::3]
    assert offered == [nodes for nodes in (first, second, third, again) for _ in range(3)]
    assert first | second | third == set(names)
    assert len(again) == 8
    free = {name: index.places(name, Need.DEFAULT).total for name in names}
    assert free == dict.fromkeys(names, 9)
    chooser.expire(LINGER_SECONDS)
    assert chooser.holds[PodUid("p")].nodes.keys() == again


def test_a_pod_that_fails_where_alone_room_is_is_offered_that_node_on_and_on() -> None:
    """Also where the scheduler shows one node only, because preemption made room there."""
    index = CapacityIndex()
    for name, count in (("a", 1), ("b", 1), ("c", 0)):
        index.set_network(name, cluster.network(addresses=cluster.words(count)), 1)
    chooser = Chooser(index)
    for _ in range(10):
        assert chooser.filter(cluster.pod("p"), ["a", "c"], now=0).chosen == ["a"]
    both = Chooser(index, most=1)
    chooser.settle([PodUid("p")])
    turns = [both.filter(cluster.pod("q"), ["a", "b"], now=0).chosen for _ in range(4)]
    assert turns == [["a"], ["a"], ["a"], ["b"]]
    assert both.filter(cluster.pod("q"), ["a"], now=0).chosen == ["a"]


def test_a_pod_that_is_shown_none_of_the_nodes_with_room_sleeps_in_the_end_and_is_remembered() -> None:
    """It is tried again for ten rounds; then whoever wakes pods is told of a node, until that is shown."""
    index = CapacityIndex()
    names = [f"n{number}" for number in range(1000)]
    for name in names:
        index.set_network(name, cluster.network(addresses=cluster.words(int(name == "n999"))), 1)
    chooser = Chooser(index)
    retries = 0
    while chooser.filter(cluster.pod("p"), names[:420], now=0).retry == reasons.SAMPLED:
        assert not chooser.overlooked()
        retries += 1
    assert retries == 10 * 1000 // 420 + 1
    assert chooser.overlooked() == "n999"
    # Once more, and no rounds anew
    assert not chooser.filter(cluster.pod("p"), names[:420], now=0).retry
    assert chooser.filter(cluster.pod("p"), names[580:], now=0).chosen == ["n999"]
    assert not chooser.overlooked()


def test_a_process_that_begins_has_pods_that_wait_tried_again() -> None:
    """Whom the last one refused it cannot know. By a node with room if there is one, else by any that is there."""
    index = CapacityIndex()
    chooser = Chooser(index)
    index.set_pod("d/bound", cluster.pod("bound", node="a"), 1, now=0)
    index.set_pod("d/of-the-host", cluster.pod("of-the-host", None), 1, now=0)
    for name in ("a", "b"):
        index.set_network(name, cluster.network(addresses=cluster.words(1)), 1)
    assert not chooser.forgotten()
    index.set_pod("d/p", cluster.pod("p"), 1, now=0)
    assert chooser.forgotten() == "b"
    index.set_network("b", cluster.network(), 2)
    assert chooser.forgotten() in {"a", "b"}
    index.set_network("a", None, 3)
    index.set_network("b", None, 3)
    assert not chooser.forgotten()
    assert not Chooser(CapacityIndex()).forgotten()


def test_a_bind_has_a_place_that_is_held_or_takes_one_that_is_free() -> None:
    """Else it is refused: another has the place, the node has lost it, the pod is bound, or nobody knows it."""
    index = CapacityIndex()
    for name in ("a", "b"):
        index.set_network(name, cluster.network(addresses=cluster.words(1)), 1)
    chooser = Chooser(index, most=1)
    for uid in ("p", "q"):
        index.set_pod(f"d/{uid}", cluster.pod(uid), 1, now=0)
    (held,) = chooser.filter(cluster.pod("p"), ["a", "b"], now=0).chosen
    (free,) = {"a", "b"} - {held}
    assert chooser.reserve(PodUid("q"), held, now=0).retry == reasons.TAKEN
    assert chooser.reserve(PodUid("r"), free, now=0).retry == reasons.UNHEARD
    assert not chooser.reserve(PodUid("p"), held, now=0).retry
    reserved = chooser.reserve(PodUid("q"), free, now=0)
    assert [(hold.uid, list(hold.nodes)) for hold in reserved.journal] == [("q", [free])]
    index.set_network(held, cluster.network(addresses=cluster.words(0)), 2)
    assert chooser.reserve(PodUid("p"), held, now=0).retry == reasons.TAKEN
    index.set_pod("d/q", cluster.pod("q", node=free), 2, now=0)
    assert "bound" in chooser.reserve(PodUid("q"), free, now=0).retry


def test_a_pod_of_the_hosts_network_is_bound_without_a_place() -> None:
    index = CapacityIndex()
    index.set_pod("d/h", cluster.pod("h", None), 1, now=0)
    verdict = Chooser(index).reserve(PodUid("h"), "anywhere", now=0)
    assert (verdict.chosen, verdict.retry, verdict.journal) == (["anywhere"], "", ())


def test_stock_is_promised_once_to_binds_too() -> None:
    """Two nodes can grow, their vSwitch has one address: the second bind without a place of its own is refused."""
    index = CapacityIndex()
    for name in ("a", "b"):
        index.set_network(name, cluster.network(addresses=cluster.words(0, 5), vswitches=["v"]), 1)
    index.set_vswitch("v", cluster.vswitch(1, "2026"))
    chooser = Chooser(index)
    for uid in ("p", "q"):
        index.set_pod(f"d/{uid}", cluster.pod(uid, Need.SHARED), 1, now=0)
    assert not chooser.reserve(PodUid("p"), "a", now=0).retry
    assert chooser.reserve(PodUid("q"), "b", now=0).retry == reasons.TAKEN
