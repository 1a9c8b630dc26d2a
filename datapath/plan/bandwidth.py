"""How fast a pod may receive and send: token buckets, and what leads packets to them. Pure.

On a veth the node's end does it: what the pod receives waits in that end's root qdisc, what it sends is led to an ifb
of its own. Nothing is in the pod's namespace, where the pod might change it.

An exclusive pod has its card there and no end on the node, so its buckets are there too: one ifb for each direction, to
which both its links lead. So what it sends to Services by ``veth1`` counts against the same rate as the rest.

Burst and limit make a bucket exact from its first second on and keep the wait short: 4 ms of traffic at once, at most
5 ms waiting, more only where that is less than a few packets.
"""

from __future__ import annotations

from typing import Final

from datapath.state import NOTHING, Direction, Ifb, Netns, NetState, Redirect, Tbf
from eniway import names
from eniway.model import UNLIMITED, Kind, Lease

ETHERNET_HEADER: Final = 14
"""Bytes of a packet that a qdisc counts beyond the MTU."""
_BURST_MS, _WAIT_MS = 4, 5
_LEAST_BURST_FRAMES, _LEAST_WAIT_FRAMES = 3, 10
_MOST_BURST: Final = 1_000_000
_UNCUT_BITS: Final = 130_000_000
_UNCUT_BURST: Final = 70_000
"""The largest packet that segmentation offload hands down, with the headers of its parts: cut up below that rate, where
it costs little and keeps waits short; from that rate on it fits in one piece."""
_MOST_BYTES: Final = 2**32 - 1


def bandwidth(lease: Lease, *, mtu: int) -> NetState:
    """What limits the pod of ``lease``; nothing where nothing limits it."""
    if lease.bandwidth == UNLIMITED:
        return NOTHING
    return _in_the_pod(lease, mtu) if lease.kind is Kind.EXCLUSIVE else _on_the_node(lease, mtu)


def bucket(bits: int, *, mtu: int, netns: Netns, dev: str) -> Tbf:
    """A bucket for ``bits`` per second."""
    rate, frame = bits // 8, mtu + ETHERNET_HEADER
    burst = min(max(rate * _BURST_MS // 1000, _LEAST_BURST_FRAMES * frame), _MOST_BURST)
    if bits >= _UNCUT_BITS:
        burst = max(burst, _UNCUT_BURST)
    limit = burst + max(rate * _WAIT_MS // 1000, _LEAST_WAIT_FRAMES * frame)
    return Tbf(netns=netns, dev=dev, rate=rate, burst=burst, limit=min(limit, _MOST_BYTES))


def direction(item: Tbf) -> Direction:
    """Of the packets that a planned bucket limits, as its pod sees them."""
    out = item.dev.startswith(names.IFB_PREFIX) and item.dev != names.IFB_IN
    return Direction.EGRESS if out else Direction.INGRESS


def _on_the_node(lease: Lease, mtu: int) -> NetState:
    where, link = Netns.NODE, names.host_link(lease.key)
    state = NOTHING
    if (rate := lease.bandwidth.ingress) is not None:
        state |= {bucket(rate, mtu=mtu, netns=where, dev=link)}
    if (rate := lease.bandwidth.egress) is not None:
        ifb = names.ifb(lease.key)
        state |= {
            Ifb(netns=where, name=ifb, alias=lease.key.alias, group=names.LINK_GROUP, up=True),
            bucket(rate, mtu=mtu, netns=where, dev=ifb),
            Redirect(netns=where, dev=link, direction=Direction.INGRESS, to=ifb),
        }
    return state


def _in_the_pod(lease: Lease, mtu: int) -> NetState:
    where, limits = Netns.POD, lease.bandwidth
    state = NOTHING
    for rate, ifb, direction in (
        (limits.ingress, names.IFB_IN, Direction.INGRESS),
        (limits.egress, names.IFB_OUT, Direction.EGRESS),
    ):
        if rate is not None:
            state |= {
                Ifb(netns=where, name=ifb, alias="", group=0, up=True),
                bucket(rate, mtu=mtu, netns=where, dev=ifb),
                *(
                    Redirect(netns=where, dev=dev, direction=direction, to=ifb)
                    for dev in (lease.key.ifname, names.SERVICE_LINK)
                ),
            }
    return state
