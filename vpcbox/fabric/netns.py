"""Network namespaces without child processes: made, entered for one synchronous block, left again.

`os.setns` and `os.unshare` exist from Python 3.12; until then the C library is asked.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
CLONE_NEWPID = 0x20000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own, as unshare says (section 2 of the manual)."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread to the namespace behind a file descriptor, as setns says (section 2 of the manual)."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount something on `target`, as mount says (section 2 of the manual)."""
    _checked(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        f"mount {target}",
    )


def create(path: Path) -> None:
    """Make a network namespace that lives as long as the mount at `path` does."""
    path.touch(exist_ok=False)
    failures: list[OSError] = []

    def in_a_thread() -> None:  # a thread that ends takes its namespace with it, the mount keeps it
        try:
            unshare(CLONE_NEWNET)
            mount("/proc/thread-self/ns/net", str(path), "", MS_BIND)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    if failures:
        path.unlink()
        raise failures[0]


def destroy(path: Path) -> None:
    """Take away the name of a network namespace; it ends with the last process and socket in it."""
    _checked(_libc.umount2(str(path).encode(), 2), f"umount {path}")  # 2: MNT_DETACH
    path.unlink()


@contextmanager
def entered(path: Path) -> Iterator[None]:
    """Be in a network namespace for one synchronous block: nothing may be awaited inside."""
    with open("/proc/thread-self/ns/net", "rb") as home, path.open("rb") as there:  # noqa: PTH123 - a pair
        setns(there.fileno(), CLONE_NEWNET)
        try:
            yield
        finally:
            try:
                setns(home.fileno(), CLONE_NEWNET)
            except OSError:
                os._exit(70)  # a loop that goes on in the wrong namespace does harm


def made_inside(path: Path, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket inside a network namespace; it belongs there for good."""
    with entered(path):
        return make()


def listener(path: Path, address: str, port: int) -> socket.socket:
    """Listen for TCP inside a network namespace."""

    def make() -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(128)
        listening.setblocking(False)
        return listening

    return made_inside(path, make)


def set_sysctls(path: Path, values: Mapping[str, int]) -> None:
    """Write sysctls of a network namespace, named by their path below /proc/sys/net."""
    with entered(path):
        for name, value in values.items():
            Path("/proc/sys/net", name).write_text(str(value))
