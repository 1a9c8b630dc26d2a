"""Programs print what others wrote."""

from __future__ import annotations

import pytest

from datapath import ipset
from datapath.command import run
from eniway.errors import KernelError

BYTES = bytes(range(1, 256))


def test_whatever_bytes_a_program_prints_are_read_and_given_back_as_they_were() -> None:
    """A comment of a rule, say."""
    text = run("sh", "-c", "printf '%b' '\\0377\\0351\\0015\\0012'")
    assert text.encode(errors="surrogateescape") == b"\xff\xe9\r\n"
    whole = BYTES.decode(errors="surrogateescape")
    assert run("cat", given=whole) == whole


def test_whatever_bytes_a_program_complains_in_its_error_can_be_told() -> None:
    """In UTF-8."""
    with pytest.raises(KernelError, match=r"sh: \\xff no") as raised:
        run("sh", "-c", "printf '\\377 no' >&2; exit 1")
    assert str(raised.value).encode()


def test_a_set_of_whatever_name_is_told_and_taken_away_by_that_name() -> None:
    """The name in a dump is the name in what is sent."""
    payload = ipset.destroy(BYTES[-20:].decode(errors="surrogateescape")).payload
    name = ipset.set_name(payload)
    assert ipset.destroy(name).payload == payload
    assert BYTES[-20:] in payload
    assert ipset.shown(name).encode()
