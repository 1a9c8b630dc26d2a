"""Records as rows of the ledger, both ways. Readers raise ValueError or IndexError for a row that makes no sense."""

from __future__ import annotations

import sqlite3
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from eniallocator.lifecycle import State
from eniallocator.records import AddressRecord, AssignRecord, EniRecord, LeaseRecord, Record, RoutedAddress, Use
from eniway.model import (
    Bandwidth,
    Choice,
    ContainerId,
    EniId,
    Kind,
    LeaseKey,
    Mac,
    PodRef,
    PodUid,
    SecurityGroupId,
    Slot,
    VSwitchId,
)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def row_of(record: Record) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Table, key columns and columns of a record."""
    match record:
        case EniRecord():
            return (
                "enis",
                ("token",),
                {
                    "token": record.token,
                    "use": record.use.value,
                    "state": record.state.value,
                    "slot": record.slot,
                    "vswitch_id": record.vswitch_id,
                    "since": record.since,
                    "wanted": record.wanted,
                    "eni_id": record.eni_id,
                    "mac": record.mac,
                    "address": _text(record.address),
                    "prefix": _text(record.prefix),
                    "gateway": _text(record.gateway),
                    "chosen_groups": ",".join(record.choice.security_groups) or None,
                    "chosen_vswitch": record.choice.vswitch,
                },
            )
        case AddressRecord():
            return (
                "addresses",
                ("address",),
                {
                    "address": str(record.address),
                    "token": record.token,
                    "is_primary": int(record.primary),
                    "released": record.released,
                    "orphan": int(record.orphan),
                    "leaving": int(record.leaving),
                },
            )
        case RoutedAddress():
            return "routed_addresses", ("address",), {"address": str(record.address), "released": record.released}
        case LeaseRecord():
            return (
                "routed_leases" if record.kind is Kind.ROUTED else "leases",
                ("network", "container_id", "ifname"),
                {
                    "network": record.key.network,
                    "container_id": record.key.container_id,
                    "ifname": record.key.ifname,
                    "pod_namespace": record.pod.namespace,
                    "pod_name": record.pod.name,
                    "pod_uid": record.pod.uid,
                    "kind": record.kind.value,
                    "netns": record.netns,
                    "token": record.token,
                    "address": str(record.address),
                    "service_address": _text(record.service_address),
                    "confirmed": int(record.confirmed),
                    "since": record.since,
                    "ingress_bandwidth": record.bandwidth.ingress,
                    "egress_bandwidth": record.bandwidth.egress,
                },
            )
        case AssignRecord():
            return (
                "assigns",
                ("token",),
                {"token": record.token, "eni": record.eni, "count": record.count, "since": record.since},
            )


def eni(row: sqlite3.Row) -> EniRecord:
    """A row of its table."""
    return EniRecord(
        token=row["token"],
        use=Use(row["use"]),
        state=State(row["state"]),
        slot=None if row["slot"] is None else Slot(row["slot"]),
        vswitch_id=VSwitchId(row["vswitch_id"]),
        since=row["since"],
        wanted=row["wanted"],
        eni_id=None if row["eni_id"] is None else EniId(row["eni_id"]),
        mac=None if row["mac"] is None else Mac(row["mac"]),
        address=None if row["address"] is None else IPv4Address(row["address"]),
        prefix=None if row["prefix"] is None else IPv4Network(row["prefix"]),
        gateway=None if row["gateway"] is None else IPv4Address(row["gateway"]),
        choice=Choice(
            tuple(map(SecurityGroupId, row["chosen_groups"].split(","))) if row["chosen_groups"] else (),
            None if row["chosen_vswitch"] is None else VSwitchId(row["chosen_vswitch"]),
        ),
    )


def address(row: sqlite3.Row) -> AddressRecord:
    """A row of its table."""
    return AddressRecord(
        address=IPv4Address(row["address"]),
        token=row["token"],
        primary=bool(row["is_primary"]),
        released=row["released"],
        orphan=bool(row["orphan"]),
        leaving=bool(row["leaving"]),
    )


def routed_address(row: sqlite3.Row) -> RoutedAddress:
    """A row of its table."""
    return RoutedAddress(address=IPv4Address(row["address"]), released=row["released"])


def lease(row: sqlite3.Row) -> LeaseRecord:
    """A row of either table of leases."""
    return LeaseRecord(
        key=LeaseKey(row["network"], ContainerId(row["container_id"]), row["ifname"]),
        pod=PodRef(row["pod_namespace"], row["pod_name"], PodUid(row["pod_uid"])),
        kind=Kind(row["kind"]),
        netns=row["netns"],
        token=row["token"],
        address=IPv4Address(row["address"]),
        service_address=None if row["service_address"] is None else IPv4Address(row["service_address"]),
        confirmed=bool(row["confirmed"]),
        since=row["since"],
        bandwidth=Bandwidth(row["ingress_bandwidth"], row["egress_bandwidth"]),
    )


def assign(row: sqlite3.Row) -> AssignRecord:
    """A row of its table."""
    return AssignRecord(token=row["token"], eni=row["eni"], count=row["count"], since=row["since"])
