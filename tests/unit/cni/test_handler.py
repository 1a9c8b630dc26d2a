from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from cni.handler import Handler, Need, need_of
from cni.wire import Reply
from eniway.errors import BadAnnotation
from eniway.model import Bandwidth, Choice, Kind, SecurityGroupId, Slot, VSwitchId, Wish


def handler_of(rooms: Any) -> Handler:
    """A handler before ``rooms``."""
    return Handler(rooms, rooms, rooms, add_seconds=200)


def error_of(reply: Reply) -> dict[str, Any]:
    """The error object of a failed request."""
    assert reply.status == 1
    decoded: dict[str, Any] = msgspec.json.decode(reply.output)
    return decoded


async def test_add_of_a_shared_pod(rooms: Any, request_of: Any) -> None:
    """A pod without a device gets an address of a shared card over a veth."""
    reply = await handler_of(rooms).handle(request_of("ADD", annotations={"eniway.io/network": "shared"}))
    assert reply.status == 0
    assert msgspec.json.decode(reply.output) == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "eniw0123456789a"},
            {"name": "eth0", "mac": "00:16:3e:00:00:01", "sandbox": "/run/netns/x"},
        ],
        "ips": [{"address": "10.0.16.100/32", "gateway": "169.254.1.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
    }
    assert rooms.confirmed == set(rooms.held) == set(rooms.kernel)


async def test_add_of_an_exclusive_pod(rooms: Any, request_of: Any) -> None:
    """A pod that kubelet gave a slot to gets the slot's card, whatever its annotation says."""
    rooms.slots["web-0"] = (Slot(3),)
    reply = await handler_of(rooms).handle(
        request_of("ADD", version="1.1.0", annotations={"eniway.io/network": "shared"})
    )
    result = msgspec.json.decode(reply.output)
    assert [lease.card.slot for lease in rooms.leases()] == [3]
    assert result["ips"] == [{"address": "10.0.16.100/32", "gateway": "10.0.31.253", "interface": 1}]
    assert [(link["name"], link.get("mtu")) for link in result["interfaces"]] == [
        ("eniw0123456789a", None),
        ("eth0", 1500),
        ("veth1", 1500),
    ]


async def test_add_is_idempotent_by_key(rooms: Any, request_of: Any) -> None:
    """The same ADD again has the same answer and takes nothing more."""
    handler = handler_of(rooms)
    first = await handler.handle(request_of("ADD"))
    assert await handler.handle(request_of("ADD")) == first
    assert len(rooms.held) == 1


async def test_a_repeated_add_that_fails_leaves_what_the_first_one_made(rooms: Any, request_of: Any) -> None:
    """What an earlier ADD made may be in use."""
    handler = handler_of(rooms)
    await handler.handle(request_of("ADD"))
    rooms.steps.cancel_at = rooms.steps.taken + 3
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(handler.handle(request_of("ADD")))
    assert rooms.confirmed == set(rooms.held) == set(rooms.kernel)


@pytest.mark.parametrize("slots", [(), (Slot(2),)])
async def test_add_cancelled_at_every_await_leaves_consistent_books(rooms: Any, request_of: Any, slots: Any) -> None:
    """Whatever the moment: either nothing is left, or all is there; and the next ADD of the pod succeeds."""
    rooms.slots["web-0"] = slots
    handler = handler_of(rooms)
    for moment in range(1, 100):
        rooms.steps.taken, rooms.steps.cancel_at = 0, moment
        task = asyncio.ensure_future(handler.handle(request_of("ADD", container=f"c{moment}")))
        cancelled = False
        try:
            await task
        except asyncio.CancelledError:
            cancelled = True
        assert not handler._locks
        if not cancelled:
            assert rooms.confirmed == set(rooms.held) == set(rooms.kernel) != set()
            break
        assert (rooms.held, rooms.kernel, rooms.confirmed) == ({}, {}, set()), f"after a cancel at await {moment}"
    assert moment > 7


async def test_a_failed_add_takes_back_what_it_did(rooms: Any, request_of: Any) -> None:
    """An ADD that fails in the kernel leaves no lease."""
    rooms.slots["web-0"] = (Slot(2),)
    handler = handler_of(rooms)
    await handler.handle(request_of("ADD", container="old"))
    reply = await handler.handle(request_of("ADD", container="new", uid="uid-2"))
    assert error_of(reply)["code"] == 105
    assert [key.container_id for key in rooms.held] == ["old"]


async def test_what_cannot_be_taken_back_stays_in_the_books(rooms: Any, request_of: Any) -> None:
    """An address whose route could not be removed is not free: a later DEL gets it."""
    handler = handler_of(rooms)
    rooms.steps.cancel_at = 5
    rooms.detach_fails = "RTNETLINK answers: device or resource busy"
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(handler.handle(request_of("ADD")))
    assert len(rooms.held) == 1
    rooms.detach_fails = ""
    assert (await handler.handle(request_of("DEL"))).status == 0
    assert not rooms.held


async def test_del_undoes_an_add(rooms: Any, request_of: Any) -> None:
    """Also with an empty CNI_NETNS and no prevResult; and again, and for what was never added."""
    handler = handler_of(rooms)
    await handler.handle(request_of("ADD"))
    for _ in range(2):
        assert await handler.handle(request_of("DEL", netns="")) == Reply(0, b"")
    assert not rooms.held
    assert not rooms.kernel
    assert rooms.log == ["attach c1", "detach c1", "remove c1"]


async def test_del_of_a_lease_the_books_lost_clears_the_kernel(rooms: Any, request_of: Any) -> None:
    """Books that were set aside and rebuilt do not know what the kernel still has."""
    handler = handler_of(rooms)
    await handler.handle(request_of("ADD"))
    rooms.held.clear()
    assert await handler.handle(request_of("DEL", netns="")) == Reply(0, b"")
    assert not rooms.kernel


async def test_del_acts_only_for_its_own_container(rooms: Any, request_of: Any) -> None:
    """A late DEL of an old sandbox leaves the pod's new sandbox alone."""
    handler = handler_of(rooms)
    await handler.handle(request_of("ADD", container="new"))
    assert (await handler.handle(request_of("DEL", container="old"))).status == 0
    assert len(rooms.kernel) == 1


async def test_a_failing_del_keeps_the_lease_and_never_says_not_found(rooms: Any, request_of: Any) -> None:
    """go-cni would take the phrase for a success and never ask again."""
    handler = handler_of(rooms)
    await handler.handle(request_of("ADD"))
    rooms.detach_fails = "netlink: Link Not Found"
    error = error_of(await handler.handle(request_of("DEL")))
    assert error["code"] == 5
    assert "not found" not in str(error).lower()
    assert "netlink" in error["msg"]
    assert len(rooms.held) == 1


async def test_a_del_waits_for_the_add_of_its_key(rooms: Any, request_of: Any) -> None:
    """They never overlap, and after both nothing is left."""
    handler = handler_of(rooms)
    add = asyncio.ensure_future(handler.handle(request_of("ADD")))
    await asyncio.sleep(0)
    delete = await handler.handle(request_of("DEL"))
    assert (await add).status == delete.status == 0
    assert rooms.log == ["attach c1", "detach c1"]
    assert not rooms.held


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"annotations": {"eniway.io/network": "fast"}}, 101, ["eniway.io/network", "'shared'", "'fast'"]),
        ({"annotations": {"eniway.io/network": "exclusive"}}, 101, ["eniway.io/network"]),
        ({"version": "0.2.0"}, 1, ["cniVersion", "0.3.0"]),
        ({"version": "2.0.0"}, 1, ["cniVersion"]),
        ({"mtu": 9000}, 2, ["mtu"]),
        ({"annotations": {"eniway.io/network": 1}}, 7, ["pod-annotations"]),
        ({"netns": ""}, 4, ["CNI_NETNS"]),
        ({"ifname": "net1"}, 4, ["CNI_IFNAME", "eth0"]),
        ({"ifname": "a/b"}, 4, ["CNI_IFNAME"]),
        ({"container": "../x"}, 4, ["CNI_CONTAINERID"]),
        ({"uid": ""}, 4, ["CNI_ARGS", "K8S_POD_UID"]),
        ({"name": ""}, 7, ["name"]),
    ],
)
async def test_bad_input_is_named(rooms: Any, request_of: Any, changes: Any, code: int, words: list[str]) -> None:
    """Each error says which field is wrong; nothing is taken."""
    error = error_of(await handler_of(rooms).handle(request_of("ADD", **changes)))
    assert error["code"] == code
    assert all(word in error["msg"] for word in words), error
    assert not rooms.held


