"""Nodes of a pool get ENIs in the pool's vSwitch and security group; the others as ever."""

from __future__ import annotations

from collections.abc import Callable

from demo.application import ready
from demo.box import Box
from demo.kube import Object
from tests.box import hold
from tests.box.test_instance_release import call

LABEL = "example.com/pool"


def test_a_label_leads_to_other_vswitches_and_security_groups(
    box: Box, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """For ENIs that are made from then on; those that are there go on serving."""
    kube, kubectl, status = hold.kube_of(box), kubectl_of(box), box.status()
    api, (plain, *_, special) = status.openapi, status.nodes
    hold.clear(kube)
    hold.await_daemons(kube, len(status.nodes))
    hold.agree(box)

    def cards(instance_id: str) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Secondary ENIs of an instance: their vSwitch and security groups."""
        listed = call(api, "2014-05-26", "DescribeNetworkInterfaces", InstanceId=instance_id, PageSize=100)
        return {
            eni["NetworkInterfaceId"]: (eni["VSwitchId"], tuple(eni["SecurityGroupIds"]["SecurityGroupId"]))
            for eni in listed["NetworkInterfaceSets"]["NetworkInterfaceSet"]
            if eni["Type"] == "Secondary"
        }

    group = call(api, "2014-05-26", "CreateSecurityGroup", VpcId=status.vpc.id)["SecurityGroupId"]
    usual = {vswitch for node in status.nodes for vswitch, _ in cards(node.instance_id).values()}
    other = next(vswitch.id for vswitch in status.vpc.vswitches if vswitch.id not in usual)
    before = {node.name: cards(node.instance_id) for node in (plain, special)}
    kubectl("label", "node", special.name, f"{LABEL}=special")
    pool = {"match": {LABEL: "special"}, "vswitches": [other], "security_groups": [group]}
    text = hold.configure(kube, node_pools=[pool])
    try:
        pods = [hold.pod(f"{node.name}-{n}", node=node.name) for node in (plain, special) for n in range(18)]
        for pod in map(quiet, pods):
            kube.apply(pod)
        kube.until(hold.PODS, lambda found: ready(found, len(pods)), seconds=300)
        new = {
            node.name: {where for eni, where in cards(node.instance_id).items() if eni not in before[node.name]}
            for node in (plain, special)
        }
        assert new[special.name] == {(other, (group,))}
        assert new[plain.name]
        assert all(vswitch in usual and groups != (group,) for vswitch, groups in new[plain.name])
        hold.agree(box)
    finally:
        hold.restore(kube, text)
        kubectl("label", "node", special.name, f"{LABEL}-")
    hold.clear(kube)
    hold.agree(box)


def quiet(pod: Object) -> Object:
    """It does nothing, and nobody asks it."""
    container = pod["spec"]["containers"][0]
    container["args"] = ["pause"]
    del container["readinessProbe"]
    return pod
