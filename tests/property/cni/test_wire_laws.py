from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cni import wire
from cni.wire import Reply, Request

NAMES = st.from_regex(r"CNI_[A-Z_]{1,10}", fullmatch=True)
VALUES = st.binary(max_size=50).map(lambda value: value.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@given(st.dictionaries(NAMES, VALUES, max_size=8), st.binary(max_size=2000))
def test_a_request_is_read_as_it_was_written(environment: dict[str, str], config: bytes) -> None:
    """Whatever bytes variables and configuration hold."""

    async def through() -> Request:
        reader = asyncio.StreamReader()
        reader.feed_data(wire.request_bytes(Request(environment, config)))
        reader.feed_eof()
        return await wire.read_request(reader)

    assert asyncio.run(through()) == Request(environment, config)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_incomplete_and_nothing_else(noise: bytes) -> None:
    """No bytes make the reader fail in another way."""

    async def through() -> Request | None:
        reader = asyncio.StreamReader()
        reader.feed_data(noise)
        reader.feed_eof()
        try:
            return await wire.read_request(reader)
        except (wire.BadRequest, asyncio.IncompleteReadError):
            return None

    request = asyncio.run(through())
    assert request is None or noise.startswith(b"EW\x01")


@given(st.integers(0, 255), st.binary(max_size=300))
def test_a_reply_carries_status_and_length(status: int, output: bytes) -> None:
    """As both relays read it."""
    data = wire.reply_bytes(Reply(status, output))
    assert data == b"EW\x01" + bytes([status]) + len(output).to_bytes(4, "big") + output
