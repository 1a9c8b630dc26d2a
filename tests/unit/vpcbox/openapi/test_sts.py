"""Sessions of roles: by a key of the account, and by a token of a provider the role trusts."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from alibabacloud_tea_openapi.client import Client
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from aliyunsdkecs.request.v20140526 import DescribeInstancesRequest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from darabonba.runtime import RuntimeOptions
from Tea.exceptions import TeaException

from vpcbox.openapi.ram import OidcProvider, Role
from vpcbox.world.model import ACCOUNT

KEY = "LTAItestkey"
SECRET = "testsecret"
ISSUER = "https://issuer.example.com"
SUBJECT = "system:serviceaccount:kube-system:eniway-node"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PROVIDER = OidcProvider("cluster", ISSUER, ("sts.aliyuncs.com",), (EC_KEY.public_key(), RSA_KEY.public_key()))
ROLE = Role("eniway", longest=7200, subjects={"cluster": (SUBJECT,)})


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(now: float, *, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC_KEY, **changes: Any) -> str:
    claims = {"iss": ISSUER, "sub": SUBJECT, "aud": ["sts.aliyuncs.com"], "iat": now, "exp": now + 600, **changes}
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    text = ".".join(_part(json.dumps(part).encode()) for part in ({"alg": algorithm}, claims))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        signature = b"".join(number.to_bytes(32) for number in numbers)
    else:
        signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{_part(signature)}"


async def _ask(box: Any, action: str, *, signed: bool = True, **query: str) -> dict[str, Any]:
    """An Action of the security token service, by the official SDK V2."""
    client = Client(
        Config(access_key_id=KEY, access_key_secret=SECRET, region_id="cn-box", endpoint=box.endpoint, protocol="http")
    )
    params = Params(
        action=action,
        version="2015-04-01",
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK" if signed else "Anonymous",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    answer = await asyncio.to_thread(client.call_api, params, OpenApiRequest(query=query), RuntimeOptions())
    body: dict[str, Any] = answer["body"]
    return body


async def _let_in(box: Any, credentials: Mapping[str, str]) -> None:
    """They are good for an Action of ECS."""
    await box.send(
        DescribeInstancesRequest.DescribeInstancesRequest(),
        box.client(credentials["AccessKeyId"], credentials["AccessKeySecret"], credentials["SecurityToken"]),
    )


async def test_a_key_assumes_a_role_that_trusts_its_account(box: Any) -> None:
    """For as long as was asked for, by name."""
    box.ram.add(ROLE)
    answer = await _ask(box, "AssumeRole", RoleArn=ROLE.arn, RoleSessionName="me", DurationSeconds="900")
    assert answer["AssumedRoleUser"]["Arn"] == f"acs:sts::{ACCOUNT}:assumed-role/eniway/me"
    key = box.credentials.find(answer["Credentials"]["AccessKeyId"])
    assert key.expires - key.issued == 900
    await _let_in(box, answer["Credentials"])


async def test_the_old_sdk_assumes_it_too(box: Any) -> None:
    """V1, signed by HMAC-SHA1."""
    box.ram.add(ROLE)
    answer = await box.call("AssumeRole", version="2015-04-01", RoleArn=ROLE.arn, RoleSessionName="me")
    await _let_in(box, answer["Credentials"])


@pytest.mark.parametrize("key", [EC_KEY, RSA_KEY], ids=["ES256", "RS256"])
async def test_a_token_of_a_trusted_subject_gives_a_session_without_a_key(
    box: Any, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    """The request is not signed: the token says who asks."""
    box.ram.add(ROLE, PROVIDER)
    token = _token(box.clock.wall(), key=key)
    answer = await _ask(
        box,
        "AssumeRoleWithOIDC",
        signed=False,
        RoleArn=ROLE.arn,
        OIDCProviderArn=PROVIDER.arn,
        OIDCToken=token,
        RoleSessionName="me",
    )
    assert answer["OIDCTokenInfo"]["Subject"] == SUBJECT
    await _let_in(box, answer["Credentials"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": 0}, "AuthenticationFail.OIDCToken.Expired"),
        ({"iss": "https://elsewhere"}, "AuthenticationFail.OIDCToken.Invalid"),
        ({"aud": "kubernetes"}, "AuthenticationFail.OIDCToken.Invalid"),
        ({"sub": "system:serviceaccount:default:default"}, "AuthenticationFail.NoPermission"),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "AuthenticationFail.OIDCToken.Invalid"),
    ],
)
async def test_a_token_that_proves_nothing_gives_nothing(box: Any, changes: dict[str, Any], code: str) -> None:
    """Ended, of another issuer, for somebody else, of a stranger, or signed by one."""
    box.ram.add(ROLE, PROVIDER)
    asked = {"RoleArn": ROLE.arn, "OIDCProviderArn": PROVIDER.arn, "RoleSessionName": "me"}
    with pytest.raises(TeaException) as caught:
        await _ask(box, "AssumeRoleWithOIDC", signed=False, OIDCToken=_token(box.clock.wall(), **changes), **asked)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"RoleArn": f"acs:ram::{ACCOUNT}:role/nobody"}, 404, "EntityNotExist.Role"),
        ({"RoleArn": "eniway"}, 400, "InvalidParameter"),
        ({"RoleSessionName": "?"}, 400, "InvalidParameter"),
        ({"DurationSeconds": "899"}, 400, "InvalidParameter"),
        ({"DurationSeconds": "7201"}, 400, "InvalidParameter"),
        ({"RoleArn": f"acs:ram::{ACCOUNT}:role/service-only"}, 403, "NoPermission"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(box: Any, changes: dict[str, str], status: int, code: str) -> None:
    """Each field has its bounds; a role for instances only is not for keys."""
    box.ram.add(ROLE, Role("service-only", account=False))
    asked: dict[str, Any] = {"RoleArn": ROLE.arn, "RoleSessionName": "me", **changes}
    with pytest.raises(TeaException) as caught:
        await _ask(box, "AssumeRole", **asked)
    assert (caught.value.code, caught.value.data["statusCode"]) == (code, status)


async def test_a_session_that_was_ended_is_followed_by_another(box: Any) -> None:
    """What was called with the old one is refused; the metadata service gives a new one at once."""
    key = box.credentials.session("node-role")
    box.credentials.end(key.id)
    assert box.credentials.find(key.id).expires <= box.clock.wall()
    assert box.credentials.session("node-role").id != key.id
