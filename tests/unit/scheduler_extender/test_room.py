"""How many more pods a node can serve, and how good it is for them."""

import msgspec
import pytest

from eniway.config import ExtenderWeights
from eniway.model import PodUid, Wish
from scheduler_extender.filter import Chooser, sample_size
from scheduler_extender.index import CapacityIndex
from scheduler_extender.pods import Need, Pod, need_of
from scheduler_extender.room import Places, room
from scheduler_extender.score import score
from scheduler_extender.stock import Stock
from tests.property.scheduler_extender import cluster

words = cluster.words


def index_of(**networks: object) -> CapacityIndex:
    index = CapacityIndex()
    for name, network in networks.items():
        index.set_network(name, network, 1)  # type: ignore[arg-type]  # a NodeNetwork
    return index


def test_a_pod_counts_once_by_lease_or_binding() -> None:
    """Two leases, one of them of a pod that is bound too; a second bound pod has no lease yet."""
    status = cluster.network(addresses=words(5), holders={"addresses": ["a", "b"]}).status
    takers = {PodUid("b"): Need.DEFAULT, PodUid("c"): Need.DEFAULT}
    assert room(status, takers).places[Need.SHARED] == Places(warm=2)


def test_an_exclusive_pod_takes_a_slot_and_an_address_of_the_primary_eni() -> None:
    """Whichever is scarcer."""
    status = cluster.network(slots=words(1, 2), services=words(0, 2), holders={"slots": ["a"]}).status
    assert room(status, {}).places[Need.EXCLUSIVE] == Places(warm=0, cold=1)


def test_routed_and_shared_are_told_apart() -> None:
    """A pod that says nothing may take the last place of either until its lease says which."""
    network = cluster.network(addresses=words(1), routed=words(1), default=Wish.SHARED_ELSE_ROUTED)
    empty, one = room(network.status, {}), room(network.status, {PodUid("a"): Need.DEFAULT})
    assert empty.places[Need.DEFAULT].total == 2
    assert [one.places[need].total for need in (Need.SHARED, Need.ROUTED, Need.DEFAULT)] == [0, 0, 1]


def test_a_node_that_would_fall_back_is_worse_not_unfit() -> None:
    """It is chosen where it alone has room, and after one that has still to grow a shared address."""
    full = cluster.network(routed=words(9), default=Wish.SHARED_ELSE_ROUTED)
    grows = cluster.network(addresses=words(0, 9), routed=words(9), default=Wish.SHARED_ELSE_ROUTED)
    chooser = Chooser(index_of(full=full, grows=grows), most=1)
    assert chooser.filter(cluster.pod("a"), ["full", "grows"], now=0).chosen == ["grows"]
    assert chooser.filter(cluster.pod("b"), ["full"], now=0).chosen == ["full"]


def test_exclusive_pods_are_packed() -> None:
    """Onto the node that has fewer slots left."""
    weights = ExtenderWeights()
    some, none = cluster.network(slots=words(4), holders={"slots": ["a", "b"]}), cluster.network(slots=words(4))
    marks = [score(room(network.status, {}), Need.EXCLUSIVE, weights=weights, stocked=None) for network in (some, none)]
    assert marks[0] > marks[1]


def test_stock_is_promised_once_among_nodes_that_share_it() -> None:
    """Two nodes could each grow by five, their vSwitch has three."""
    network = cluster.network(addresses=words(0, 5), vswitches=["v"])
    index = index_of(a=network, b=network)
    index.set_vswitch("v", cluster.vswitch(3, "1"))
    chooser = Chooser(index)
    given = 0
    for number in range(10):
        verdict = chooser.filter(cluster.pod(f"p{number}"), ["a", "b"], now=0)
        given += len(verdict.chosen)
        bound = cluster.pod(f"p{number}", node=verdict.chosen[0]) if verdict.chosen else None
        if bound:
            chooser.settle(index.set_pod(f"p{number}", bound, 1, now=0))
    bound_pods = sum(len(node.bound) for node in index.nodes.values())
    assert bound_pods == 3
    assert given >= 3
    assert chooser.why("a", Need.DEFAULT) == ("no free address in its vSwitches", False)


def test_vswitches_that_overlap_never_promise_too_much() -> None:
    """What is drawn by nodes of (a, b) counts against nodes of (b, c)."""
    stock = Stock()
    a, b, c = (cluster.network(vswitches=[name]).status.vswitches[0] for name in "abc")
    for vswitch in (a, b, c):
        stock.set_vswitch(vswitch, cluster.vswitch(2, "1").status)
    stock.set_node("one", (a, b), standing=0, drawn=3)
    stock.set_node("two", (b, c), standing=0, drawn=0)
    assert (stock.left((a, b)), stock.left((b, c))) == (1, 1)
    stock.set_node("two", (b, c), standing=0, drawn=1)
    assert (stock.left((a, b)), stock.left((b, c))) == (0, 0)


@pytest.mark.parametrize(
    ("daemon", "conditions", "places"), [(True, True, 1), (False, True, 0), (None, True, 1), (True, False, 0)]
)
def test_a_node_whose_daemon_is_not_ready_takes_nobody(*, daemon: bool | None, conditions: bool, places: int) -> None:
    """By its NodeNetwork, and by its pod where there is one."""
    index = index_of(a=cluster.network(addresses=words(1), ready=conditions))
    if daemon is not None:
        index.set_pod("kube-system/eniway-node-x", cluster.daemon("a", ready=daemon), 1, now=0)
    assert index.places("a", Need.DEFAULT).total == places


