"""``python -m build_support.dashboards``: manifests/dashboards/*.json for Grafana, from the tables below.

A panel is a title, a unit and queries; the queries are the dashboards' substance, and `make dashboards` proves each of
them against a real Prometheus. Grafana's own fields are the least that Grafana 10 takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent.parent / "manifests/dashboards"
RANGE: Final = "$__rate_interval"
_NODE: Final = 'node=~"$node"'
_ADD: Final = f'{_NODE},verb="ADD"'
_DAEMON: Final = f'job="eniway-node",{_NODE}'


@dataclass(frozen=True, slots=True)
class Query:
    """A line, or several: ``legend`` is Grafana's template of labels."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph. ``unit`` is one of Grafana's: s, short, ops, bytes, percentunit."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    meaning: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; with ``by_node`` one chooses nodes."""

    uid: str
    title: str
    by_node: bool
    panels: tuple[Panel, ...]


def _rate(metric: str, by: str, matchers: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[{RANGE}]))"


def _quantile(quantile: str, metric: str, by: str, matchers: str = "") -> str:
    return f"histogram_quantile({quantile}, sum by (le, {by}) (rate({metric}_bucket{{{matchers}}}[{RANGE}])))"


CNI: Final = "eniway_cni_request_duration_seconds"
STEP: Final = "eniway_cni_step_duration_seconds"
POLICY: Final = "eniway_networkpolicy_seconds"
CLOUD: Final = "eniway_cloud_request_duration_seconds"
EXTENDER: Final = "eniway_extender_request_seconds"
_EXTENDER: Final = 'job="eniway-extender"'

