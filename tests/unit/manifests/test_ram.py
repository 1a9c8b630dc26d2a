"""The RAM policies are what the code calls."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[3]
POLICIES = TREE / "manifests/ram"
IMPLIED = {"TagResources"}
"""Creating a card with tags takes this right too."""
STOCK = {"DescribeVSwitches"}
"""The operator reads stock by the nodes' client."""


def actions(name: str) -> set[str]:
    """What a policy allows, without the product's name."""
    policy = json.loads((POLICIES / f"{name}.json").read_text())
    assert policy["Version"] == "1"
    (statement,) = policy["Statement"]
    assert statement["Effect"] == "Allow"
    assert statement["Action"] == sorted(statement["Action"])
    return {action.partition(":")[2] for action in statement["Action"]}


def called(file: str) -> Iterator[str]:
    """The Actions that a module of the cloud room calls: literals of its calls."""
    for node in ast.walk(ast.parse((TREE / "eniallocator/cloud" / file).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"call", "_call"}:
            literals = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (word for word in literals if isinstance(word, str) and word not in {"Ecs", "Vpc"})


@pytest.mark.parametrize(
    ("policy", "files", "others"),
    [
        ("node-routed", ("ecs.py",), IMPLIED),
        ("operator", ("caller.py", "fleet.py"), STOCK),
        ("operator-routes", ("caller.py", "fleet.py", "vpc.py"), STOCK),
    ],
)
def test_a_policy_allows_what_is_called_and_nothing_else(policy: str, files: tuple[str, ...], others: set[str]) -> None:
    """A new call without its right fails in the account; a right without its call is one for a thief."""
    assert actions(policy) == {action for file in files for action in called(file)} | others


def test_a_node_without_routed_pods_needs_one_right_less() -> None:
    """The source check is turned off for routed pods alone."""
    assert actions("node-routed") - actions("node") == {"ModifyNetworkInterfaceAttribute"}
    assert actions("node") < actions("node-routed")
