"""What pods may reach, and where they take the node's address: what a node is told of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from eniway import names

CLOUD: Final = IPv4Network(names.CLOUD_SERVICES)
METADATA: Final = IPv4Network(names.METADATA_SERVICE)


@dataclass(frozen=True, slots=True)
class Borders:
    """The rules for what leaves the VPC, and for the metadata service within."""

    metadata: bool = False
    """Pods may ask the metadata service; the node itself always may."""
    inside: frozenset[IPv4Network] | None = None
    """Networks that know pods' addresses: elsewhere a pod takes the node's. None: nowhere does it."""

    @property
    def known(self) -> frozenset[IPv4Network]:
        """All networks that pods go to with their own address; none where they do so everywhere."""
        return frozenset() if self.inside is None else self.inside | {CLOUD}


USUAL: Final = Borders()
