"""Keys from files."""

from pathlib import Path

import pytest

from eniallocator.cloud.credentials import KeyFiles
from eniway.errors import BadConfig


def test_a_changed_file_is_a_changed_key(tmp_path: Path) -> None:
    """Read as they stand; line ends do not belong to keys."""
    (tmp_path / "access_key_id").write_text("LTAI1\n")
    (tmp_path / "access_key_secret").write_text("one\n")
    files = KeyFiles(tmp_path)
    assert (files.read().key_id, files.read().secret) == ("LTAI1", "one")
    (tmp_path / "access_key_secret").write_text("two")
    assert files.read().secret == "two"


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    """Whoever logs a key logs its id."""
    (tmp_path / "access_key_id").write_text("LTAI1")
    (tmp_path / "access_key_secret").write_text("top-secret")
    assert "top-secret" not in repr(KeyFiles(tmp_path).read())


@pytest.mark.parametrize(("missing", "content"), [("access_key_id", None), ("access_key_secret", " \n")])
def test_a_missing_or_empty_file_is_named(tmp_path: Path, missing: str, content: str | None) -> None:
    """The error says which, and what was expected."""
    for name in ("access_key_id", "access_key_secret"):
        (tmp_path / name).write_text("x")
    if content is None:
        (tmp_path / missing).unlink()
    else:
        (tmp_path / missing).write_text(content)
    with pytest.raises(BadConfig, match=rf"{missing}: .*expected"):
        KeyFiles(tmp_path).read()
