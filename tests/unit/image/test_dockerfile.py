"""The Dockerfile makes the image that image.build makes."""

import re
from pathlib import Path

from image import build, debian

TREE = Path(__file__).parents[3]
TEXT = (TREE / "Dockerfile").read_text()
LAST = TEXT[TEXT.rindex("FROM ") :]


def test_it_has_the_same_packages() -> None:
    """On top of a Debian of the same release; the official one has merged /usr by itself."""
    installed = re.search(r"--no-install-recommends \\\n +([^&]+) &&", LAST)
    assert installed is not None
    assert set(installed[1].split()) == set(debian.PACKAGES) - {"usr-is-merged"}
    assert LAST.startswith(f"FROM debian:{debian.SUITE}-slim\n")


def test_it_starts_the_same() -> None:
    """Entry point, environment and labels."""
    settings = build.settings(TREE, mtime=0, machine="x86_64")
    assert f'ENTRYPOINT ["{settings.entrypoint[0]}"]' in LAST
    assert all(f"{name}={value}" in LAST for name, value in settings.environment.items() if name != "PATH")
    assert all(f"{name}={value}" in LAST for name, value in settings.labels.items())
    assert f"{settings.name.rpartition(':')[2]}" in TEXT.partition("FROM")[0]
