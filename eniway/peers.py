"""Who is at the other end of a unix socket."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


def is_own_user(connection: socket.socket) -> tuple[bool, int]:
    """Whether the other end runs as this process's own user, which is root for the node daemon; and its uid."""
    _pid, uid, _gid = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return uid == os.geteuid(), uid
