"""No pod is ever bound to a node that cannot serve it, whatever order things happen in.

The machine plays everybody else: a scheduler whose binds wait for volumes, land late, are tried again while the first
is under way, or are lost with it; an API server whose events arrive late, each kind in its own order; daemons that hand
out addresses, let them cool down and tell of it late; an extender that dies between any two steps and comes back with
its journal.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from eniway.model import PodUid
from scheduler_extender.filter import LINGER_SECONDS, Chooser
from scheduler_extender.index import GONE_SECONDS, CapacityIndex
from scheduler_extender.journal import Journal
from scheduler_extender.pods import Need
from scheduler_extender.room import NodeNetwork
from tests.property.scheduler_extender import cluster

NODES = ("a", "b", "c")
STOCK = "vsw-1"
VOLUME_SECONDS = 600
"""How long an attempt waits for its volumes at most before it binds: bindTimeoutSeconds."""


class World:
    """Shared pods on three nodes that draw on one vSwitch; everything that happens is drawn from ``random``."""

    def __init__(self, random: Random, folder: Path) -> None:
        self.random = random
        self.folder = folder
        self.now = 1000.0
        # The truth
        self.pods: dict[str, str] = {}  # uid → node, "" unbound
        self.leases: dict[str, str] = {}
        self.cooling: list[str] = []
        self.ready = {name: random.randint(0, 2) for name in NODES}  # addresses in service
        self.growth = {name: random.randint(0, 2) for name in NODES}
        self.stock = random.randint(0, 4)
        self.untold: dict[str, float] = {}  # node → since when its daemon has something to tell
        # On the way
        self.waits: dict[str, tuple[str, float]] = {}  # uid → node, until when its attempt waits for volumes
        self.binds: list[tuple[str, str, float]] = []
        self.pod_events: deque[Callable[[], None]] = deque()
        self.network_events: deque[Callable[[], None]] = deque()
        self.count = 0
        self.version = 1
        self.start()

    def start(self) -> None:
        """A process begins: it lists everything, and takes its predecessor's journal."""
        self.pod_events.clear()
        self.network_events.clear()
        self.index = CapacityIndex()
        self.chooser = Chooser(self.index)
        self.journal = Journal(self.folder / "holds")
        self.chooser.resume(self.journal.read())
        for name in NODES:
            self.index.set_network(name, self.told(name), self.version)
        for uid, node in self.pods.items():
            self.settle(self.index.set_pod(uid, cluster.pod(uid, node=node), self.version, now=self.now))
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
        version = self.next_version()
        self.network_events.append(lambda: self.index.set_network(name, network, version))

    def pod_event(self, uid: str) -> None:
        view = cluster.pod(uid, node=self.pods[uid]) if uid in self.pods else None
        version = self.next_version()
        self.pod_events.append(lambda: self.settle(self.index.set_pod(uid, view, version, now=self.now)))

    def next_version(self) -> int:
        self.version += 1
        return self.version

    # -- what users and the scheduler do

    def create(self) -> None:
        self.count += 1
        self.pods[f"p{self.count}"] = ""
        self.pod_event(f"p{self.count}")

    def schedule(self) -> None:
        """Also again, while an earlier bind of the same pod is under way, but not while its attempt waits."""
        unbound = [uid for uid, node in self.pods.items() if not node and uid not in self.waits]
        if not unbound:
            return
        uid, offered = self.random.choice(unbound), self.random.sample(NODES, self.random.choice((1, 2, 3, 3)))
        verdict = self.chooser.filter(cluster.pod(uid), offered, now=self.now)
        self.journal.write(verdict.journal)
        assert set(verdict.chosen) <= set(offered)
        if verdict.chosen:
            node = self.random.choice(list(verdict.chosen))
            if self.random.random() < _WITH_VOLUMES:
                self.waits[uid] = (node, self.now + self.random.uniform(0, VOLUME_SECONDS))
            else:
                self.binds.append((uid, node, self.now))

    def bind_asked(self) -> None:
        """The scheduler leaves the bind to the extender: of a node that it chose once, or of any."""
        unbound = [uid for uid, node in self.pods.items() if not node and uid not in self.waits]
        if not unbound:
            return
        uid, node = self.random.choice(unbound), self.random.choice(NODES)
        verdict = self.chooser.reserve(PodUid(uid), node, now=self.now)
        self.journal.write(verdict.journal)
        if not verdict.retry:
            self.binds.append((uid, node, self.now))

    def bind_lands(self) -> None:
        """In any order. One of a pod that is bound, or gone, fails."""
        if not self.binds:
            return
        uid, node, _ = self.binds.pop(self.random.randrange(len(self.binds)))
        if self.pods.get(uid) == "":
            self.pods[uid] = node
            self.pod_event(uid)

    def delete(self) -> None:
        """The sandbox ends first, so its address cools down when the pod is gone."""
        if not self.pods:
            return
        uid = self.random.choice(list(self.pods))
        node = self.leases.pop(uid, None)
        if node is not None:
            self.cooling.append(node)
            self.untold.setdefault(node, self.now)
        del self.pods[uid]
        self.waits.pop(uid, None)
        self.pod_event(uid)

    def add(self) -> None:
        """A bound pod gets its address; the node grows for it where it has to."""
        wanting = [uid for uid, node in self.pods.items() if node and uid not in self.leases]
        if not wanting:
            return
        uid = self.random.choice(wanting)
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

    def cooled(self) -> None:
        if not self.cooling:
            return
        node = self.random.choice(self.cooling)
        self.cooling.remove(node)
        self.untold.setdefault(node, self.now)

    # -- what is heard of it, and when

    def hear_of_a_pod(self) -> None:
        if self.pod_events:
            self.pod_events.popleft()()

    def hear_of_a_node(self) -> None:
        if self.network_events:
            self.network_events.popleft()()

    def daemon_tells(self) -> None:
        self.publish(self.random.choice(NODES))

    def time_passes(self) -> None:
        """What is promised about time: a daemon tells within its interval, a request ends within the server's limit."""
        self.let_pass(self.random.uniform(0, GONE_SECONDS / 2))

    def much_time_passes(self) -> None:
        """Attempts wait, and nobody asks for any pod meanwhile."""
        self.let_pass(self.random.uniform(0, VOLUME_SECONDS))

    def let_pass(self, seconds: float) -> None:
        self.now += seconds
        for uid, (node, until) in list(self.waits.items()):
            if until <= self.now:
                del self.waits[uid]
                self.binds.append((uid, node, until))
        for name in [name for name, since in self.untold.items() if self.now - since >= GONE_SECONDS / 2]:
            self.publish(name)
        while self.pod_events:
            self.hear_of_a_pod()
        while self.network_events:
            self.hear_of_a_node()
        self.binds = [bind for bind in self.binds if self.now - bind[2] < LINGER_SECONDS]
        self.index.expire(self.now)
        self.journal.write(self.chooser.expire(self.now))

    def killed(self) -> None:
        self.journal.close()
        self.start()

    def every_bound_pod_can_be_served(self) -> None:
        missing = 0
        for name in self.ready:
            wanting = sum(node == name and uid not in self.leases for uid, node in self.pods.items())
            free = self.ready[name] - self.used(name)
            assert wanting <= free + self.growth[name], f"{name}: {wanting} pods for {free} + {self.growth[name]}"
            missing += max(0, wanting - free)
        assert missing <= self.stock, f"{missing} pods for {self.stock} addresses of the vSwitch"

    def quiet_down(self) -> None:
        """When all is quiet, a pod that has not been bound finds room if there is any."""
        for name in NODES:
            self.publish(name)
        while self.pod_events:
            self.hear_of_a_pod()
        while self.network_events:
            self.hear_of_a_node()
        self.waits.clear()
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


