"""The upper layers: the locked environment, then eniway and its relay, for Debian's python3.11.

The image's interpreter looks in /usr/local/lib/python3.11/dist-packages, so nothing has to be told where the packages
are. Byte code is of the unchecked kind (PEP 552): valid whatever the files' times are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from image.layers import pack

PACKAGES: Final = "usr/local/lib/python3.11/dist-packages"
RELAY: Final = "usr/share/eniway/cni/eniway"
COMMAND: Final = "usr/bin/eniway"
LEFT_OUT: Final = ("vpcbox/",)
"""Of our own packages: the box is not for nodes."""
_LAUNCHER: Final = """#!/usr/bin/python3.11 -I
import sys

from eniway.cli.main import main

sys.exit(main())
"""


def write_environment(target: Path, *, lock: str, mtime: int) -> None:
    """The layer of the packages in ``lock``, the text of a requirements file, each checked against its hashes.

    They are chosen for this interpreter and this machine's libc, which have to suit the image: CPython 3.11, Debian 12.
    """
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        raise SystemExit(f"the image's Python is CPython 3.11: run image.build with it, not with {sys.version}")
    with tempfile.TemporaryDirectory(prefix="eniway-image-") as scratch:
        root, requirements = Path(scratch) / "root", Path(scratch) / "requirements.lock"
        packages = root / PACKAGES
        requirements.write_text(lock, encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", f"--requirement={requirements}", f"--target={packages}"),
                *(
                    "--require-hashes",
                    "--no-deps",
                    "--no-build-isolation",
                    "--use-pep517",
                    "--no-compile",
                    "--no-input",
                    "--quiet",
                ),
                *("--disable-pip-version-check", "--root-user-action=ignore"),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        shutil.rmtree(packages / "bin", ignore_errors=True)
        for volatile in ("direct_url.json", "REQUESTED", "RECORD"):
            for path in packages.glob(f"*.dist-info/{volatile}"):
                path.unlink()
        _compile(packages, as_seen=f"/{PACKAGES}")
        pack(root, target, mtime=mtime)


def write_eniway(target: Path, *, tree: Path, relay: Path, mtime: int) -> None:
    """The layer of eniway itself: the wheel of ``tree`` unpacked, the command, and the relay for /opt/cni/bin."""
    with tempfile.TemporaryDirectory(prefix="eniway-image-") as scratch:
        root = Path(scratch) / "root"
        packages = root / PACKAGES
        packages.mkdir(parents=True)
        with zipfile.ZipFile(build_wheel(tree, Path(scratch))) as wheel:
            wheel.extractall(packages, [name for name in wheel.namelist() if not name.startswith(LEFT_OUT)])
        _compile(packages, as_seen=f"/{PACKAGES}")
        command = root / COMMAND
        command.parent.mkdir(parents=True)
        command.write_text(_LAUNCHER, encoding="ascii")
        command.chmod(0o755)
        installed = root / RELAY
        installed.parent.mkdir(parents=True)
        shutil.copyfile(relay, installed)
        installed.chmod(0o755)
        pack(root, target, mtime=mtime)


def build_wheel(tree: Path, scratch: Path) -> Path:
    """The wheel of ``tree``, built from a copy: setuptools leaves files of earlier builds in the tree it builds."""
    copy, wheels = scratch / "tree", scratch / "wheels"
    for source in sources(tree):
        destination = copy / source.relative_to(tree)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)
    wheels.mkdir()
    built = subprocess.run(
        [sys.executable, "-c", "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])", str(wheels)],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if built.returncode:
        raise SystemExit(f"the wheel cannot be built:\n{built.stdout}{built.stderr}")
    (wheel,) = wheels.glob("*.whl")
    return wheel


def sources(tree: Path) -> list[Path]:
    """The files a wheel is made of: metadata and packages, nothing generated."""
    metadata = [tree / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")]
    packages = sorted(path.parent for path in tree.glob("*/__init__.py") if path.parent.name not in {"image", "tests"})
    files = [path for package in packages for path in package.rglob("*") if "__pycache__" not in path.parts]
    return sorted(path for path in [*metadata, *files] if path.is_file() and "_pb2.py" not in path.name)


def _compile(packages: Path, *, as_seen: str) -> None:
    made = subprocess.run(
        [
            *(sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(packages), "-p", as_seen, str(packages)),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise SystemExit(f"not Python {sys.version_info.major}.{sys.version_info.minor}:\n{made.stdout}{made.stderr}")
