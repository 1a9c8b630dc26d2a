"""What is read of the API server's objects, and what of a pod is kept: about a kilobyte each."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Mapping
from ipaddress import ip_address
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from eniway import names
from networkpolicy.terms import PROTOCOLS, Family

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_FINISHED: Final = ("Succeeded", "Failed")


class PodAnnotations(msgspec.Struct, frozen=True, gc=False):
    """Those of a pod that mean something here."""

    service_address: str = msgspec.field(default="", name=names.ANNOTATION_SERVICE_ADDRESS)
    static_uid: str = msgspec.field(default="", name="kubernetes.io/config.hash")
    """Of a static pod's mirror: the uid that kubelet and the runtime know it by."""


class PodMeta(msgspec.Struct, frozen=True, gc=False):
    """Of a pod."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    labels: dict[str, str] | None = None
    annotations: PodAnnotations | None = None


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """A port that a container declares."""

    name: str = ""
    number: int = msgspec.field(default=0, name="containerPort")
    protocol: str = "TCP"


class Container(msgspec.Struct, frozen=True, gc=False):
    """A container; one of spec.initContainers runs on beside the others if its restartPolicy is Always."""

    ports: tuple[ContainerPort, ...] | None = None
    restart_policy: str = msgspec.field(default="", name="restartPolicy")


class PodSpec(msgspec.Struct, frozen=True, gc=False):
    """Of a pod."""

    host_network: bool = msgspec.field(default=False, name="hostNetwork")
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = msgspec.field(default=None, name="initContainers")


class PodIp(msgspec.Struct, frozen=True, gc=False):
    """One of status.podIPs."""

    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True, gc=False):
    """Of a pod."""

    phase: str = ""
    addresses: tuple[PodIp, ...] | None = msgspec.field(default=None, name="podIPs")


class PodView(msgspec.Struct, frozen=True, gc=False):
    """v1 Pod."""

    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NamespaceAnnotations(msgspec.Struct, frozen=True, gc=False):
    """Those of a namespace that mean something here."""

    mode: str = msgspec.field(default="", name=names.ANNOTATION_POLICY_MODE)


class NamespaceMeta(msgspec.Struct, frozen=True, gc=False):
    """Of a namespace."""

    name: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    labels: dict[str, str] | None = None
    annotations: NamespaceAnnotations | None = None


class NamespaceView(msgspec.Struct, frozen=True, gc=False):
    """v1 Namespace."""

    metadata: NamespaceMeta = NamespaceMeta()


class PolicyMeta(msgspec.Struct, frozen=True, gc=False):
    """Of a policy."""

    name: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class PolicyView(msgspec.Struct, frozen=True, gc=False):
    """networking.k8s.io/v1 NetworkPolicy. Its spec is read part by part, so that one strange part spoils no other."""

    metadata: PolicyMeta = PolicyMeta()
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class NamedPort(NamedTuple):
    """A port that policies can call by its name."""

    name: str
    protocol: int
    number: int


class Pod(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a pod."""

    namespace: str
    name: str
    uids: tuple[str, ...]
    """Its own, and of a static pod the one that the runtime knows."""
    labels: Mapping[str, str]
    addresses: tuple[bytes, ...]
    """Packed; none for a pod that is finished, has none yet, or is in the host's network."""
    ports: tuple[NamedPort, ...]
    host_network: bool
    finished: bool
    service_address: str
    """As annotated."""


class _Alike(Generic[_K, _V]):
    """Equal values, kept once as long as somebody has one."""

    def __init__(self) -> None:
        self._kept: dict[_K, _V] = {}
        self._uses: Counter[_K] = Counter()

    def take(self, key: _K, value: _V) -> _V:
        self._uses[key] += 1
        return self._kept.setdefault(key, value)

    def leave(self, key: _K) -> None:
        self._uses[key] -= 1
        if not self._uses[key]:
            del self._uses[key], self._kept[key]


class Keeper:
    """Makes pods of views. Equal labels and ports are kept once: most pods are one of many alike.

    Of a Job's pods each has labels of its own, which go with the last pod that is let go of.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._labels = _Alike[tuple[tuple[str, str], ...], Mapping[str, str]]()
        self._ports = _Alike[tuple[NamedPort, ...], tuple[NamedPort, ...]]()

    def pod(self, view: PodView) -> Pod:
        """The pod of a view. An address that is none is passed over."""
        meta, notes = view.metadata, view.metadata.annotations or PodAnnotations()
        labels = meta.labels or {}
        finished = view.status.phase in _FINISHED
        ports = tuple(sorted(_named_ports(view.spec)))
        told = [address.ip for address in view.status.addresses or ()]
        if told and notes.service_address:
            told.append(notes.service_address)
        alone = view.spec.host_network or finished
        return Pod(
            namespace=sys.intern(meta.namespace),
            name=meta.name,
            uids=(meta.uid, notes.static_uid) if notes.static_uid else (meta.uid,),
            labels=self._labels.take(_key(labels), labels),
            addresses=() if alone else tuple(filter(None, (self._packed(address) for address in told))),
            ports=self._ports.take(ports, ports),
            host_network=view.spec.host_network,
            finished=finished,
            service_address=notes.service_address,
        )

    def let_go(self, pod: Pod) -> None:
        """A pod that was made here is kept no more."""
        self._labels.leave(_key(pod.labels))
        self._ports.leave(pod.ports)

    def _packed(self, text: str) -> bytes | None:
        try:
            address = ip_address(text)
        except ValueError:
            return None
        # No packet has 0.0.0.0 or ::, and a hash:ip set takes neither.
        return None if address.is_unspecified or address.version != self._family else address.packed


def _key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _named_ports(spec: PodSpec) -> set[NamedPort]:
    """Of containers and of init containers that run beside them (sidecars)."""
    sidecars = [container for container in spec.init_containers or () if container.restart_policy == "Always"]
    return {
        NamedPort(port.name, PROTOCOLS[port.protocol], port.number)
        for container in (*(spec.containers or ()), *sidecars)
        for port in container.ports or ()
        if port.name and port.protocol in PROTOCOLS
    }
