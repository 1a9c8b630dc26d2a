"""``python -m build_support.manifests``: manifests/install.yaml, manifests/base in one file, by the real kustomize.

For those who apply one file; a cluster of one's own is better an overlay (docs/install.md).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

TREE: Final = Path(__file__).resolve().parent.parent
BASE: Final = TREE / "manifests/base"
TARGET: Final = TREE / "manifests/install.yaml"
HEAD: Final = """\
# eniway in one file, made from manifests/base by `make manifests`: edit there. Before it is applied, put your own
# values into the ConfigMap eniway-config below (each REPLACE) and create the Secret eniway-credentials: docs/install.md
"""


def rendered(kubectl: str = "kubectl") -> str:
    """The file as it has to be; CalledProcessError with kustomize's own words on standard error."""
    done = subprocess.run([kubectl, "kustomize", str(BASE)], check=True, stdout=subprocess.PIPE, text=True)
    return HEAD + done.stdout


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
