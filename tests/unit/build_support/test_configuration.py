"""The page of configuration keys is the one that eniway/config.py gives."""

import msgspec
import pytest

from build_support import configuration
from eniway.config import NodeConfig


def test_the_page_is_up_to_date() -> None:
    """`make manifests` writes it again."""
    assert configuration.PAGE.read_text() == configuration.page()


def test_every_key_is_explained_once() -> None:
    """Sections and what is in them, by their paths."""
    keys = [key for key, *_ in configuration.rows(NodeConfig)]
    assert len(keys) == len(set(keys))
    assert {f"`{name}`" for name in NodeConfig.__struct_fields__} <= set(keys)


class Silent(msgspec.Struct):
    """A section that explains nothing."""

    key: int


def test_a_key_without_a_sentence_is_refused() -> None:
    """By its name."""
    with pytest.raises(ValueError, match=r"Silent\.key: expected a sentence"):
        list(configuration.rows(Silent))
