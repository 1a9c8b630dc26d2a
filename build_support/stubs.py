"""Generate Python stubs from the trimmed Kubernetes .proto files beside them.

Generated modules check that the runtime they meet is not older than their generator, so they are made at build time by
the grpcio-tools of the same lock file and never committed. protoc runs from the repository root: the import path of a
stub is then its module path, and two files called ``api.proto`` do not meet in the descriptor pool.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent


def generate(root: Path = ROOT) -> list[Path]:
    """Write ``*_pb2.py`` and ``*_pb2.pyi`` beside every .proto under ``deviceplugin/``; return the sources.

    Services are not generated: deviceplugin registers its handlers by hand, which keeps them typed.
    """
    from grpc_tools import protoc  # noqa: PLC0415 -- a build requirement, absent when setuptools only reads metadata

    sources = sorted((root / "deviceplugin").rglob("*.proto"))
    relative = [str(source.relative_to(root)) for source in sources]
    if relative and protoc.main(["protoc", f"-I{root}", f"--python_out={root}", f"--pyi_out={root}", *relative]) != 0:
        raise SystemExit("protoc failed on " + ", ".join(relative))
    return sources


class BuildPy(build_py):  # type: ignore[misc]  # setuptools carries no types here
    """``build_py`` that generates the stubs first."""

    def run(self) -> None:
        """Generate, then build as usual."""
        generate()
        super().run()


if __name__ == "__main__":
    sys.stdout.write("".join(f"{source}\n" for source in generate()))
