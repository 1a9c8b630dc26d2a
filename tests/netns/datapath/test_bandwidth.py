"""Bandwidth limits in the real kernel: what stands there after each step. How fast it is, tests/bench measures."""

from __future__ import annotations

import asyncio
import errno
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from datapath import kernel
from datapath import tc as messages
from datapath.diff import Op
from datapath.netlink import NetlinkError
from datapath.state import Direction, Netns
from eniway import names
from eniway.model import UNLIMITED, Bandwidth, Kind, Lease
from tests.netns.datapath.fabric import Namespace, Node, Vpc, exclusive_lease, inside, run, shared_lease, talk
from tests.netns.datapath.test_life import LeaseOf, all_kinds

TO_LO = "protocol all u32 match u32 0 0 action mirred egress redirect dev lo"
BOTH = Bandwidth(ingress=10_000_000, egress=200_000_000)


def limited(lease: Lease, bandwidth: Bandwidth = BOTH) -> Lease:
    return replace(lease, bandwidth=bandwidth)


def tc(where: Namespace, *command: str) -> Any:
    """What ``tc -j`` prints."""
    return json.loads(run("tc", "-n", where.name, "-j", *command) or "[]")


def tbf(where: Namespace, dev: str) -> dict[str, Any] | None:
    """Rate in bytes per second, burst, limit of the bucket on a device."""
    options = [q["options"] for q in tc(where, "qdisc", "show", "dev", dev, "root") if q["kind"] == "tbf"]
    return {key: options[0][key] for key in ("rate", "burst")} if options else None


def redirections(where: Namespace, dev: str, direction: str) -> list[str]:
    """Devices that a device's packets are led to."""
    found = tc(where, "filter", "show", "dev", dev, direction)
    return [
        action["to_dev"]
        for one in found
        for action in one.get("options", {}).get("actions", ())
        if one["pref"] == {"ingress": 0xE21, "egress": 0xE22}[direction]
    ]


def shaped(node: Node, pod: Namespace, lease: Lease) -> tuple[Namespace, str, str, list[tuple[str, str, list[str]]]]:
    """Where the buckets are, their devices for ingress and egress, and what leads where."""
    if lease.kind is Kind.EXCLUSIVE:
        found = [(dev, way, redirections(pod, dev, way)) for dev in ("eth0", "veth1") for way in ("ingress", "egress")]
        return pod, names.IFB_IN, names.IFB_OUT, found
    link = names.host_link(lease.key)
    ways = [(link, way, redirections(node, link, way)) for way in ("ingress", "egress")]
    return node, link, names.ifb(lease.key), ways


@all_kinds
async def test_limits_stand_as_planned_and_go_without_a_trace(
    vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf
) -> None:
    """Read back with tc: rates in bytes, bursts of 4 ms or three packets; all packets of both directions go through."""
    node, other = nodes
    pod, peer = vpc.pod(), vpc.pod()
    lease, before = limited(lease_of(vpc, node, pod)), node.snapshot()
    await node.network.attach(lease)
    assert await node.network.check(lease) == ()
    where, ingress, egress, ways = shaped(node, pod, lease)
    assert tbf(where, ingress) == {"rate": 1_250_000, "burst": pytest.approx(5000, abs=2)}
    assert tbf(where, egress) == {"rate": 25_000_000, "burst": pytest.approx(100_000, abs=4)}
    for _, way, leads in ways:
        if lease.kind is Kind.EXCLUSIVE:
            assert leads == [ingress if way == "ingress" else egress]
        else:
            assert leads == ([egress] if way == "ingress" else [])
    far = lease_of(vpc, other, peer)
    await other.network.attach(far)
    talk(pod, peer, far.address)
    talk(peer, pod, lease.address)
    for dev in (ingress, egress):
        (found,) = tc(where, "-s", "qdisc", "show", "dev", dev, "root")
        assert found["packets"] > 5, dev
    await node.network.detach(lease)
    assert node.snapshot() == before
    assert pod.links() == {"lo"}
    if lease.kind is Kind.EXCLUSIVE:
        assert {q["kind"] for q in tc(node, "qdisc", "show", "dev", "eth2")} <= {"noqueue", "noop"}


