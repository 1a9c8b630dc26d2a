"""The same code writes IPv6: what is read back of the kernel is what was written."""

from __future__ import annotations

from networkpolicy import render
from networkpolicy.change import Held, follow, repair
from networkpolicy.model import Model
from networkpolicy.place import Place
from networkpolicy.render import EMPTY
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.netns.datapath.fabric import Vpc
from tests.property.networkpolicy.worlds import lease, namespace, pod, policy, view


async def test_ipv6_is_written_and_read_back_alike(vpc: Vpc) -> None:
    """Sets of every kind, neighbour discovery let through, and all of it taken away again."""
    model = Model(6)
    model.put_namespace(view(NamespaceView, namespace("x", {})))
    ports = {"containers": [{"ports": [{"name": "web", "containerPort": 80}]}]}
    for name, address in (("a", "fd00::1"), ("b", "fd00::2")):
        given = pod("x", name, uid=name, labels={"pod": name}, spec=ports, phase="Running", ips=["10.0.0.1", address])
        model.put_pod(view(PodView, given))
        if name == "a":
            model.attach(lease(given, "10.0.0.1"))
    blocks = [{"ipBlock": {"cidr": "::/0", "except": ["fd00::/16"]}}, {"ipBlock": {"cidr": "fd01::/16"}}]
    rules = [
        {"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}, *blocks], "ports": [{"port": "web"}, {"port": 81}]}
    ]
    model.put_policy(view(PolicyView, policy("x", "p", {"podSelector": {}, "ingress": rules})))
    layout = render.node(model.endpoints.values(), 6)
    assert any("ipv6-icmp" in rule for chain in layout.chains.values() for rule in chain)
    place = Place(vpc.router.path, family=6)
    place.apply(follow(EMPTY, Held(), layout, {}, model.members))
    held, sets = place.observe()
    members = {name: list(model.members(ref)) for name, ref in layout.sets.items()}
    assert not repair(held, sets, layout, members)
    assert (
        sum(map(len, members.values())) == 6
    )  # b, its port, two halves, an exception, a network; none of a, by its lease
    place.apply(repair(held, sets, EMPTY, {}))
    held, sets = place.observe()
    assert not held.chains
    assert not held.jumps
    assert not sets
