"""A netlink socket that asks the running kernel, which needs no rights to answer."""

from __future__ import annotations

import socket

from datapath import netns


def own_namespace() -> socket.socket:
    """In the namespace of the test itself; for questions only."""
    return netns.netlink_socket(socket.NETLINK_ROUTE)
