"""What is not ours is left alone; what of ours others change is put back; leaving leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from eniway.model import Kind, Lease
from networkpolicy.enforcer import Enforcer
from networkpolicy.leave import leave
from networkpolicy.model import Model
from tests.netns.datapath.fabric import Namespace, Node, Vpc
from tests.netns.networkpolicy.cluster import Cluster, cluster, nine

DENY = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [{"podSelector": {}}]}]}


def foreign(where: Namespace) -> list[str]:
    """What is there that is not ours."""
    return [line for line in state(where).splitlines() if "ENIWAY-NP-" not in line and "eniway-np-" not in line]


def state(where: Namespace) -> str:
    """Rules of the table and all sets, without counters."""
    lines = where.exec("iptables-save", "-t", "mangle").splitlines() + where.exec("ipset", "save").splitlines()
    return "\n".join(sorted(line.split(" [")[0] for line in lines if not line.startswith("#")))


async def test_leaving_leaves_what_was_there_before(vpc: Vpc, nodes: tuple[Node, Node]) -> None:
    """Foreign chains, jumps and sets, on the node and inside a pod."""
    async with cluster(vpc, nodes) as made:
        await nine(made)
        places: list[Namespace] = [*nodes, *(member.netns for member in made.members.values())]
        for where in places:
            where.exec("ipset", "create", "eniway-nothing", "hash:ip")
            where.exec("iptables", "-t", "mangle", "-N", "ENIWAY-OTHER")
            where.exec("iptables", "-t", "mangle", "-A", "FORWARD", "-j", "ENIWAY-OTHER")
        before = [foreign(where) for where in places]
        made.policy("p", DENY)
        await made.in_force()
        assert [foreign(where) for where in places] == before
        for number, node in enumerate(nodes):
            leases = [member.lease for member in made.members.values() if member.node == number]
            await leave(leases, path=node.path)
        assert [state(where).splitlines() for where in places] == before


async def test_leaving_tells_of_a_set_that_a_foreign_rule_looks_into(nine_pods: Cluster) -> None:
    """It cannot be taken away; once that rule has gone it is."""
    nine_pods.policy("p", DENY)
    await nine_pods.in_force()
    node = nine_pods.nodes[0]
    name = next(line.split()[1] for line in state(node).splitlines() if line.startswith("create eniway-np-"))
    rule = ("INPUT", "-m", "set", "--match-set", name, "src", "-j", "ACCEPT")
    node.exec("iptables", "-A", *rule)
    [line] = await leave((), path=node.path)
    assert line.startswith(f"ipset {name}: a rule that is not ours looks into it")
    assert "ENIWAY-NP-" not in state(node)
    assert [line.split()[1] for line in state(node).splitlines() if line.startswith("create eniway-np-")] == [name]
    node.exec("iptables", "-D", *rule)
    assert await leave((), path=node.path) == ()
    assert "eniway-np-" not in state(node)


async def test_without_policies_there_is_nothing_on_the_node(nine_pods: Cluster) -> None:
    """The last policy takes along every chain, jump and set."""
    before = [state(node) for node in nine_pods.nodes]
    nine_pods.policy("p", DENY)
    await nine_pods.in_force()
    assert [state(node) for node in nine_pods.nodes] != before
    nine_pods.clear()
    await nine_pods.in_force()
    while not all(site.is_clean for enforcer in nine_pods.enforcers for site in enforcer._sites()):
        await nine_pods.in_force()
    assert [state(node) for node in nine_pods.nodes] == before


async def test_what_changes_leave_behind_goes(nine_pods: Cluster) -> None:
    """Rules that newer ones stand before decide nothing, and are gone when nothing changes: on the node, and inside."""
    for port in (80, 81, 80):
        nine_pods.policy("p", {**DENY, "ingress": [{"ports": [{"port": port}]}]})
        await nine_pods.in_force()
        nine_pods.verify(port)
    sites = [site for enforcer in nine_pods.enforcers for site in enforcer._sites()]
    while not all(site.is_clean for site in sites):
        await nine_pods.in_force()
    for site in sites:
        held, sets = site.place.observe()
        assert site.held is not None
        assert held.chains == site.held.chains
        assert sets.keys() == site.held.sets.keys()
    nine_pods.verify("after")


async def test_what_others_changed_is_put_back(nine_pods: Cluster) -> None:
    """Flushed chains, removed jumps, members added and removed: on the node, and inside an exclusive pod."""
    nine_pods.policy("p", DENY)
    await nine_pods.in_force()
    told: list[Lease] = []
    for enforcer in nine_pods.enforcers:
        enforcer._repaired = lambda lease, _what: told.append(lease)
    places = [*nine_pods.nodes, *(m.netns for m in nine_pods.members.values() if m.lease.kind is Kind.EXCLUSIVE)]
    before = [state(where) for where in places]
    for where in places:
        where.exec("iptables", "-t", "mangle", "-F")
        for line in where.exec("ipset", "save").splitlines():
            if line.startswith("add eniway-np-"):
                where.exec("ipset", "del", *line.split()[1:3])
                where.exec("ipset", "add", line.split()[1], "192.0.2.7")
                break
    assert [state(where) for where in places] != before
    for number, enforcer in enumerate(nine_pods.enforcers):
        leases = [member.lease for member in nine_pods.members.values() if member.node == number]
        enforcer.settle(leases)
    await nine_pods.in_force()
    after = [state(where) for where in places]
    for was, now in zip(before, after, strict=True):
        lost = set(was.splitlines()) - set(now.splitlines())
        assert not [line for line in lost if "ENIWAY-NP" in line or "eniway-np" in line]
        assert not [line for line in set(now.splitlines()) - set(was.splitlines()) if "eniway-np" in line]
    assert {lease.kind for lease in told} == {Kind.EXCLUSIVE}
    assert len(told) == 3


async def test_a_restart_writes_nothing(vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that comes back reads what the last one left, finds it right, and changes none of it."""
    async with cluster(vpc, nodes) as made:
        await nine(made)
        made.policy("p", DENY)
        made.policy(
            "q",
            {
                "podSelector": {},
                "egress": [
                    {
                        "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/28"]}}],
                        "ports": [{"port": 80}, {"port": 8000, "endPort": 9000}, {"port": "serve-81-tcp"}],
                    }
                ],
            },
        )
        await made.in_force()
        for number, node in enumerate(nodes):
            model = Model(4, sampled=True)
            for old in (made.enforcers[number].model,):
                model.__dict__.update({name: getattr(old, name) for name in ("_pods", "_spaces", "_policies")})
            again = Enforcer(model, path=node.path, six=True)
            applied: list[object] = []
            for member in made.members.values():
                if member.node == number:
                    model.attach(member.lease)
            monkeypatch.setattr("networkpolicy.place.Place.apply", _noting(applied))
            again.start((), nodes=[node.address])
            async with asyncio.TaskGroup() as group:
                task = group.create_task(again.run())
                await again.in_force()
                task.cancel()
            again.close()
            monkeypatch.undo()
            assert not applied


@pytest.mark.parametrize("back_end", ["iptables-nft", "iptables-legacy"])
async def test_both_back_ends(vpc: Vpc, nodes: tuple[Node, Node], back_end: str) -> None:
    """Whichever programs the node has: the same paths, and what is read back is what was written."""
    async with cluster(vpc, nodes, iptables=back_end) as made:
        await nine(made)
        made.policy("p", DENY)
        named = [
            {"port": "serve-80-tcp"},
            {"port": 81, "protocol": "SCTP"},
            {"port": 70, "endPort": 90, "protocol": "UDP"},
        ]
        made.policy("q", {"podSelector": {}, "egress": [{"ports": named}]}, space="y")
        await made.in_force()
        made.verify(back_end)
        for enforcer in made.enforcers:
            for site in enforcer._sites():
                held, sets = site.place.observe()
                assert site.held is not None
                assert set(held.jumps) == set(site.held.jumps)
                assert held.chains == site.held.chains
                assert sets.keys() == site.held.sets.keys()
        made.clear()
        await made.in_force()
        made.verify("none")


def _noting(applied: list[object]) -> Callable[..., None]:
    return lambda _place, change, **_how: applied.append(change)
