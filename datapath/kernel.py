"""The way into the kernel for one piece of work: sockets in the node's namespace and in that of a pod, if any."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from datapath import netns, rtnetlink
from datapath.netlink import NETLINK_NETFILTER, Netlink
from datapath.state import Netns

_MISSING: Final = {
    errno.ENOENT: "is gone",
    errno.ENOTDIR: "is gone",
    # What setns(2) says of a plain file: nothing is mounted on it any more, or not in this mount namespace.
    errno.EINVAL: "is gone, or not mounted here: its directory needs mount propagation from the host",
}


@dataclass(frozen=True, slots=True)
class Home:
    """Sockets in the node's namespace, and its descriptor."""

    routes: Netlink
    sets: Netlink
    netns: int

    @classmethod
    def open(cls) -> Home:
        """In the calling thread's namespace."""
        with ExitStack() as stack:
            descriptor = os.open(netns.CURRENT, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            routes = stack.enter_context(Netlink(netns.netlink_socket(socket.NETLINK_ROUTE)))
            sets = stack.enter_context(Netlink(netns.netlink_socket(NETLINK_NETFILTER)))
            stack.pop_all()
        return cls(routes, sets, descriptor)

    def close(self) -> None:
        """Let go of all."""
        self.routes.close()
        self.sets.close()
        os.close(self.netns)


_kept: Final = threading.local()


def keep() -> Home:
    """Let all work of the calling thread, which never leaves its namespace, share its sockets; a tenth of an ADD.

    Whoever ends the thread closes them.
    """
    home = _kept.home = Home.open()
    return home


@dataclass
class Kernel:
    """Sockets by namespace, and the ifindex of each device met so far."""

    routes: dict[Netns, Netlink]
    """rtnetlink; no entry for the pod when its namespace is gone."""
    sets: Netlink
    """nfnetlink in the node's namespace."""
    netns: dict[Netns, int]
    """Descriptors of the namespaces."""
    missing: str = ""
    """What there is to say of the pod's namespace, if it could not be entered."""
    indexes: dict[tuple[Netns, str], int] = field(default_factory=dict)

    @property
    def has_pod(self) -> bool:
        """Whether the pod's namespace could be entered."""
        return Netns.POD in self.routes

    def index(self, where: Netns, name: str) -> int:
        """The ifindex of a device. NetlinkError ENODEV: there is none of that name."""
        known = self.indexes.get((where, name))
        if known is None:
            (payload,) = self.routes[where].call(rtnetlink.get_link(name))
            known = self.indexes[where, name] = rtnetlink.link(payload).index
        return known


@contextmanager
def opened(pod: str = "") -> Iterator[Kernel]:
    """Sockets in the calling thread's namespace and in that at the path ``pod``; without these where it is gone."""
    with ExitStack() as stack:
        home: Home | None = getattr(_kept, "home", None)
        if home is None:
            home = Home.open()
            stack.callback(home.close)
        kernel = Kernel(routes={Netns.NODE: home.routes}, sets=home.sets, netns={Netns.NODE: home.netns})
        if pod:
            try:
                inside = stack.enter_context(netns.opened(pod))
                if os.path.samestat(os.fstat(inside), os.fstat(home.netns)):
                    kernel.missing = "is the node's own"
                else:
                    wire = Netlink(netns.netlink_socket(socket.NETLINK_ROUTE, netns=inside))
                    kernel.routes[Netns.POD] = stack.enter_context(wire)
                    kernel.netns[Netns.POD] = inside
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                kernel.missing = _MISSING[error.errno]
        yield kernel
