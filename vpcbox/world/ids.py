"""Names the cloud gives: resource ids and MAC addresses."""

import random
import string

_ALPHABET = string.ascii_lowercase + string.digits


def resource(kind: str, rng: random.Random) -> str:
    """``eni-bx0…``: a kind, a region's mark and 17 letters and digits, as real ids look."""
    return f"{kind}-bx0{''.join(rng.choices(_ALPHABET, k=17))}"


def mac(rng: random.Random) -> str:
    """A MAC address of Alibaba Cloud's prefix 00:16:3e."""
    return "00:16:3e:" + ":".join(f"{octet:02x}" for octet in rng.randbytes(3))
