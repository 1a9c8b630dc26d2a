"""No pod is ever bound to a node that cannot serve it, whatever order things happen in.

The machine plays everybody else: a scheduler whose binds land late, are tried again while the first is under way, or
are lost with it; an API server whose events arrive late, each kind in its own order; daemons that hand out addresses,
let them cool down and tell of it late; an extender that dies between any two steps and comes back with its journal.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eniway.model import PodUid
from scheduler_extender.filter import LINGER_SECONDS, Chooser
from scheduler_extender.index import GONE_SECONDS, CapacityIndex
from scheduler_extender.journal import Journal
from scheduler_extender.pods import Need
from scheduler_extender.room import NodeNetwork
from tests.property.scheduler_extender import cluster

NODES = ("a", "b", "c")
STOCK = "vsw-1"


class Extended(RuleBasedStateMachine):
    """Shared pods on three nodes that draw on one vSwitch."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.now = 1000.0
        # The truth
        self.pods: dict[str, str] = {}  # uid → node, "" unbound
        self.leases: dict[str, str] = {}
        self.cooling: list[str] = []
        self.ready: dict[str, int] = {}  # addresses in service
        self.growth: dict[str, int] = {}
        self.stock = 0
        self.untold: dict[str, float] = {}  # node → since when its daemon has something to tell
        # On the way
        self.binds: list[tuple[str, str, float]] = []
        self.pod_events: deque[Callable[[], None]] = deque()
        self.network_events: deque[Callable[[], None]] = deque()
        self.count = 0

    @initialize(
        sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=3), stock=st.integers(0, 4)
    )
    def begin(self, sizes: list[tuple[int, int]], stock: int) -> None:
        for name, (ready, growth) in zip(NODES, sizes, strict=True):
            self.ready[name], self.growth[name] = ready, growth
        self.stock = stock
        self.start()

    def start(self) -> None:
        """A process begins: it lists everything, and takes its predecessor's journal."""
        self.pod_events.clear()
        self.network_events.clear()
        self.index = CapacityIndex()
        self.chooser = Chooser(self.index)
        self.journal = Journal(Path(self.folder.name) / "holds")
        self.chooser.resume(self.journal.read())
        for name in NODES:
            self.index.set_network(name, self.told(name))
        for uid, node in self.pods.items():
            self.settle(self.index.set_pod(uid, cluster.pod(uid, node=node), now=self.now))
        self.index.set_vswitch(STOCK, cluster.vswitch(self.stock, f"{self.now:012.3f}"))
        self.settle([uid for uid in self.chooser.holds if not self.index.knows(uid)])

    def settle(self, uids: object) -> None:
        self.journal.write(self.chooser.settle(list(uids)))  # type: ignore[call-overload]

    def told(self, name: str) -> NodeNetwork:
        """What the daemon publishes as things stand."""
        return cluster.network(
            addresses=cluster.words(self.ready[name], min(self.growth[name], self.stock), self.cooling.count(name)),
            holders={"addresses": [uid for uid, node in self.leases.items() if node == name]},
            vswitches=[STOCK],
        )

    def publish(self, name: str) -> None:
        network = self.told(name)
        self.untold.pop(name, None)
        self.network_events.append(lambda: self.index.set_network(name, network))

    def pod_event(self, uid: str) -> None:
        view = cluster.pod(uid, node=self.pods[uid]) if uid in self.pods else None
        self.pod_events.append(lambda: self.settle(self.index.set_pod(uid, view, now=self.now)))

    # -- what users and the scheduler do

    @rule()
    def create(self) -> None:
        self.count += 1
        self.pods[f"p{self.count}"] = ""
        self.pod_event(f"p{self.count}")

    @precondition(lambda self: any(not node for node in self.pods.values()))
    @rule(data=st.data(), offered=st.lists(st.sampled_from(NODES), unique=True))
    def schedule(self, data: st.DataObject, offered: list[str]) -> None:
        """Also again, while an earlier bind of the same pod is under way."""
        uid = data.draw(st.sampled_from([uid for uid, node in self.pods.items() if not node]))
        verdict = self.chooser.filter(cluster.pod(uid), offered, now=self.now)
        self.journal.write(verdict.journal)
        assert set(verdict.chosen) <= set(offered)
        if verdict.chosen and data.draw(st.booleans()):
            self.binds.append((uid, data.draw(st.sampled_from(list(verdict.chosen))), self.now))

    @precondition(lambda self: self.binds)
    @rule(data=st.data())
    def bind_lands(self, data: st.DataObject) -> None:
        """In any order. One of a pod that is bound, or gone, fails."""
        at = data.draw(st.integers(0, len(self.binds) - 1))
        uid, node, _ = self.binds.pop(at)
        if self.pods.get(uid) == "":
            self.pods[uid] = node
            self.pod_event(uid)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """kubelet ends the sandbox first, so its address cools down when the pod is gone."""
        uid = data.draw(st.sampled_from(list(self.pods)))
        node = self.leases.pop(uid, None)
        if node is not None:
            self.cooling.append(node)
            self.untold.setdefault(node, self.now)
        del self.pods[uid]
        self.pod_event(uid)

    @precondition(lambda self: any(node and uid not in self.leases for uid, node in self.pods.items()))
    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        """A bound pod gets its address; the node grows for it where it has to."""
        uid = data.draw(st.sampled_from([uid for uid, node in self.pods.items() if node and uid not in self.leases]))
        node = self.pods[uid]
        if self.ready[node] <= self.used(node):
            if not self.cooling.count(node):
                self.grow(node)
            else:
                return
        self.leases[uid] = node
        self.untold.setdefault(node, self.now)

    def used(self, node: str) -> int:
        return list(self.leases.values()).count(node) + self.cooling.count(node)

    def grow(self, node: str) -> None:
        assert self.growth[node] > 0, "a pod waits on a node that is full"
        assert self.stock > 0, "a pod waits for stock that another node was promised too"
        self.growth[node] -= 1
        self.ready[node] += 1
        self.stock -= 1
        self.untold.setdefault(node, self.now)

    @precondition(lambda self: self.cooling)
    @rule(data=st.data())
    def cooled(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.cooling))
        self.cooling.remove(node)
        self.untold.setdefault(node, self.now)

    # -- what is heard of it, and when

    @precondition(lambda self: self.pod_events)
    @rule()
    def hear_of_a_pod(self) -> None:
        self.pod_events.popleft()()

    @precondition(lambda self: self.network_events)
    @rule()
    def hear_of_a_node(self) -> None:
        self.network_events.popleft()()

    @rule(name=st.sampled_from(NODES))
    def daemon_tells(self, name: str) -> None:
        self.publish(name)

    @rule(seconds=st.floats(0, GONE_SECONDS / 2))
    def time_passes(self, seconds: float) -> None:
        """What is promised about time: a daemon tells within its interval, a request ends within the server's limit."""
        self.now += seconds
        for name in [name for name, since in self.untold.items() if self.now - since >= GONE_SECONDS / 2]:
            self.publish(name)
        while self.pod_events:
            self.hear_of_a_pod()
        while self.network_events:
            self.hear_of_a_node()
        self.binds = [bind for bind in self.binds if self.now - bind[2] < LINGER_SECONDS]
        self.index.expire(self.now)
        self.journal.write(self.chooser.expire(self.now))

    @rule()
    def killed(self) -> None:
        self.journal.close()
        self.start()

    @invariant()
    def every_bound_pod_can_be_served(self) -> None:
        missing = 0
        for name in self.ready:
            wanting = sum(node == name and uid not in self.leases for uid, node in self.pods.items())
            free = self.ready[name] - self.used(name)
            assert wanting <= free + self.growth[name], f"{name}: {wanting} pods for {free} + {self.growth[name]}"
            missing += max(0, wanting - free)
        assert missing <= self.stock, f"{missing} pods for {self.stock} addresses of the vSwitch"

    def teardown(self) -> None:
        """When all is quiet, a pod that has not been bound finds room if there is any."""
        if not self.ready:
            return
        for name in NODES:
            self.publish(name)
        while self.pod_events:
            self.hear_of_a_pod()
        while self.network_events:
            self.hear_of_a_node()
        self.binds.clear()
        self.index.set_vswitch(STOCK, cluster.vswitch(self.stock, f"{self.now + 1:012.3f}"))
        self.settle([uid for uid, node in self.pods.items() if not node])
        self.now += 2 * LINGER_SECONDS
        self.index.expire(self.now)
        fresh = cluster.pod("last")
        chosen = self.chooser.filter(fresh, NODES, now=self.now).chosen
        wanting = {name: sum(node == name and u not in self.leases for u, node in self.pods.items()) for name in NODES}
        free = {name: self.ready[name] - self.used(name) - wanting[name] for name in NODES}
        spare = self.stock - sum(max(0, -count) for count in free.values())
        fits = {name for name in NODES if free[name] > 0 or (spare > 0 and free[name] + self.growth[name] > 0)}
        assert bool(chosen) == bool(fits)
        assert set(chosen) <= fits
        self.journal.close()
        self.folder.cleanup()


TestHolds = Extended.TestCase
TestHolds.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_cluster_that_is_quiet_lets_the_whole_capacity_be_used(tmp_path: Path) -> None:
    """Pods come one after the other and are bound at once: none is refused before the last place is taken."""
    index = CapacityIndex()
    chooser = Chooser(index)
    names = [f"n{number}" for number in range(50)]
    for name in names:
        index.set_network(name, cluster.network(addresses=cluster.words(10)))
    for number in range(500):
        pod = cluster.pod(f"p{number}")
        chosen = chooser.filter(pod, names, now=0).chosen
        assert chosen, number
        assert len(chosen) <= 8
        chooser.settle(index.set_pod(f"p{number}", cluster.pod(f"p{number}", node=chosen[0]), now=0))
    last = chooser.filter(cluster.pod("last"), names, now=0)
    assert not last.chosen
    assert not last.retry
    assert not chooser.holds
    assert PodUid("last") in chooser.refused
    assert chooser.refused[PodUid("last")] is Need.DEFAULT
