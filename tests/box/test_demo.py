"""The demonstration, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.application import Application
from demo.box import Box
from tests.box import hold

CHECKOUT = Path(__file__).parents[2]


def demonstrate(box: Box) -> subprocess.CompletedProcess[str]:
    """Run it on the box that stands."""
    argv = [sys.executable, "-m", "demo", "--state", str(box.state)]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_every_path_of_the_demonstration_leads_where_it_should(box: Box) -> None:
    """It exits 0, says how to look around and how to end it, and leaves box and application up."""
    hold.clear(hold.kube_of(box))
    done = demonstrate(box)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert "kubectl" in done.stdout
    assert "make down" in done.stdout
    assert all(pod["status"]["phase"] == "Running" for pod in Application(box).pods())
    hold.agree(box)


@pytest.fixture
def refused_path(box: Box) -> Iterator[str]:
    """One node turns away what the instance outside sends to its pods."""
    status = box.status()
    rule = ["FORWARD", "-s", str(status.outside.address), "-p", "tcp", "--dport", "8080", "-j", "REJECT"]
    node = status.nodes[0].name
    box.sh(node, ["iptables", "-w", "-I", *rule])
    yield node
    box.sh(node, ["iptables", "-w", "-D", *rule])


def test_one_missing_path_fails_the_demonstration(box: Box, refused_path: str) -> None:
    """It exits non-zero, and complains of that path and of no other."""
    done = demonstrate(box)
    assert done.returncode == 1, done.stdout + done.stderr
    shared_there = [
        pod["metadata"]["name"]
        for pod in Application(box).pods()
        if pod["spec"]["nodeName"] == refused_path and pod["metadata"]["labels"]["app"] == "web"
    ]
    complaints = [line.strip() for line in done.stdout.splitlines() if line.startswith("      ")]
    assert {line.split(" (")[0] for line in complaints} == {f"outside → {name}" for name in shared_there}
