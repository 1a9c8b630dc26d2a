"""Tells that something in a directory was made, renamed or removed: inotify(7) on the event loop.

It only wakes; who is woken looks for himself, and looks now and then anyway. So an event lost to a full queue or to a
directory that was removed and made again costs time, never truth.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_ONLYDIR: Final = 0x01000000
_MASK: Final = _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_ONLYDIR

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class DirectoryWatch:
    """While in its context, calls ``changed`` on the event loop after each batch of events in ``directory``."""

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        self._directory = directory
        self._changed = changed
        self._fd = -1

    async def __aenter__(self) -> Self:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            # No instance left for this user (fs.inotify.max_user_instances): the caller's own looking has to do.
            return self
        asyncio.get_running_loop().add_reader(self._fd, self._drain)
        self.arm()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def arm(self) -> bool:
        """Watch the directory as it is now, maybe another one of the same name; False while there is none.

        Cheap and idempotent: the kernel returns the same watch for the same inode.
        """
        return self._fd >= 0 and _libc.inotify_add_watch(self._fd, os.fsencode(self._directory), _MASK) >= 0

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 65536):
                pass
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EINTR}:
                raise
        self._changed()
