"""Keys without a key: what a node's RAM role and a service account's token are good for in a box."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient
from aliyunsdkecs.request.v20140526.DescribeInstancesRequest import DescribeInstancesRequest
from urllib3 import PoolManager

from demo.box import Box
from vpcbox import account
from vpcbox.world.model import ACCOUNT

READ = "from urllib.request import urlopen; print(urlopen('http://100.100.100.200/latest/{}').read().decode())"
ROLE = "meta-data/ram/security-credentials/"


def let_in(box: Box, key: dict[str, Any]) -> None:
    """The OpenAPI takes the session."""
    openapi = box.status().openapi
    url = urlsplit(openapi.endpoint)
    session = StsTokenCredential(key["AccessKeyId"], key["AccessKeySecret"], key["SecurityToken"])
    request = DescribeInstancesRequest()
    request.set_endpoint(url.netloc)
    request.set_protocol_type(url.scheme)
    AcsClient(region_id=openapi.region, credential=session, auto_retry=False).do_action_with_exception(request)


def test_a_node_finds_keys_of_its_role_in_its_metadata(box: Box) -> None:
    """The role's name, then a session that works."""
    role = box.sh("node-1", ["python3", "-c", READ.format(ROLE)]).strip()
    assert role == account.ROLE.name
    let_in(box, json.loads(box.sh("node-1", ["python3", "-c", READ.format(ROLE + role)])))


def test_a_service_accounts_token_is_exchanged_for_a_session(
    box: Box, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """A projected token of eniway's own account, for the audience of RRSA; any other account's is refused."""
    answers = {}
    for user, namespace in (("eniway-node", "kube-system"), ("default", "default")):
        token = kubectl_of(box)("create", "token", user, f"--namespace={namespace}", f"--audience={account.AUDIENCE}")
        fields = {
            "Action": "AssumeRoleWithOIDC",
            "Version": "2015-04-01",
            "Format": "JSON",
            "RoleArn": account.ROLE.arn,
            "OIDCProviderArn": f"acs:ram::{ACCOUNT}:oidc-provider/{account.PROVIDER}",
            "OIDCToken": token.strip(),
            "RoleSessionName": user,
        }
        answer = PoolManager().request("POST", box.status().openapi.endpoint, fields=fields, encode_multipart=False)
        answers[user] = json.loads(answer.data)
    let_in(box, answers["eniway-node"]["Credentials"])
    assert answers["default"]["Code"] == "AuthenticationFail.NoPermission"
