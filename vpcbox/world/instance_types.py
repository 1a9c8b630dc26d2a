"""The instance types a box knows, from a data file: quantities of ENIs and addresses decide what fits on a node."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import cast

from vpcbox.world.model import InstanceType

_KBITS = 1_024_000  # a Gbit/s of the product page in Kbit/s of DescribeInstanceTypes


def load() -> Mapping[str, InstanceType]:
    """All types by id (``ecs.g7.xlarge``)."""
    rows = json.loads(files("vpcbox").joinpath("data/instance_types.json").read_text())
    return {f"ecs.{name}": _instance_type(f"ecs.{name}", row) for name, row in rows.items()}


def _instance_type(name: str, row: Mapping[str, float | bool]) -> InstanceType:
    bandwidth = row.get("gbits")
    return InstanceType(
        id=name,
        cpus=int(row["cpus"]),
        memory=float(row["memory"]),
        enis=int(row["enis"]),
        addresses_per_eni=int(row["ipv4"]),
        ipv6_per_eni=cast("int | None", row.get("ipv6")),
        enis_total=int(row.get("enis_total", row["enis"])),
        bandwidth=None if bandwidth is None else round(bandwidth * _KBITS),
        jumbo=bool(row.get("jumbo", False)),
    )
