"""Connections that the kernel knows (uapi/linux/netfilter/nfnetlink_conntrack.h), forgotten by a pod's address.

What is known passes NetworkPolicy without being judged again, so it must not outlive the pod: the next one of its
address would be reached by it. One message makes the kernel go through its table once; the filter is of Linux 5.8.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

from datapath.netlink import Message, Netlink, NetlinkError, attribute, nested, number

_DELETE: Final = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE."""
_NFGEN: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _IP_V4_SRC = 1, 1
_ONLY_THE_SOURCE: Final = 1
"""CTA_FILTER_FLAG(CTA_IP_SRC)."""
_CANNOT: Final = (errno.EINVAL, errno.EOPNOTSUPP)
"""Before Linux 5.8, which takes the filter for a tuple that is not whole; without nf_conntrack_netlink."""


def forget(sets: Netlink, addresses: Iterable[IPv4Address]) -> None:
    """Forget each connection that a pod of ``addresses`` began (its source), or answered (the source of replies).

    What translates the other end, as kube-proxy and SNAT do, leaves these two as they are. Nothing where the kernel
    cannot do it; NetlinkError for any other refusal.
    """
    for address in addresses:
        try:
            sets.call(_from(_TUPLE_ORIG, address), _from(_TUPLE_REPLY, address))
        except NetlinkError as error:
            if error.errno not in _CANNOT:
                raise


def _from(which: int, address: IPv4Address) -> Message:
    source = nested(which, nested(_TUPLE_IP, attribute(_IP_V4_SRC, address.packed)))
    # CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS are numbered as the tuples are.
    return Message(_DELETE, _NFGEN + source + nested(_FILTER, number(which, _ONLY_THE_SOURCE)))