BOARDS: Final = (
    Board(
        "eniway-cluster",
        "eniway / cluster",
        by_node=False,
        panels=(
            Panel(
                "Daemons up",
                "short",
                (Query('sum(up{job="eniway-node"})', "up"), Query('count(up{job="eniway-node"})', "there")),
            ),
            Panel(
                "Pods by kind",
                "short",
                (Query("sum by (kind) (eniway_leases)", "{{kind}}"),),
                "Leases held, cluster-wide.",
            ),
            Panel(
                "Free, cluster-wide",
                "short",
                (Query("sum by (what) (node_what:eniway_capacity:free)", "{{what}}"),),
                "What more pods can have: in service + growable - cooling - orphaned - used.",
            ),
            Panel(
                "Nodes with nothing free",
                "short",
                (
                    Query(
                        "count by (what) (node_what:eniway_capacity:free == 0) "
                        "or 0 * sum by (what) (node_what:eniway_capacity:free)",
                        "{{what}}",
                    ),
                ),
            ),
            Panel("ADDs and DELs", "ops", (Query(_rate(f"{CNI}_count", "verb, result"), "{{verb}} {{result}}"),)),
            Panel(
                "ADD, 99 of 100 faster than",
                "s",
                (Query(_quantile("0.99", CNI, "kind", 'verb="ADD",result="success"'), "{{kind}}"),),
            ),
            Panel(
                "ADDs that failed",
                "percentunit",
                (Query("verb:eniway_cni_requests:errors_ratio5m", "{{verb}}"),),
                "Of all that were answered in five minutes.",
            ),
            Panel(
                "Repairs by sweeps",
                "short",
                (Query("sum by (what) (increase(eniway_sweep_repairs_total[1h])) or vector(0)", "{{what}}"),),
                "Differences between books, kernel, kubelet and cloud that were put right in an hour.",
            ),
            Panel("Routes by state", "short", (Query("sum by (state) (eniway_routes)", "{{state}}"),)),
            Panel("Leader", "short", (Query("sum(eniway_leader)", "leaders"),), "One, wherever an operator runs."),
        ),
    ),
    Board(
        "eniway-node",
        "eniway / node",
        by_node=True,
        panels=(
            Panel(
                "Slots and addresses in their words",
                "short",
                (
                    Query(
                        f'sum by (node, what, word) (eniway_capacity{{{_NODE},what!="routed"}})',
                        "{{node}} {{what}} {{word}}",
                    ),
                ),
                "Routed addresses, of which a node has hundreds, stand in Free alone.",
                wide=True,
            ),
            Panel("Free", "short", (Query(f"node_what:eniway_capacity:free{{{_NODE}}}", "{{node}} {{what}}"),)),
            Panel(
                "Pods by kind",
                "short",
                (Query(f"sum by (node, kind) (eniway_leases{{{_NODE}}})", "{{node}} {{kind}}"),),
            ),
            Panel(
                "ADD, median and 99 of 100",
                "s",
                tuple(
                    Query(_quantile(quantile, CNI, "node", f'{_ADD},result="success"'), f"{{{{node}}}} {name}")
                    for quantile, name in (("0.5", "median"), ("0.99", "99 of 100"))
                ),
            ),
            Panel(
                "Where an ADD's time goes",
                "s",
                (
                    Query(
                        _rate(f"{STEP}_sum", "step", _ADD)
                        + f" / ignoring(step) group_left sum(rate({CNI}_count{{{_ADD}}}[{RANGE}]))",
                        "{{step}}",
                    ),
                ),
                "Mean seconds of each step: turn (another request of the pod), kubelet, lease, kernel, books.",
            ),
            Panel(
                "Wait for an address or card, 99 of 100",
                "s",
                (Query(_quantile("0.99", "eniway_lease_wait_seconds", "kind", _NODE), "{{kind}}"),),
            ),
            Panel(
                "DEL, 99 of 100",
                "s",
                (Query(_quantile("0.99", CNI, "node", f'{_NODE},verb="DEL",result="success"'), "{{node}}"),),
            ),
            Panel(
                "Kernel work, 99 of 100",
                "s",
                (
                    Query(
                        _quantile("0.99", "eniway_datapath_apply_duration_seconds", "operation", _NODE), "{{operation}}"
                    ),
                ),
            ),
            Panel(
                "Registrations with kubelet",
                "short",
                (
                    Query(
                        f"sum by (node, result) (increase(eniway_device_plugin_registrations_total{{{_NODE}}}[1h]))",
                        "{{node}} {{result}}",
                    ),
                ),
            ),
            Panel("The daemon's memory", "bytes", (Query(f"process_resident_memory_bytes{{{_DAEMON}}}", "{{node}}"),)),
            Panel(
                "The daemon's processor time",
                "percentunit",
                (Query(f"rate(process_cpu_seconds_total{{{_DAEMON}}}[{RANGE}])", "{{node}}"),),
            ),
        ),
    ),
    Board(
        "eniway-scheduler",
        "eniway / scheduler",
        by_node=False,
        panels=(
            Panel(
                "Extenders up",
                "short",
                (Query('sum(up{job="eniway-extender"})', "up"), Query('count(up{job="eniway-extender"})', "there")),
                "Without one, pods wait, or native counts alone hold: as `ignorable` says.",
            ),
            Panel(
                "Answers",
                "ops",
                (Query(_rate(f"{EXTENDER}_count", "verb, result"), "{{verb}} {{result}}"),),
                "none: no node can serve the pod; retry: only places held for others stand in its way.",
            ),
            Panel(
                "Time of an answer, median and 99 of 100",
                "s",
                tuple(
                    Query(_quantile(quantile, EXTENDER, "verb"), f"{{{{verb}}}} {name}")
                    for quantile, name in (("0.5", "median"), ("0.99", "99 of 100"))
                ),
            ),
            Panel(
                "Pods on their way",
                "short",
                (
                    Query("sum(eniway_extender_held_pods)", "held for"),
                    Query("sum(eniway_extender_refused_pods)", "no room"),
                ),
                "Those that places are held for until they are seen bound; those that no node had room for.",
            ),
            Panel(
                "Waiting pods woken",
                "short",
                (Query("sum(increase(eniway_extender_wakes_total[1h]))", "in an hour"),),
                "Times that capacity came free for which a pod had been refused.",
            ),
            Panel(
                "Trouble in an hour",
                "short",
                (
                    Query("sum(increase(eniway_extender_journal_failures_total[1h]))", "not written down"),
                    Query(
                        'sum(increase(eniway_invalid_requests_total{job="eniway-extender"}[1h])) or vector(0)',
                        "invalid requests",
                    ),
                ),
                "Places held that could not be written to the journal would be forgotten by a restart.",
            ),
            Panel(
                "The extender's memory", "bytes", (Query(f"process_resident_memory_bytes{{{_EXTENDER}}}", "{{node}}"),)
            ),
            Panel(
                "The extender's processor time",
                "percentunit",
                (Query(f"rate(process_cpu_seconds_total{{{_EXTENDER}}}[{RANGE}])", "{{node}}"),),
            ),
        ),
    ),
    Board(
        "eniway-policy",
        "eniway / policy and bandwidth",
        by_node=True,
        panels=(
            Panel(
                "What NetworkPolicy adds to an ADD, 99 of 100",
                "s",
                (Query(_quantile("0.99", POLICY, "node", f'{_NODE},operation="prepare"'), "{{node}}"),),
            ),
            Panel(
                "A change in the kernel, 99 of 100",
                "s",
                (Query(_quantile("0.99", POLICY, "node", f'{_NODE},operation="apply"'), "{{node}}"),),
            ),
            Panel(
                "Chains and sets",
                "short",
                (
                    Query(
                        f"sum by (node, what) (eniway_networkpolicy_objects{{{_NODE}}})",
                        "{{node}} {{what}}",
                    ),
                ),
            ),
            Panel(
                "Failures and repairs in an hour",
                "short",
                (
                    Query(
                        f"sum by (what) (increase(eniway_networkpolicy_failures_total{{{_NODE}}}[1h])) or vector(0)",
                        "{{what}}",
                    ),
                    Query(f"sum(increase(eniway_networkpolicy_repairs_total{{{_NODE}}}[1h]))", "repairs"),
                    Query(f"sum(increase(eniway_bandwidth_restored_total{{{_NODE}}}[1h]))", "bandwidth restored"),
                ),
                "Failures: changes that the kernel refused, pods refused or started without for want of policies.",
            ),
            Panel(
                "Waiting for bandwidth",
                "bytes",
                (
                    Query(
                        f"sum by (node, direction) (eniway_bandwidth_backlog_bytes{{{_NODE}}})",
                        "{{node}} {{direction}}",
                    ),
                ),
            ),
            Panel(
                "Packets dropped for bandwidth",
                "ops",
                (Query(_rate("eniway_bandwidth_drops_total", "node, direction", _NODE), "{{node}} {{direction}}"),),
            ),
        ),
    ),
    Board(
        "eniway-cloud",
        "eniway / cloud",
        by_node=False,
        panels=(
            Panel("Calls by Action", "ops", (Query(_rate(f"{CLOUD}_count", "action"), "{{action}}"),), wide=True),
            Panel(
                "Calls that failed, by code",
                "ops",
                (Query(_rate(f"{CLOUD}_count", "action, code", 'code!=""'), "{{action}} {{code}}"),),
                "Throttling and quota codes are the account's, region-wide: other users of it count too. A code's "
                "first failure on a node shows no rate yet: its counter begins there.",
                wide=True,
            ),
            Panel("Time of a call, 99 of 100", "s", (Query(_quantile("0.99", CLOUD, "action"), "{{action}}"),)),
            Panel(
                "Busiest node by Action",
                "ops",
                (Query(f"topk by (action) (1, {_rate(f'{CLOUD}_count', 'action, node')})", "{{action}} {{node}}"),),
            ),
            Panel(
                "Free addresses of vSwitches",
                "short",
                (Query("min by (vswitch, zone) (eniway_vswitch_available_addresses)", "{{zone}} {{vswitch}}"),),
                "As the operator last read them; the cloud counts a moment behind.",
            ),
            Panel(
                "ENIs whose instance is gone",
                "short",
                (
                    Query("max by (which) (eniway_abandoned_enis)", "{{which}}"),
                    Query("sum(increase(eniway_reclaimed_enis_total[1h]))", "deleted in an hour"),
                ),
            ),
            Panel(
                "Changes of route tables",
                "short",
                (Query("sum by (operation) (increase(eniway_route_changes_total[1h])) or vector(0)", "{{operation}}"),),
            ),
            Panel(
                "Cooling and orphaned addresses",
                "short",
                (Query('sum by (word) (eniway_capacity{what="addresses",word=~"cooling|orphaned"})', "{{word}}"),),
            ),
        ),
    ),
)


