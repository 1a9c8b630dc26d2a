"""An instance that goes with its pods on it: the operator cleans up behind it, and touches nothing else."""

import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from aliyunsdkcore.request import CommonRequest

from demo.box import Box, OpenApi
from demo.cloud import client, enis
from tests.box import hold

CONFIG = "/api/v1/namespaces/kube-system/configmaps/eniway-config"


def call(openapi: OpenApi, version: str, action: str, **params: object) -> dict[str, Any]:
    """An Action by name; ``tags`` are an ENI's."""
    url = urlsplit(openapi.endpoint)
    request = CommonRequest(domain=url.netloc, version=version, action_name=action)
    request.set_method("POST")
    request.set_protocol_type(url.scheme)
    for name, value in params.items():
        request.add_query_param(name.replace("__", "."), value)
    sdk = client(openapi)
    with closing(sdk.session):
        answer: dict[str, Any] = json.loads(sdk.do_action_with_exception(request))
    return answer


@pytest.mark.timeout(400)
def test_an_instance_released_with_pods_on_it_leaves_neither_enis_nor_its_route(box: Box) -> None:
    """Attached ones go with it; those that were on their way are the operator's, and the route is.

    Another cluster's ENI, one that names no instance, one without tags and the other nodes' cards are as before.
    """
    kube = hold.kube_of(box)
    hold.clear(kube)
    primaries = {eni.id for eni in enis(box.status().openapi) if eni.type == "Primary"}
    box.run("node", "add")
    status = box.status()
    api, vpc, lost = status.openapi, status.vpc, status.nodes[-1]
    node = kube.get(f"/api/v1/nodes/{lost.name}")
    assert node["status"]["allocatable"]["aliyun/eni"] == "1", "vpcbox says Ready before pods can have the node's ENI"
    hold.await_daemons(kube, len(status.nodes))
    cluster = yaml.safe_load(kube.get(CONFIG)["data"]["config.yaml"])["cluster"]

    def routes() -> set[str]:
        listed = call(api, "2016-04-28", "DescribeRouteEntryList", RouteTableId=vpc.route_table_id, MaxResult=100)
        entries = listed["RouteEntrys"]["RouteEntry"]
        return {hop["NextHopId"] for entry in entries for hop in entry["NextHops"]["NextHop"]}

    def eni(**tags: str) -> str:
        """One that nobody attaches: its tags say whose it is."""
        named = {
            f"Tag__{n}__{part}": text
            for n, pair in enumerate(tags.items(), 1)
            for part, text in zip(("Key", "Value"), (f"eniway.io/{pair[0]}", pair[1]), strict=True)
        }
        group, vswitch = vpc.security_group_id, vpc.vswitches[-1].id
        made = call(api, "2014-05-26", "CreateNetworkInterface", VSwitchId=vswitch, SecurityGroupId=group, **named)
        return str(made["NetworkInterfaceId"])

    others = [eni(cluster="another", instance=lost.instance_id), eni(cluster=cluster), eni()]
    try:
        hold.start(
            kube,
            [
                hold.pod("shared", node=lost.name),
                hold.pod("exclusive", node=lost.name, exclusive=True),
                hold.pod("routed", node=lost.name, annotations={"eniway.io/network": "routed"}),
            ],
        )
        assert lost.instance_id in routes()
        mine = {("eniway.io/cluster", cluster), ("eniway.io/instance", lost.instance_id)}
        assert any(mine <= found.tags for found in enis(api))

        box.run("instance", "release", lost.name)
        left = eni(cluster=cluster, instance=lost.instance_id)  # as a daemon's last call would have

        def remains() -> list[str]:
            known = enis(api)
            wrong = [f"{found} of the lost instance is there" for found in known if mine <= found.tags]
            return wrong + [f"a route leads to {lost.instance_id}"] * (lost.instance_id in routes())

        hold.settles(remains, seconds=hold.PATIENCE)
        there = {found.id for found in enis(api)}
        assert left not in there
        assert {*others, *primaries} <= there
        assert {node.instance_id for node in box.status().nodes} <= routes()
    finally:
        for eni_id in others:
            call(api, "2014-05-26", "DeleteNetworkInterface", NetworkInterfaceId=eni_id)
        for namespace in (hold.HOLD, "kube-system"):
            pods = f"/api/v1/namespaces/{namespace}/pods"
            for pod in kube.get(pods)["items"]:
                if pod["spec"].get("nodeName") == lost.name:  # there is no kubelet to end it
                    kube.delete(f"{pods}/{pod['metadata']['name']}", grace=0)
