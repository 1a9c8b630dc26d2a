"""A pod as far as the scheduler's door reads it, and what it needs of a node."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from eniway import names
from eniway.model import PodUid, Wish


class Need(Enum):
    """What a pod takes of its node."""

    __hash__ = object.__hash__
    """Members are one of a kind, and asked for by the thousand a second: Enum's own hash is Python code."""

    DEFAULT = "default"
    """Says nothing: whatever the node's ``default_network`` is."""
    SHARED = "shared"
    """One address of a shared ENI."""
    ROUTED = "routed"
    """One address of the node's podCIDR."""
    EXCLUSIVE = "exclusive"
    """One ENI slot, and one address of the primary ENI for its way to Services."""


class _Annotations(msgspec.Struct, frozen=True, gc=False):
    network: str = msgspec.field(default="", name=names.ANNOTATION_NETWORK)
    static_uid: PodUid = msgspec.field(default=PodUid(""), name="kubernetes.io/config.mirror")
    """Of a static pod's mirror: the same as its config.hash, which anybody may write on any pod. This one the API
    server takes only for a pod that comes with its node, and lets nobody change."""


class _Labels(msgspec.Struct, frozen=True, gc=False):
    name: str = msgspec.field(default="", name="app.kubernetes.io/name")


class PodMeta(msgspec.Struct, frozen=True, gc=False):
    """Of a Pod; the names are those of ``eniway.kube.views.ObjectMeta``."""

    name: str = ""
    namespace: str = ""
    uid: PodUid = PodUid("")
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    annotations: _Annotations | None = None
    labels: _Labels | None = None


class _Limits(msgspec.Struct, frozen=True, gc=False):
    cards: str | int | float | None = msgspec.field(default=None, name=names.RESOURCE_ENI)


class _Resources(msgspec.Struct, frozen=True, gc=False):
    limits: _Limits | None = None


class _Container(msgspec.Struct, frozen=True, gc=False):
    resources: _Resources | None = None

    @property
    def wants_card(self) -> bool:
        limits = self.resources.limits if self.resources else None
        return limits is not None and limits.cards not in (None, "0", 0)


class _PodSpec(msgspec.Struct, frozen=True, gc=False):
    node_name: str = msgspec.field(default="", name="nodeName")
    host_network: bool = msgspec.field(default=False, name="hostNetwork")
    containers: tuple[_Container, ...] | None = ()
    init_containers: tuple[_Container, ...] | None = msgspec.field(default=(), name="initContainers")


class _Condition(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    status: str = ""


class _PodStatus(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    conditions: tuple[_Condition, ...] | None = ()


class Pod(msgspec.Struct, frozen=True, gc=False):
    """v1 Pod: from the API server and, in the same shape, from the scheduler."""

    metadata: PodMeta = PodMeta()
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()

    @property
    def uid(self) -> PodUid:
        """Its UID."""
        return self.metadata.uid

    @property
    def holder(self) -> PodUid:
        """The UID that its node knows it by, and its lease: of a static pod the one that kubelet gave it."""
        annotations = self.metadata.annotations
        return annotations.static_uid if annotations and annotations.static_uid else self.uid

    @property
    def finished(self) -> bool:
        """Whether it has ended for good: it takes nothing any more."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_daemon(self) -> bool:
        """Whether it is a node daemon of eniway (manifests/base/daemonset.yaml)."""
        labels = self.metadata.labels
        return labels is not None and labels.name == DAEMON and self.metadata.namespace == DAEMON_NAMESPACE

    @property
    def ready(self) -> bool:
        """Its condition Ready."""
        return any(
            condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions or ()
        )


DAEMON: Final = "eniway-node"
DAEMON_NAMESPACE: Final = "kube-system"


def need_of(pod: Pod) -> Need | None:
    """What ``pod`` takes; None for one in the host's network.

    An annotation that no daemon would take counts as none: admission and daemon refuse it in words of their own.
    """
    if pod.spec.host_network:
        return None
    if any(container.wants_card for container in (*(pod.spec.containers or ()), *(pod.spec.init_containers or ()))):
        return Need.EXCLUSIVE
    annotations = pod.metadata.annotations
    return _BY_ANNOTATION.get(annotations.network if annotations else "", Need.DEFAULT)


_BY_ANNOTATION: Final = {"shared": Need.SHARED, "routed": Need.ROUTED}


def settled(need: Need, default: Wish) -> Need:
    """``need`` on a node of that default; DEFAULT stays where both an address of an ENI and a routed one will do."""
    if need is Need.DEFAULT and default is not Wish.SHARED_ELSE_ROUTED:
        return Need.ROUTED if default is Wish.ROUTED else Need.SHARED
    return need
