"""Signatures against the examples Alibaba Cloud publishes."""

import hashlib

from vpcbox.openapi import signature


def test_the_published_rpc_example_comes_out() -> None:
    """DescribeRegions of the RPC signature page."""
    params = {
        "Timestamp": "2016-02-23T12:46:24Z",
        "Format": "XML",
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "Version": "2014-05-26",
        "SignatureVersion": "1.0",
        "Signature": "not signed itself",
    }
    string = signature.rpc_string_to_sign("GET", params)
    assert signature.rpc_signature("testsecret", string) == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


def test_the_published_acs3_example_comes_out() -> None:
    """RunInstances of the V3 signature page."""
    string = signature.acs3_string_to_sign(
        method="POST",
        path="/",
        query=[
            ("RegionId", "cn-shanghai"),
            ("ImageId", "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"),
        ],
        headers={
            "host": "ecs.cn-shanghai.aliyuncs.com",
            "x-acs-action": "RunInstances",
            "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
            "x-acs-date": "2023-10-26T10:22:32Z",
            "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
            "x-acs-version": "2014-05-26",
        },
        body_sha256=hashlib.sha256(b"").hexdigest(),
    )
    expected = "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    assert signature.acs3_signature("YourAccessKeySecret", string) == expected


def test_encoding_is_rfc_3986() -> None:
    """Blank, star, plus and slash are encoded; tilde is not."""
    assert signature.encode("a b*c+d/e~f-g_h.i") == "a%20b%2Ac%2Bd%2Fe~f-g_h.i"


def test_a_broken_authorization_header_is_none() -> None:
    """Neither another algorithm nor a missing part passes."""
    good = "ACS3-HMAC-SHA256 Credential=a,SignedHeaders=host;x-acs-date,Signature=0f"
    parsed = signature.parse_authorization(good)
    assert parsed is not None
    assert parsed.signed_headers == ("host", "x-acs-date")
    assert signature.parse_authorization(good.replace("SHA256", "SM3")) is None
    assert signature.parse_authorization(good.replace(",Signature=0f", "")) is None
    assert signature.parse_authorization("") is None
