"""Bandwidth by annotation in a box, for a pod of each kind: at the start, while it runs, and when somebody meddles."""

from __future__ import annotations

import json
import subprocess

import pytest

from demo import inside
from demo.box import Box
from demo.kube import ApiError, Kube, Object
from eniway import names
from tests.box import hold

KINDS = ("shared", "routed", "exclusive")
START = {names.ANNOTATION_INGRESS_BYTES: "1m", names.ANNOTATION_EGRESS_BITS: "50M"}
RATES = {"ingress": 1024 * 1024, "egress": 6_250_000}
"""Bytes per second."""


@pytest.fixture
def kube(box: Box) -> Kube:
    """The API server, and no pod of another test."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    return kube


def pod(kind: str, node: str, annotations: dict[str, str]) -> Object:
    """A pod of a kind, called by it."""
    network = {} if kind == "exclusive" else {"eniway.io/network": kind}
    return hold.pod(kind, node=node, exclusive=kind == "exclusive", annotations=network | annotations)


class Limits:
    """What the kernel limits of running pods, by kind and direction, in bytes per second."""

    def __init__(self, box: Box, node: str, pods: list[Object]) -> None:
        self._box, self._node = box, node
        found = inside.pids(one["metadata"]["uid"] for one in pods)
        self.pids = {one["metadata"]["name"]: found[one["metadata"]["uid"]] for one in pods}

    def read(self) -> dict[str, dict[str, int]]:
        """By tc, on the node and in the exclusive pod."""
        on_node = rates(self._box.sh(self._node, ["tc", "-j", "qdisc", "show"]))
        told: dict[str, dict[str, int]] = {}
        for kind, pid in self.pids.items():
            if kind == "exclusive":
                own = rates(enter(pid, "tc", "-j", "qdisc", "show"))
                told[kind] = {
                    way: own[dev] for way, dev in (("ingress", "ifb-in"), ("egress", "ifb-out")) if dev in own
                }
            else:
                link = self.link(kind)
                ifb = link.replace(names.LINK_PREFIX, names.IFB_PREFIX, 1)
                told[kind] = {way: on_node[dev] for way, dev in (("ingress", link), ("egress", ifb)) if dev in on_node}
        return told

    def link(self, kind: str) -> str:
        """The node's end of a pod's veth: the pod's end tells its number."""
        (eth0,) = json.loads(enter(self.pids[kind], "ip", "-j", "link", "show", "eth0"))
        links = json.loads(self._box.sh(self._node, ["ip", "-j", "link"]))
        return next(str(link["ifname"]) for link in links if link["ifindex"] == eth0["link_index"])

    def become(self, each: dict[str, int]) -> None:
        """Wait until each pod has these."""
        hold.settles(
            lambda: [f"{kind}: expected {each}, found {now}" for kind, now in self.read().items() if now != each],
            seconds=30,
        )


def rates(said: str) -> dict[str, int]:
    """Rate by device of the token buckets that ``tc -j qdisc`` tells of."""
    return {one["dev"]: one["options"]["rate"] for one in json.loads(said) if one["kind"] == "tbf"}


def enter(pid: int, *command: str) -> str:
    """Run a command in a pod's network namespace."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", *command]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_each_kind_of_pod_is_limited_as_its_annotations_say(box: Box, kube: Kube) -> None:
    """From its start, after a change, through a new daemon and foreign hands; and no longer when they are taken off."""
    node = box.status().nodes[0].name
    limits = Limits(box, node, hold.start(kube, [pod(kind, node, START) for kind in KINDS]))
    limits.become(RATES)
    for kind in KINDS:
        kube.apply(pod(kind, node, {names.ANNOTATION_EGRESS_BITS: "80M"}))
        assert hold.event(kube, kind, "BandwidthChanged") == "ingress unlimited, egress 80000000 bit/s"
    limits.become({"egress": 10_000_000})
    hold.replace_daemon(kube, node)
    hold.await_daemons(kube, len(kube.get("/api/v1/nodes")["items"]))
    limits.become({"egress": 10_000_000})
    link = limits.link("shared")
    box.sh(node, ["tc", "qdisc", "del", "dev", link, "clsact"])
    box.sh(node, ["ip", "link", "del", limits.link("routed").replace(names.LINK_PREFIX, names.IFB_PREFIX, 1)])
    enter(limits.pids["exclusive"], "tc", "qdisc", "del", "dev", "ifb-out", "root")
    for kind in KINDS:
        assert "put back: ingress unlimited, egress 80000000 bit/s" in hold.event(kube, kind, "BandwidthRestored")
    limits.become({"egress": 10_000_000})
    for kind in KINDS:
        assert kube.ask_pod(hold.HOLD, kind, 8080, "hostname").decode() == kind
        kube.apply(pod(kind, node, {}))
    limits.become({})
    hold.delete(kube, KINDS)
    hold.agree(box)
    assert "ifb-" not in box.sh(node, ["ip", "link"])


@pytest.mark.parametrize(
    ("annotation", "said", "expected"),
    [
        (names.ANNOTATION_INGRESS_BYTES, "100000", "expected bytes per second"),
        (names.ANNOTATION_EGRESS_BYTES, "1Mbit", "expected bytes per second"),
        (names.ANNOTATION_INGRESS_BITS, "1m", "expected bits per second"),
        (names.ANNOTATION_EGRESS_BITS, "fast", "expected bits per second"),
    ],
)
def test_a_bad_bandwidth_is_refused_at_the_door(kube: Kube, annotation: str, said: str, expected: str) -> None:
    """At creation and as a change; with the annotation, what was expected and what stood there."""
    with pytest.raises(ApiError, match=expected) as refused:
        kube.apply(hold.pod("bad", annotations={annotation: said}))
    assert annotation in str(refused.value)
    assert f"'{said}'" in str(refused.value)


@pytest.mark.parametrize("said", ["1m", "1.5MiB", ".5g", "2.T", "1000B"])
def test_what_the_daemon_takes_the_door_takes(kube: Kube, said: str) -> None:
    """The same grammar on both sides."""
    kube.apply(hold.pod("good", annotations={names.ANNOTATION_INGRESS_BYTES: said}))
    hold.delete(kube, ["good"], grace=0)
