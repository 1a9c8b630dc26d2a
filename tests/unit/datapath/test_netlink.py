"""Netlink's framing, without a kernel: what is packed can be read, what is malformed ends the reading."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapath.netlink import (
    Netlink,
    NetlinkError,
    _refusal,
    attribute,
    attributes,
    each_attribute,
    each_message,
    nested,
    number,
    text,
)
from datapath.rtnetlink import get_link
from tests.unit.datapath.kernel import own_namespace

kinds = st.integers(1, 0x3FFF)


@given(st.lists(st.tuples(kinds, st.binary(max_size=20))))
def test_attributes_come_back_in_order(given_: list[tuple[int, bytes]]) -> None:
    """Whatever their length: each is padded to four bytes."""
    packed = b"".join(attribute(kind, data) for kind, data in given_)
    assert len(packed) % 4 == 0
    assert list(each_attribute(packed)) == given_


def test_nested_attributes_come_back() -> None:
    """The flags of nesting and byte order are no part of the type."""
    packed = nested(18, text(1, "veth"), nested(2, number(4, 1500)))
    inner = attributes(attributes(packed)[18])
    assert inner[1] == b"veth\0"
    assert attributes(inner[2]) == {4: struct.pack("=I", 1500)}


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_hang_or_fail(data: bytes) -> None:
    """A truncated or zero length ends it."""
    list(each_attribute(data))
    list(each_message(data))


def test_a_refusal_carries_the_kernels_words() -> None:
    """errno, and the extended acknowledgement where there is one."""
    error = struct.pack("=i", -errno.EINVAL) + bytes(16)
    plain, said = _refusal(0, error), _refusal(0x300, error + text(1, "Nexthop has invalid gateway"))
    assert plain is not None
    assert (plain.errno, plain.strerror) == (errno.EINVAL, "Invalid argument")
    assert said is not None
    assert said.strerror == "Invalid argument: Nexthop has invalid gateway"
    assert _refusal(0, bytes(20)) is None


def test_the_first_refusal_of_several_messages_is_told_and_the_rest_is_read() -> None:
    """The socket stays in step: the next question gets its own answer."""
    with own_namespace() as sock, Netlink(sock) as wire:
        with pytest.raises(NetlinkError) as raised:
            wire.call(get_link("no-such"), get_link("lo"), get_link("nor-this"))
        assert raised.value.errno == errno.ENODEV
        (payload,) = wire.call(get_link("lo"))
        assert b"lo\0" in payload
