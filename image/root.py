"""``python -m image.root FOLDER``: the image's two upper layers unpacked into a folder, for the Dockerfile."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from cni.shim.build import build as build_relay
from image import python
from image.build import EPOCH, TREE
from image.lock import NOT_ON_NODES, needed, part, requirements_of


def main(folder: Path) -> None:
    """What ``image.build`` puts above Debian, for this machine's architecture."""
    names = needed("eniway", without=NOT_ON_NODES, requires=requirements_of)
    lock = part((TREE / "requirements.lock").read_text(encoding="utf-8"), names)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        relay, layers = Path(scratch) / "eniway", [Path(scratch) / name for name in ("environment.tar", "eniway.tar")]
        build_relay(relay)
        python.write_environment(layers[0], lock=lock, mtime=EPOCH)
        python.write_eniway(layers[1], tree=TREE, relay=relay, mtime=EPOCH)
        for layer in layers:
            subprocess.run(["tar", "--extract", f"--file={layer}", f"--directory={folder}"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