async def test_more_than_one_eni_is_refused(rooms: Any, request_of: Any) -> None:
    """A pod has one eth0."""
    rooms.slots["web-0"] = (Slot(2), Slot(3))
    error = error_of(await handler_of(rooms).handle(request_of("ADD")))
    assert error["code"] == 101
    assert "aliyun/eni" in error["msg"]
    assert "at most 1" in error["msg"]


async def test_an_exhausted_node_says_so(rooms: Any, request_of: Any) -> None:
    """The books' error reaches the runtime with its own code."""
    rooms.free = 0
    assert error_of(await handler_of(rooms).handle(request_of("ADD")))["code"] == 102


async def test_status_and_version_need_nothing(rooms: Any, request_of: Any) -> None:
    """A node without a free address is Ready all the same."""
    rooms.free = 0
    handler = handler_of(rooms)
    assert await handler.handle(request_of("STATUS", version="1.1.0")) == Reply(0, b"")
    version = msgspec.json.decode((await handler.handle(request_of("VERSION"))).output)
    assert version["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert error_of(await handler.handle(request_of("UPDATE")))["code"] == 4


async def test_check_compares_books_kernel_and_result(rooms: Any, request_of: Any) -> None:
    """It fails without a prevResult, without a lease, with another address, and when the kernel differs."""
    handler = handler_of(rooms)
    good = {"ips": [{"address": "10.0.16.100/32"}]}
    assert error_of(await handler.handle(request_of("CHECK", prevResult=good)))["code"] == 3
    await handler.handle(request_of("ADD"))
    assert error_of(await handler.handle(request_of("CHECK")))["code"] == 7
    assert (await handler.handle(request_of("CHECK", prevResult=good))).status == 0
    other = {"ips": [{"address": "10.0.16.101/32"}]}
    assert error_of(await handler.handle(request_of("CHECK", prevResult=other)))["code"] == 7
    chained = {"ips": [{"address": "fd00::9/64"}, *good["ips"]]}
    assert (await handler.handle(request_of("CHECK", prevResult=chained))).status == 0
    rooms.kernel.clear()
    error = error_of(await handler.handle(request_of("CHECK", prevResult=good)))
    assert "link eth0 is missing" in error["msg"]


async def test_gc_releases_all_but_what_is_in_use(rooms: Any, request_of: Any) -> None:
    """Of this network, by (container, interface); no list at all, as cnitool sends it, is no word on who is in use."""
    handler = handler_of(rooms)
    for container in ("c1", "c2", "c3"):
        await handler.handle(request_of("ADD", container=container))

    async def gc(**config: Any) -> list[str]:
        assert await handler.handle(request_of("GC", version="1.1.0", **config)) == Reply(0, b"")
        return [key.container_id for key in rooms.held]

    assert await gc() == ["c1", "c2", "c3"]
    valid = [{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth1"}]
    assert await gc(valid_attachments=valid) == ["c2"]
    assert await gc(name="other", valid_attachments=[]) == ["c2"]
    assert await gc(**{"cni.dev/attachments": valid}) == ["c2"]
    assert await gc(valid_attachments=None) == []


async def test_gc_goes_on_after_a_failure_and_tells_it(rooms: Any, request_of: Any) -> None:
    """One lease that cannot be undone does not keep the others."""
    handler = handler_of(rooms)
    for container in ("c1", "c2"):
        await handler.handle(request_of("ADD", container=container))
    rooms.detach_fails = "busy"
    error = error_of(await handler.handle(request_of("GC", version="1.1.0", valid_attachments=[])))
    assert error["code"] == 11
    assert rooms.log[2:] == ["detach c1", "detach c2"]


@pytest.mark.parametrize(
    ("verb", "without", "since"), [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "1.0.0", "1.1.0")]
)
async def test_a_verb_is_refused_in_versions_that_do_not_have_it(
    rooms: Any, request_of: Any, verb: str, without: str, since: str
) -> None:
    """With the code for a version that does not fit, in the words of that version."""
    handler = handler_of(rooms)
    result = msgspec.json.decode((await handler.handle(request_of("ADD", version=since))).output)
    error = error_of(await handler.handle(request_of(verb, version=without, prevResult=result)))
    assert (error["code"], error["cniVersion"]) == (1, without)
    assert since in error["msg"]
    assert await handler.handle(request_of(verb, version=since, prevResult=result)) == Reply(0, b"")


@pytest.mark.parametrize("place", ["deviceID", "runtimeConfig"])
async def test_a_device_named_by_the_caller_has_to_be_the_pods(rooms: Any, request_of: Any, place: str) -> None:
    """Multus names it in both places, and beside it a pciBusID; kubelet knows whose it is."""
    handler = handler_of(rooms)

    def add(device: str) -> Any:
        config = {"deviceID": device, "pciBusID": device} if place == "deviceID" else {place: {"deviceID": device}}
        return handler.handle(request_of("ADD", **config))

    error = error_of(await add("eni-slot-2"))
    assert error["code"] == 7
    assert all(word in error["msg"] for word in (place, "none", "eni-slot-2"))
    assert not rooms.held
    rooms.slots["web-0"] = (Slot(3),)
    assert "eni-slot-3" in error_of(await add("eni-slot-2"))["msg"]
    assert (await add("eni-slot-3")).status == 0
    assert [lease.card.slot for lease in rooms.leases()] == [3]


async def test_the_result_of_plugins_chained_before_goes_on(rooms: Any, request_of: Any) -> None:
    """Ours is behind it, its indices moved; and CHECK takes the whole back."""
    handler = handler_of(rooms)
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "dummy0", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.9.0.1/24", "interface": 0}],
        "routes": [{"dst": "10.9.0.0/16"}],
        "dns": {"nameservers": ["10.9.0.2"]},
    }
    result = msgspec.json.decode((await handler.handle(request_of("ADD", prevResult=before))).output)
    assert [link["name"] for link in result["interfaces"]] == ["dummy0", "eniw0123456789a", "eth0"]
    ours = result["ips"][1]
    assert result["ips"][0] == before["ips"][0]  # type: ignore[index]
    assert result["interfaces"][ours["interface"]]["name"] == "eth0"
    assert [route["dst"] for route in result["routes"]] == ["10.9.0.0/16", "0.0.0.0/0"]
    assert result["dns"] == before["dns"]
    assert (await handler.handle(request_of("CHECK", prevResult=result))).status == 0


def test_a_device_decides_before_the_annotation() -> None:
    """And the annotation before the node's default."""
    said = {"eniway.io/network": "routed"}
    assert need_of((Slot(4),), said, Wish.SHARED) == Need(Kind.EXCLUSIVE, Slot(4))
    assert need_of((), said, Wish.SHARED) == Need(Kind.ROUTED)
    assert need_of((), {"eniway.io/network": "shared"}, Wish.SHARED_ELSE_ROUTED) == Need(Kind.SHARED)
    assert need_of((), {}, Wish.SHARED) == Need(Kind.SHARED)
    assert need_of((), {}, Wish.ROUTED) == Need(Kind.ROUTED)
    assert need_of((), {}, Wish.SHARED_ELSE_ROUTED) == Need(Kind.SHARED, else_routed=True)


@pytest.mark.parametrize("said", ["fast", "", "exclusive", "shared-else-routed"])
@pytest.mark.parametrize("slots", [(), (Slot(4),)])
def test_an_annotation_of_another_word_is_refused(slots: tuple[Slot, ...], said: str) -> None:
    """With what was expected; also on a pod that would not have needed it."""
    with pytest.raises(BadAnnotation, match=f"eniway.io/network: expected 'shared' or 'routed', got '{said}'"):
        need_of(slots, {"eniway.io/network": said}, Wish.SHARED)


def test_bandwidth_is_read_for_every_kind() -> None:
    """Both families, and the same for all."""
    said = {"k8s.aliyun.com/ingress-bandwidth": "1m", "kubernetes.io/egress-bandwidth": "10M"}
    wanted = Bandwidth(ingress=8 * 1024**2, egress=10_000_000)
    for slots, default in (((), Wish.SHARED), ((), Wish.ROUTED), ((Slot(4),), Wish.SHARED)):
        assert need_of(slots, said, default).bandwidth == wanted


def test_a_choice_goes_with_a_device() -> None:
    """Security groups and vSwitch of its ENI; a pod that has none is told so, rather than that nothing is done."""
    said = {"eniway.io/security-groups": "sg-b, sg-a", "eniway.io/vswitch": "vsw-1"}
    chosen = Choice((SecurityGroupId("sg-a"), SecurityGroupId("sg-b")), VSwitchId("vsw-1"))
    assert need_of((Slot(4),), said, Wish.SHARED) == Need(Kind.EXCLUSIVE, Slot(4), choice=chosen)
    with pytest.raises(BadAnnotation, match=r"eniway\.io/security-groups: expected on a pod with aliyun/eni"):
        need_of((), said, Wish.SHARED)


async def test_a_bad_bandwidth_refuses_the_pod(rooms: Any, request_of: Any) -> None:
    """Nothing is leased, and the error names the annotation and what was expected."""
    said = {"kubernetes.io/ingress-bandwidth": "fast"}
    error = error_of(await handler_of(rooms).handle(request_of("ADD", annotations=said)))
    assert error["code"] == 101
    assert "kubernetes.io/ingress-bandwidth: expected bits per second" in error["msg"]
    assert not rooms.held


async def test_the_lease_carries_the_bandwidth_whatever_the_runtime_makes_of_it(rooms: Any, request_of: Any) -> None:
    """The runtime's own capability brings a burst of 512 MB: neither it nor its rates are read."""
    request = request_of(
        "ADD",
        runtimeConfig={
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
            "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 4294967295, "egressRate": 1, "egressBurst": 1},
        },
    )
    assert (await handler_of(rooms).handle(request)).status == 0
    assert [lease.bandwidth for lease in rooms.kernel.values()] == [Bandwidth(ingress=10_000_000)]


async def test_a_routed_pods_result_looks_like_a_shared_ones(rooms: Any, request_of: Any) -> None:
    """One address, a link-local gateway; and CHECK takes it back."""
    handler = handler_of(rooms)
    said = {"eniway.io/network": "routed"}
    result = msgspec.json.decode((await handler.handle(request_of("ADD", annotations=said))).output)
    (lease,) = rooms.held.values()
    assert lease.kind is Kind.ROUTED
    assert result["ips"] == [{"address": f"{lease.address}/32", "gateway": "169.254.1.1", "interface": 1}]
    assert (await handler.handle(request_of("CHECK", annotations=said, prevResult=result))).status == 0
