"""What is read of the API server's objects: the fields somebody uses, with defaults (a bookmark has only metadata)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
import msgspec.structs

from eniway import names
from eniway.model import Wish


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """Whose an object is."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class ObjectMeta(msgspec.Struct, frozen=True, gc=False):
    """Of every object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    owners: tuple[OwnerReference, ...] = msgspec.field(default=(), name="ownerReferences")


class Meta(Protocol):
    """What a view has to have of an object's metadata."""

    @property
    def name(self) -> str:
        """Unique in its namespace."""
        ...

    @property
    def namespace(self) -> str:
        """Empty for objects of the cluster."""
        ...

    @property
    def resource_version(self) -> str:
        """Of the last change."""
        ...


class View(Protocol):
    """An object as far as it is read."""

    @property
    def metadata(self) -> Meta:
        """Who it is."""
        ...


class BandwidthAnnotations(msgspec.Struct, frozen=True, gc=False):
    """Of a Pod, those that limit its bandwidth, and no others."""

    ingress_bytes: str | None = msgspec.field(default=None, name=names.ANNOTATION_INGRESS_BYTES)
    egress_bytes: str | None = msgspec.field(default=None, name=names.ANNOTATION_EGRESS_BYTES)
    ingress_bits: str | None = msgspec.field(default=None, name=names.ANNOTATION_INGRESS_BITS)
    egress_bits: str | None = msgspec.field(default=None, name=names.ANNOTATION_EGRESS_BITS)

    def as_mapping(self) -> Mapping[str, str]:
        """Those that are there, by their names."""
        return {field.encode_name: said for field in _FIELDS if (said := getattr(self, field.name)) is not None}


_FIELDS = msgspec.structs.fields(BandwidthAnnotations)


class LimitedMeta(ObjectMeta, frozen=True, gc=False):
    """Of a Pod."""

    annotations: BandwidthAnnotations | None = None


class LimitedPod(msgspec.Struct, frozen=True, gc=False):
    """v1 Pod, as far as its bandwidth goes."""

    metadata: LimitedMeta = LimitedMeta()


class Condition(msgspec.Struct, frozen=True, gc=False):
    """One of an object's status.conditions."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = msgspec.field(default=None, name="lastTransitionTime")


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """Of a Node."""

    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")
    provider_id: str = msgspec.field(default="", name="providerID")


class Resources(msgspec.Struct, frozen=True, gc=False):
    """Those of ours in a list of resources."""

    addresses: str | int | None = msgspec.field(default=None, name=names.RESOURCE_ENI_IP)


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """Of a Node."""

    conditions: tuple[Condition, ...] = ()
    capacity: Resources = Resources()
    allocatable: Resources = Resources()


class Node(msgspec.Struct, frozen=True, gc=False):
    """v1 Node."""

    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Most(msgspec.Struct, frozen=True, gc=False):
    """Of one thing that a node has, how many at best."""

    most: int = 0


class NodeCapacity(msgspec.Struct, frozen=True, gc=False):
    """Of a NodeNetwork."""

    addresses: Most = Most()
    routed: Most = Most()


class NodeNetworkStatus(msgspec.Struct, frozen=True, gc=False):
    """Of a NodeNetwork."""

    instance_id: str = msgspec.field(default="", name="instanceID")
    default: Wish = msgspec.field(default=Wish.SHARED, name="defaultNetwork")
    capacity: NodeCapacity = NodeCapacity()
    vswitches: tuple[str, ...] = msgspec.field(default=(), name="vSwitches")
    conditions: tuple[Condition, ...] = ()


class NodeNetwork(msgspec.Struct, frozen=True, gc=False):
    """eniway.io/v1alpha1 NodeNetwork."""

    metadata: ObjectMeta = ObjectMeta()
    status: NodeNetworkStatus = NodeNetworkStatus()


def condition_of(conditions: tuple[Condition, ...], type_: str) -> Condition | None:
    """The condition of a type, if it is there."""
    return next((condition for condition in conditions if condition.type == type_), None)
