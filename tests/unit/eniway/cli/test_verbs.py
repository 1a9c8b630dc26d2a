"""Each verb's table, and the statuses of the program."""

from argparse import Namespace
from typing import Any

import pytest

from eniway.cli import doctor, main, pods, status, trace
from eniway.errors import InvalidRequest


def texts(rows: list[list[Any]]) -> list[list[str]]:
    return [[cell.text for cell in row] for row in rows]


def node(**changes: Any) -> dict[str, Any]:
    words = {"used": 2, "free": 3}
    conditions = [
        {"type": "Ready", "status": "True", "reason": "Serving", "message": ""},
        {"type": "Slots", "status": "False", "reason": "VSwitchEmpty", "message": "vsw-1 is empty"},
    ]
    network = {"instanceType": "ecs.g7.xlarge", "capacity": {"addresses": words}, "conditions": conditions}
    return {"node": "node-1", "unhealthy": None, "status": network} | changes


def test_a_node_says_what_is_used_of_what_and_what_is_wrong() -> None:
    """Conditions that are False, in their own words."""
    row = status.row(node())
    assert [cell.text for cell in row] == [
        *("node-1", "ecs.g7.xlarge", "ready", "-", "2/5", "-"),
        "VSwitchEmpty: vsw-1 is empty",
    ]
    assert not row[2].bad


def test_a_node_without_a_daemon_is_shown_all_the_same() -> None:
    """With what is known."""
    row = status.row(node(unhealthy="no daemon", status=None))
    assert [cell.text for cell in row] == ["node-1", "-", "no daemon", "-", "-", "-", "no NodeNetwork"]
    assert row[2].bad


def test_a_lease_is_a_line() -> None:
    """Kind, addresses, card and age."""
    lease = {
        "node": "node-1",
        "pod": "default/web",
        "kind": "exclusive",
        "address": "10.0.0.7",
        "serviceAddress": "10.0.0.8",
        "eni": "eni-1",
        "slot": 3,
        "link": "eniw0",
        "since": 1000.0,
    }
    assert texts([pods.row(lease, now=1090.0)]) == [
        ["node-1", "default/web", "exclusive", "10.0.0.7", "10.0.0.8", "eni-1", "3", "eniw0", "1m30s"]
    ]


def test_a_request_is_followed_by_its_steps() -> None:
    """Where it failed is the last of them."""
    request = {
        "node": "node-1",
        "at": 0.25,
        "verb": "ADD",
        "kind": "shared",
        "result": "error",
        "error": "no address",
        "seconds": 1.5,
        "steps": [{"name": "kubelet", "seconds": 0.0123}, {"name": "lease", "seconds": 1.4877}],
    }
    lines = trace.rows([request])
    assert texts(lines) == [
        ["node-1", "1970-01-01T00:00:00.250Z", "ADD", "shared", "", "1.50 s", "error: no address"],
        ["", "", "", "", "kubelet", "12.3 ms", ""],
        ["", "", "", "", "lease", "1.49 s", ""],
    ]
    assert lines[0][-1].bad


def difference(**changes: Any) -> dict[str, Any]:
    silent = dict.fromkeys(doctor.PARTIES)
    said = {"difference": "stray-link", "of": "eniw0", "since": None, "fix": "removes it", "byHand": None}
    return {**silent, **said, "ledger": "no lease", "kernel": "a/b/c", "mended": None, **changes}


CUT_OFF = difference(
    difference="pod-cut-off", of="a/web", since=1000.0, fix=None, byHand="delete the pod", kernel=None, cloud="gone"
)


def test_a_difference_is_a_line_with_a_column_for_each_who_has_to_do_with_any() -> None:
    """What --fix would do, or a person has to."""
    head, lines = doctor.rows([{"node": "node-1", "differences": [difference(), CUT_OFF]}], now=1090.0)
    assert head == ["NODE", "DIFFERENCE", "OF", "AGE", "LEDGER", "KERNEL", "CLOUD", "WHAT TO DO"]
    assert texts(lines) == [
        ["node-1", "stray-link", "eniw0", "-", "no lease", "a/b/c", "-", "--fix removes it"],
        ["node-1", "pod-cut-off", "a/web", "1m30s", "no lease", "-", "gone", "by hand: delete the pod"],
    ]


@pytest.mark.parametrize(
    ("one", "said", "left"),
    [
        (difference(mended=True), "mended", False),
        (difference(mended=False), "still so: --fix removes it, and did not get there", True),
        (CUT_OFF | {"mended": False}, "by hand: delete the pod", True),
        (CUT_OFF | {"mended": True}, "gone", False),
    ],
)
def test_after_mending_a_line_says_what_came_of_it(one: dict[str, Any], said: str, left: bool) -> None:
    """What is still there keeps the status from being 0."""
    nodes = [{"node": "node-1", "differences": [one]}]
    (line,) = doctor.rows(nodes, now=0.0)[1]
    assert (line[-1].text, line[-1].bad) == (said, left)
    assert doctor.left(nodes) == left


@pytest.mark.parametrize(("given", "pod"), [("web", "here/web"), ("there/web", "there/web")])
def test_a_pod_is_named_with_or_without_its_namespace(given: str, pod: str) -> None:
    """The option is for the short form."""
    assert trace.pod_of(Namespace(pod=given, namespace="here")) == pod


@pytest.mark.parametrize("given", ["", "/web", "a/b/c", "there/"])
def test_what_is_no_pod_is_refused(given: str) -> None:
    """With what was expected."""
    with pytest.raises(InvalidRequest, match="expected NAME or NAMESPACE/NAME"):
        trace.pod_of(Namespace(pod=given, namespace="here"))


def test_every_verb_has_a_name_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """And stands in the help."""
    names = [verb.name for verb in main.VERBS]
    assert len(names) == len(set(names))
    with pytest.raises(SystemExit) as ended:
        main.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert set(names) <= {line.split()[0] for line in said.splitlines() if line.startswith("    ")}


def test_bad_usage_is_status_2_and_what_cannot_be_done_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason is on standard error."""
    with pytest.raises(SystemExit) as ended:
        main.main(["status", "--output=xml"])
    assert ended.value.code == 2
    assert main.main(["trace", "a/b/c"]) == 1
    assert "eniway trace: POD: expected NAME" in capsys.readouterr().err
