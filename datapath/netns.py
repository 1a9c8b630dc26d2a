"""Network namespaces without a fork: enter by setns(2), open a socket, come back. The socket stays where it was opened.

A namespace belongs to a thread (setns(2)); all of this is synchronous, so no other task runs in between.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CURRENT: Final = "/proc/thread-self/ns/net"
_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A file descriptor of the namespace at ``path``. FileNotFoundError where there is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def enter(descriptor: int) -> None:
    """Move the calling thread into a namespace, for good. OSError EINVAL: ``descriptor`` is of something else."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """The calling thread is in the namespace inside the block. No await in it.

    A thread that cannot come home would do a node's work in a pod: the process ends instead.
    """
    with opened(CURRENT) as home:
        enter(descriptor)
        try:
            yield
        finally:
            try:
                enter(home)
            except OSError as error:
                print(f"cannot leave a pod's network namespace: {error}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(70)


def netlink_socket(protocol: int, *, netns: int | None = None, groups: int = 0) -> socket.socket:
    """A bound netlink socket in the namespace of the descriptor ``netns`` (None: the thread's own).

    A datagram socket: asyncio takes no raw ones.
    """
    if netns is None:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
    else:
        with entered(netns):
            made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
    try:
        made.bind((0, groups))
    except OSError:
        made.close()
        raise
    return made