_WITH_VOLUMES = 0.2
ACTIONS: tuple[tuple[Callable[[World], None], int], ...] = (
    (World.create, 10),
    (World.schedule, 14),
    (World.bind_asked, 6),
    (World.bind_lands, 10),
    (World.delete, 6),
    (World.add, 8),
    (World.cooled, 4),
    (World.hear_of_a_pod, 14),
    (World.hear_of_a_node, 8),
    (World.daemon_tells, 6),
    (World.time_passes, 2),
    (World.much_time_passes, 1),
    (World.killed, 1),
)


@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_no_pod_is_bound_where_it_cannot_be_served(seed: int, tmp_path: Path) -> None:
    """After each of 200 steps, in 100 worlds a seed; and when all is quiet, room is found if there is any."""
    actions, weights = zip(*ACTIONS, strict=True)
    for number in range(seed, seed + 100):
        folder = tmp_path / str(number)
        world = World(Random(number), folder)
        try:
            for action in world.random.choices(actions, weights, k=200):
                action(world)
                world.every_bound_pod_can_be_served()
            world.quiet_down()
        except AssertionError as error:
            raise AssertionError(f"world {number}: {error}") from error


def test_a_cluster_that_is_quiet_lets_the_whole_capacity_be_used() -> None:
    """Pods come one after the other and are bound at once: none is refused before the last place is taken."""
    index = CapacityIndex()
    chooser = Chooser(index)
    names = [f"n{number}" for number in range(50)]
    for name in names:
        index.set_network(name, cluster.network(addresses=cluster.words(10)), 1)
    for number in range(500):
        pod = cluster.pod(f"p{number}")
        chosen = chooser.filter(pod, names, now=0).chosen
        assert chosen, number
        assert len(chosen) <= 8
        chooser.settle(index.set_pod(f"p{number}", cluster.pod(f"p{number}", node=chosen[0]), 1, now=0))
    last = chooser.filter(cluster.pod("last"), names, now=0)
    assert not last.chosen
    assert not last.retry
    assert not chooser.holds
    assert PodUid("last") in chooser.refused
    assert chooser.refused[PodUid("last")] is Need.DEFAULT
