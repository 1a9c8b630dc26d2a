"""The two signatures of Alibaba Cloud's OpenAPI, computed as the server does. Pure.

RPC: https://help.aliyun.com/zh/sdk/product-overview/rpc-mechanism
ACS3: https://help.aliyun.com/zh/sdk/product-overview/v3-request-structure-and-signature
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Authorization:
    """The parts of an ACS3 Authorization header."""

    access_key_id: str
    signed_headers: tuple[str, ...]
    signature: str


def encode(text: str) -> str:
    """RFC 3986: all but letters, digits and ``-_.~`` in percents."""
    return quote(text, safe="~")


def canonical_query(params: Iterable[tuple[str, str]]) -> str:
    """``name=value&…`` by name."""
    return "&".join(f"{encode(name)}={encode(value)}" for name, value in sorted(params))


def rpc_string_to_sign(method: str, params: Mapping[str, str]) -> str:
    """What an RPC signature signs: all parameters but the signature, of query and form alike."""
    signed = [(name, value) for name, value in params.items() if name != "Signature"]
    return f"{method}&{encode('/')}&{encode(canonical_query(signed))}"


def rpc_signature(secret: str, string_to_sign: str) -> str:
    """HMAC-SHA1, base64."""
    digest = hmac.new(f"{secret}&".encode(), string_to_sign.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def parse_authorization(header: str) -> Authorization | None:
    """The header's parts; None where it is not of the form ``ACS3-HMAC-SHA256 Credential=…``."""
    match = re.fullmatch(
        r"ACS3-HMAC-SHA256\s+Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]+)", header.strip()
    )
    if match is None:
        return None
    return Authorization(match[1], tuple(match[2].split(";")), match[3])


def acs3_string_to_sign(
    *, method: str, path: str, query: Iterable[tuple[str, str]], headers: Mapping[str, str], body_sha256: str
) -> str:
    """What an ACS3 signature signs; ``headers`` are the signed ones, names in lower case."""
    names = sorted(headers)
    canonical = "\n".join(
        (
            method,
            path,
            canonical_query(query),
            "".join(f"{name}:{headers[name].strip()}\n" for name in names),
            ";".join(names),
            body_sha256,
        )
    )
    return f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def acs3_signature(secret: str, string_to_sign: str) -> str:
    """HMAC-SHA256, hex."""
    return hmac.new(secret.encode(), string_to_sign.encode(), hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare signatures, whatever they are made of, in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())
