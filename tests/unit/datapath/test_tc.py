"""Messages of traffic control: what is written for an item reads back as the item, whichever filter the kernel has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from datapath import tc
from datapath.netlink import ECHO
from datapath.plan.bandwidth import bucket, direction
from datapath.state import Direction, Netns, Redirect, Tbf
from eniway import names

BUCKET = Tbf(netns=Netns.NODE, dev="eniw1", rate=1_250_000, burst=5000, limit=20_140)
LEAD = Redirect(netns=Netns.POD, dev="eth0", direction=Direction.EGRESS, to=names.IFB_OUT)


@pytest.mark.parametrize("rate", [125, 1_250_000, 2**32 - 1, 2**32, 125 * 10**12])
def test_buckets(rate: int) -> None:
    """Rates beyond 32 bits have an attribute of their own; a burst is off by a tick at most."""
    item = replace(BUCKET, rate=rate, burst=min(max(5000, rate // 1000), 1_000_000))
    found = tc.tbf(tc.set_tbf(item, 7).payload, netns=Netns.NODE, dev="eniw1")
    assert found is not None
    assert abs(found.burst - item.burst) <= 64 * rate // 10**9 + 1
    assert replace(found, burst=item.burst) == item


def test_a_bucket_of_somebody_else_is_not_ours() -> None:
    """Another handle, or below another qdisc."""
    payload = tc.set_tbf(BUCKET, 7).payload
    for at in (8, 12):
        assert tc.tbf(payload[:at] + b"\1\0\0\0" + payload[at + 4 :], netns=Netns.NODE, dev="eniw1") is None


@pytest.mark.parametrize("classifier", [tc.MATCHALL, tc.U32])
@pytest.mark.parametrize("way", Direction)
def test_redirections(classifier: str, way: Direction) -> None:
    """One that leads to no device of ours says so; of another preference it is not ours."""
    item = replace(LEAD, direction=way)
    payload = tc.add_redirect(item, 7, 9, classifier).payload

    def read(payload: bytes, devices: dict[int, str], of: Direction = way) -> Redirect | None:
        return tc.redirect(payload, netns=Netns.POD, dev="eth0", direction=of, devices=devices)

    assert read(payload, {9: names.IFB_OUT}) == item
    assert read(payload, {8: names.IFB_OUT}) == replace(item, to=None)
    (other,) = set(Direction) - {way}
    assert read(payload, {9: names.IFB_OUT}, other) is None
    assert read(payload[:18] + b"\1\0" + payload[20:], {9: names.IFB_OUT}) is None


def test_news_are_of_ours_and_no_answers() -> None:
    """What was asked for looks like a change but for its flag; a filter that comes is no news, one that goes is."""
    bucket_, lead = tc.set_tbf(BUCKET, 7), tc.remove_redirect(LEAD, 7)
    assert tc.touches_ours(bucket_.type, 0, bucket_.payload)
    assert not tc.touches_ours(bucket_.type, ECHO, bucket_.payload)
    assert tc.touches_ours(tc.remove_tbf(7).type, 0, tc.remove_tbf(7).payload)
    assert tc.touches_ours(tc.remove_hooks(7).type, 0, tc.remove_hooks(7).payload)
    assert tc.touches_ours(lead.type, 0, lead.payload)
    added = tc.add_redirect(LEAD, 7, 9, tc.U32)
    assert not tc.touches_ours(added.type, 0, added.payload)
    other = tc.set_leaf(7, "pfifo")
    assert not tc.touches_ours(other.type, 0, other.payload)


@pytest.mark.parametrize(
    ("bits", "burst", "wait"),
    [
        (1_000_000, 3 * 1514, 10 * 1514),
        (10_000_000, 5000, 10 * 1514),
        (100_000_000, 50_000, 62_500),
        (129_999_999, 64_999, 81_249),
        (130_000_000, 70_000, 81_250),
        (1_000_000_000, 500_000, 625_000),
        (5_000_000_000, 1_000_000, 3_125_000),
    ],
)
def test_burst_and_limit(bits: int, burst: int, wait: int) -> None:
    """4 ms of the rate, between three frames and 1 MB, whole segmentation packets from 130 Mbit/s on; then 5 ms."""
    made = bucket(bits, mtu=1500, netns=Netns.NODE, dev="eniw1")
    assert (made.rate, made.burst, made.limit) == (bits // 8, burst, burst + wait)


@pytest.mark.parametrize(
    ("dev", "way"),
    [
        ("eniw0123456789a", Direction.INGRESS),
        ("ifb-0123456789a", Direction.EGRESS),
        (names.IFB_IN, Direction.INGRESS),
        (names.IFB_OUT, Direction.EGRESS),
    ],
)
def test_direction_as_the_pod_sees_it(dev: str, way: Direction) -> None:
    """By the device that the bucket is on."""
    assert direction(replace(BUCKET, dev=dev)) is way
