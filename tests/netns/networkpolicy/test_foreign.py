"""What others write where we read: any bytes in comments and names, and rules before ours."""

from __future__ import annotations

import subprocess

from eniway.model import Kind
from tests.netns.datapath.fabric import Namespace, Node, Vpc
from tests.netns.networkpolicy.cluster import cluster
from tests.netns.networkpolicy.test_hands import DENY


def inside(where: Namespace, *command: str | bytes) -> bytes:
    """What a program prints there."""
    enter = ("nsenter", f"--net={where.path}")
    return subprocess.run((*enter, *command), check=True, capture_output=True, timeout=30).stdout


async def test_bytes_that_are_no_text_and_rules_before_ours_keep_no_policy_from_being_in_force(
    vpc: Vpc, nodes: tuple[Node, Node]
) -> None:
    """On the node and inside an exclusive pod: what bears our names goes, our jumps come first, theirs stay."""
    async with cluster(vpc, nodes) as made:
        member = await made.start("x/a", Kind.EXCLUSIVE, 0, slot=2)
        await made.start("y/b", Kind.SHARED, 0)
        made.policy("p", DENY)
        await made.in_force()
        made.verify("before")
        for where, hook in ((nodes[0], "FORWARD"), (member.netns, "PREROUTING")):
            table = ("iptables", "-t", "mangle")
            for command in (
                (*table, "-I", hook, "-m", "comment", "--comment", b"caf\xe9", "-j", "ACCEPT"),
                (*table, "-A", hook),
                ("ipset", "create", b"eniway-np-\xff", "hash:ip"),
                ("ipset", "create", b"\xff", "hash:ip"),
            ):
                inside(where, *command)
        enforcer = made.enforcers[0]
        enforcer.settle([each.lease for each in made.members.values()])
        await enforcer.in_force()
        made.verify("after")
        for site in enforcer._sites():
            held, sets = site.place.observe()
            assert not any(jump.late for jump in held.jumps)
            assert site.held is not None
            assert sets.keys() == site.held.sets.keys()
        for where in (nodes[0], member.netns):
            left = inside(where, "iptables-save", "-t", "mangle")
            assert b"caf\xe9" in left
