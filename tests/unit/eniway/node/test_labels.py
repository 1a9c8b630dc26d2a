"""Which pool a Node belongs to, and what is asked for it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from eniway import config
from eniway.errors import BadConfig, Outdated
from eniway.kube.client import KubeClient
from eniway.node.labels import NodeLabels

PLAIN = """
cluster: demo
vswitches: [vsw-1]
security_groups: [sg-1]
service_cidr: 172.21.0.0/20
"""
POOLS = config.parse(
    PLAIN
    + """
node_pools:
  - match: {pool: db, tier: gold}
    vswitches: [vsw-2]
    security_groups: [sg-2, sg-3]
  - match: {pool: db}
    security_groups: [sg-2]
""",
    source="f",
)


class ApiServer:
    """Has one Node, and counts how often it is asked for it."""

    def __init__(self, **labels: str) -> None:
        self.labels = labels
        self.asked = 0

    async def request(self, method: str, path: str) -> dict[str, Any]:
        """GET of the Node."""
        assert (method, path) == ("GET", "/api/v1/nodes/node-1")
        self.asked += 1
        return {"metadata": {"labels": self.labels}}


def labels_of(server: ApiServer, kept: Path) -> NodeLabels:
    """The labels as a daemon of node-1 reads them."""
    return NodeLabels(cast("KubeClient", server), node="node-1", kept=kept, random=Random(1))


@pytest.mark.parametrize(
    ("labels", "vswitches", "groups"),
    [
        ({"pool": "db", "tier": "gold", "other": "x"}, ["vsw-2"], ["sg-2", "sg-3"]),
        ({"pool": "db", "tier": "iron"}, ["vsw-1"], ["sg-2"]),
        ({"tier": "gold"}, ["vsw-1"], ["sg-1"]),
        ({}, ["vsw-1"], ["sg-1"]),
    ],
    ids=["all labels", "the next pool", "not all labels", "none"],
)
def test_the_first_pool_that_fits_counts(labels: dict[str, str], vswitches: list[str], groups: list[str]) -> None:
    """What it does not say stays as it is at the top."""
    found = POOLS.for_node(labels)
    assert (found.vswitches, found.security_groups) == (vswitches, groups)


async def test_without_pools_nobody_is_asked(tmp_path: Path) -> None:
    """Neither at the start nor later."""
    server, plain = ApiServer(), config.parse(PLAIN, source="f")
    labels = labels_of(server, tmp_path / "labels.json")
    assert await labels.resolve(plain) is plain
    await labels.run(plain, plain)
    assert server.asked == 0


async def test_a_restart_needs_no_api_server(tmp_path: Path) -> None:
    """The labels that were read first are on disk."""
    server = ApiServer(pool="db")
    for _ in range(2):
        resolved = await labels_of(server, tmp_path / "labels.json").resolve(POOLS)
        assert resolved.security_groups == ["sg-2"]
    assert server.asked == 1


async def test_a_node_that_moves_to_another_pool_starts_anew(tmp_path: Path) -> None:
    """With a word why, and the next start knows the new labels."""
    server = ApiServer(pool="db")
    labels = labels_of(server, tmp_path / "labels.json")
    resolved = await labels.resolve(POOLS)
    server.labels = {}
    with pytest.raises(Outdated, match="node-1"):
        await labels.run(POOLS, resolved)
    assert await labels.resolve(POOLS) == POOLS


@pytest.mark.parametrize("wrong", ["match: {}", "match: {a: b}\n    vswitch: x", "vswitches: [a]"])
def test_a_bad_pool_is_refused(wrong: str) -> None:
    """Without a label every node would be in it."""
    with pytest.raises(BadConfig, match=r"node_pools\[(0|\.\.\.)\]"):
        config.parse(f"{PLAIN}node_pools:\n  - {wrong}\n", source="f")
