"""What policies drop is told of by Events: whose packet, from or to where, and by which policies."""

from __future__ import annotations

import asyncio

import pytest

from datapath import nflog
from eniway import names
from eniway.kube.events import Event
from eniway.model import Kind
from eniway.node.drops import DropEvents
from networkpolicy.enforcer import Enforcer
from networkpolicy.model import Model
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import Cluster, cluster, nine
from tests.netns.networkpolicy.test_hands import state

DENY = {"podSelector": {}, "policyTypes": ["Ingress"]}


async def told(made: Cluster, wanted: int) -> list[Event]:
    """Events about what the first node drops while every path is tried."""
    events: list[Event] = []
    enough = asyncio.Event()

    def tell(event: Event) -> None:
        events.append(event)
        if len(events) >= wanted:
            enough.set()

    watching = asyncio.ensure_future(DropEvents(made.enforcers[0].model, tell=tell, path=made.nodes[0].path).run())
    await asyncio.sleep(0)
    try:
        made.verify()
        async with asyncio.timeout(20):
            await enough.wait()
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    return events


@pytest.mark.parametrize("back_end", ["iptables-nft", "iptables-legacy"])
async def test_a_dropped_packet_is_told_of(vpc: Vpc, nodes: tuple[Node, Node], back_end: str) -> None:
    """On a pod that it was for, with its peer and the policy; and what is read back is what was written."""
    async with cluster(vpc, nodes, iptables=back_end) as made:
        await nine(made)
        made.policy("deny", DENY)
        await made.in_force()
        pods = {member.lease.pod for name, member in made.members.items() if member.node == 0 and name[0] == "x"}
        events = await told(made, 1)
        assert {event.about for event in events} <= pods
        assert {event.reason for event in events} == {"NetworkPolicyDropped"}
        peers = {f"from {name} ({member.lease.address}), port 8" for name, member in made.members.items()}
        for event in events:
            assert any(peer in event.message for peer in peers), event
            assert event.message.endswith("dropped: isolated by x/deny, none of which allows it")
        for enforcer in made.enforcers:
            for site in enforcer._sites():
                held, _ = site.place.observe()
                assert site.held is not None
                assert held.chains == site.held.chains


async def test_what_an_exclusive_pod_s_own_card_drops_is_told_of(nine_pods: Cluster) -> None:
    """It is dropped in the pod's namespace. When the pod ends nothing keeps that."""
    node, member = nine_pods.nodes[1], nine_pods.members["x/b"]
    assert (member.lease.kind, member.node) == (Kind.EXCLUSIVE, 1)
    nine_pods.policy("deny", {"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Egress"]})
    await nine_pods.in_force()
    events: asyncio.Queue[Event] = asyncio.Queue()
    drops = DropEvents(nine_pods.enforcers[1].model, tell=events.put_nowait, path=node.path)
    running = asyncio.ensure_future(drops.run())
    try:
        leases = [one.lease for one in nine_pods.members.values() if one.node == 1]
        await asyncio.gather(drops.follow(leases), drops.listen(member.lease), drops.follow(leases))
        nine_pods.verify()
        async with asyncio.timeout(20):
            event = await events.get()
        assert event.about == member.lease.pod
        assert event.message.endswith("dropped: isolated by x/deny, none of which allows it")
        await drops.forget(member.lease.key)
        nine_pods.prober.remove(member.lease.address)
        nine_pods.vpc.destroy(member.netns, node, names.host_link(member.lease.key))
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_pod_whose_own_program_has_the_group_keeps_it(nine_pods: Cluster) -> None:
    """It is not thrown out, and the pod starts all the same."""
    member = nine_pods.members["x/b"]
    drops = DropEvents(nine_pods.enforcers[1].model, tell=lambda _event: None, path=nine_pods.nodes[1].path)
    with nflog.listener(names.POLICY_SAMPLE_GROUP, member.lease.netns):
        await drops.listen(member.lease)
        await drops.follow([member.lease])
    with nflog.listener(names.POLICY_SAMPLE_GROUP, member.lease.netns):
        pass  # nobody else has it


async def test_a_kernel_that_cannot_sample_enforces_all_the_same(
    vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out before any program is written, and nothing is left of the attempt."""
    async with cluster(vpc, nodes) as made:
        before = [state(node) for node in nodes]
        assert not any([await enforcer.refuses_samples() for enforcer in made.enforcers])
        monkeypatch.setattr(names, "POLICY_SAMPLE_GROUP", 1 << 16)  # no group of NFLOG
        assert all([await enforcer.refuses_samples() for enforcer in made.enforcers])
        assert [state(node) for node in nodes] == before
        for enforcer in made.enforcers:
            enforcer.model.sampled = False
        await nine(made)
        made.policy("deny", DENY)
        await made.in_force()
        assert not any(site.broken for enforcer in made.enforcers for site in enforcer._sites())
        made.verify()


async def test_where_no_rule_is_taken_it_is_not_for_the_samples(nodes: tuple[Node, Node]) -> None:
    """Such as on a node whose programs are missing for now."""
    enforcer = Enforcer(Model(4, sampled=True), path=nodes[0].path, iptables="iptables-none")
    assert not await enforcer.refuses_samples()
    enforcer.close()


def test_another_program_keeps_the_group(nodes: tuple[Node, Node]) -> None:
    """Who came first has it; nobody is thrown out."""
    with nflog.listener(names.POLICY_SAMPLE_GROUP, nodes[0].path), pytest.raises(OSError, match="not permitted"):
        nflog.listener(names.POLICY_SAMPLE_GROUP, nodes[0].path)
