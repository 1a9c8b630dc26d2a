"""What an instance can read about itself, as a tree of names. Pure.

https://help.aliyun.com/zh/ecs/user-guide/view-instance-metadata
"""

import json
from collections.abc import Iterable, Mapping
from typing import Union

from vpcbox.openapi.credentials import AccessKey
from vpcbox.openapi.sts import shown
from vpcbox.world.addresses import gateway
from vpcbox.world.clock import iso
from vpcbox.world.model import ACCOUNT, REGION, Eni, EniType, Instance, Vpc, VSwitch

Tree = Mapping[str, Union[str, "Tree"]]


def tree(
    instance: Instance,
    enis: Iterable[Eni],
    vpc: Vpc,
    vswitches: Mapping[str, VSwitch],
    session: AccessKey | None,
) -> Tree:
    """Everything below ``/latest/``.

    ``enis`` are the attached ones; ``session`` is of the instance's role, if it has one.
    """
    cards = list(enis)
    primary = next(eni for eni in cards if eni.type is EniType.PRIMARY)
    vswitch = vswitches[primary.vswitch_id]
    meta: dict[str, str | Tree] = {
        "hostname": instance.name,
        "instance": {"instance-name": instance.name, "instance-type": instance.type.id},
        "instance-id": instance.id,
        "mac": primary.mac,
        "network": {"interfaces": {"macs": {eni.mac: _card(eni, vpc, vswitches[eni.vswitch_id]) for eni in cards}}},
        "network-type": "vpc",
        "owner-account-id": ACCOUNT,
        "private-ipv4": str(primary.primary_address),
        "region-id": REGION,
        "vpc-cidr-block": str(vpc.cidr),
        "vpc-id": vpc.id,
        "vswitch-cidr-block": str(vswitch.cidr),
        "vswitch-id": vswitch.id,
        "zone-id": instance.zone,
    }
    if instance.tags:
        meta["tags"] = {"instance": dict(instance.tags)}
    if instance.ram_role and session:
        meta["ram"] = {"security-credentials": {instance.ram_role: _session(session)}}
    identity = {
        "instance-id": instance.id,
        "instance-type": instance.type.id,
        "mac": primary.mac,
        "owner-account-id": ACCOUNT,
        "private-ipv4": str(primary.primary_address),
        "region-id": REGION,
        "zone-id": instance.zone,
    }
    return {"meta-data": meta, "dynamic": {"instance-identity": {"document": json.dumps(identity)}}}


def read(node: Tree, path: str) -> str | None:
    """The text at ``a/b/c``; of an inner name, the names below it, one a line; None where there is nothing."""
    found: str | Tree = node
    for name in filter(None, path.split("/")):
        if isinstance(found, str) or name not in found:
            return None
        found = found[name]
    if isinstance(found, str):
        return None if path.endswith("/") else found
    return "\n".join(name if isinstance(below, str) else f"{name}/" for name, below in found.items())


def _card(eni: Eni, vpc: Vpc, vswitch: VSwitch) -> Tree:
    return {
        "gateway": str(gateway(vswitch.cidr)),
        "netmask": str(vswitch.cidr.netmask),
        "network-interface-id": eni.id,
        "primary-ip-address": str(eni.primary_address),
        "private-ipv4s": json.dumps([str(address) for address in eni.addresses], separators=(",", ":")),
        "vpc-cidr-block": str(vpc.cidr),
        "vpc-id": vpc.id,
        "vswitch-cidr-block": str(vswitch.cidr),
        "vswitch-id": vswitch.id,
    }


def _session(key: AccessKey) -> str:
    return json.dumps({**shown(key), "LastUpdated": iso(key.issued), "Code": "Success"})
