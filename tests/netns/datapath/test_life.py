"""Coming, going and crashing: what attach and detach leave behind, from whatever they find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datapath import kernel, network
from datapath.apply import apply
from datapath.diff import diff
from eniway import names
from eniway.errors import KernelError, NotReady
from eniway.model import ContainerId, Lease, LeaseKey
from tests.netns.datapath.fabric import Namespace, Node, Vpc, exclusive_lease, inside, routed_lease, shared_lease

LeaseOf = Callable[[Vpc, Node, Namespace], Lease]
all_kinds = pytest.mark.parametrize("lease_of", [shared_lease, exclusive_lease, routed_lease])


@all_kinds
async def test_what_was_attached_is_as_planned(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """CHECK is the diff, so after ADD it is empty; and the answer names the links that are there."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    attachment = await node.network.attach(lease)
    assert await node.network.check(lease) == ()
    assert attachment.host_link == names.host_link(lease.key)
    assert attachment.host_link in node.links()
    assert {link.name for link in attachment.pod_links} | {"lo"} == pod.links()
    for link in attachment.pod_links:
        shown = pod.show("link", "show", link.name)
        assert link.mac in shown
        assert f"mtu {link.mtu}" in shown


@all_kinds
async def test_detach_leaves_nothing(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """Links, addresses, routes, rules, neighbours and set members of the node are as before; the pod is empty."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    before = node.snapshot()
    await node.network.attach(lease)
    assert node.snapshot() != before
    await node.network.detach(lease)
    assert node.snapshot() == before
    assert pod.links() == {"lo"}
    await node.network.detach(lease)
    assert node.snapshot() == before


@all_kinds
async def test_attach_goes_on_from_any_crash(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """After any number of its operations, and then again: the next attach finishes; the next detach undoes."""
    node, _ = nodes
    before = node.snapshot()
    lease = lease_of(vpc, node, vpc.pod())
    known = node.network._started
    steps = len(await node.network.check(lease))
    assert steps > 6
    for done in range(steps + 1):
        for finish in (True, False):
            pod = vpc.pod()
            lease = replace(lease, netns=pod.path, key=replace(lease.key, container_id=ContainerId(pod.name)))

            def crash(lease: Lease = lease, done: int = done) -> None:
                with kernel.opened(lease.netns) as opened:
                    ops = diff(network._observe(opened, lease), network._plan(lease, known))
                    apply(opened, ops[:done])

            inside(node, crash)
            if finish:
                await node.network.attach(lease)
                assert await node.network.check(lease) == (), done
            await node.network.detach(lease)
            assert node.snapshot() == before, done
            assert pod.links() == {"lo"}


@all_kinds
async def test_detach_goes_on_from_any_crash(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """After any number of its operations the next detach finishes."""
    node, _ = nodes
    before = node.snapshot()
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    mtu = node.network._started.mtu
    done, steps = 0, 1
    while done <= steps:
        await node.network.attach(lease)

        def crash(done: int = done) -> int:
            with kernel.opened(lease.netns) as opened:
                observed = network._observe(opened, lease)
                home = network._home(observed, lease.card, mtu) if lease.service_address else frozenset()
                ops = diff(observed, home)
                apply(opened, ops[:done])
                return len(ops)

        steps = inside(node, crash)
        await node.network.detach(lease)
        assert node.snapshot() == before, done
        done += 1


@all_kinds
async def test_attach_repairs_what_somebody_broke(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """Each thing removed or changed by hand shows in CHECK and is put right by attach."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    link = (await node.network.attach(lease)).host_link
    for where, line in (
        (pod, "route del default"),
        (pod, "addr flush dev eth0"),
        (pod, "link set eth0 down"),
        (pod, "link set eth0 mtu 1600"),
        (node, f"link set {link} down"),
        (node, f"link set {link} alias somebody"),
        (node, f"link set {link} group 0"),
        (node, f"link del {link}"),
        (node, f"route flush table {names.TABLE_PODS}"),
    ):
        where.ip(line)
        assert await node.network.check(lease) != (), line
        await node.network.attach(lease)
        assert await node.network.check(lease) == (), line
    node.exec("ipset", "flush", names.IPSET_PODS)
    assert await node.network.check(lease) != ()
    await node.network.attach(lease)
    assert await node.network.check(lease) == ()


@all_kinds
@pytest.mark.parametrize("said", ["the old path", "an empty path", "a file that is no namespace"])
async def test_detach_works_when_the_namespace_is_gone(
    vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf, said: str, tmp_path: Path
) -> None:
    """The kernel has taken the links; what is left on the node goes too."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    before = node.snapshot()
    await node.network.attach(lease)
    vpc.destroy(pod, node, names.host_link(lease.key))
    (tmp_path / "stale").touch()
    path = {"the old path": pod.path, "an empty path": ""}.get(said, str(tmp_path / "stale"))
    await node.network.detach(replace(lease, netns=path))
    if lease.service_address:
        # A veth that stands for a card dies with the namespace; the cloud plugs it in again.
        vpc.replug(node, lease.card)
    assert node.snapshot() == before


async def test_a_card_comes_home_clean_whatever_its_pod_did_to_it(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Found by its ENI id even with another MAC; name, MAC, MTU, alias, group, queue, flags, altnames are restored."""
    node, _ = nodes
    pod = vpc.pod()
    lease = exclusive_lease(vpc, node, pod)
    before = node.snapshot()
    await node.network.attach(lease)
    pod.ip(
        "link set eth0 down",
        "link set eth0 name mine",
        "link set mine address 02:00:00:00:00:02 mtu 1400 group 7 txqueuelen 50 promisc on",
        "link property add dev mine altname eth0",
        "addr add 192.0.2.1/24 dev mine",
        "link set mine up",
    )
    await node.network.detach(lease)
    assert node.snapshot() == before


async def test_a_card_that_the_kernel_brought_home_is_cleaned(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """A physical card returns with whatever name, alias and MTU it had; the next detach finds it there."""
    node, _ = nodes
    lease = exclusive_lease(vpc, node, vpc.pod())
    before = node.snapshot()
    node.ip(
        "link set eth2 name dev7",
        f"link set dev7 alias {lease.card.eni_id} mtu 1400 group 7 address 02:00:00:00:00:02",
    )
    await node.network.detach(replace(lease, netns=""))
    node.ip("link set dev7 name eth2")
    assert node.snapshot() == before


async def test_an_exclusive_attach_waits_for_a_card_on_its_way_home(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Its last pod's namespace went a moment ago: the card appears while attach is waiting."""
    node, _ = nodes
    pod = vpc.pod()
    lease = exclusive_lease(vpc, node, pod)
    node.ip("link del eth2")
    async with asyncio.TaskGroup() as group:
        attaching = group.create_task(node.network.attach(lease))
        await node.watching()
        assert not attaching.done()
        vpc.replug(node, lease.card)
    assert await node.network.check(lease) == ()


async def test_a_card_that_stays_away_is_not_ready(
    vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking again may help: the error says which card, and nothing was done to the pod."""
    node, _ = nodes
    pod = vpc.pod()
    lease = exclusive_lease(vpc, node, pod)
    node.ip("link del eth2")
    monkeypatch.setattr(network, "_HOMECOMING_SECONDS", 0.05)
    with pytest.raises(NotReady, match=lease.card.eni_id):
        await node.network.attach(lease)
    assert pod.links() == {"lo"}


async def test_attach_to_a_namespace_that_is_gone_is_an_error(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """The error names the path."""
    node, _ = nodes
    lease = replace(shared_lease(vpc, node, vpc.pod()), netns="/run/netns/no-such-pod")
    with pytest.raises(KernelError, match="no-such-pod"):
        await node.network.attach(lease)


async def test_attach_does_not_take_a_strangers_eth0(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """A link of that name which is not ours is left alone, and the error says what was tried."""
    node, _ = nodes
    pod = vpc.pod()
    pod.ip("link add eth0 type veth peer name other")
    before = node.snapshot()
    lease = shared_lease(vpc, node, pod)
    with pytest.raises(KernelError, match="exists"):
        await node.network.attach(lease)
    assert {"eth0", "other"} < pod.links()
    await node.network.detach(lease)
    assert node.snapshot() == before


async def test_thirty_pods_at_once(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Attached and detached side by side, they do not get in each other's way."""
    node, _ = nodes
    before = node.snapshot()
    leases = [shared_lease(vpc, node, vpc.pod()) for _ in range(30)]
    await asyncio.gather(*(node.network.attach(lease) for lease in leases))
    assert await asyncio.gather(*(node.network.check(lease) for lease in leases)) == [()] * 30
    assert set(await node.network.observe_leases()) == {lease.key for lease in leases}
    await asyncio.gather(*(node.network.detach(lease) for lease in leases))
    assert node.snapshot() == before


@all_kinds
async def test_an_orphan_is_removed_by_its_key_alone(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """The key read from the kernel is enough to clear the node's side, set members included."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    before = node.snapshot()
    await node.network.attach(lease)
    ((key, link),) = (await node.network.observe_leases()).items()
    assert (key, link) == (lease.key, names.host_link(lease.key))
    await node.network.remove_orphan(key)
    if lease.service_address:
        await node.network.detach(lease)  # the card is the pod's until its namespace goes
    assert node.snapshot() == before
    await node.network.remove_orphan(LeaseKey("eniway", ContainerId("never-was"), "eth0"))


async def test_a_cancelled_attach_is_over_when_it_returns(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Whoever cancels may detach at once: nobody is at work on the lease any more."""
    node, _ = nodes
    before = node.snapshot()
    lease = exclusive_lease(vpc, node, vpc.pod())
    attaching = asyncio.create_task(node.network.attach(lease))
    await asyncio.sleep(0)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    await node.network.detach(lease)
    assert node.snapshot() == before
