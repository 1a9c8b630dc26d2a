"""Exclusive pods choose security groups and vSwitch of their ENI: what kubelet and the cloud see of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from aliyunsdkecs.request.v20140526.CreateSecurityGroupRequest import CreateSecurityGroupRequest
from aliyunsdkecs.request.v20140526.DescribeNetworkInterfacesRequest import DescribeNetworkInterfacesRequest

from demo import cloud
from demo.box import Box
from demo.kube import ApiError, Kube
from tests.box import hold

GROUPS, VSWITCH = "eniway.io/security-groups", "eniway.io/vswitch"
NOBODYS = "sg-nobodys"
"""Allowed by the configuration, and no group of the account."""


def asked(box: Box, request: Any) -> dict[str, Any]:
    """What the cloud answers."""
    openapi = box.status().openapi
    request.set_accept_format("json")
    request.set_protocol_type(urlsplit(openapi.endpoint).scheme)
    request.set_endpoint(urlsplit(openapi.endpoint).netloc)
    sdk = cloud.client(openapi)
    with closing(sdk.session):
        answer: dict[str, Any] = json.loads(sdk.do_action_with_exception(request))
    return answer


@pytest.fixture(scope="module")
def group(box: Box) -> str:
    """A security group that no node has."""
    request = CreateSecurityGroupRequest()
    request.set_VpcId(box.status().vpc.id)
    return str(asked(box, request)["SecurityGroupId"])


@pytest.fixture(scope="module")
def choosing(box: Box, group: str) -> Iterator[Kube]:
    """A node whose pods may choose that group and the second vSwitch, while it has the first alone itself."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    own, other = (vswitch.id for vswitch in box.status().vpc.vswitches[:2])
    may = {"security_groups": [group, NOBODYS], "vswitches": [other]}
    # A pod that is deleted ends with its ADD; one that ends before its card is made, which takes ten, kubelet repeats
    with hold.configured(kube, node_of(box), vswitches=[own], pods_may_choose=may, add_deadline_seconds=15.0):
        yield kube
        hold.clear(kube)


@pytest.fixture
def kube(choosing: Kube) -> Kube:
    """With that node, and no pod of another test."""
    hold.clear(choosing)
    return choosing


def node_of(box: Box) -> str:
    """The node whose daemon is so configured."""
    return box.status().nodes[0].name


def test_a_pod_runs_on_an_eni_with_what_it_chose_and_the_next_one_does_not(box: Box, kube: Kube, group: str) -> None:
    """By the cloud's word; another node reaches it, and its slot's next pod has the node's group and vSwitch."""
    node, other = node_of(box), box.status().nodes[1].name
    own, chosen = (vswitch.id for vswitch in box.status().vpc.vswitches[:2])
    choosy = hold.pod("choosy", node=node, exclusive=True, annotations={GROUPS: group, VSWITCH: chosen})
    [running] = hold.start(kube, [choosy])
    assert eni_of(box, running) == ([group], chosen)
    hold.start(kube, [hold.pod("caller", node=other)])
    question = urlencode({"host": running["status"]["podIP"], "port": 8080, "request": "hostname", "protocol": "http"})
    answer = kube.ask_pod(hold.HOLD, "caller", 8080, f"dial?{question}")
    assert json.loads(answer) == {"responses": ["choosy"]}
    hold.clear(kube)
    [running] = hold.start(kube, [hold.pod("plain", node=node, exclusive=True)])
    assert eni_of(box, running) == ([box.status().vpc.security_group_id], own)
    hold.clear(kube)
    hold.agree(box)


def test_what_cannot_be_chosen_is_told_to_the_pod(box: Box, kube: Kube) -> None:
    """By kubelet, what the configuration does not allow; by the daemon, what the cloud refuses; the next pod runs."""
    node, own = node_of(box), box.status().vpc.security_group_id
    kube.apply(hold.pod("forbidden", node=node, exclusive=True, annotations={GROUPS: own}))
    said = hold.event(kube, "forbidden", "FailedCreatePodSandBox")
    assert (
        f"annotation {GROUPS}: expected of those that the configuration allows (pods_may_choose.security_groups" in said
    )
    hold.clear(kube)
    kube.apply(hold.pod("refused", node=node, exclusive=True, annotations={GROUPS: NOBODYS}))
    said = hold.event(kube, "refused", "ENIRefused")
    assert f"no ENI with security groups {NOBODYS}: " in said
    assert "InvalidSecurityGroupId" in said
    hold.clear(kube)
    hold.start(kube, [hold.pod("plain", node=node, exclusive=True)])


@pytest.mark.parametrize(
    ("exclusive", "annotations", "says"),
    [
        (
            True,
            {GROUPS: "sg-1;sg-2"},
            f"annotations[{GROUPS}]: expected 1 to 5 ids of security groups with commas between",
        ),
        (True, {VSWITCH: "vsw-1,vsw-2"}, f"annotations[{VSWITCH}]: expected the id of a vSwitch, got 'vsw-1,vsw-2'"),
        (False, {VSWITCH: "vsw-1"}, f"annotations[{VSWITCH}]: expected on a pod with aliyun/eni in its limits only"),
    ],
    ids=["no list", "no id", "no ENI of its own"],
)
def test_what_is_no_choice_is_refused_at_the_api_server(
    box: Box, exclusive: bool, annotations: dict[str, str], says: str
) -> None:
    """With the annotation and what was expected."""
    with pytest.raises(ApiError) as caught:
        hold.kube_of(box).apply(hold.pod("wrong", exclusive=exclusive, annotations=annotations))
    assert says in str(caught.value)


def eni_of(box: Box, pod: dict[str, Any]) -> tuple[list[str], str]:
    """Groups and vSwitch of the ENI with a pod's address."""
    request = DescribeNetworkInterfacesRequest()
    request.set_PrimaryIpAddress(pod["status"]["podIP"])
    [found] = asked(box, request)["NetworkInterfaceSets"]["NetworkInterfaceSet"]
    return found["SecurityGroupIds"]["SecurityGroupId"], found["VSwitchId"]
