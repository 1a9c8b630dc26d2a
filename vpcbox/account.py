"""The account a box is in: one RAM role, which its nodes carry and which its cluster's service accounts may assume.

The latter as on ACK (RRSA): a projected token for the audience sts.aliyuncs.com, exchanged by AssumeRoleWithOIDC.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from vpcbox.openapi.ram import OidcProvider, Role

PROVIDER: Final = "vpcbox"  # acs:ram::1000000000000001:oidc-provider/vpcbox
AUDIENCE: Final = "sts.aliyuncs.com"
ROLE: Final = Role(  # acs:ram::1000000000000001:role/eniway
    "eniway",
    subjects={PROVIDER: tuple(f"system:serviceaccount:kube-system:eniway-{who}" for who in ("node", "operator"))},
)


def provider(issuer: str, private_key: bytes) -> OidcProvider:
    """The cluster that signs its tokens with a key (PEM)."""
    key = load_pem_private_key(private_key, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return OidcProvider(PROVIDER, issuer, (AUDIENCE,), (key.public_key(),))
