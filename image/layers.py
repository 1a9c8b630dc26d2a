"""Layers from folders, kept by a key of what went in: a layer whose inputs did not change is not made again."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from image.oci import Digest, Layer, hash_file

_UNUSED_SECONDS: Final = 86400.0


def key_of(parts: Iterable[bytes]) -> str:
    """A name for these inputs: equal only for the same parts in the same order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big"))
        total.update(part)
    return total.hexdigest()[:16]


def pack(root: Path, target: Path, *, mtime: int) -> None:
    """Everything under ``root`` as a tar that depends on names, contents and what may be run only (GNU tar).

    All is root's and everybody may read it, whatever this process's umask is.
    """
    subprocess.run(
        [
            *("tar", "--create", f"--file={target}", f"--directory={root}"),
            *("--format=gnu", "--sort=name", f"--mtime=@{mtime}", "--owner=0", "--group=0", "--numeric-owner"),
            *("--mode=u=rwX,go=rX", "."),
        ],
        check=True,
    )


def cached(cache: Path, name: str, key: str, *, comment: str, write: Callable[[Path], None]) -> Layer:
    """The layer ``name`` for ``key`` from ``cache``, made by ``write(target)`` when it is not there.

    Others of the same name are removed once nobody has used them for a day: several checkouts may share a cache.
    """
    directory = cache / f"{name}-{key}"
    if not (directory / "digest").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            write(made / "layer.tar")
            (made / "digest").write_text(hash_file(made / "layer.tar"), encoding="ascii")
            shutil.rmtree(directory, ignore_errors=True)
            made.rename(directory)
        for other in cache.glob(f"{name}-*"):
            if other != directory and time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    os.utime(directory)
    return Layer(directory / "layer.tar", Digest((directory / "digest").read_text(encoding="ascii")), comment)
