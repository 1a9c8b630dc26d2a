"""Somebody else changes what eniway put into the kernel: it is seen, mended, and counted."""

from __future__ import annotations

import json

from demo.box import Box
from demo.kube import Object
from tests.box import hold

RULES = "ip rule flush && ip rule add priority 32766 lookup main && ip rule add priority 32767 lookup default"
"""What a restart of systemd-networkd does to rules that are not its own."""


def test_rules_that_a_foreign_hand_took_away_are_back_at_once(box: Box) -> None:
    """The kernel tells of it."""
    hold.every_path_holds_after(box, RULES)


def test_a_card_that_a_foreign_hand_moved_is_not_offered_until_it_is_back(box: Box) -> None:
    """Kubelet counts its slot out, so no pod is bound that would wait for it, and in again."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    [node, *_] = box.status().nodes
    kube.until("/api/v1/nodes", lambda nodes: offers(nodes, node.name, 1), seconds=hold.PATIENCE)
    mac = kube.until(hold.NODE_NETWORKS, lambda networks: warm(networks, node.name), seconds=hold.PATIENCE)
    links = json.loads(box.sh(node.name, ["ip", "-json", "link"]))
    [name] = [link["ifname"] for link in links if link.get("address") == mac]
    try:
        box.sh(node.name, ["sh", "-ec", f"ip netns add away; ip link set {name} netns away; {RULES}"])
        kube.until("/api/v1/nodes", lambda nodes: offers(nodes, node.name, 0), seconds=hold.PATIENCE)
    finally:
        box.sh(node.name, ["sh", "-ec", f"ip -n away link set {name} netns $$; ip netns delete away"])
    kube.until("/api/v1/nodes", lambda nodes: offers(nodes, node.name, 1), seconds=hold.PATIENCE)
    hold.start(kube, [hold.pod("on-it", node=node.name, exclusive=True)])
    hold.clear(kube)
    hold.agree(box)


def warm(networks: list[Object], name: str) -> str | None:
    """MAC of a node's exclusive card, once it is ready."""
    [cards] = [one["status"]["cards"] for one in networks if one["metadata"]["name"] == name]
    return next((card["mac"] for card in cards if (card["use"], card["state"]) == ("exclusive", "ready")), None)


def offers(nodes: list[Object], name: str, count: int) -> bool | None:
    """Whether a node has so many ENIs for pods, as kubelet says."""
    [found] = [one["status"]["allocatable"] for one in nodes if one["metadata"]["name"] == name]
    return True if found.get("aliyun/eni") == str(count) else None