def dashboard(board: Board) -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["eniway"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_DATASOURCE, *([_NODES] if board.by_node else [])]},
        "panels": _panels(board.panels),
    }


_DATASOURCE: Final = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
_NODES: Final = {
    "name": "node",
    "type": "query",
    "label": "Node",
    "datasource": {"type": "prometheus", "uid": "${datasource}"},
    "query": {"query": 'label_values(up{job="eniway-node"}, node)', "refId": "node"},
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "current": {"text": "All", "value": "$__all"},
}


def rows(panels: Sequence[Panel]) -> list[tuple[Panel, ...]]:
    """Two beside each other; a wide panel alone."""
    found: list[tuple[Panel, ...]] = []
    for panel in panels:
        if found and len(found[-1]) == 1 and not found[-1][0].wide and not panel.wide:
            found[-1] += (panel,)
        else:
            found.append((panel,))
    return found


def _panels(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    placed = [(panel, row, column) for row, beside in enumerate(rows(panels)) for column, panel in enumerate(beside)]
    return [
        {
            "id": number,
            "type": "timeseries",
            "title": panel.title,
            "description": panel.meaning,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 24 if panel.wide else 12, "x": 12 * column, "y": 8 * row},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": query.expr, "legendFormat": query.legend}
                for place, query in enumerate(panel.queries)
            ],
        }
        for number, (panel, row, column) in enumerate(placed, 1)
    ]


def files() -> dict[str, str]:
    """Every file by name, as it has to be."""
    return {
        f"{board.uid.removeprefix('eniway-')}.json": json.dumps(dashboard(board), indent=2) + "\n" for board in BOARDS
    }


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{FOLDER / name}\n")
