"""What the kernel refuses takes down only who needs it; what it merely does not do now takes down nobody."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from datapath import command
from datapath.ipset import Set
from eniway.errors import KernelError
from eniway.model import Kind
from networkpolicy import place
from networkpolicy.place import Place
from networkpolicy.terms import Family, NetSet, SetRef
from tests.netns.datapath.fabric import Node, Vpc
from tests.netns.networkpolicy.cluster import cluster
from tests.netns.networkpolicy.test_hands import DENY
from tests.property.networkpolicy.oracle import allowed

BLOCK = {
    "podSelector": {},
    "policyTypes": ["Ingress", "Egress"],
    "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
}


async def test_a_set_that_the_kernel_refuses_shuts_its_programs_and_no_other(
    vpc: Vpc, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies that came before and after it are in force; once the kernel takes the set, all are."""
    make = place._made

    def refusing(name: str, ref: SetRef, family: Family) -> Set:
        made = make(name, ref, family)
        return Set(name, "hash:none", revision=0, family=made.family) if isinstance(ref, NetSet) else made

    async with cluster(vpc, nodes) as made:
        for name in ("x/shut", "y/a", "y/b"):
            await made.start(name, Kind.SHARED, 0)
        shut = str(made.members["x/shut"].lease.address)
        made.policy("p", DENY, space="y")
        await made.in_force()
        monkeypatch.setattr(place, "_made", refusing)
        made.policy("block", BLOCK)
        enforcer = made.enforcers[0]
        site = enforcer._halves[0].node
        enforcer.wake()
        async with asyncio.timeout(20):
            while not site.broken or site.error is not None:
                await enforcer._moved()
        made.policy("p", {"podSelector": {}, "ingress": [{"ports": [{"port": 81}]}]}, space="y")
        await made.in_force()
        packets = made.packets()
        expected = {
            each
            for each in packets
            if allowed(made.world, each.source, each.destination, each.protocol, each.port)
            and shut not in (each.source, each.destination)
        }
        assert expected
        assert made.prober.try_all(packets, awaited=expected) == expected
        monkeypatch.undo()
        enforcer.settle([member.lease for member in made.members.values()])
        await made.in_force()
        made.verify("taken")


PASSING = ["Another app is currently holding the xtables lock. Stopped waiting after 5s.", os.strerror(errno.EAGAIN)]


@pytest.mark.parametrize(
    "failure", [KernelError("iptables-restore did not end within 30 s"), *map(command.Refused, PASSING)]
)
def test_a_failure_that_says_nothing_of_a_rule_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch, failure: KernelError
) -> None:
    """A lock that is held, a time-out: nobody is shut off for it."""

    def failing(*_command: str, given: str) -> str:
        assert given
        raise failure

    monkeypatch.setattr(place, "run", failing)
    with pytest.raises(KernelError) as raised:
        Place(None, family=4).refused({"ENIWAY-NP-X": ("-j DROP",)})
    assert not isinstance(raised.value, command.Refused)


def test_a_rule_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its chain."""

    def failing(*_command: str, given: str) -> str:
        if "NFLOG" in given:
            raise command.Refused("iptables-restore: line 3: RULE_APPEND failed (No such file or directory)")
        return ""

    monkeypatch.setattr(place, "run", failing)
    tried = {"ENIWAY-NP-X": ("-j DROP",), "ENIWAY-NP-Y": ("-j NFLOG",)}
    assert Place(None, family=4).refused(tried) == {"ENIWAY-NP-Y"}
