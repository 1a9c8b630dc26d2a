"""What a sweep asks of the kernel: it costs next to nothing, repairs what is ours, spares what is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from datapath.network import Network
from datapath.state import Mark, Member
from eniway import names
from eniway.errors import KernelError, NotReady
from eniway.model import Lease
from tests.netns.datapath.fabric import SERVICE_CIDR, Namespace, Node, Vpc, exclusive_lease, shared_lease

LeaseOf = Callable[[Vpc, Node, Namespace], Lease]
both_kinds = pytest.mark.parametrize("lease_of", [shared_lease, exclusive_lease])


async def start(node: Node) -> bool:
    """Start a node again, as a sweep does."""
    return await node.network.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])


def only_reading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of iptables' programs only iptables-save is found from now on, and nft reads no file."""
    (program,) = (Path(folder, "iptables-save") for folder in ("/usr/sbin",))
    (tmp_path / "iptables-save").symlink_to(os.path.realpath(program))
    reader = tmp_path / "nft"
    reader.write_text('#!/bin/sh\ncase "$*" in *-f*) exit 1;; esac\nexec /usr/sbin/nft "$@"\n')
    reader.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


async def test_a_sweep_of_a_sound_node_writes_nothing(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither iptables-restore nor nft is there to write, and both say that nothing was changed."""
    node, _ = nodes
    only_reading(monkeypatch, tmp_path)
    assert not await start(node)
    assert not await node.network.prepare_card(node.cards[1])


breaks_the_node = pytest.mark.parametrize(
    "broken",
    [
        f"nft flush chain ip {names.NFT_TABLE} postrouting",
        f"nft delete table ip {names.NFT_TABLE}",
        "iptables -t nat -F",
        "iptables -t filter -F",
        f"iptables -t nat -D {names.CHAIN_PREFIX}SNAT 1",
        f"nft insert rule ip {names.NFT_TABLE} prerouting accept",
        "ip rule flush",
        "sysctl -qw net.ipv4.conf.all.rp_filter=1",
        "sysctl -qw net.ipv4.ip_forward=0",
    ],
)


@breaks_the_node
async def test_a_sweep_repairs_the_node_once(nodes: tuple[Node, Node], broken: str) -> None:
    """What somebody took from the node-wide state is back after one, which says so; the next has nothing to do."""
    node, _ = nodes
    before = (node.snapshot(), rules(node), settings(node))
    node.exec(*broken.split())
    if broken == "ip rule flush":
        node.ip("rule add priority 32766 table main", "rule add priority 32767 table default")
    assert await start(node)
    await node.network.prepare_card(node.cards[1])
    after = (node.snapshot(), rules(node), settings(node))
    if "all.rp_filter" not in broken:  # what was asked of all links is handed down to those that can bear it
        assert after == before
    assert node.read("net/ipv4/conf/all/rp_filter") == node.read("net/ipv4/conf/eth1/rp_filter") == "0"
    assert not await start(node)
    assert not await node.network.prepare_card(node.cards[1])


@breaks_the_node
async def test_who_only_looks_at_the_node_says_what_a_sweep_repairs(nodes: tuple[Node, Node], broken: str) -> None:
    """In words, and changes nothing: as long as there is something wrong, and no longer."""
    node, _ = nodes

    assert node.pod_cidr is not None
    cidrs = [node.pod_cidr]

    async def wrong() -> tuple[str, ...]:
        cards = await node.network.check_card(node.cards[1], parked=False)
        return (*await node.network.check_node(node.cards[0], cidrs), *cards)

    assert await wrong() == ()
    node.exec(*broken.split())
    if broken == "ip rule flush":
        node.ip("rule add priority 32766 table main", "rule add priority 32767 table default")
    before = (node.snapshot(), rules(node), settings(node))
    assert await wrong() != ()
    assert (node.snapshot(), rules(node), settings(node)) == before
    await start(node)
    await node.network.prepare_card(node.cards[1])
    assert await wrong() == ()


async def test_who_only_looks_sees_sets_cards_and_ranges_too(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """A parked card that is up, a podCIDR that does not end here, a pod's route, stale members, a set that is gone."""
    node, _ = nodes
    network, idle = node.network, node.cards[2]
    await network.park_card(idle)
    assert await network.check_card(idle, parked=True) == ()
    node.ip("link set eth2 up")
    (wrong,) = await network.check_card(idle, parked=True)
    assert wrong.startswith(f"card {idle.eni_id} ")
    (wrong,) = await network.check_node(node.cards[0], [*filter(None, [node.pod_cidr]), IPv4Network("172.20.99.0/24")])
    assert wrong == f"unreachable route to 172.20.99.0/24 of table {names.TABLE_PODS} is missing"
    lease = shared_lease(vpc, node, vpc.pod())
    await network.attach(lease)
    assert await network.check_lease(lease) == ()
    node.ip(f"route flush table {names.TABLE_PODS}")
    assert await network.check_lease(lease) == (f"route to {lease.address}/32 of table {names.TABLE_PODS} is missing",)
    assert await network.stale(lambda: [lease]) == frozenset()
    assert await network.stale(list) == {
        Mark(address=lease.address, mark=names.eni_mark(lease.card.slot)),
        Member(set=names.IPSET_PODS, address=lease.address),
    }
    node.exec("iptables", "-t", "nat", "-F")
    node.exec("ipset", "destroy", names.IPSET_HAIRPIN)
    assert f"ipset {names.IPSET_HAIRPIN} is missing" in await network.check_node(node.cards[0], ())


async def test_a_card_that_is_elsewhere_is_said_so(nodes: tuple[Node, Node]) -> None:
    """Not as one whose settings are wrong."""
    node, other = nodes
    for parked in (False, True):
        with pytest.raises(NotReady, match="is not on this node"):
            await node.network.check_card(other.cards[1], parked=parked)


@pytest.mark.parametrize(
    "foreign",
    [
        f"add chain ip {names.NFT_TABLE} theirs {{ type filter hook prerouting priority mangle; policy drop; }}",
        f"add table ip {names.NFT_TABLE} {{ flags dormant; }}",
    ],
)
async def test_what_others_put_into_our_table_goes_and_pods_keep_their_marks(
    vpc: Vpc, nodes: tuple[Node, Node], foreign: str
) -> None:
    """In one transaction: no packet leaves unmarked in between."""
    node, _ = nodes
    lease = shared_lease(vpc, node, vpc.pod())
    await node.network.attach(lease)
    before = node.snapshot()
    node.exec("nft", "-f", "-", given=foreign)
    assert await start(node)
    assert node.snapshot() == before
    assert not await start(node)


async def test_a_map_of_another_make_gives_way(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """What another release left is no reason not to start."""
    node, _ = nodes
    lease = shared_lease(vpc, node, vpc.pod())
    await node.network.attach(lease)
    before = node.snapshot()
    node.exec("nft", "delete", "table", "ip", names.NFT_TABLE)
    node.exec("nft", "add", "table", "ip", names.NFT_TABLE)
    node.exec("nft", "add", "map", "ip", names.NFT_TABLE, names.NFT_SOURCES, "{ type mark : mark; }")
    async with Network(path=node.path) as later:
        await later.start(service_cidr=SERVICE_CIDR, primary=node.cards[0])
        await later.repair(lease)
    assert node.snapshot() == before


def rules(node: Node) -> list[str]:
    """Rules of all tables, without comments, counters and others' order."""
    return sorted(line.split(" [")[0] for line in node.exec("iptables-save").splitlines() if line.startswith("-A"))


def settings(node: Node) -> list[str]:
    """The sysctls that are ours."""
    paths = ("ip_forward", "conf/all/rp_filter", "conf/eth0/rp_filter", "conf/eth1/rp_filter")
    return [node.read(f"net/ipv4/{path}") for path in paths]


# --- a pod's own


@both_kinds
@pytest.mark.parametrize(
    "own",
    [
        "addr add 192.0.2.1/24 dev eth0",
        "route add 192.0.2.0/24 dev eth0 proto {protocol}",
        "neigh add 169.254.1.2 lladdr 02:00:00:00:00:05 dev eth0 nud permanent",
        "link set eth0 mtu 1400",
        "link set eth0 txqueuelen 50",
    ],
)
async def test_what_a_pod_adds_in_its_own_namespace_is_its_own(
    vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf, own: str
) -> None:
    """Neither CHECK nor repair minds it, also when there is something else to repair; DEL takes it along."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    before = node.snapshot()
    await node.network.attach(lease)
    pod.ip(own.format(protocol=names.ROUTE_PROTOCOL))
    inside = state(pod)
    assert await node.network.check(lease) == ()
    assert await node.network.repair(lease) == ()
    pod.ip("route del default")
    assert len(await node.network.repair(lease)) == 1
    assert state(pod) == inside
    await node.network.detach(lease)
    assert node.snapshot() == before


def state(pod: Namespace) -> list[str]:
    """Links, addresses, routes and permanent neighbours of a pod."""
    return [
        *pod.show("-o", "link").splitlines(),
        *pod.show("-o", "-4", "addr").splitlines(),
        *sorted(pod.show("-4", "route").splitlines()),
        *sorted(pod.show("-4", "neigh", "show", "nud", "permanent").splitlines()),
    ]


@both_kinds
async def test_repair_puts_back_what_is_missing_of_ours(vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf) -> None:
    """It does what CHECK reported, and says what it did."""
    node, _ = nodes
    pod = vpc.pod()
    lease = lease_of(vpc, node, pod)
    link = (await node.network.attach(lease)).host_link
    for where, line in (
        (pod, "route del default"),
        (pod, "addr flush dev eth0"),
        (pod, "link set eth0 down"),
        (pod, "link set eth0 mtu 1600"),
        (node, f"link del {link}"),
        (node, f"route flush table {names.TABLE_PODS}"),
    ):
        where.ip(line)
        wrong = await node.network.check(lease)
        assert wrong != (), line
        assert await node.network.repair(lease) == wrong, line
        assert await node.network.check(lease) == (), line


async def test_a_namespace_that_is_only_not_mounted_here_is_not_called_gone(
    vpc: Vpc, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    """A path that nothing is mounted on is a matter of mount propagation, and the error says so."""
    node, _ = nodes
    (tmp_path / "pod").touch()
    lease = shared_lease(vpc, node, Namespace("no-such-pod"))
    for path, said in (
        (lease.netns, "is gone"),
        (str(tmp_path / "pod"), "not mounted here"),
        (node.path, "node's own"),
    ):
        for work in (node.network.attach, node.network.repair):
            with pytest.raises(KernelError, match=said):
                await work(replace(lease, netns=path))


# --- sets


async def test_members_of_no_lease_are_pruned(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Stale entries go from all sets and from the map; those of leases stay."""
    node, _ = nodes
    leases = [shared_lease(vpc, node, vpc.pod()), exclusive_lease(vpc, node, vpc.pod())]
    for lease in leases:
        await node.network.attach(lease)
    before = node.snapshot()
    assert await node.network.prune(lambda: leases) == 0
    for line in (
        f"{names.IPSET_PODS} 192.0.2.1",
        f"{names.IPSET_EXCLUSIVE} 192.0.2.2",
        f"{names.IPSET_HAIRPIN} 192.0.2.2,eniw0123456789a",
    ):
        node.exec("ipset", "add", *line.split())
    node.exec("nft", "add", "element", "ip", names.NFT_TABLE, names.NFT_SOURCES, "{ 192.0.2.1 : 0x8 }")
    assert await node.network.prune(lambda: leases) == 4
    assert node.snapshot() == before


async def test_an_address_that_is_leased_while_pruning_keeps_its_members(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """The books lease a stale member's address between the look and the removal: its pod is not cut off."""
    node, _ = nodes
    lease = shared_lease(vpc, node, vpc.pod())
    await node.network.attach(lease)
    answers = iter(([], [lease]))
    await node.network.prune(lambda: next(answers))
    assert await node.network.check(lease) == ()


# --- wake-ups


@pytest.mark.parametrize(
    "news", ["link set eth1 down", "link del eth1", f"rule del priority {names.RULE_PODS}", "link set eth2 up"]
)
async def test_news_of_cards_and_rules_wake_the_sweep(nodes: tuple[Node, Node], news: str) -> None:
    """Also when they came before anybody waited for them."""
    node, _ = nodes
    await node.network.park_card(node.cards[2])
    await quiet(node)
    node.ip(news)
    async with asyncio.timeout(10):
        await node.network.changed()


@pytest.mark.parametrize(
    "news",
    [
        "nft flush ruleset",
        f"nft delete table ip {names.NFT_TABLE}",
        f"nft flush chain ip {names.NFT_TABLE} postrouting",
        f"nft insert rule ip {names.NFT_TABLE} prerouting accept",
        "iptables -t nat -F",
        "iptables -t nat -F POSTROUTING",
    ],
)
async def test_news_of_our_tables_and_jumps_wake_the_sweep(nodes: tuple[Node, Node], news: str) -> None:
    """As nf_tables tells of them. What the sweep puts back wakes it once more at most."""
    node, _ = nodes
    await quiet(node)
    node.exec(*news.split())
    async with asyncio.timeout(10):
        await node.network.changed()
    assert await start(node)
    await quiet(node)
    assert not await start(node)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await node.network.changed()


async def test_other_programs_rules_wake_nobody(nodes: tuple[Node, Node]) -> None:
    """Such as those that kube-proxy writes and rewrites."""
    node, _ = nodes
    await quiet(node)
    node.nat(":KUBE-SERVICES - [0:0]", "-A PREROUTING -j KUBE-SERVICES", "-A KUBE-SERVICES -d 192.0.2.1 -j ACCEPT")
    node.nat(":KUBE-SERVICES - [0:0]", "-A KUBE-SERVICES -d 192.0.2.2 -j ACCEPT")
    node.exec("iptables", "-t", "nat", "-D", "PREROUTING", "-j", "KUBE-SERVICES")
    node.exec("nft", "add", "table", "ip", "kube-proxy")
    node.exec("nft", "delete", "table", "ip", "kube-proxy")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await node.network.changed()


async def test_pods_that_come_and_go_wake_nobody(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Their own links, and cards that are plugged into pods, are the doors' business."""
    node, _ = nodes
    await node.network.park_card(node.cards[2])
    await quiet(node)
    shared, exclusive = shared_lease(vpc, node, vpc.pod()), exclusive_lease(vpc, node, vpc.pod())
    await node.network.attach(shared)
    await node.network.attach(exclusive)
    await node.network.detach(shared)
    node.ip("link add stranger type veth peer name other", "rule add priority 700 table main")
    woken = asyncio.ensure_future(node.network.changed())
    await asyncio.sleep(0.05)  # what was sent is read by now: there is no event for "nothing happened"
    assert not woken.done()
    node.ip("link set eth1 down")
    await woken


async def quiet(node: Node) -> None:
    """Return once no news are left."""
    while True:
        try:
            async with asyncio.timeout(0.02):
                await node.network.changed()
        except TimeoutError:
            return


@both_kinds
async def test_what_is_routed_to_whom_is_read_from_the_kernel(
    vpc: Vpc, nodes: tuple[Node, Node], lease_of: LeaseOf
) -> None:
    """By the key in the link's alias: the address that a lost ledger is rebuilt by, the one on the veth."""
    node, _ = nodes
    lease = lease_of(vpc, node, vpc.pod())
    assert await node.network.observe_routed() == {}
    await node.network.attach(lease)
    assert await node.network.observe_routed() == {lease.key: {lease.service_address or lease.address}}
    await node.network.detach(lease)
    assert await node.network.observe_routed() == {}
