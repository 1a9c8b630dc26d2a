"""Dashboards, rules and pages speak of metrics and Events that the code has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from build_support import dashboards, metrics
from eniallocator.cloud import errors
from eniallocator.routes import RouteState

TREE = Path(__file__).parents[3]
ALERTS = TREE / "manifests/alerts"
HISTOGRAM = ("_bucket", "_sum", "_count")
FROM_SCRAPING = {"node", "job", "instance"}
TROUBLE = (
    errors.Throttled,
    errors.Transient,
    errors.Unreachable,
    errors.Credentials,
    errors.ClockOff,
    errors.Forbidden,
    errors.Withheld,
)
"""Their names are reasons of the condition CloudReachable."""
KNOWN = {metrics.exposed(metric): set(metrics.labels(metric)) for metric in metrics.all_of_them()}


def rules() -> Iterator[dict[str, object]]:
    for name in ("recording.yaml", "alerts.yaml"):
        for group in yaml.safe_load((ALERTS / name).read_text())["groups"]:
            yield from group["rules"]


EXPRESSIONS = {
    f"{board.uid}: {panel.title}": query.expr
    for board in dashboards.BOARDS
    for panel in board.panels
    for query in panel.queries
} | {str(rule.get("record") or rule.get("alert")): str(rule["expr"]) for rule in rules()}


def test_the_dashboards_are_up_to_date() -> None:
    """`make manifests` writes them again."""
    assert {path.name: path.read_text() for path in dashboards.FOLDER.glob("*.json")} == dashboards.files()


def test_the_page_of_metrics_is_up_to_date() -> None:
    """As above."""
    assert metrics.PAGE.read_text() == metrics.page()


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_queries_ask_for_metrics_and_labels_that_there_are(expression: str) -> None:
    """A renamed metric would leave a panel empty and an alert silent."""
    recorded = {str(rule["record"]) for rule in rules() if "record" in rule}
    for name, matchers in re.findall(r"((?:\w+:)*eniway_\w+(?::\w+)*)(?:\{([^}]*)\})?", expression):
        if ":" in name:
            assert name in recorded
            continue
        ending = next((one for one in HISTOGRAM if name.endswith(one)), "")
        metric = name.removesuffix(ending)
        assert metric in KNOWN, f"{metric} is no metric of eniway/metrics.py"
        asked = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers))
        assert asked <= KNOWN[metric] | FROM_SCRAPING | {"le"}


def test_names_have_base_units_and_their_ending() -> None:
    """Prometheus, "Metric and label naming": seconds and not milliseconds, _total for what only grows."""
    for metric in metrics.all_of_them():
        (family,) = metric.describe()
        name = metrics.exposed(metric)
        assert re.fullmatch(r"eniway_[a-z_]+", name)
        assert (family.type == "histogram") == name.endswith("_seconds")
        assert not re.search(r"_(ms|millis|count|sum|bucket)$", name)
        assert not {"pod", "uid", "container", "address"} & set(metrics.labels(metric))


def test_every_alert_has_a_runbook_and_a_test() -> None:
    """Where its annotation points, and in promtool's file."""
    runbooks = (TREE / "docs/runbooks.md").read_text()
    tested = yaml.safe_load((ALERTS / "alerts.test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tested for case in test.get("alert_rule_test", []) if case.get("exp_alerts")}
    for rule in rules():
        if "alert" in rule:
            name = str(rule["alert"])
            assert f"\n## {name}\n" in runbooks
            assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"  # type: ignore[index]
            assert name in fired


def reasons() -> set[str]:
    """Of every Event: literals in the code, and the conditions that become Events when they are False."""
    found = {state.value for state in RouteState if state is not RouteState.CREATED}
    for path in [*TREE.glob("eniway/**/*.py"), *TREE.glob("eniallocator/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case (
                    ast.Call(func=ast.Name(id="Event"), args=[_, _, ast.Constant(str(reason)), *_])
                    | ast.Call(
                        func=ast.Attribute(attr="_set"), args=[_, ast.Constant(False), ast.Constant(str(reason)), *_]
                    )
                ):
                    found.add(reason)
                case ast.Call(func=ast.Name(id="Standing"), args=[status, ast.Constant(value=str(reason)), *_]):
                    if not isinstance(status, ast.Constant) or status.value is False:
                        found.add(reason)
    return found


def test_every_event_is_explained() -> None:
    """docs/events.md has each reason, and none that is not told any more."""
    listed = set(re.findall(r"^\| `(\w+)` ", (TREE / "docs/events.md").read_text(), re.MULTILINE))
    assert listed == reasons() | {kind.__name__ for kind in TROUBLE}
