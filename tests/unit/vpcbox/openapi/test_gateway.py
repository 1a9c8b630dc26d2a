"""The gate: who is not let in, and in which words."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient
from aliyunsdkecs.request.v20140526 import DescribeInstancesRequest

from vpcbox.openapi import signature


def _request(**changes: str) -> dict[str, str]:
    """DescribeInstances' parameters as an RPC client sends them."""
    params = {
        "Action": "DescribeInstances",
        "Version": "2014-05-26",
        "Format": "JSON",
        "RegionId": "cn-box",
        "AccessKeyId": "LTAItestkey",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureType": "",
        "SignatureNonce": str(uuid.uuid4()),
        "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {**params, **changes}


def _signed(method: str = "GET", secret: str = "testsecret", **changes: str) -> dict[str, str]:
    params = _request(**changes)
    string = signature.rpc_string_to_sign(method, params)
    return {**params, "Signature": signature.rpc_signature(secret, string)}


async def _get(box: Any, params: dict[str, str]) -> tuple[int, dict[str, Any]]:
    async with box.http.get(f"http://{box.endpoint}/", params=params) as response:
        return response.status, await response.json(content_type=None)


async def test_get_query_and_post_form_are_both_signed(box: Any) -> None:
    """An RPC request may come by GET, and by POST with parameters in query and form."""
    assert (await _get(box, _signed()))[0] == 200
    params = _signed("POST")
    form = {name: params.pop(name) for name in ("RegionId", "Format")}
    async with box.http.post(f"http://{box.endpoint}/", params=params, data=form) as response:
        assert response.status == 200


async def test_an_error_has_all_its_fields(box: Any) -> None:
    """Code, HostId, Message, Recommend and RequestId; the id is in a header too, and the answer came in one write."""
    async with box.http.get(f"http://{box.endpoint}/", params=_signed(AccessKeyId="nobody")) as response:
        body = await response.json(content_type=None)
        assert response.status == 404
        assert response.headers["Content-Type"] == "application/json;charset=utf-8"
        assert response.headers["x-acs-request-id"] == body["RequestId"] == body["RequestId"].upper()
    assert set(body) == {"Code", "HostId", "Message", "Recommend", "RequestId"}
    assert body["HostId"] == box.endpoint


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"AccessKeyId": "nobody"}, 404, "InvalidAccessKeyId.NotFound"),
        ({"AccessKeyId": ""}, 400, "MissingParameter"),
        ({"SignatureNonce": ""}, 400, "MissingParameter"),
        ({"SignatureMethod": "HMAC-SHA256"}, 400, "IncompleteSignature"),
        ({"Timestamp": "yesterday"}, 400, "InvalidTimeStamp.Format"),
        ({"Action": ""}, 400, "MissingParameter"),
        ({"Action": "DescribeNothing"}, 404, "InvalidAction.NotFound"),
        ({"Version": "1999-01-01"}, 400, "InvalidVersion"),
        ({"Format": "XML"}, 400, "UnsupportedParameter"),
        ({"RegionId": "cn-elsewhere"}, 404, "InvalidRegionId.NotFound"),
        ({"RegionId": ""}, 400, "MissingParameter"),
        ({"SecurityToken": "made-up"}, 400, "InvalidSecurityToken.MismatchWithAccessKey"),
    ],
)
async def test_what_is_wrong_is_named(box: Any, changes: dict[str, str], status: int, code: str) -> None:
    """Each fault of the common parameters has its own code."""
    got, body = await _get(box, _signed(**changes))
    assert (got, body["Code"]) == (status, code)


async def test_a_changed_parameter_breaks_the_signature(box: Any) -> None:
    """What was signed is what counts; the server's string to sign is told."""
    status, body = await _get(box, {**_signed(), "InstanceName": "other"})
    assert (status, body["Code"]) == (400, "SignatureDoesNotMatch")
    assert "server string to sign is:GET&%2F&AccessKeyId" in body["Message"]


async def test_a_nonce_is_good_once(box: Any) -> None:
    """The very same request again is refused, and may come in no window later either."""
    params = _signed()
    assert (await _get(box, params))[0] == 200
    status, body = await _get(box, params)
    assert (status, body["Code"]) == (400, "SignatureNonceUsed")


@pytest.mark.parametrize(("minutes", "status"), [(-16, 400), (-14, 200), (14, 200), (16, 400)])
async def test_a_clock_may_be_off_by_a_quarter_of_an_hour(box: Any, minutes: int, status: int) -> None:
    """Either way."""
    stamp = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    got, body = await _get(box, _signed(Timestamp=stamp))
    assert got == status
    assert status == 200 or body["Code"] == "InvalidTimeStamp.Expired"


async def test_the_sdk_recognizes_a_wrong_secret(box: Any) -> None:
    """V1 compares the server's string to sign with its own, and blames the secret where they agree."""
    client = box.client(secret="wrong")
    with pytest.raises(ServerException) as caught:
        await box.send(DescribeInstancesRequest.DescribeInstancesRequest(), client)
    assert caught.value.get_error_code() == "InvalidAccessKeySecret"


async def test_a_role_session_works_until_it_ends(box: Any) -> None:
    """Key, secret and token together; not without the token, not after the end."""
    key = box.credentials.session("node-role")
    assert box.credentials.session("node-role") is key
    client = AcsClient(
        region_id="cn-box", credential=StsTokenCredential(key.id, key.secret, key.token), auto_retry=False
    )
    client.add_endpoint("cn-box", "Ecs", box.endpoint)
    await box.send(DescribeInstancesRequest.DescribeInstancesRequest(), client)

    status, body = await _get(box, _signed(secret=key.secret, AccessKeyId=key.id))
    assert (status, body["Code"]) == (400, "MissingSecurityToken")

    await box.clock.advance(5 * 3600 + 1801)
    assert box.credentials.session("node-role") is not key, "half an hour before the end there is a new one"
    await box.clock.advance(1800)
    status, body = await _get(box, _signed(secret=key.secret, AccessKeyId=key.id, SecurityToken=key.token))
    assert (status, body["Code"]) == (400, "InvalidSecurityToken.Expired")


async def test_other_methods_are_refused(box: Any) -> None:
    """PUT is no way to call an Action."""
    async with box.http.put(f"http://{box.endpoint}/", params=_signed()) as response:
        assert (response.status, (await response.json(content_type=None))["Code"]) == (403, "UnsupportedHTTPMethod")


async def test_an_answer_is_one_packet(box: Any) -> None:
    """Headers and body leave in one write: split, they cost a delayed ACK on each call."""
    host, port = box.endpoint.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    query = signature.canonical_query(_signed().items())
    writer.write(f"GET /?{query} HTTP/1.1\r\nHost: {box.endpoint}\r\n\r\n".encode())
    first = await reader.read(65536)
    writer.close()
    await writer.wait_closed()
    headers, _, body = first.partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in headers.split(b"\r\n") if line.startswith(b"Content-Length"))
    assert len(body) == length
