"""Bandwidths as users write them, in two families of annotations with different units; exact arithmetic. Pure.

======================  =====================================================================  =======================
annotation              grammar                                                                unit
======================  =====================================================================  =======================
``k8s.aliyun.com/…``    number, then B, K, M, G or T, which may be followed by B or iB; case    bytes per second,
                        does not matter                                                        powers of 1024
``kubernetes.io/…``     a Quantity: number, then n, u, m, k, M, G, T, P, E, Ki … Ei or an       bits per second
                        exponent, or nothing
======================  =====================================================================  =======================

So ``1m`` is 1 MiB/s in the first family, and a thousandth of a bit per second, which is refused, in the second. In the
first a number without a unit is refused: readers of ``100000`` disagree whether it is bits or bytes, and the plugins
that brought this annotation refuse it too. What is not a whole number of bits is rounded up, as Quantity.Value() does.

Both have the bounds of Kubernetes' own check (k8s.io/component-helpers, bandwidth: 1k to 1P bits per second).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from eniway import names
from eniway.errors import BadAnnotation
from eniway.model import UNLIMITED, Bandwidth

LEAST: Final = 1000
MOST: Final = 10**15
"""Bits per second."""

_NUMBER: Final = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_LONGEST: Final = 64
_BYTES: Final = re.compile(rf"(?P<number>{_NUMBER})(?:(?P<unit>[kmgt])(?:i?b)?|b)", re.ASCII | re.IGNORECASE)
_BITS: Final = re.compile(
    rf"\+?(?P<number>{_NUMBER})(?:(?P<unit>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]+))?", re.ASCII
)
_BINARY: Final = {unit: Decimal(1024**power) for power, unit in enumerate(("", "k", "m", "g", "t"))}
_QUANTITY: Final = {
    unit: Decimal(10) ** (3 * power) for power, unit in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
} | {f"{unit}i": Decimal(1024**power) for power, unit in enumerate("KMGTPE", 1)}


def of_bytes(text: str) -> int:
    """Bits per second of a value of the first family. ValueError says what was expected."""
    found = _BYTES.fullmatch(text) if len(text) <= _LONGEST else None
    expected = "expected bytes per second as a number and B, K, M, G or T (powers of 1024), such as 10M or 1.5MiB"
    if found is None:
        raise ValueError(f"{expected}, got {text!r}")
    return _within(8 * Decimal(found["number"]) * _BINARY[(found["unit"] or "").lower()], text)


def of_bits(text: str) -> int:
    """Bits per second of a value of the second family. ValueError says what was expected."""
    found = _BITS.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"expected bits per second as a Kubernetes quantity, such as 10M, got {text!r}")
    number = Decimal(found["number"])
    if found["exponent"] is None:
        return _within(number * _QUANTITY[found["unit"] or ""], text)
    # Far beyond any bound the exponent's size no longer matters; as a number it could be of any length.
    return _within(number.scaleb(max(-99, min(99, int(found["exponent"])))), text)


def bandwidth_of(annotations: Mapping[str, str]) -> Bandwidth:
    """What a pod's annotations ask for. BadAnnotation for any that makes no sense, also for one that would not win."""
    ingress = _rate(annotations, names.ANNOTATION_INGRESS_BITS, names.ANNOTATION_INGRESS_BYTES)
    egress = _rate(annotations, names.ANNOTATION_EGRESS_BITS, names.ANNOTATION_EGRESS_BYTES)
    return UNLIMITED if ingress is egress is None else Bandwidth(ingress, egress)


def _rate(annotations: Mapping[str, str], in_bits: str, in_bytes: str) -> int | None:
    weaker = _one(annotations, in_bytes, of_bytes)
    stronger = _one(annotations, in_bits, of_bits)
    return weaker if stronger is None else stronger


def _one(annotations: Mapping[str, str], name: str, parse: Callable[[str], int]) -> int | None:
    text = annotations.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise BadAnnotation(f"annotation {name}: {error}") from error


def _within(rate: Decimal, text: str) -> int:
    if not LEAST <= rate <= MOST:
        raise ValueError(f"expected 1 kbit/s to 1 Pbit/s, got {text!r}")
    return math.ceil(rate)
