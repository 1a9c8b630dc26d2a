"""Every metric of eniway: one registry, idiomatic names, base units, no per-pod labels.

Histograms start at 1 ms: the fast path of an ADD is a few milliseconds and has to be seen.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240)

CNI_SECONDS: Final = Histogram(
    "eniway_cni_request_duration_seconds",
    "Time from a CNI request's arrival to its answer.",
    ["verb", "kind", "result"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
CNI_STEP_SECONDS: Final = Histogram(
    "eniway_cni_step_duration_seconds",
    "Time of each step of a CNI request: turn, kubelet, lease, kernel, books, undo, take back.",
    ["verb", "kind", "step"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
LEASE_WAIT_SECONDS: Final = Histogram(
    "eniway_lease_wait_seconds",
    "Time an ADD waited for an address or a card.",
    ["kind"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
CLOUD_SECONDS: Final = Histogram(
    "eniway_cloud_request_duration_seconds",
    "OpenAPI calls by Action and error code (empty: success).",
    ["action", "code"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
DATAPATH_SECONDS: Final = Histogram(
    "eniway_datapath_apply_duration_seconds",
    "Time to bring a pod's links, routes and sets from observed to desired.",
    ["operation"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
CAPACITY: Final = Gauge(
    "eniway_capacity",
    "The four words of capacity and what is used, for slots and addresses.",
    ["what", "word"],
    registry=REGISTRY,
)
LEASES: Final = Gauge("eniway_leases", "Leases held, by kind of pod.", ["kind"], registry=REGISTRY)
ROUTED_INSTEAD: Final = Counter(
    "eniway_routed_instead_of_shared",
    "Pods that got a routed address because no shared one could be had.",
    registry=REGISTRY,
)
SWEEP_REPAIRS: Final = Counter(
    "eniway_sweep_repairs",
    "Differences between books, kernel, kubelet and cloud that a sweep repaired.",
    ["what"],
    registry=REGISTRY,
)
SWEEP_FAILURES: Final = Counter(
    "eniway_sweep_failures", "Sweeps that could not compare books and kernel at all.", registry=REGISTRY
)
EXTENDER_SECONDS: Final = Histogram(
    "eniway_extender_request_seconds",
    "Time to answer the scheduler, by verb and result: some, none (unschedulable), retry, error.",
    ["verb", "result"],
    buckets=(0.00025, *_SECONDS),
    registry=REGISTRY,
)
EXTENDER_HOLDS: Final = Gauge(
    "eniway_extender_held_pods", "Pods that places are held for until they are seen bound.", registry=REGISTRY
)
EXTENDER_REFUSED: Final = Gauge(
    "eniway_extender_refused_pods", "Pods that no node had room for when the scheduler last asked.", registry=REGISTRY
)
EXTENDER_WAKES: Final = Counter(
    "eniway_extender_wakes", "Nodes marked so that the scheduler tries waiting pods again.", registry=REGISTRY
)
JOURNAL_FAILURES: Final = Counter(
    "eniway_extender_journal_failures", "Places held that could not be written down.", registry=REGISTRY
)
BANDWIDTH_DROPS: Final = Counter(
    "eniway_bandwidth_drops",
    "Packets dropped because a pod's bandwidth was used up and its queue full, as the pod sees the direction.",
    ["direction"],
    registry=REGISTRY,
)
BANDWIDTH_BACKLOG: Final = Gauge(
    "eniway_bandwidth_backlog_bytes", "Bytes that wait for bandwidth, over all pods.", ["direction"], registry=REGISTRY
)
BANDWIDTH_RESTORED: Final = Counter(
    "eniway_bandwidth_restored", "Times that a pod's bandwidth limits were put back.", registry=REGISTRY
)
POLICY_SECONDS: Final = Histogram(
    "eniway_networkpolicy_seconds",
    "NetworkPolicy: time that it adds to an ADD (prepare), and of one change in the kernel (apply).",
    ["operation"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
POLICY_FAILURES: Final = Counter(
    "eniway_networkpolicy_failures",
    "Changes that the kernel refused, pods refused (closed) or started without (open) for want of their policies.",
    ["what"],
    registry=REGISTRY,
)
for _what in ("kernel", "closed", "open"):
    POLICY_FAILURES.labels(_what)  # from 0 on: the first failure is an increase, which an alert sees
POLICY_REPAIRS: Final = Counter(
    "eniway_networkpolicy_repairs", "Namespaces whose policy rules or sets others had changed.", registry=REGISTRY
)
POLICY_OBJECTS: Final = Gauge(
    "eniway_networkpolicy_objects", "Chains and sets of NetworkPolicy in the kernel.", ["what"], registry=REGISTRY
)
POLICY_PACKETS: Final = Counter(
    "eniway_networkpolicy_passed_packets",
    "First packets of connections that a policy let pass, as read once a minute; with policy_counters.",
    ["policy"],
    registry=REGISTRY,
)
POLICY_DROPS: Final = Counter(
    "eniway_networkpolicy_sampled_drops",
    "Sampled packets that NetworkPolicy dropped (drop) or would have (audit): one a second of equal programs.",
    ["verdict"],
    registry=REGISTRY,
)
REGISTRATIONS: Final = Counter(
    "eniway_device_plugin_registrations", "Registrations with kubelet, by result.", ["result"], registry=REGISTRY
)
INVALID_REQUESTS: Final = Counter(
    "eniway_invalid_requests",
    "Requests refused for what they said: a bad annotation, resource or configuration.",
    ["reason"],
    registry=REGISTRY,
)
LEADER: Final = Gauge("eniway_leader", "1 in the operator that holds the leader's lock.", registry=REGISTRY)
ROUTES: Final = Gauge(
    "eniway_routes", "Nodes by how their VPC route is doing (RouteCreated: it stands).", ["state"], registry=REGISTRY
)
ABANDONED: Final = Gauge(
    "eniway_abandoned_enis",
    "ENIs of the cluster whose instance is gone, at the operator's last round, and all ENIs of the cluster.",
    ["which"],
    registry=REGISTRY,
)
RECLAIMED: Final = Counter(
    "eniway_reclaimed_enis", "ENIs of vanished instances that the operator deleted.", registry=REGISTRY
)
RECLAIM_ROUNDS: Final = Counter(
    "eniway_reclaim_rounds",
    "Rounds over the VPC's ENIs by result: done, too_many_gone (nothing is deleted until a person has looked), failed.",
    ["result"],
    registry=REGISTRY,
)
for _result in ("done", "too_many_gone", "failed"):
    RECLAIM_ROUNDS.labels(_result)  # as above
RECLAIM_SECONDS: Final = Histogram(
    "eniway_reclaim_round_seconds", "Time of a round over the VPC's ENIs.", buckets=_SECONDS, registry=REGISTRY
)
DRY_RUN: Final = Gauge(
    "eniway_dry_run_pending",
    "With operator.dry_run: what the last look would have done.",
    ["what"],
    registry=REGISTRY,
)
VSWITCH_STOCK: Final = Gauge(
    "eniway_vswitch_available_addresses",
    "Free addresses of the vSwitches that pods draw on, as last read.",
    ["vswitch", "zone"],
    registry=REGISTRY,
)
ROUTE_CHANGES: Final = Counter(
    "eniway_route_changes", "Entries of route tables created and deleted.", ["operation"], registry=REGISTRY
)
