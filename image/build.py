"""``python -m image.build``: build/eniway-image.tar, for ``ctr -n k8s.io image import``.

Three layers, each made only when its inputs changed: Debian, the locked environment, eniway. A change of code costs a
second or two.
"""

from __future__ import annotations

import argparse
import configparser
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cni.shim.build import build as build_relay
from image import debian, layers, oci, python
from image.lock import NOT_ON_NODES, needed, part, requirements_of

TREE: Final = Path(__file__).resolve().parent.parent
REPOSITORY: Final = "eniway.io/eniway"
EPOCH: Final = 1_735_689_600
"""2025-01-01: the time of every file in the image, unless SOURCE_DATE_EPOCH says another."""
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def version(tree: Path) -> str:
    """The version in setup.cfg."""
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(tree / "setup.cfg", encoding="utf-8")
    return metadata["metadata"]["version"]


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where layers are kept, outside the checkout."""
    return Path(environ.get("ENIWAY_CACHE") or Path.home() / ".cache/eniway") / "image"


def settings(tree: Path, *, mtime: int, machine: str) -> oci.Settings:
    """What the image is called and how it starts."""
    release = version(tree)
    return oci.Settings(
        name=f"{REPOSITORY}:{release}",
        architecture=ARCHITECTURES[machine],
        entrypoint=("/usr/bin/eniway",),
        environment={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        labels={"org.opencontainers.image.title": "eniway", "org.opencontainers.image.version": release},
        created=mtime,
    )


def build(tree: Path, target: Path, *, cache: Path, mtime: int, say: Callable[[str], None]) -> None:
    """Write the image of ``tree`` to ``target``, and say what came out where something did."""
    started = time.monotonic()
    kind = [platform.machine().encode(), str(mtime).encode(), Path(layers.__file__).read_bytes()]
    names = needed("eniway", without=NOT_ON_NODES, requires=requirements_of)
    lock = part((tree / "requirements.lock").read_text(encoding="utf-8"), names)

    def told(what: str, write: Callable[[Path], None]) -> Callable[[Path], None]:
        def run(path: Path) -> None:
            say(what)
            write(path)

        return run

    base = layers.cached(
        cache,
        "debian",
        layers.key_of([*kind, *debian.inputs()]),
        comment=f"Debian {debian.SUITE}: {' '.join(debian.PACKAGES)}",
        write=told("a Debian 12 root (about a minute)", lambda path: debian.write(path, mtime=mtime)),
    )
    environment = layers.cached(
        cache,
        "environment",
        layers.key_of([*kind, Path(python.__file__).read_bytes(), lock.encode()]),
        comment="the part of requirements.lock that nodes need",
        write=told(
            "the locked environment (half a minute)",
            lambda path: python.write_environment(path, lock=lock, mtime=mtime),
        ),
    )
    program = target.parent / "cni" / "eniway"
    build_relay(program)
    files = python.sources(tree)
    code = layers.cached(
        cache,
        "eniway",
        layers.key_of(
            [*kind, Path(python.__file__).read_bytes(), program.read_bytes()]
            + [part for path in files for part in (str(path.relative_to(tree)).encode(), path.read_bytes())]
        ),
        comment=f"eniway {version(tree)}",
        write=told("eniway", lambda path: python.write_eniway(path, tree=tree, relay=program, mtime=mtime)),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = settings(tree, mtime=mtime, machine=platform.machine())
    digest, written = oci.write(target, wanted, [base, environment, code])
    if written:
        mebibytes, seconds = target.stat().st_size >> 20, time.monotonic() - started
        say(f"{wanted.name} {digest[:19]} {mebibytes} MiB in {seconds:.1f} s: {target}")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="image.build", description="Build the container image of eniway.")
    parser.add_argument("--output", type=Path, default=TREE / "build/eniway-image.tar", help="the archive to write")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("a Debian root with its owners can be made by root only")
    mtime = int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)
    os.umask(0o022)  # of what Debian's packages write when they are set up

    def say(what: str) -> None:
        sys.stdout.write(f"image: {what}\n")
        sys.stdout.flush()

    build(TREE, options.output.resolve(), cache=cache_folder(os.environ), mtime=mtime, say=say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
