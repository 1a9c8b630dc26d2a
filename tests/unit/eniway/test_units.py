"""Bandwidth annotations: each unit exactly, and what is refused."""

import pytest

from eniway import names
from eniway.errors import BadAnnotation
from eniway.model import UNLIMITED, Bandwidth
from eniway.units import bandwidth_of, of_bits, of_bytes


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("1m", 8 * 1024**2),
        ("1M", 8 * 1024**2),
        ("1MB", 8 * 1024**2),
        ("1MiB", 8 * 1024**2),
        ("1mib", 8 * 1024**2),
        ("10k", 8 * 10 * 1024),
        ("1.5G", 12 * 1024**3),
        (".5g", 4 * 1024**3),
        ("2.T", 16 * 1024**4),
        ("1000B", 8000),
        ("1000b", 8000),
        ("0.1M", 838861),  # 838860.8
        ("125b", 1000),
    ],
)
def test_bytes_are_powers_of_1024(text: str, bits: int) -> None:
    """Eight bits each, rounded up; case and a trailing B or iB change nothing."""
    assert of_bytes(text) == bits


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10M", 10_000_000),
        ("10Mi", 10 * 1024**2),
        ("1k", 1000),
        ("1000", 1000),
        ("1Ki", 1024),
        ("1.5G", 1_500_000_000),
        ("1e6", 1_000_000),
        ("1E6", 1_000_000),
        ("12e+2", 1200),
        ("5000000e-3", 5000),
        ("1000500m", 1001),
        ("1000000000u", 1000),
        ("1000000000001n", 1001),
        ("+2M", 2_000_000),
        ("1P", 10**15),
        ("0.001E", 10**15),
    ],
)
def test_bits_are_quantities(text: str, bits: int) -> None:
    """As Kubernetes counts: decimal and binary suffixes, exponents, fractions rounded up."""
    assert of_bits(text) == bits


@pytest.mark.parametrize(
    "text",
    ["", "m", "100000", "1.0", "-1M", "+1M", "1 M", " 1M", "1M ", "1Mbit", "1Mbps", "1P", "1e6", "1e6B", "1i", "1ib",
     "1BB", "1,5M", "0M", "124B", "200000T", "1M\n", "\u0661M", "9" * 65 + "M", "NaN", "infM"],
)  # fmt: skip
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    """A bare number above all: bits or bytes?"""
    with pytest.raises(ValueError, match="expected"):
        of_bytes(text)


@pytest.mark.parametrize(
    "text",
    ["", "M", "1m", "999", "-1M", "1 M", "1MB", "1K", "1ki", "1t", "2P", "1E", "1e999999999999",
     "1e-999999999999", "1e", "e6", "0", "0x10", "1_000", "1M\n", "\u0661M", "9" * 65, "NaN", "1e6M"],
)  # fmt: skip
def test_what_is_no_quantity_of_bits_is_refused(text: str) -> None:
    """Below 1 kbit/s and above 1 Pbit/s too."""
    with pytest.raises(ValueError, match="expected"):
        of_bits(text)


def test_kubernetes_own_annotation_wins_each_way_for_itself() -> None:
    """One direction may come from one family, the other from the other."""
    said = {
        names.ANNOTATION_INGRESS_BYTES: "1m",
        names.ANNOTATION_INGRESS_BITS: "10M",
        names.ANNOTATION_EGRESS_BYTES: "1m",
    }
    assert bandwidth_of(said) == Bandwidth(ingress=10_000_000, egress=8 * 1024**2)
    assert bandwidth_of({names.ANNOTATION_EGRESS_BITS: "1G"}) == Bandwidth(egress=10**9)


def test_nothing_said_is_no_limit() -> None:
    """And no new object either: most pods say nothing."""
    assert bandwidth_of({}) is UNLIMITED
    assert bandwidth_of({"other": "1"}) is UNLIMITED


@pytest.mark.parametrize("name", [names.ANNOTATION_INGRESS_BYTES, names.ANNOTATION_EGRESS_BYTES])
def test_a_bad_value_is_named_even_where_it_would_not_win(name: str) -> None:
    """It says the annotation, what was expected and what stood there."""
    both = {name: "fast", name.replace("k8s.aliyun.com", "kubernetes.io"): "10M"}
    with pytest.raises(BadAnnotation, match=rf"annotation {name}: expected bytes per second .*got 'fast'"):
        bandwidth_of(both)
