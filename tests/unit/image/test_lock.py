from collections.abc import Mapping
from pathlib import Path

import pytest

from image import lock

LOCK = """\
a==1 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
B_c==2 ; python_version >= '3' \\
    --hash=sha256:bb
d==3 \\
    --hash=sha256:dd
"""
REQUIRES: Mapping[str, list[str]] = {
    "app": ["a>=1", "B.C", "d; extra == 'more'", "win; sys_platform == 'win32'"],
    "a": ["left-out", "b-c[fast]>1"],
    "b-c": ["a"],
    "left-out": ["d"],
}


def test_what_is_needed_is_followed_to_its_end() -> None:
    """Circles end, extras and other systems do not count, and nothing comes by way of what is left out."""
    found = lock.needed("app", without={"left-out"}, requires=lambda name: REQUIRES.get(name, []))
    assert found == {"a", "b-c"}


def test_a_part_of_a_lock_keeps_versions_and_hashes() -> None:
    """Whole entries, as they stand."""
    assert lock.part(LOCK, {"a", "b-c"}) == LOCK[: LOCK.index("d==3")]


def test_a_package_that_is_not_locked_is_named() -> None:
    """A lock behind setup.cfg would otherwise give an image that fails on its first node."""
    with pytest.raises(ValueError, match="not in the lock: e"):
        lock.part(LOCK, {"a", "e"})


def test_the_lock_holds_what_nodes_need() -> None:
    """The lock and setup.cfg agree."""
    names = lock.needed("eniway", without=lock.NOT_ON_NODES, requires=lock.requirements_of)
    text = (Path(__file__).parents[3] / "requirements.lock").read_text()
    assert "\ngrpcio==" in lock.part(text, names)
    assert "\nkubernetes==" not in lock.part(text, names)
