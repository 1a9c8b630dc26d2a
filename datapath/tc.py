"""Messages of traffic control over rtnetlink, both ways: buckets, and filters that redirect. No socket is touched here.

Names in capitals are the kernel's, from include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls,tc_act/tc_mirred}.h. Read with
net/sched/{sch_tbf,cls_u32,cls_matchall,act_mirred}.c, where what is said here of the kernel can be seen.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from datapath.netlink import CREATE, ECHO, EXCLUDE, REPLACE, Message, attribute, attributes, nested, number, text
from datapath.state import Direction, Netns, Redirect, Tbf
from eniway import names

RTMGRP_TC: Final = 0x8
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46

_TCMSG: Final = struct.Struct("=BxxxiIII")
_RATESPEC: Final = struct.Struct("=BBHhHI")
_TBF_QOPT_TAIL: Final = struct.Struct("=III")
_U32_SEL: Final = struct.Struct("=BBBxHHhhI")
_U32_KEY: Final = struct.Struct("=IIii")
_MIRRED: Final = struct.Struct("=IIiiiiI")

_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2 = 1, 2, 7
_TCA_STATS_QUEUE: Final = 3
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET: Final = 1
_U32_MAX: Final = 2**32 - 1
_TICK_NS: Final = 64

_ROOT: Final = 0xFFFFFFFF
_CLSACT_HANDLE, _CLSACT = 0xFFFF0000, 0xFFFFFFF1
_HOOKS: Final = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}
_HANDLE: Final = names.QDISC_HANDLE << 16
_LEAF: Final = _HANDLE | 1
"""The one class of a tbf."""
_ALL: Final = socket.htons(0x0003)  # ETH_P_ALL
_INFO: Final = {
    Direction.INGRESS: names.FILTER_PREFERENCE << 16 | _ALL,
    Direction.EGRESS: names.FILTER_PREFERENCE + 1 << 16 | _ALL,
}
"""Preference and protocol. With one preference for both, a dump of u32 filters tells of both: they share a list."""

MATCHALL, U32 = "matchall", "u32"
_ACTIONS: Final = {MATCHALL: 2, U32: 7}
"""TCA_MATCHALL_ACT, TCA_U32_ACT."""
_TCA_U32_SEL, _TC_U32_TERMINAL = 5, 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1


@dataclass(frozen=True, slots=True)
class Queue:
    """How a qdisc is doing (struct gnet_stats_queue)."""

    drops: int
    """Since it was made, modulo 2**32."""
    backlog: int
    """Bytes that wait."""


# --- token buckets


def get_tbf(index: int) -> Message:
    """Ask for the bucket of ours on a link. EINVAL or ENOENT: something else is there.

    Without ECHO the kernel answers only those who listen to news of traffic control, and not who asked.
    """
    return Message(_GETQDISC, _TCMSG.pack(0, index, _HANDLE, _ROOT, 0), ECHO)


def tbf(payload: bytes, *, netns: Netns, dev: str) -> Tbf | None:
    """Read an RTM_NEWQDISC that answers ``get_tbf``; None for a qdisc of another kind or in another place."""
    _, _, handle, parent, _ = _TCMSG.unpack_from(payload)
    found = attributes(payload[_TCMSG.size :])
    if (handle, parent) != (_HANDLE, _ROOT) or found.get(_TCA_KIND) != b"tbf\0":
        return None
    options = attributes(found[_TCA_OPTIONS])
    parms = options[_TCA_TBF_PARMS]
    *_, rate = _RATESPEC.unpack_from(parms)
    limit, ticks, _ = _TBF_QOPT_TAIL.unpack_from(parms, 2 * _RATESPEC.size)
    if _TCA_TBF_RATE64 in options:
        (rate,) = struct.unpack("=Q", options[_TCA_TBF_RATE64])
    burst = (ticks * _TICK_NS * rate + 500_000_000) // 1_000_000_000
    return Tbf(netns=netns, dev=dev, rate=rate, burst=burst, limit=limit)


def queue(payload: bytes) -> Queue:
    """How the qdisc of an RTM_NEWQDISC is doing."""
    stats = attributes(attributes(payload[_TCMSG.size :]).get(_TCA_STATS2, b""))
    _, backlog, drops, _, _ = struct.unpack("=IIIII", stats.get(_TCA_STATS_QUEUE, bytes(20)))
    return Queue(drops=drops, backlog=backlog)


def set_tbf(item: Tbf, index: int) -> Message:
    """Make the bucket a link's root qdisc, or change the one there in place: what waits in it goes on waiting.

    Saying the link layer spares the table of rates, which the kernel has not used since Linux 3.8.
    """
    spec = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(item.rate, _U32_MAX))
    parms = spec + _RATESPEC.pack(0, 0, 0, 0, 0, 0) + _TBF_QOPT_TAIL.pack(item.limit, _ticks(item), 0)
    options = attribute(_TCA_TBF_PARMS, parms) + number(_TCA_TBF_BURST, item.burst)
    if item.rate > _U32_MAX:
        options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", item.rate))
    header = _TCMSG.pack(0, index, _HANDLE, _ROOT, 0)
    return Message(_NEWQDISC, header + text(_TCA_KIND, "tbf") + nested(_TCA_OPTIONS, options), CREATE | REPLACE)


def _ticks(item: Tbf) -> int:
    return min(item.burst * 1_000_000_000 // item.rate // _TICK_NS, _U32_MAX)


def set_leaf(index: int, kind: str) -> Message:
    """Let packets wait in a qdisc of another kind inside the bucket. ENOENT: this kernel has no such kind."""
    return Message(_NEWQDISC, _TCMSG.pack(0, index, 0, _LEAF, 0) + text(_TCA_KIND, kind), CREATE | REPLACE)


def remove_tbf(index: int) -> Message:
    """Give a link its default qdisc back. ENOENT: there is none of ours."""
    return Message(_DELQDISC, _TCMSG.pack(0, index, _HANDLE, _ROOT, 0))


# --- filters


def add_hooks(index: int) -> Message:
    """Give a link the qdisc that filters hang on. EEXIST: it has one."""
    header = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0)
    return Message(_NEWQDISC, header + text(_TCA_KIND, "clsact"), CREATE | EXCLUDE)


def get_hooks(index: int) -> Message:
    """Ask for the qdisc that filters hang on. ENOENT: there is none."""
    return Message(_GETQDISC, _TCMSG.pack(0, index, 0, _CLSACT, 0), ECHO)


def are_hooks(payload: bytes) -> bool:
    """Whether filters of both directions can hang on the qdisc of an RTM_NEWQDISC; else only those of ingress."""
    return attributes(payload[_TCMSG.size :]).get(_TCA_KIND) == b"clsact\0"


def remove_hooks(index: int) -> Message:
    """Remove that qdisc and all filters on it."""
    return Message(_DELQDISC, _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0))


def get_filters(index: int, direction: Direction) -> Message:
    """Dump the filters of a link in one direction; none where it has no hooks."""
    return Message(_GETTFILTER, _TCMSG.pack(0, index, 0, _HOOKS[direction], 0))


def redirect(
    payload: bytes, *, netns: Netns, dev: str, direction: Direction, devices: Mapping[int, str]
) -> Redirect | None:
    """Read an RTM_NEWTFILTER; None if it is not ours, or a part of ours that says not where it leads."""
    *_, info = _TCMSG.unpack_from(payload)
    found = attributes(payload[_TCMSG.size :])
    actions = _ACTIONS.get(found.get(_TCA_KIND, b"").rstrip(b"\0").decode(errors="replace"))
    if info != _INFO[direction] or actions is None:
        return None
    listed = attributes(attributes(found.get(_TCA_OPTIONS, b"")).get(actions, b""))
    if 1 not in listed:
        return None
    parms = attributes(attributes(listed[1]).get(_TCA_ACT_OPTIONS, b"")).get(_TCA_MIRRED_PARMS)
    to = None
    if parms is not None:
        *_, kind, index = _MIRRED.unpack_from(parms)
        to = devices.get(index) if kind == _TCA_EGRESS_REDIR else None
    return Redirect(netns=netns, dev=dev, direction=direction, to=to)


def add_redirect(item: Redirect, index: int, to: int, classifier: str) -> Message:
    """Lead packets to the link ``to``. ENOENT: this kernel has no such ``classifier``. EEXIST: it is there."""
    mirred = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, to)
    action = text(_TCA_ACT_KIND, "mirred") + nested(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, mirred))
    options = nested(_ACTIONS[classifier], nested(1, action))
    if classifier == U32:
        options += attribute(
            _TCA_U32_SEL, _U32_SEL.pack(_TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)
        )
    header = _TCMSG.pack(0, index, 0, _HOOKS[item.direction], _INFO[item.direction])
    return Message(_NEWTFILTER, header + text(_TCA_KIND, classifier) + nested(_TCA_OPTIONS, options), CREATE | EXCLUDE)


def remove_redirect(item: Redirect, index: int) -> Message:
    """Remove a filter of ours. ENOENT: there is none."""
    return Message(_DELTFILTER, _TCMSG.pack(0, index, 0, _HOOKS[item.direction], _INFO[item.direction]))


# --- news


def touches_ours(kind: int, flags: int, payload: bytes) -> bool:
    """Whether a message tells that a bucket of ours was taken away or changed, or a filter of ours taken away.

    Answers to ``get_tbf`` look like news of a change, but for the flag.
    """
    if kind not in {_NEWQDISC, _DELQDISC, _DELTFILTER}:
        return False
    _, _, handle, _, info = _TCMSG.unpack_from(payload)
    if kind == _NEWQDISC:
        return handle == _HANDLE and not flags & ECHO
    return handle in {_HANDLE, _CLSACT_HANDLE} if kind == _DELQDISC else info in _INFO.values()
