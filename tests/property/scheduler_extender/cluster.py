"""Views of a cluster's objects, made in a word."""

from collections.abc import Collection, Mapping

from eniway.kube.views import Condition, ObjectMeta
from eniway.model import PodUid, VSwitchId, Wish
from scheduler_extender import pods as views
from scheduler_extender.pods import Need, Pod
from scheduler_extender.room import Capacity, EitherUse, Holders, NodeNetwork, NodeNetworkStatus, Words
from scheduler_extender.stock import VSwitch, VSwitchStatus

READY = (Condition(type="Ready", status="True"),)


def pod(uid: str, need: Need | None = Need.DEFAULT, *, node: str = "", phase: str = "") -> Pod:
    annotation = need.value if need in (Need.SHARED, Need.ROUTED) else ""
    limits = views._Limits(cards="1") if need is Need.EXCLUSIVE else None
    return Pod(
        views.PodMeta(uid=PodUid(uid), name=uid, annotations=views._Annotations(network=annotation)),
        views._PodSpec(
            node_name=node,
            host_network=need is None,
            containers=(views._Container(views._Resources(limits)),),
        ),
        views._PodStatus(phase=phase),
    )


def words(in_service: int = 0, growable: int = 0, cooling: int = 0, orphaned: int = 0) -> Words:
    return Words(in_service, growable, cooling, orphaned, most=in_service + growable)


def network(
    *,
    addresses: Words | None = None,
    slots: Words | None = None,
    routed: Words | None = None,
    services: Words | None = None,
    either: EitherUse | None = None,
    default: Wish = Wish.SHARED,
    holders: Mapping[str, Collection[str]] | None = None,
    vswitches: Collection[str] = (),
    ready: bool = True,
) -> NodeNetwork:
    held = {what: frozenset(map(PodUid, uids)) for what, uids in (holders or {}).items()}
    return NodeNetwork(
        ObjectMeta(),
        NodeNetworkStatus(
            vswitches=tuple(map(VSwitchId, vswitches)),
            default=default,
            capacity=Capacity(slots or Words(), addresses or Words(), routed or Words(), services),
            either=either or EitherUse(),
            holders=Holders(**held),
            conditions=READY if ready else (),
        ),
    )


def vswitch(available: int, read_at: str) -> VSwitch:
    return VSwitch(status=VSwitchStatus("zone", available, read_at))


def daemon(node: str, *, ready: bool) -> Pod:
    return Pod(
        views.PodMeta(uid=PodUid("d"), namespace=views.DAEMON_NAMESPACE, labels=views._Labels(name=views.DAEMON)),
        views._PodSpec(node_name=node, host_network=True),
        views._PodStatus(conditions=(views._Condition("Ready", str(ready)),)),
    )
