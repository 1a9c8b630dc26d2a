"""Programs that speak with the kernel for us, where that is no part of a pod's start.

What they print has names and comments of others, in any bytes: what is not UTF-8 is kept as it is (surrogateescape,
PEP 383), and given back so.
"""

from __future__ import annotations

import subprocess
from typing import Final

from eniway.errors import KernelError

_AS_IS: Final = "surrogateescape"


class Refused(KernelError):
    """The program is missing, or said no."""


def run(*command: str, given: str = "") -> str:
    """What a program prints, in the calling thread's namespaces. Refused; KernelError: it took 30 s, or was killed.

    Line ends are as printed.
    """
    try:
        done = subprocess.run(command, input=given.encode(errors=_AS_IS), capture_output=True, check=True, timeout=30)
    except FileNotFoundError as error:
        raise Refused(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        kind = Refused if error.returncode > 0 else KernelError
        raise kind(f"{command[0]}: {error.stderr.decode(errors='backslashreplace').strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{command[0]} did not end within 30 s") from error
    return done.stdout.decode(errors=_AS_IS)
