import os
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image import layers, oci


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_keys_are_equal_only_for_the_same_parts(left: list[bytes], right: list[bytes]) -> None:
    """Moving a byte from one part to the next is another key."""
    assert (layers.key_of(left) == layers.key_of(right)) == (left == right)


def tree(root: Path, *, reverse: bool) -> Path:
    files = [("a/x", "one"), ("a/y", "two"), ("b", "three")]
    for name, text in reversed(files) if reverse else files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1, 1) if reverse else (2, 2))
    (root / "a/y").chmod(0o755)
    return root


def test_a_layer_does_not_depend_on_times_or_order(tmp_path: Path) -> None:
    """The same files made at another time in another order are the same layer."""
    made = []
    for reverse in (False, True):
        target = tmp_path / f"{reverse}.tar"
        layers.pack(tree(tmp_path / str(reverse), reverse=reverse), target, mtime=1000)
        made.append(target)
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as opened:
        assert {entry.mtime for entry in opened.getmembers()} == {1000}
        assert opened.getmember("./a/y").mode == 0o755


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everybody_may_read_a_layer(tmp_path: Path, umask: int) -> None:
    """The operator is not root in its container; the umask is that of whoever builds."""
    before = os.umask(umask)
    try:
        layers.pack(tree(tmp_path / "root", reverse=False), tmp_path / "layer.tar", mtime=0)
    finally:
        os.umask(before)
    with tarfile.open(tmp_path / "layer.tar") as opened:
        modes = {entry.name: entry.mode for entry in opened.getmembers()}
        assert {(entry.uid, entry.gid) for entry in opened.getmembers()} == {(0, 0)}
    assert modes == {".": 0o755, "./a": 0o755, "./a/x": 0o644, "./a/y": 0o755, "./b": 0o644}


def test_a_layer_is_made_once_for_a_key(tmp_path: Path) -> None:
    """The second time nothing is written; those of other keys go once nobody has used them for a day."""
    calls: list[str] = []

    def layer(key: str) -> oci.Layer:
        def write(target: Path) -> None:
            calls.append(key)
            target.write_text(key)

        return layers.cached(tmp_path / "cache", "name", key, comment="", write=write)

    first = layer("one")
    assert layer("one") == first
    assert first.digest == oci.digest_of(b"one")
    assert layer("two").path.read_text() == "two"
    assert first.path.read_text() == "one"
    assert calls == ["one", "two"]
    yesterday = time.time() - 90000
    os.utime(first.path.parent, (yesterday, yesterday))
    layer("three")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"name-two", "name-three"}


def test_a_failed_layer_leaves_nothing(tmp_path: Path) -> None:
    """A half-written layer is never taken for a whole one."""

    def write(target: Path) -> None:
        target.write_text("half")
        raise SystemExit("no")

    with pytest.raises(SystemExit):
        layers.cached(tmp_path, "name", "key", comment="", write=write)
    assert list(tmp_path.iterdir()) == []
