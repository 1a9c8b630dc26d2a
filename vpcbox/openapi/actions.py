"""What the OpenAPI can be asked for: one function an Action, by the product's version."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vpcbox.openapi import eni, instance, private_ip, route, route_table, security_group, tag, vpc
from vpcbox.openapi.params import Params
from vpcbox.world.world import World

Action = Callable[[World, Params], Awaitable[dict[str, Any]]]

ECS = "2014-05-26"
VPC = "2016-04-28"

ACTIONS: Mapping[str, Mapping[str, Action]] = {
    ECS: {
        "AssignPrivateIpAddresses": private_ip.assign_private_ip_addresses,
        "AttachNetworkInterface": eni.attach_network_interface,
        "CreateNetworkInterface": eni.create_network_interface,
        "CreateSecurityGroup": security_group.create_security_group,
        "DeleteNetworkInterface": eni.delete_network_interface,
        "DescribeInstanceAttribute": instance.describe_instance_attribute,
        "DescribeInstanceTypes": instance.describe_instance_types,
        "DescribeInstances": instance.describe_instances,
        "DescribeNetworkInterfaceAttribute": eni.describe_network_interface_attribute,
        "DescribeNetworkInterfaces": eni.describe_network_interfaces,
        "DescribeSecurityGroups": security_group.describe_security_groups,
        "DescribeVSwitches": vpc.describe_vswitches,  # the old twin of the VPC product's
        "DescribeVpcs": vpc.describe_vpcs,
        "DetachNetworkInterface": eni.detach_network_interface,
        "ListTagResources": tag.list_tag_resources,
        "ModifyNetworkInterfaceAttribute": eni.modify_network_interface_attribute,
        "TagResources": tag.tag_resources,
        "UnassignPrivateIpAddresses": private_ip.unassign_private_ip_addresses,
        "UntagResources": tag.untag_resources,
    },
    VPC: {
        "CreateRouteEntries": route.create_route_entries,
        "CreateRouteEntry": route.create_route_entry,
        "DeleteRouteEntries": route.delete_route_entries,
        "DeleteRouteEntry": route.delete_route_entry,
        "DescribeRouteEntryList": route.describe_route_entry_list,
        "DescribeRouteTableList": route_table.describe_route_table_list,
        "DescribeVSwitches": vpc.describe_vswitches,
        "DescribeVpcs": vpc.describe_vpcs,
    },
}

WITH_CLIENT_TOKEN = frozenset(
    {"CreateNetworkInterface", "CreateSecurityGroup", "AssignPrivateIpAddresses", "CreateRouteEntry"}
)

WITHOUT_REGION = frozenset({"DescribeInstanceAttribute"})
"""Actions of ECS for which RegionId is not mandatory; of other products none is."""
