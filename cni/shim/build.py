"""Compile the relay, static so that it runs on any node: ``python -m cni.shim.build OUT``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from eniway import names

SOURCE: Final = Path(__file__).with_name("eniway.c")


def build(out: Path, *, socket: str = names.CNI_SOCKET) -> None:
    """Write the relay to ``out``, for a daemon at ``socket``; with musl-gcc where there is one, else cc.

    FileNotFoundError without a compiler, CalledProcessError with its messages on standard error.
    """
    compiler = shutil.which("musl-gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("the relay needs a C compiler: expected musl-gcc (Debian: musl-tools) or cc in PATH")
    flags = ["-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, *flags, f'-DSOCKET="{socket}"', "-o", str(out), str(SOURCE)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
