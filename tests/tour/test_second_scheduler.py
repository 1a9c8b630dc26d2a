"""The scheduler of our own, for control planes that cannot be configured: applied, asked for, answered by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from demo.box import Box
from tests.box import hold
from vpcbox.cluster.components import ensure
from vpcbox.cluster.images import Image, write_archive

OVERLAY = Path(__file__).parents[2] / "manifests" / "second-scheduler"
NAME = "eniway-scheduler"
ASK = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9532/metrics').read().decode())"


def test_pods_that_name_it_are_placed_by_it(
    box: Box, tmp_path: Path, kubectl_of: Callable[[Box], Callable[..., str]]
) -> None:
    """It asks the extender in its own pod; a pod that no node has room for is told why, and starts when there is."""
    kube, kubectl = hold.kube_of(box), kubectl_of(box)
    hold.clear(kube)
    (image,) = (
        one["image"]
        for document in yaml.safe_load_all((OVERLAY / "scheduler.yaml").read_text())
        if document["kind"] == "Deployment"
        for one in document["spec"]["template"]["spec"]["containers"]
        if one["name"] == "kube-scheduler"
    )
    archive = tmp_path / "kube-scheduler.tar"
    write_archive(archive, [ensure(["kubernetes"]).path("kube-scheduler")], [Image(image, ("/kube-scheduler",))])
    box.run("image", "load", str(archive))
    kubectl("apply", "--server-side", "--kustomize", str(OVERLAY))
    try:
        kubectl("rollout", "status", f"deployment/{NAME}", "--namespace=kube-system", "--timeout=120s")
        names = [f"asks-{number}" for number in range(len(box.status().nodes))]
        # As many as there are slots for, and one more
        pods = [hold.pod(name, exclusive=True) for name in names]
        late = hold.pod("late", exclusive=True)
        for pod in (*pods, late):
            pod["spec"]["schedulerName"] = NAME
        started = hold.start(kube, pods)
        assert len({pod["spec"]["nodeName"] for pod in started}) == len(names)
        (host,) = {
            pod["spec"]["nodeName"] for pod in kube.get(hold.SYSTEM_PODS)["items"] if NAME in pod["metadata"]["name"]
        }
        asked = box.sh(host, ["python3", "-c", ASK])
        assert 'eniway_extender_request_seconds_count{result="some",verb="filter"}' in asked
        events = kube.get(f"/api/v1/namespaces/{hold.HOLD}/events")["items"]
        by = {
            event.get("reportingComponent") or event.get("source", {}).get("component")
            for event in events
            if event["reason"] == "Scheduled" and event["involvedObject"]["name"] in names
        }
        assert by == {NAME}
        kube.apply(late)
        assert "aliyun/eni" in hold.event(kube, "late", "FailedScheduling")
        hold.delete(kube, names[:1])
        hold.start(kube, [late])
        hold.agree(box)
    finally:
        kubectl("delete", "--kustomize", str(OVERLAY))
        hold.clear(kube)
    hold.agree(box)
