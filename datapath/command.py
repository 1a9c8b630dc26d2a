"""Programs that speak with the kernel for us, where that is no part of a pod's start."""

from __future__ import annotations

import subprocess

from eniway.errors import KernelError


def run(*command: str, given: str = "") -> str:
    """What a program prints, in the calling thread's namespaces. KernelError: it is missing, failed or took 30 s."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=30)
    except FileNotFoundError as error:
        raise KernelError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise KernelError(f"{command[0]}: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{command[0]} did not end within 30 s") from error
    return done.stdout
