"""The extender protocol's JSON: k8s.io/kube-scheduler/extender/v1/types.go.

The types there carry no JSON tags, so keys are capitalised as the Go fields are; Pod and Node inside them are ordinary
v1 JSON. Of a pod only what is needed is decoded, of a node only its name: the rest is handed back as it came.

A reply is always HTTP 200: kube-scheduler reads no body of any other status, and a reason would be lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from eniway.model import PodUid
from scheduler_extender.pods import Pod

HIGHEST_SCORE: Final = 10
"""MaxExtenderPriority."""


class NodeList(msgspec.Struct):
    """v1 NodeList; items are v1 Nodes."""

    items: list[msgspec.Raw] | None = None


class _NodeMeta(msgspec.Struct, gc=False):
    name: str


class _Node(msgspec.Struct, gc=False):
    metadata: _NodeMeta


class ExtenderArgs(msgspec.Struct, rename="pascal"):
    """Of filter and prioritize: names with ``nodeCacheCapable``, whole nodes without."""

    pod: Pod | None = None
    nodes: NodeList | None = None
    node_names: list[str] | None = None


class FilterResult(msgspec.Struct, rename="pascal"):
    """Of filter: as many of the nodes as can serve the pod, in the form they were asked in."""

    nodes: NodeList | None = None
    node_names: Collection[str] | None = None
    failed_nodes: Mapping[str, str] = {}
    """Preemption may make these fit."""
    failed_and_unresolvable_nodes: Mapping[str, str] = {}
    """Preemption cannot help there."""
    error: str = ""
    """Set: the attempt failed and is made again after a while; the pod is not taken for unschedulable."""


class HostPriority(msgspec.Struct, rename="pascal"):
    """Of prioritize, one a node; ``score`` 0 … 10."""

    host: str
    score: int


class BindingArgs(
    msgspec.Struct, rename={"name": "PodName", "namespace": "PodNamespace", "uid": "PodUID", "node": "Node"}
):
    """ExtenderBindingArgs, of bind."""

    name: str
    namespace: str
    uid: PodUid
    node: str


class BindingResult(msgspec.Struct, rename="pascal"):
    """ExtenderBindingResult."""

    error: str = ""
    """Set: the pod is not bound, as far as is known, and is tried again."""


_ARGS: Final = msgspec.json.Decoder(ExtenderArgs)
_BINDING: Final = msgspec.json.Decoder(BindingArgs)
_NODE: Final = msgspec.json.Decoder(_Node)
_ENCODER: Final = msgspec.json.Encoder()
encode: Final = _ENCODER.encode


class Asked:
    """A request, understood."""

    __slots__ = ("_whole", "names", "pod")

    def __init__(self, body: bytes) -> None:
        """msgspec.DecodeError, or ValueError, says what is wrong with ``body``."""
        args = _ARGS.decode(body)
        if args.pod is None or not args.pod.metadata.uid:
            raise ValueError("expected Pod.metadata.uid, there is none")
        self.pod = args.pod
        self._whole: dict[str, msgspec.Raw] | None = None
        if args.node_names is not None:
            self.names: Sequence[str] = args.node_names
        else:
            items = (args.nodes.items if args.nodes else None) or []
            self._whole = {_NODE.decode(item).metadata.name: item for item in items}
            self.names = list(self._whole)

    def answer(self, chosen: Collection[str], failed: Mapping[str, str], unresolvable: Mapping[str, str]) -> bytes:
        """The reply of filter."""
        result = FilterResult(failed_nodes=failed, failed_and_unresolvable_nodes=unresolvable)
        if self._whole is None:
            result.node_names = chosen
        else:
            result.nodes = NodeList([self._whole[name] for name in chosen])
        return _ENCODER.encode(result)


def binding(body: bytes) -> BindingArgs:
    """A request of bind; msgspec.DecodeError, or ValueError, says what is wrong with ``body``."""
    args = _BINDING.decode(body)
    if not (args.name and args.namespace and args.uid and args.node):
        raise ValueError("expected PodName, PodNamespace, PodUID and Node, one is empty")
    return args


def refusal(error: str) -> bytes:
    """The reply of filter that makes the scheduler try again."""
    return _ENCODER.encode(FilterResult(error=error))


def refused_binding(error: str) -> bytes:
    """The reply of bind to a pod that is not bound."""
    return _ENCODER.encode(BindingResult(error))
