"""A namespace that is only watched: everything passes, and what a policy would drop is told of."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from datapath import netns
from datapath.netlink import Message, Netlink, attribute, attributes, each_message
from eniway import names
from networkpolicy.views import PolicyView
from tests.netns.datapath.fabric import Namespace, Node, Vpc
from tests.netns.networkpolicy.cluster import cluster, nine
from tests.property.networkpolicy.worlds import view

NETLINK_NETFILTER = 12
NFNL_SUBSYS_ULOG = 4  # include/uapi/linux/netfilter/nfnetlink_log.h
CONFIG, PACKET = NFNL_SUBSYS_ULOG << 8 | 1, NFNL_SUBSYS_ULOG << 8
CFG_CMD, CFG_QTHRESH, CMD_BIND, PREFIX = 1, 5, 1, 10
DENY = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@contextmanager
def listening(where: Namespace) -> Iterator[socket.socket]:
    """A socket that is told of each logged packet at once."""
    with netns.opened(where.path) as opened, netns.entered(opened):
        made = netns.netlink_socket(NETLINK_NETFILTER)
    with Netlink(made) as asking:
        group = struct.pack("!BBH", socket.AF_UNSPEC, 0, names.POLICY_LOG_GROUP)
        for option in (attribute(CFG_CMD, bytes([CMD_BIND])), attribute(CFG_QTHRESH, struct.pack("!I", 1))):
            asking.call(Message(CONFIG, group + option))
        yield made


def prefixes(listener: socket.socket) -> set[str]:
    """Of all that was logged up to now."""
    found: set[str] = set()
    while True:
        try:
            data = listener.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        found |= {
            attributes(payload[4:])[PREFIX].rstrip(b"\0").decode()
            for kind, _, _, payload in each_message(data)
            if kind == PACKET
        }


@pytest.mark.parametrize("back_end", ["iptables-nft", "iptables-legacy"])
async def test_what_would_be_dropped_passes_and_is_logged(vpc: Vpc, nodes: tuple[Node, Node], back_end: str) -> None:
    """On the node, and inside an exclusive pod for its card; what is read back is what was written."""
    async with cluster(vpc, nodes, iptables=back_end) as made:
        await nine(made)
        made.verify("none")
        for space in ("x", "y", "z"):
            made.namespace(space, None, {"eniway.io/networkpolicy": "audit"})
            for model in made.models():
                # The oracle, which knows of no audit, is not told
                model.put_policy(_policy(space))
        await made.in_force()
        exclusive = made.members["x/b"]
        with listening(nodes[0]) as on_node, listening(exclusive.netns) as within:
            made.verify("watched")
            assert prefixes(on_node) == {"eniway-np audit ingress", "eniway-np audit egress"}
            assert prefixes(within) == {"eniway-np audit ingress", "eniway-np audit egress"}
        for enforcer in made.enforcers:
            for site in enforcer._sites():
                held, _ = site.place.observe()
                assert site.held is not None
                assert held.chains == site.held.chains


def _policy(space: str) -> PolicyView:
    made: PolicyView = view(PolicyView, {"metadata": {"namespace": space, "name": "deny"}, "spec": DENY})
    return made
