"""The dashboards hold what Grafana's own types know, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from build_support.dashboards import FOLDER


@pytest.fixture(scope="module", autouse=True)
def _grafana_panels() -> None:
    """So that panels and queries are read by the types of their plugins."""
    register_default_plugins()


def _lost(ours: object, theirs: object, at: str = "") -> list[str]:
    """Where ``theirs`` lacks or changes something of ``ours``; what it adds are Grafana's defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        gone = [f"{at}/{key}" for key in ours.keys() - theirs.keys()]
        return gone + [
            line for key in ours.keys() & theirs.keys() for line in _lost(ours[key], theirs[key], f"{at}/{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [line for n, pair in enumerate(zip(ours, theirs, strict=True)) for line in _lost(*pair, f"{at}/{n}")]
    return [] if ours == theirs else [at]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_grafana_reads_all_that_a_dashboard_says(path: Path) -> None:
    """Read into Grafana's types and written again, no key is lost and none has another value."""
    ours = json.loads(path.read_text())
    assert _lost(ours, json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))) == []


def test_a_key_that_grafana_does_not_know_is_found() -> None:
    """Or the law above would hold for anything."""
    ours = json.loads((FOLDER / "cluster.json").read_text())
    ours["panels"][0]["fieldConfig"]["defaults"]["units"] = "s"
    assert _lost(ours, json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))) == [
        "/panels/0/fieldConfig/defaults/units"
    ]