def kinds(ops: tuple[Op, ...]) -> list[str]:
    return sorted(f"{type(op).__name__} {type(op.item).__name__}" for op in ops)


@all_kinds
async def test_a_change_is_made_in_place(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """Another rate changes the bucket that is there; a limit that comes or goes takes only its own parts along."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    leads = 2 if lease.kind is Kind.EXCLUSIVE else 1
    await node.network.attach(lease)
    bare = node.snapshot()
    assert kinds(await node.network.repair(limited(lease, Bandwidth(egress=10**6)))) == [
        "Add Ifb",
        *["Add Redirect"] * leads,
        "Add Tbf",
    ]
    where, _, egress, _ = shaped(node, pod, lease)
    pod.send(lease.address, lease.card.gateway, 9)
    (was,) = tc(where, "-s", "qdisc", "show", "dev", egress, "root")
    assert was["packets"] > 0
    faster = limited(lease, Bandwidth(egress=5 * 10**9))
    assert kinds(await node.network.repair(faster)) == ["Change Tbf"]
    found = tbf(where, egress)
    assert found == {"rate": 625_000_000, "burst": pytest.approx(1_000_000, abs=1000)}
    (now,) = tc(where, "-s", "qdisc", "show", "dev", egress, "root")
    assert now["packets"] >= was["packets"], "a new bucket, not the old one changed"
    assert await node.network.repair(faster) == ()
    beyond = limited(lease, Bandwidth(egress=10**12))
    await node.network.repair(beyond)
    assert await node.network.check(beyond) == ()
    ops = await node.network.repair(lease)
    assert {type(op).__name__ for op in ops} == {"Remove"}
    assert node.snapshot() == bare
    assert await node.network.check(lease) == ()
    for dev in ("eth0", "veth1") if lease.kind is Kind.EXCLUSIVE else (names.host_link(lease.key),):
        assert all(q["kind"] != "clsact" for q in tc(where, "qdisc", "show", "dev", dev)), dev
    await node.network.detach(lease)


@pytest.mark.parametrize("rate", [1000, 1001, 999_999, 33_333_333, 130_000_000, 10**9, 10**11, 10**15])
async def test_the_kernel_says_back_what_it_was_told(vpc: Vpc, nodes: tuple[Node, Node], rate: int) -> None:
    """From one end of what may be asked for to the other: no repair that never ends."""
    node, _ = nodes
    lease = limited(exclusive_lease(vpc, node, vpc.pod()), Bandwidth(rate, rate))
    await node.network.attach(lease)
    assert await node.network.check(lease) == ()


@all_kinds
async def test_what_is_meddled_with_is_put_back(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """A bucket removed or replaced, filters flushed, an ifb deleted, taken down: one repair mends each."""
    node, _ = nodes
    pod = vpc.pod()
    lease = limited(lease_of(vpc, node, pod))
    await node.network.attach(lease)
    where, ingress, egress, _ = shaped(node, pod, lease)
    dev = "eth0" if lease.kind is Kind.EXCLUSIVE else ingress
    for command in (
        f"tc qdisc del dev {egress} root",
        f"tc qdisc replace dev {ingress} root htb",
        f"tc qdisc change dev {ingress} root handle e21: tbf rate 1gbit burst 1mb limit 1mb",
        f"tc filter del dev {dev} ingress",
        f"tc qdisc del dev {dev} clsact",
        f"ip link del {egress}",
        f"ip link set {egress} down",
        f"tc filter del dev {dev} ingress; tc filter add dev {dev} ingress pref 3617 {TO_LO}",
    ):
        where.exec("sh", "-c", command)
        assert await node.network.check(lease) != (), command
        assert await node.network.repair(lease) != (), command
        assert await node.network.check(lease) == (), command
    await node.network.detach(lease)


async def test_filters_of_others_stay(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """A limit that ends takes only our filter along, and not the qdisc that another one hangs on."""
    node, _ = nodes
    pod = vpc.pod()
    lease = limited(exclusive_lease(vpc, node, pod))
    await node.network.attach(lease)
    pod.exec("sh", "-c", "tc filter add dev eth0 egress pref 1 protocol ip u32 match u32 0 0 flowid 1:1")
    await node.network.repair(replace(lease, bandwidth=UNLIMITED))
    assert await node.network.check(replace(lease, bandwidth=UNLIMITED)) == ()
    assert {one["pref"] for one in tc(pod, "filter", "show", "dev", "eth0", "egress")} == {1}
    await node.network.repair(lease)
    assert await node.network.check(lease) == ()


async def test_what_outlives_its_pod_is_found(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """A namespace that ends takes the veth, not the ifb: DEL removes it; without books the sweep sees whose it was."""
    node, _ = nodes
    pod = vpc.pod()
    lease, before = limited(shared_lease(vpc, node, pod)), node.links()
    await node.network.attach(lease)
    vpc.destroy(pod, node, names.host_link(lease.key))
    assert node.links() == before | {names.ifb(lease.key)}
    assert await node.network.observe_leases() == {lease.key: names.ifb(lease.key)}
    await node.network.remove_orphan(lease.key)
    assert node.links() == before
    pod = vpc.pod()
    lease = replace(lease, netns=pod.path)
    await node.network.attach(lease)
    vpc.destroy(pod, node, names.host_link(lease.key))
    await node.network.detach(replace(lease, bandwidth=UNLIMITED))
    assert node.links() == before


@all_kinds
async def test_a_hand_on_the_limits_is_heard_at_once(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """Whatever it takes or changes, on the node and in an exclusive pod; looking at them makes no news."""
    node, _ = nodes
    pod = vpc.pod()
    lease = limited(lease_of(vpc, node, pod))
    await node.network.attach(lease)
    where, _, egress, _ = shaped(node, pod, lease)
    dev = "eth0" if lease.kind is Kind.EXCLUSIVE else names.host_link(lease.key)
    heard = lease.key if lease.kind is Kind.EXCLUSIVE else None
    for command in (
        f"tc qdisc del dev {egress} root",
        f"tc qdisc change dev {egress} root handle e21: tbf rate 1gbit burst 1mb limit 1mb",
        f"tc filter del dev {dev} ingress",
        f"tc qdisc del dev {dev} clsact",
        f"ip link del {egress}",
        f"ip link set {egress} down",
    ):
        await silence(node)
        where.exec("sh", "-c", command)
        async with asyncio.timeout(5):
            while await node.network.limits_touched() != heard:
                pass
        assert await node.network.repair(lease) != (), command
    await silence(node)
    assert await node.network.repair(lease) == ()
    assert set(await node.network.queues(lease)) == set(Direction)
    await node.network.detach(lease)


async def silence(node: Node) -> None:
    """Return when there are no more news: they are there before what made them returns."""
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.05):
                await node.network.limits_touched()


async def test_what_waits_may_wait_in_a_qdisc_of_another_kind(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """As it does where the kernel has fq_codel: the bucket is still ours, and is changed in place above it."""
    node, _ = nodes
    lease = limited(shared_lease(vpc, node, vpc.pod()))
    link = names.host_link(lease.key)

    def set_leaf(kind: str) -> None:
        with kernel.opened() as opened:
            opened.routes[Netns.NODE].call(messages.set_leaf(opened.index(Netns.NODE, link), kind))

    await node.network.attach(lease)
    inside(node, lambda: set_leaf("pfifo"))
    assert await node.network.check(lease) == ()
    await node.network.repair(limited(lease, Bandwidth(ingress=2 * 10**7)))
    assert [one["kind"] for one in tc(node, "qdisc", "show", "dev", link)] == ["tbf", "pfifo"]
    with pytest.raises(NetlinkError) as refused:
        inside(node, lambda: set_leaf("nosuchkind"))
    assert refused.value.errno == errno.ENOENT


@all_kinds
async def test_nothing_is_asked_for_a_pod_without_limits(
    vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ADD costs no message about traffic control; exclusive pods' cards, which were at home, neither."""
    node, _ = nodes
    asked: list[str] = []
    lease = lease_of(vpc, node, vpc.pod())
    for name in ("get_tbf", "get_filters", "get_hooks"):
        monkeypatch.setattr(f"datapath.tc.{name}", lambda *_arguments, name=name: asked.append(name))
    await node.network.attach(lease)
    assert asked == []
