"""Secondary addresses of an ENI.

https://help.aliyun.com/zh/ecs/developer-reference/api-ecs-2014-05-26-assignprivateipaddresses
"""

from typing import Any

from vpcbox.openapi.params import Params, missing, only_one
from vpcbox.world.world import World


async def assign_private_ip_addresses(world: World, p: Params) -> dict[str, Any]:
    """AssignPrivateIpAddresses: certain addresses or a number of any."""
    eni_id = p.required("NetworkInterfaceId")
    addresses = p.addresses("PrivateIpAddress", 32)
    count = p.number("SecondaryPrivateIpAddressCount", 1, 49)
    p.finish()
    if addresses and count:
        raise only_one("PrivateIpAddress", "SecondaryPrivateIpAddressCount")
    if not addresses and not count:
        raise missing("SecondaryPrivateIpAddressCount")
    assigned = await world.assign_addresses(eni_id, addresses=addresses, count=count or 0)
    return {
        "AssignedPrivateIpAddressesSet": {
            "NetworkInterfaceId": eni_id,
            "PrivateIpSet": {"PrivateIpAddress": [str(address) for address in assigned]},
            "Ipv4PrefixSet": {"Ipv4Prefixes": []},
        }
    }


async def unassign_private_ip_addresses(world: World, p: Params) -> dict[str, Any]:
    """UnassignPrivateIpAddresses: all or none, used by somebody or not."""
    eni_id = p.required("NetworkInterfaceId")
    addresses = p.addresses("PrivateIpAddress", 32)
    p.finish()
    if not addresses:
        raise missing("PrivateIpAddress")
    await world.unassign_addresses(eni_id, addresses)
    return {}
