"""eniway on a box's cluster: from its image and its manifests, as anywhere, with the box's own ids and access key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from vpcbox.cluster import images
from vpcbox.cluster.cluster import Cluster
from vpcbox.cluster.components.build import ComponentSet
from vpcbox.control import reason
from vpcbox.processes import BoxContext, Node

CHECKOUT = Path(__file__).parents[1]
IMAGE = CHECKOUT / "build" / "eniway-image.tar"
OVERLAY = CHECKOUT / "manifests" / "overlays" / "box"
CONTROL_PLANE = CHECKOUT / "manifests" / "control-plane"
EXTENDER = "eniway-extender"
_KUBECONFIG = "--kubeconfig="
NAMESPACE = "kube-system"
CONFIG_MAP = "eniway-config"
SECRET = "eniway-credentials"  # noqa: S105 - a name
RESOURCE = "aliyun/eni"
DAEMON_SET = "daemonset/eniway-node"
DEPLOYMENTS = ("deployment", "--selector=app.kubernetes.io/part-of=eniway")
SELECTOR = "--selector=app.kubernetes.io/name=eniway-node"
_ROLLOUT = 180  # seconds for every node's daemon to be ready
_DEVICES = 30  # seconds for kubelet to tell of its node's devices: a few of its statuses
_RESTARTS = 4  # a daemon that ended so often does not recover


class InstallError(Exception):
    """eniway is not installed; the text says what was missing, or what its daemon said."""


class _CrashingError(Exception):
    """The daemon ends soon after each start."""


def demand_sources() -> None:
    """Raise InstallError unless the image and the manifests are there."""
    for needed, how in ((OVERLAY, "a checkout of the sources"), (IMAGE, "`make image`")):
        if not needed.exists():
            raise InstallError(f"--install: eniway needs {needed}, which is missing: it takes {how}")


class Installation:
    """The eniway of one box."""

    def __init__(self, box: BoxContext, cluster: Cluster, components: ComponentSet) -> None:
        """Nothing happens yet."""
        self._box = box
        self._cluster = cluster
        self._kubectl = [str(components.path("kubectl")), f"--kubeconfig={cluster.kubeconfig}"]

    async def install(self, nodes: Sequence[Node]) -> None:
        """Load the image, apply the manifests and wait until every node is Ready and what the cluster has once runs."""
        demand_sources()
        self._box.stage("eniway: image")
        await self._cluster.load_image(IMAGE, nodes)
        self._box.stage("eniway: manifests")
        await self._run("apply", "--server-side", "--kustomize", str(self._write()))
        self._box.stage("eniway: beside the scheduler")
        await self._extend_scheduler()
        await self._wait(nodes)

    async def _extend_scheduler(self) -> None:
        """Run the sidecar of the static pod in manifests/control-plane, from the image, with its scheduler settings."""
        root = self._box.control.directory / "eniway"
        await asyncio.to_thread(images.unpack, IMAGE, root)
        pod = yaml.safe_load((CONTROL_PLANE / "kube-scheduler.yaml").read_text())
        (sidecar,) = (one for one in pod["spec"]["containers"] if one["name"] == EXTENDER)
        (kubeconfig,) = (word.removeprefix(_KUBECONFIG) for word in sidecar["args"] if word.startswith(_KUBECONFIG))
        await self._cluster.extend_scheduler(
            yaml.safe_load((CONTROL_PLANE / "scheduler.yaml").read_text()),
            ["/usr/bin/eniway", *sidecar["args"]],
            user=f"system:serviceaccount:{NAMESPACE}:{EXTENDER}",
            kubeconfig=Path(kubeconfig),
            root=root,
        )

    async def extend(self, node: Node) -> None:
        """Bring it to one more node."""
        await self._cluster.load_image(IMAGE, [node])
        await self._wait([node])

    async def _wait(self, nodes: Sequence[Node]) -> None:
        self._box.stage("eniway: waiting for its processes and for Ready nodes")
        try:
            async with asyncio.timeout(_ROLLOUT), asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch_for_crashes())
                await self._run("rollout", "status", DAEMON_SET, f"--namespace={NAMESPACE}")
                await self._cluster.wait_ready(nodes)
                await asyncio.gather(*map(self._await_devices, nodes))
                if nodes:
                    await self._run("rollout", "status", *DEPLOYMENTS, f"--namespace={NAMESPACE}")
                watch.cancel()
        except (ExceptionGroup, TimeoutError) as error:
            pods = await self._run("get", "pods", f"--namespace={NAMESPACE}", "--output=wide", check=False)
            logs = await self._run("logs", DAEMON_SET, f"--namespace={NAMESPACE}", "--tail=15", check=False)
            raise InstallError(f"eniway is not on every node: {reason(error)}\n{pods}\n{logs}") from error

    async def _await_devices(self, node: Node) -> None:
        """Watch until kubelet offers the ENIs that the NodeNetwork tells of: it does with its node's next status.

        Only pods with an ENI of their own would wait otherwise, so a node that goes on without is no failure.
        """
        slots = ".status.capacity.slots"
        said = f"--output=jsonpath={{{slots}.inService}} {{{slots}.growable}}"
        count = sum(map(int, (await self._run("get", "nodenetwork", node.name, said, check=False)).split()))
        offered = f"--for=jsonpath={{.status.allocatable.{RESOURCE}}}={count}"
        if count:
            await self._run("wait", f"node/{node.name}", offered, f"--timeout={_DEVICES}s", check=False)

    async def _watch_for_crashes(self) -> None:
        """Raise as soon as a daemon has been started again and again: waiting longer would not help."""
        counts = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}"
        while True:
            await asyncio.sleep(2)
            restarts = await self._run("get", "pods", f"--namespace={NAMESPACE}", SELECTOR, counts, check=False)
            if any(int(count) >= _RESTARTS for count in restarts.split()):
                raise _CrashingError(f"its daemon was started again {_RESTARTS} times")

    async def _run(self, *arguments: str, check: bool = True) -> str:
        environment = {"HOME": str(self._box.state)}  # of kubectl's discovery cache
        done = await self._box.processes.run([*self._kubectl, *arguments], env=environment, check=check)
        return done.stdout.decode(errors="replace")

    def _write(self) -> Path:
        """Write a kustomization that gives the box overlay the box's ids; returns its directory."""
        directory = self._box.state / "install"
        directory.mkdir(exist_ok=True)
        vpc = self._box.vpc
        config = yaml.safe_load((OVERLAY / "config.yaml").read_text())
        files = {
            "config.yaml": {
                **config,
                "cluster": f"vpcbox-{self._box.id}",
                "vswitches": list(vpc.pod_vswitch_ids),
                "security_groups": [vpc.security_group_id],
            },
            "kustomization.yaml": {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                # kustomize takes no absolute path
                "resources": [os.path.relpath(OVERLAY.resolve(), directory.resolve())],
                "generatorOptions": {"disableNameSuffixHash": True},
                "configMapGenerator": [
                    {"name": CONFIG_MAP, "namespace": NAMESPACE, "behavior": "replace", "files": ["config.yaml"]}
                ],
                "secretGenerator": [
                    {"name": SECRET, "namespace": NAMESPACE, "files": ["access_key_id", "access_key_secret"]}
                ],
            },
        }
        texts = {name: yaml.safe_dump(content, sort_keys=False) for name, content in files.items()}
        texts |= {"access_key_id": vpc.access_key_id, "access_key_secret": vpc.access_key_secret}
        for name, text in texts.items():
            (directory / name).touch(mode=0o600)
            (directory / name).write_text(text)
        return directory
