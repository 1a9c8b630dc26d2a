"""The agreement checker itself: silent when all agree, and it names whatever has no owner."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from typing import Any

import pytest

from demo.cloud import Eni
from eniway import names
from eniway.model import ContainerId, LeaseKey
from tests.box.agreement import Card, Kernel, Lease, Node, Pod, disagreements, parse_sets

WEB, CARD, CRON = (LeaseKey("eniway", ContainerId(c * 64), "eth0") for c in "abc")
LEASES = (
    Lease(WEB, "uid-web", "shared", "eni-1", "10.0.16.5", None, confirmed=True),
    Lease(CARD, "uid-card", "exclusive", "eni-2", "10.0.16.9", "10.0.0.7", confirmed=True),
    Lease(CRON, "uid-cron", "routed", "eni-0", "172.20.1.7", None, confirmed=True),
)
CARDS = (
    Card("eni-0", "primary", "ready", 0, "00:16:3e:00:00:00", "10.0.0.2", frozenset({"10.0.0.7"})),
    Card("eni-1", "shared", "ready", 1, "00:16:3e:00:00:01", "10.0.16.4", frozenset({"10.0.16.5", "10.0.16.6"})),
    Card("eni-2", "exclusive", "ready", 3, "00:16:3e:00:00:02", "10.0.16.9", frozenset()),
)
KERNEL = Kernel(
    aliases={names.host_link(key): key.alias for key in (WEB, CARD, CRON)},
    macs=frozenset({"00:16:3e:00:00:00", "00:16:3e:00:00:01"}),
    pod_routes={
        "10.0.16.5": names.host_link(WEB),
        "10.0.0.7": names.host_link(CARD),
        "172.20.1.7": names.host_link(CRON),
    },
    eni_tables=frozenset({1001}),
    marks={0x08: 1001},
    sets={
        names.NFT_SOURCES: frozenset({"10.0.16.5"}),
        names.IPSET_PODS: frozenset({"10.0.16.5", "10.0.0.7", "172.20.1.7"}),
        names.IPSET_EXCLUSIVE: frozenset({"10.0.16.9"}),
        names.IPSET_HAIRPIN: frozenset({f"10.0.16.9,{names.host_link(CARD)}"}),
    },
)
NODE = Node(
    name="node-1",
    pod_cidr="172.20.1.0/24",
    instance_id="i-1",
    pods=(
        Pod("uid-web", "d/web", "10.0.16.5", exclusive=False),
        Pod("uid-card", "d/card", "10.0.16.9", exclusive=True),
        Pod("uid-cron", "d/cron", "172.20.1.7", exclusive=False),
    ),
    devices={"eni-slot-3": "d/card"},
    leases=LEASES,
    cards=CARDS,
    kernel=KERNEL,
)
CLOUD = tuple(
    Eni(
        id=str(card.eni_id),
        type="Primary" if card.use == "primary" else "Secondary",
        status="InUse",
        mac=str(card.mac),
        vswitch_id="vsw-1",
        instance_id="i-1",
        primary=IPv4Address(str(card.address)),
        secondary=frozenset(map(IPv4Address, card.secondary)),
        tags=frozenset({(names.TAG_CLUSTER, "box")}) if card.use != "primary" else frozenset(),
    )
    for card in CARDS
)


def test_agreement_is_silent() -> None:
    """A node in order gives no complaint."""
    assert disagreements([NODE], CLOUD) == []


def kernel(**changes: Any) -> Node:
    """The node with another kernel."""
    return dataclasses.replace(NODE, kernel=dataclasses.replace(KERNEL, **changes))


def without(sets: dict[str, frozenset[str]], name: str) -> dict[str, frozenset[str]]:
    """The sets with one of them emptied."""
    return {**sets, name: frozenset()}


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        (dataclasses.replace(NODE, pods=NODE.pods[:1]), "uid-card"),
        (
            dataclasses.replace(NODE, leases=(LEASES[0], LEASES[2])),
            "running pods unknown among pods with a lease: uid-card",
        ),
        (
            dataclasses.replace(NODE, pod_cidr="172.20.2.0/24"),
            "uid-cron has 172.20.1.7, the node's podCIDR is 172.20.2",
        ),
        (dataclasses.replace(NODE, devices={}), "eni-slot-3 by uid-card"),
        (dataclasses.replace(NODE, devices={**NODE.devices, "eni-slot-2": "d/gone"}), "eni-slot-2 by d/gone"),
        (dataclasses.replace(NODE, cards=(*CARDS[:2], dataclasses.replace(CARDS[2], state="detaching"))), "detaching"),
        (
            dataclasses.replace(NODE, leases=(dataclasses.replace(LEASES[0], confirmed=False), *LEASES[1:])),
            "not confirmed",
        ),
        (kernel(aliases={**KERNEL.aliases, "eniwdead": "eniway/c/eth0"}), "eniwdead as eniway/c/eth0"),
        (kernel(pod_routes={**KERNEL.pod_routes, "10.0.16.6": "eniwdead"}), "10.0.16.6 by eniwdead"),
        (kernel(eni_tables=frozenset({1001, 1002})), "1002"),
        (kernel(marks={}), "0x8 → 1001"),
        (kernel(macs=KERNEL.macs | {"00:16:3e:00:00:02"}), "eni-2 is in the node's namespace"),
        (kernel(macs=frozenset({"00:16:3e:00:00:00"})), "eni-1 is not in the node's namespace"),
        *[(kernel(sets=without(dict(KERNEL.sets), name)), f"members of {name}") for name in KERNEL.sets],
    ],
)
def test_whatever_lacks_its_counterpart_is_named(node: Node, complaint: str) -> None:
    """Pods, devices, leases, cards, links, routes, tables, rules, set members: each side is held against the other."""
    assert any(complaint in one for one in disagreements([node], CLOUD)), disagreements([node], CLOUD)


@pytest.mark.parametrize(
    ("cloud", "complaint"),
    [
        (CLOUD[:2], "eni-2"),
        ((*CLOUD, dataclasses.replace(CLOUD[2], id="eni-9")), "eni-9"),
        ((*CLOUD, dataclasses.replace(CLOUD[2], id="eni-9", instance_id=None)), "eni-9 carries our tag"),
        (
            (CLOUD[0], dataclasses.replace(CLOUD[1], secondary=frozenset({IPv4Address("10.0.16.6")})), CLOUD[2]),
            "10.0.16.5",
        ),
    ],
)
def test_cloud_and_ledger_are_held_against_each_other(cloud: tuple[Eni, ...], complaint: str) -> None:
    """An ENI or address that only one of them knows has no owner."""
    assert any(complaint in one for one in disagreements([NODE], cloud)), disagreements([NODE], cloud)


def test_members_are_read_from_ipset_save() -> None:
    """An empty set is known, too."""
    saved = "create a hash:ip family inet\ncreate b hash:ip\nadd a 10.0.0.1\nadd a 10.0.0.2\n"
    assert parse_sets(saved) == {"a": {"10.0.0.1", "10.0.0.2"}, "b": frozenset()}