def test_pods_of_the_hosts_network_pass_unchanged() -> None:
    """They take nothing, whatever the nodes are like; nothing is held."""
    chooser = Chooser(CapacityIndex())
    pod = cluster.pod("a", None)
    assert need_of(pod) is None
    assert chooser.filter(pod, ["x", "y"], now=0).chosen == ["x", "y"]
    assert not chooser.holds


def test_where_only_holds_stand_in_the_way_the_answer_is_to_try_again() -> None:
    """And when the holder is bound, it is «unschedulable», with the same reason for every node."""
    index = index_of(a=cluster.network(addresses=words(1)))
    chooser = Chooser(index)
    assert chooser.filter(cluster.pod("p"), ["a"], now=0).chosen == ["a"]
    assert "try again" in chooser.filter(cluster.pod("q"), ["a"], now=0).retry
    chooser.settle(index.set_pod("p", cluster.pod("p", node="a"), 1, now=0))
    verdict = chooser.filter(cluster.pod("q"), ["a"], now=0)
    assert (verdict.retry, verdict.failed) == ("", {"a": "no free address on its ENIs"})


def test_the_sample_is_what_the_scheduler_takes() -> None:
    """As numFeasibleNodesToFind of 1.34 has it."""
    assert [sample_size(nodes) for nodes in (50, 100, 400, 1000, 5000, 20000)] == [50, 100, 188, 420, 500, 1000]


def test_a_node_that_lacked_stock_is_told_of_when_an_address_is_free_again() -> None:
    """Its growth was of no use to anybody, so it had no room; a warm address is some."""
    told: list[tuple[Need, str]] = []
    index = CapacityIndex(gained=lambda need, name: told.append((need, name)))
    index.set_vswitch("v", cluster.vswitch(0, "1"))
    index.set_network("a", cluster.network(addresses=words(1, 2, cooling=1), vswitches=["v"]), 1)
    assert (Need.DEFAULT, "a") not in told
    index.set_network("a", cluster.network(addresses=words(1, 2), vswitches=["v"]), 2)
    assert (Need.DEFAULT, "a") in told


@pytest.mark.parametrize("others", [["v"], ["v", "w"]])
def test_stock_that_a_node_gives_back_is_told_to_all_who_share_it(others: list[str]) -> None:
    """Those of the same vSwitches, and those with some in common; also when the node is gone."""
    told: list[tuple[Need, str]] = []
    index = CapacityIndex(gained=lambda need, name: told.append((need, name)))
    for name, available in (("v", 1), ("w", 0)):
        index.set_vswitch(name, cluster.vswitch(available, "1"))
    index.set_network("a", cluster.network(addresses=words(0, 1), vswitches=["v"]), 1)
    index.hold(PodUid("p"), Need.SHARED, "a")
    index.set_network("b", cluster.network(addresses=words(0, 1), vswitches=others), 1)
    told.clear()
    index.release(PodUid("p"), "a")
    assert (Need.DEFAULT, "b") in told
    index.hold(PodUid("p"), Need.SHARED, "a")
    told.clear()
    index.set_network("a", None, 2)
    assert (Need.DEFAULT, "b") in told


def test_stock_that_a_reading_gives_back_is_told_to_all_who_share_some_of_it() -> None:
    """What (v, w) had drawn came from v, as the reading of v tells: w's address is there for (w, x), without v."""
    told: list[tuple[Need, str]] = []
    index = CapacityIndex(gained=lambda need, name: told.append((need, name)))
    for name, available in (("v", 1), ("w", 1), ("x", 0)):
        index.set_vswitch(name, cluster.vswitch(available, "1"))
    index.set_network("a", cluster.network(addresses=words(0, 5), vswitches=["v", "w"]), 1)
    index.set_network("b", cluster.network(addresses=words(0, 5), vswitches=["w", "x"]), 1)
    index.hold(PodUid("p"), Need.SHARED, "a")
    index.set_network("a", cluster.network(addresses=words(1, 4), vswitches=["v", "w"]), 2)
    index.set_vswitch("w", cluster.vswitch(1, "2"))
    told.clear()
    assert not index.stocked(index.nodes["b"].group)
    index.set_vswitch("v", cluster.vswitch(0, "2"))
    assert index.stocked(index.nodes["b"].group)
    assert (Need.DEFAULT, "b") in told


def test_a_static_pod_counts_once() -> None:
    """Its lease has the UID that kubelet gave it, its mirror another one, and a new one when that is made anew.

    Nobody else passes for one that has a lease.
    """

    def pod(uid: str, **annotations: str) -> Pod:
        said = {
            "metadata": {"uid": uid, "annotations": {f"kubernetes.io/config.{k}": v for k, v in annotations.items()}},
            "spec": {"nodeName": "a"},
        }
        return msgspec.convert(said, Pod)

    def places() -> int:
        return index.places("a", Need.DEFAULT).total

    index = index_of(a=cluster.network(addresses=words(3), holders={"addresses": ["static"]}))
    index.set_pod("d/static-a", pod("m1", hash="static", mirror="static"), 1, now=0)
    assert places() == 2
    index.set_pod("d/static-a", None, 2, now=0)
    index.set_pod("d/static-a", pod("m2", hash="static", mirror="static"), 3, now=0)
    assert places() == 2
    index.set_pod("d/liar", pod("l", hash="static"), 4, now=0)
    assert places() == 1
    index.set_pod("d/static-a", None, 5, now=0)
    index.set_network("a", cluster.network(addresses=words(3)), 6)
    assert places() == 2
    assert not index.nodes["a"].gone
