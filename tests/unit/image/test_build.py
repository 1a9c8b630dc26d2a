import configparser
from pathlib import Path

import pytest

from image import build, python

TREE = Path(__file__).parents[3]


def test_the_image_is_named_by_the_version_of_the_distribution() -> None:
    """One version, written once, in setup.cfg."""
    metadata = configparser.ConfigParser()
    metadata.read(TREE / "setup.cfg")
    assert build.settings(TREE, mtime=0, machine="x86_64").name == f"eniway.io/eniway:{metadata['metadata']['version']}"


@pytest.mark.parametrize(
    ("environ", "folder"),
    [({"ENIWAY_CACHE": "/cache"}, Path("/cache/image")), ({}, Path.home() / ".cache/eniway/image")],
)
def test_layers_are_kept_outside_the_checkout(environ: dict[str, str], folder: Path) -> None:
    """A fresh clone finds the layers of the last one."""
    assert build.cache_folder(environ) == folder


def test_a_wheel_is_made_of_sources_only() -> None:
    """Metadata and packages go in; what was generated, tests and the builder itself do not."""
    names = {str(path.relative_to(TREE)) for path in python.sources(TREE)}
    assert {"setup.cfg", "pyproject.toml", "eniway/names.py", "deviceplugin/__init__.py", "cni/shim/eniway.c"} <= names
    assert not {
        name for name in names if "_pb2" in name or "__pycache__" in name or name.startswith(("tests/", "image/"))
    }
