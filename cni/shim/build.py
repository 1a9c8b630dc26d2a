"""Compile the relay, static so that it runs on any node: ``python -m cni.shim.build OUT [amd64|arm64]``."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from eniway import names

SOURCE: Final = Path(__file__).with_name("eniway.c")
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""GOARCH by ``uname -m``."""
CROSS: Final = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""Prefix of Debian's cross compilers; its glibc for them is the only one that comes along, so theirs is linked."""


def compiler(architecture: str, *, machine: str) -> str:
    """The compiler for ``architecture`` on a ``machine`` (``uname -m``); FileNotFoundError names the package."""
    if ARCHITECTURES.get(machine) == architecture:
        found = shutil.which("musl-gcc") or shutil.which("cc")
        wanted = "musl-gcc (Debian: musl-tools) or cc"
    else:
        prefix = CROSS[architecture]
        found = shutil.which(f"{prefix}-gcc")
        wanted = f"{prefix}-gcc (Debian: gcc-{prefix.replace('_', '-')} and libc6-dev-{architecture}-cross)"
    if found is None:
        raise FileNotFoundError(f"the relay for {architecture} needs a C compiler: expected {wanted} in PATH")
    return found


def build(out: Path, *, architecture: str | None = None, socket: str = names.CNI_SOCKET) -> None:
    """Write the relay for ``architecture`` (this machine's) to ``out``, for a daemon at ``socket``.

    FileNotFoundError without a compiler, CalledProcessError with its messages on standard error.
    """
    machine = platform.machine()
    chosen = compiler(architecture or ARCHITECTURES.get(machine, machine), machine=machine)
    flags = ["-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([chosen, *flags, f'-DSOCKET="{socket}"', "-o", str(out), str(SOURCE)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), architecture=sys.argv[2] if sys.argv[2:] else None)
