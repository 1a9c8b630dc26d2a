"""The box's commands and its status, as the demonstration reads them."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import pytest

from demo.box import Box, Status, _decode


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sh node-1 -- ip link", "sh --state /box node-1 -- ip link"),
        ("fault add error", "fault add --state /box error"),
        ("down", "down --state /box"),
    ],
)
def test_state_stands_behind_the_words_that_name_the_command(words: str, expected: str) -> None:
    """What follows an instance's name is its own command's."""
    program = str(Path(sys.executable).with_name("vpcbox"))
    assert Box(Path("/box")).argv(*words.split()) == [program, *expected.split()]


def test_status_has_typed_addresses() -> None:
    """Addresses and networks are parsed, unknown fields are left to later releases."""
    instance = {
        "name": "node-1",
        "instance_id": "i-1",
        "instance_type": "ecs.g7.xlarge",
        "netns": "/run/netns/x",
        "pid": 7,
        "address": "10.0.0.1",
        "containerd_socket": "/run/containerd/containerd.sock",
    }
    vpc = {
        "id": "vpc-1",
        "route_table_id": "vtb-1",
        "security_group_id": "sg-1",
        "vswitches": [{"id": "vsw-1", "zone": "cn-box-a", "cidr": "10.0.0.0/20"}],
    }
    openapi = {
        "endpoint": "http://127.0.0.1:1",
        "region": "cn-box",
        "zone": "cn-box-a",
        "access_key_id": "a",
        "access_key_secret": "b",
    }
    said = {
        "pid": 1,
        "kubeconfig": "/k",
        "openapi": openapi,
        "vpc": vpc,
        "nodes": [instance],
        "outside": instance,
        "x": 1,
    }
    status = msgspec.json.decode(msgspec.json.encode(said), type=Status, dec_hook=_decode)
    assert status.nodes[0].address == IPv4Address("10.0.0.1")
    assert status.vpc.vswitches[0].cidr == IPv4Network("10.0.0.0/20")
