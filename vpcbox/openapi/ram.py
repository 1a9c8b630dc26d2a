"""RAM roles and who may assume them: keys of the account, instances that carry the role, subjects of an OIDC provider.

https://help.aliyun.com/zh/ram/user-guide/ram-role-overview, …/ram/user-guide/overview-of-oidc-based-sso. What a role
may do is not looked at: everybody who is let in may call everything.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from vpcbox.world.errors import Refused
from vpcbox.world.model import ACCOUNT

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class OidcProvider:
    """An issuer of tokens that the account trusts."""

    name: str
    issuer: str
    client_ids: tuple[str, ...]
    """Audiences, one of which a token must be for."""
    keys: tuple[PublicKey, ...]

    @property
    def arn(self) -> str:
        """What AssumeRoleWithOIDC is asked with."""
        return f"acs:ram::{ACCOUNT}:oidc-provider/{self.name}"


@dataclass(frozen=True, slots=True)
class Role:
    """A role; its trust policy is the last two fields."""

    name: str
    longest: int = 3600
    """MaxSessionDuration, seconds."""
    account: bool = True
    """Keys of the account may assume it."""
    subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By provider: whose tokens it trusts."""

    @property
    def arn(self) -> str:
        """What AssumeRole is asked with."""
        return f"acs:ram::{ACCOUNT}:role/{self.name}"


@dataclass(frozen=True, slots=True)
class OidcToken:
    """What a token says, its signature checked."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    issued: float
    expires: float


class Ram:
    """The roles and providers of the account."""

    def __init__(self, roles: Sequence[Role] = (), providers: Sequence[OidcProvider] = ()) -> None:
        self._roles = {role.arn: role for role in roles}
        self._providers = {provider.arn: provider for provider in providers}

    def add(self, *things: Role | OidcProvider) -> None:
        """Know more of them."""
        for thing in things:
            if isinstance(thing, Role):
                self._roles[thing.arn] = thing
            else:
                self._providers[thing.arn] = thing

    def role(self, arn: str) -> Role:
        """The role, or ``EntityNotExist.Role``."""
        if arn not in self._roles:
            raise Refused("EntityNotExist.Role", "The specified Role not exists.")
        return self._roles[arn]

    def provider(self, arn: str) -> OidcProvider:
        """The provider, or ``EntityNotExist.OIDCProvider``."""
        if arn not in self._providers:
            raise Refused("EntityNotExist.OIDCProvider", "The specified OIDC provider not exists.")
        return self._providers[arn]


def check(provider: OidcProvider, role: Role, text: str, *, now: float) -> OidcToken:
    """The token, if it is the provider's, still good, and the role trusts its subject; raises Refused otherwise."""
    token = _verified(provider, text)
    if token.issuer != provider.issuer:
        raise _invalid("its issuer is not the provider's")
    if set(token.audiences).isdisjoint(provider.client_ids):
        raise _invalid("its audience is none of the provider's client ids")
    if token.expires <= now:
        raise Refused("AuthenticationFail.OIDCToken.Expired", "This JWT Token is expired.")
    if token.subject not in role.subjects.get(provider.name, ()):
        raise Refused(
            "AuthenticationFail.NoPermission", "This operator is not authorized to assume the role by the OIDC token."
        )
    return token


def _verified(provider: OidcProvider, text: str) -> OidcToken:
    """RFC 7515, compact form, RS256 or ES256: all that Kubernetes signs with."""
    try:
        head, body, signature = text.strip().split(".")
        algorithm = _object(head).get("alg")
        if not any(
            _signed_by(key, str(algorithm), f"{head}.{body}".encode(), _bytes(signature)) for key in provider.keys
        ):
            raise _invalid("its signature is none of the provider's keys'")
        claims = _object(body)
        audience = claims["aud"]
        return OidcToken(
            issuer=str(claims["iss"]),
            subject=str(claims["sub"]),
            audiences=tuple(audience) if isinstance(audience, list) else (str(audience),),
            issued=float(claims.get("iat", 0.0)),
            expires=float(claims["exp"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid("it is no JWT") from error


def _signed_by(key: PublicKey, algorithm: str, text: bytes, signature: bytes) -> bool:
    try:
        if algorithm == "RS256" and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        elif algorithm == "ES256" and isinstance(key, ec.EllipticCurvePublicKey):
            half = len(signature) // 2
            numbers = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
            key.verify(encode_dss_signature(*numbers), text, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(text) from error


def _object(text: str) -> dict[str, Any]:
    found = json.loads(_bytes(text))
    if not isinstance(found, dict):
        raise TypeError(text)
    return found


def _invalid(why: str) -> Refused:
    return Refused("AuthenticationFail.OIDCToken.Invalid", f"This JWT Token is invalid: {why}.")
