"""The node daemon goes and comes back: what runs goes on, and what is new works after."""

from __future__ import annotations

import pytest

from demo import checks
from demo.application import Application, ready
from demo.box import Box
from demo.kube import Object
from tests.box import hold


@pytest.fixture
def application(box: Box) -> Application:
    """The demonstration's application, all Ready."""
    hold.clear(hold.kube_of(box))
    application = Application(box)
    application.deploy()
    application.pods()
    return application


def test_application_stays_up_without_daemons_and_new_pods_work_after(box: Box, application: Application) -> None:
    """All daemons are deleted at once: every path holds all the while, and no pod restarts.

    What ends meanwhile is released after, and a shared pod that starts meanwhile waits and runs; then both kinds start
    anew. An exclusive pod that the scheduler places before it hears that the devices are away, kubelet refuses for
    good, whatever the device plugin does: none is started meanwhile.
    """
    kube = application.kube
    leavers = [hold.pod("leaves-card", exclusive=True), hold.pod("leaves")]
    hold.start(kube, leavers)
    before = application.pods()
    endpoints, wrong = application.endpoints(before)
    assert wrong == []
    old = {one["metadata"]["uid"] for one in hold.daemons(kube).values()}
    for node in hold.daemons(kube):
        hold.replace_daemon(kube, node)
    hold.delete(kube, ["leaves-card", "leaves"], grace=0)
    comer = hold.pod("comes")
    kube.apply(comer)
    walks = 0
    while walks < 2 or not _all_ready(application):
        assert [complaint for _, complaint in application.walk(endpoints) if complaint] == []
        walks += 1
    assert old.isdisjoint(one["metadata"]["uid"] for one in hold.daemons(kube).values())
    after = application.pods()
    assert [_identity(pod) for pod in after] == [_identity(pod) for pod in before]
    assert [complaint for pod in after for complaint in checks.probed(pod)] == []
    hold.start(kube, [comer, hold.pod("new-card", exclusive=True)])
    hold.start(kube, [hold.pod(f"new-{node}", node=node) for node in application.instances])
    hold.agree(box)


def _all_ready(application: Application) -> bool:
    found = list(hold.daemons(application.kube).values())
    return ready(found, len(application.instances)) is not None


def _identity(pod: Object) -> tuple[str, ...]:
    """What changes when anything of a running pod is made again."""
    containers = [str(one["containerID"]) for one in pod["status"]["containerStatuses"]]
    return (str(pod["metadata"]["uid"]), str(pod["status"]["podIP"]), *containers)
