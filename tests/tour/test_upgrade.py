"""eniway is upgraded, rolled back, deleted and applied again under a hundred pods: what runs loses no packet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from demo.box import Box
from demo.kube import Kube
from tests.box import hold
from tests.tour.crowd import DAEMON_SET, NAMESPACE, crowd
from vpcbox.install import DEPLOYMENTS, IMAGE

Kubectl = Callable[..., str]
TREE = Path(__file__).parents[2]
EARLIER = "d0ee49e7767936f4a5ebdcd16bc10565d2437209"
"""What is upgraded from: it marks packets by iptables and ipset, and says less in its NodeNetworks."""
COMERS = ("comes-bound", "comes-between")


def roll(kubectl: Kubectl, *words: str) -> None:
    """Change the DaemonSet and wait until every node has it."""
    kubectl(*words, NAMESPACE)
    kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=300s")


def delete_and_apply(box: Box, kube: Kube, kubectl: Kubectl) -> None:
    """Pods that come in between wait, one in its kubelet, for it is bound, one with the scheduler; then they start."""
    install, node = str(box.state / "install"), box.status().nodes[-1].name
    comers = [hold.pod(name, node=node) for name in COMERS]
    comers[0]["spec"]["nodeName"] = node
    try:
        kubectl("delete", "--kustomize", install)
        kube.until(hold.SYSTEM_PODS, lambda pods: None if pods else True, seconds=60, selector=hold.DAEMON)
        for comer in comers:
            kube.apply(comer)
        hold.event(kube, COMERS[0], "FailedCreatePodSandBox")
        hold.event(kube, COMERS[1], "FailedScheduling")
    finally:
        kubectl("apply", "--server-side", "--kustomize", install)
        kubectl("rollout", "status", DAEMON_SET, NAMESPACE, "--timeout=300s")
    hold.start(kube, comers)


def test_a_hundred_pods_lose_no_packet(box: Box, tmp_path: Path, kubectl_of: Callable[[Box], Kubectl]) -> None:
    """Roll-outs of the DaemonSet, and all of eniway deleted and applied again."""
    kube, kubectl = hold.kube_of(box), kubectl_of(box)
    template = {"spec": {"template": {"metadata": {"annotations": {"eniway.io/upgraded": "yes"}}}}}
    with crowd(box, kube, tmp_path):
        roll(kubectl, "patch", DAEMON_SET, "--patch", json.dumps(template))
        roll(kubectl, "rollout", "undo", DAEMON_SET)
        delete_and_apply(box, kube, kubectl)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of ``EARLIER``, with its image built."""
    found = subprocess.run(["git", "-C", TREE, "archive", EARLIER], check=False, capture_output=True)
    if found.returncode:
        pytest.skip("this checkout does not have the history that the earlier release is built from")
    tree = tmp_path_factory.mktemp("earlier")
    subprocess.run(["tar", "--extract", "--directory", tree], input=found.stdout, check=True)
    for module in ("build_support.stubs", "image.build"):
        subprocess.run([sys.executable, "-m", module], check=True, cwd=tree)
    return tree


def install(box: Box, kubectl: Kubectl, *, image: Path, overlay: Path, scratch: Path) -> None:
    """The image is there, and the manifests are applied. Both releases have one tag, so all is told to start anew."""
    box.run("image", "load", str(image))
    shutil.copytree(box.state / "install", scratch)
    said = yaml.safe_load((scratch / "kustomization.yaml").read_text())
    said["resources"] = [os.path.relpath(overlay.resolve(), scratch.resolve())]
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(said))
    kubectl("apply", "--server-side", "--kustomize", str(scratch))
    roll(kubectl, "rollout", "restart", DAEMON_SET)
    kubectl("rollout", "restart", *DEPLOYMENTS, NAMESPACE)
    kubectl("rollout", "status", *DEPLOYMENTS, NAMESPACE, "--timeout=300s")


def test_another_release_takes_over_and_gives_back(
    box: Box, tmp_path: Path, kubectl_of: Callable[[Box], Kubectl], earlier: Path
) -> None:
    """An earlier one takes the place of this one, which then takes its place: books, links and rules are handed on."""
    kube, kubectl = hold.kube_of(box), kubectl_of(box)
    overlay = "manifests/overlays/box"
    theirs = earlier / "build" / IMAGE.name
    with crowd(box, kube, tmp_path):
        install(box, kubectl, image=theirs, overlay=earlier / overlay, scratch=tmp_path / "theirs")
        install(box, kubectl, image=IMAGE, overlay=TREE / overlay, scratch=tmp_path / "ours")
