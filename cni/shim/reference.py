"""What the relay does, in Python: the specification of ``eniway.c``; one conformance suite runs both.

With the daemon away ADD, CHECK and GC fail with code 11, so that the runtime tries again; DEL succeeds, for the
daemon's start-up sweep releases what it left; STATUS succeeds, for a failing STATUS makes the node NotReady and takes
its pods out of their Services.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from typing import Final, NoReturn

SOCKET: Final = "/run/eniway/cni.sock"
LIMITS: Final = {"ADD": 220, "DEL": 60, "STATUS": 1}
"""Seconds that a verb may take as a whole; other verbs 10. kubelet gives a sandbox 240 s."""
MOST: Final = 4 << 20
VERSIONS: Final = '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'


def _say(status: int, text: str) -> NoReturn:
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(status)


def _fail(code: int, message: str) -> NoReturn:
    _say(1, f'{{"cniVersion":"1.0.0","code":{code},"msg":"{message}"}}\n')


def _away(verb: bytes) -> NoReturn:
    if verb in {b"DEL", b"STATUS"}:
        _say(0, "")
    _fail(11, "eniway's node daemon does not answer, try again later")


def relay(path: str = SOCKET) -> NoReturn:
    """Answer as the daemon at ``path`` does, or as the table above says."""
    verb = os.environb.get(b"CNI_COMMAND", b"")
    if verb == b"VERSION":
        _say(0, VERSIONS)
    signal.signal(signal.SIGALRM, lambda _number, _frame: _away(verb))
    signal.alarm(LIMITS.get(verb.decode(errors="replace"), 10))

    try:
        config = sys.stdin.buffer.read(MOST)
    except OSError:
        _fail(5, "the network configuration on stdin cannot be read")
    if len(config) == MOST:
        _fail(7, "the network configuration on stdin is too long: expected less than 4 MiB")
    variables = b"".join(key + b"=" + value + b"\0" for key, value in os.environb.items() if key.startswith(b"CNI_"))
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(b"EW\1\0" + struct.pack(">II", len(variables), len(config)) + variables + config)
            stream = connection.makefile("rb")
            header = stream.read(8)
            if len(header) != 8 or header[:3] != b"EW\1":
                _away(verb)
            length = int.from_bytes(header[4:], "big")
            answer = stream.read(length) if length <= MOST else b""
    except OSError:
        _away(verb)
    if len(answer) != length:
        _away(verb)
    signal.alarm(0)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    os._exit(header[3])


if __name__ == "__main__":
    relay()
