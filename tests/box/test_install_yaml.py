"""manifests/install.yaml and the overlays, by the real kustomize."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from build_support import manifests
from eniway import config
from vpcbox.cluster.components import ensure

OVERLAYS = sorted(path.parent for path in (manifests.TREE / "manifests/overlays").glob("*/kustomization.yaml"))


@pytest.fixture(scope="module")
def kubectl() -> str:
    """The real one, built once."""
    return str(ensure(["kubernetes"]).path("kubectl"))


def test_install_yaml_is_up_to_date(kubectl: str) -> None:
    """`make manifests` writes it again."""
    assert manifests.TARGET.read_text() == manifests.rendered(kubectl)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_is_the_base_with_another_configuration(kubectl: str, overlay: Path) -> None:
    """What it adds or changes is one ConfigMap, which the daemon takes, and what else it names as a whole."""
    built, base = _objects(kubectl, overlay), _objects(kubectl, manifests.TREE / "manifests/base")
    named = yaml.safe_load((overlay / "kustomization.yaml").read_text())["resources"]
    for beside in named:
        if beside != "../../base":
            base |= _objects(kubectl, overlay / beside)
    differ = {key for key in base.keys() | built.keys() if base.get(key) != built.get(key)}
    assert differ <= {("ConfigMap", "eniway-config")}
    config.parse(built["ConfigMap", "eniway-config"]["data"]["config.yaml"], source=overlay.name)


def _objects(kubectl: str, directory: Path) -> dict[tuple[str, str], Any]:
    done = subprocess.run([kubectl, "kustomize", str(directory)], check=True, capture_output=True, text=True)
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)}
