"""A real Kubernetes on the instances of a box: writes what its components read, starts them, waits for them.

The control plane (etcd, API server, controller manager, scheduler) runs on `control`, an instance of the VPC as any
other; each node runs containerd, kubelet and kube-proxy.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vpcbox.cluster import certs, cgroups, commands, config, files, images
from vpcbox.cluster.api import Api
from vpcbox.cluster.components import ComponentSet
from vpcbox.processes import PATH, BoxContext, Node, Process

_CAP_SYS_RESOURCE = 24
_PATIENCE = 180.0  # seconds; the machine may be small and busy
_RESTART_AFTER = 1.0  # seconds, as a service manager waits
_LAST_LINES = 15

_log = logging.getLogger(__name__)


class ClusterError(Exception):
    """A component ended or did not become ready; the text names it and the last lines of its log."""


class Cluster:
    """The cluster of one box. `up` comes first."""

    def __init__(self, box: BoxContext, components: ComponentSet, *, proxy_mode: str = "iptables") -> None:
        """Nothing happens yet. `proxy_mode`: kube-proxy's, iptables or nftables."""
        self.kubeconfig: Path = box.state / "kubeconfig"
        self._box = box
        self._components = components
        self._proxy_mode = proxy_mode
        self._control = box.control.directory / "kubernetes"
        self._images = box.control.directory / "box-images.tar"
        self._authority = certs.authority("vpcbox", now=datetime.now(UTC))
        self._machine = config.Machine(may_lower_oom_score=False, snapshotter="native")
        self._running: dict[tuple[str, str], Process] = {}
        self._started: asyncio.Queue[tuple[Node, Sequence[str], Sequence[str], Process]] = asyncio.Queue()
        self._api_ready = asyncio.Event()

    async def up(self, nodes: Sequence[Node]) -> None:
        """Start everything; return when every node is registered and has its pod CIDR (not: when it is Ready)."""
        self._box.stage("starting the control plane and the nodes' container runtimes")
        _demand_inotify(len(nodes))
        self._machine = await self._examine(self._box.control)
        await asyncio.to_thread(
            images.write_archive, self._images, [self._components.path("agnhost")], images.box_images()
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_control_plane())
            for node in nodes:
                group.create_task(self.add_node(node))

    @property
    def token_key(self) -> bytes:
        """The key (PEM) that the tokens of service accounts are signed with."""
        return (self._control / "service-account.key").read_bytes()

    async def add_node(self, node: Node) -> None:
        """Start a node's components, on a new instance or on one that was rebooted; return when it is registered."""
        await self._prepare(node)
        await self._start(node, commands.containerd(node.directory / "kubernetes"))
        socket = Path(f"/proc/{node.pid}/root{config.CONTAINERD_SOCKET}")
        await self._until(f"containerd on {node.name} serves", lambda: _accepts(socket), [node])
        async with asyncio.TaskGroup() as group:
            group.create_task(self.load_image(self._images, [node]))
            group.create_task(self._join(node))

    async def stop_node(self, node: Node) -> None:
        """End a node's components; what its pods run stays, as when the components are upgraded."""
        for component in ("kubelet", "kube-proxy", "containerd"):
            if process := self._running.pop((node.name, component), None):
                await process.stop()

    async def forget_node(self, node: Node) -> None:
        """Delete the Node of an instance that is gone, as a cloud controller manager does."""
        async with self._api() as api:
            await api.delete_node(node.name)

    async def run(self) -> None:
        """Start what ends again, as a node's service manager would, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._keep(*await self._started.get()))

    async def _keep(self, node: Node, argv: Sequence[str], within: Sequence[str], process: Process) -> None:
        status = await process.wait()
        await asyncio.sleep(_RESTART_AFTER)
        name = Path(argv[0]).name
        if self._running.get((node.name, name)) is process:
            _log.warning("%s on %s ended with status %s: started again", name, node.name, status)
            await self._start(node, argv, within=within)

    async def extend_scheduler(
        self, settings: Mapping[str, Any], argv: Sequence[str], *, user: str, kubeconfig: Path, root: Path
    ) -> None:
        """Start `argv` in `root`, a file system of its own, beside the scheduler; the scheduler again with `settings`.

        It is `user` to the API server, by `kubeconfig`, a path in `root`. The control plane of a box is made of
        processes, as that of a static pod is of containers.
        """
        control, folder = self._box.control, self._control
        server, ca = f"https://127.0.0.1:{config.API_PORT}", self._authority.pair.certificate
        text = config.kubeconfig(server, user, ca, self._authority.issue(user, groups=("system:serviceaccounts",)))
        own = {**settings, "clientConnection": {"kubeconfig": str(folder / "scheduler.conf")}}
        own["leaderElection"] = {"leaderElect": False}

        def write() -> None:
            inner = root / kubeconfig.relative_to("/")
            _write(inner.parent, {inner.name: text.encode()})
            _write(folder, {"scheduler.yaml": json.dumps(own).encode()})

        await asyncio.to_thread(write)
        # With a /proc, as a container has
        await self._start(control, argv, within=("unshare", "--mount-proc", f"--root={root}"))
        await self._running.pop((control.name, "kube-scheduler")).stop()
        await self._start(control, commands.kube_scheduler(folder, folder / "scheduler.yaml"))

    async def load_image(self, archive: Path, nodes: Sequence[Node]) -> None:
        """Import an image archive into each of the nodes."""
        ctr = str(self._components.path("ctr"))
        argv = [ctr, *commands.import_image(archive, self._machine)[1:]]
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(self._box.processes.run(argv, node=node))

    async def wait_ready(self, nodes: Sequence[Node]) -> None:
        """Wait until every one of the nodes is Ready: with no pod network installed, none will be."""
        async with self._api() as api:

            async def all_ready() -> bool:
                states = await api.nodes()
                return all(node.name in states and states[node.name].ready for node in nodes)

            await self._until(f"{', '.join(node.name for node in nodes)} Ready", all_ready, nodes)

    def _api(self) -> Api:
        folder = self._control
        server = f"https://127.0.0.1:{self._box.api_port}"
        return Api(server, folder / "ca.crt", folder / "admin.crt", folder / "admin.key")

    async def _examine(self, node: Node) -> config.Machine:
        """Find out what the machine allows; a trial mount tells whether overlayfs stacks on the state directory."""
        trial = node.directory / "overlay-trial"
        names = [str(trial / name) for name in ("lower", "upper", "work", "merged")]
        run = self._box.processes.run
        await run(["mkdir", "-p", *names])
        options = f"lowerdir={names[0]},upperdir={names[1]},workdir={names[2]}"
        script = 'mount -t overlay overlay -o "$1" "$2" && umount "$2"'
        stacks = await run(["unshare", "--mount", "sh", "-c", script, "sh", options, names[3]], node=node, check=False)
        await run(["rm", "-rf", str(trial)])
        said = (await run([str(self._components.path("containerd")), "--version"])).stdout
        return config.Machine(
            may_lower_oom_score=_has_capability(_CAP_SYS_RESOURCE),
            snapshotter="overlayfs" if stacks.returncode == 0 else "native",
            containerd=config.containerd_major(said.decode()),
        )

    async def _start_control_plane(self) -> None:
        control, folder = self._box.control, self._control
        content = files.control_plane(self._authority, control.address)
        await asyncio.to_thread(_write, folder, content)
        await self._start(control, commands.etcd(folder / "etcd"))
        await self._start(control, commands.kube_apiserver(folder, control.address))
        async with self._api() as api:
            await self._until("the API server is ready", api.ready, [control])
        admin = certs.KeyPair(content["admin.crt"], content["admin.key"])
        server = f"https://127.0.0.1:{self._box.api_port}"
        text = config.kubeconfig(server, "kubernetes-admin", content["ca.crt"], admin)
        await asyncio.to_thread(_write, self.kubeconfig.parent, {self.kubeconfig.name: text.encode()})
        self._api_ready.set()
        await self._start(control, commands.kube_controller_manager(folder))
        await self._start(control, commands.kube_scheduler(folder))

    async def _prepare(self, node: Node) -> None:
        facts, directory = self._facts(node), node.directory / "kubernetes"
        server = f"https://{self._box.control.address}:{config.API_PORT}"

        def write() -> None:
            content = files.node(
                self._authority, facts, self._machine, server=server, directory=directory, proxy_mode=self._proxy_mode
            )
            _write(directory, content)
            try:
                cgroups.create(facts.cgroup.removeprefix("/"))
            except OSError as error:
                raise ClusterError(f"{node.name}: no cgroup {facts.cgroup}: {error}") from error

        await asyncio.to_thread(write)
        plugins = [str(self._components.path(name)) for name in config.CNI_PLUGINS]
        await self._box.processes.run(["install", "-D", "-t", str(config.CNI_BIN), *plugins], node=node)

    async def _join(self, node: Node) -> None:
        """Start kubelet and kube-proxy once there is an API server, and wait for the Node object."""
        await self._api_ready.wait()
        directory = node.directory / "kubernetes"
        await self._start(node, commands.kubelet(self._facts(node), directory))
        await self._start(node, commands.kube_proxy(directory))
        async with self._api() as api:

            async def registered() -> bool:
                state = (await api.nodes()).get(node.name)
                return state is not None and state.has_pod_cidr and state.boot_id == node.boot_id

            await self._until(f"{node.name} registered", registered, [node])

    def _facts(self, node: Node) -> config.NodeFacts:
        return config.NodeFacts(
            name=node.name,
            instance_id=node.instance_id,
            instance_type=node.instance_type,
            address=node.address,
            region=self._box.vpc.region,
            zone=self._box.vpc.zone,
            cgroup=f"/{self._box.cgroup}/{node.name}",
        )

    async def _start(self, node: Node, argv: Sequence[str], *, within: Sequence[str] = ()) -> None:
        """Start a component; `within`: a command that runs a program, not a component, somewhere else."""
        name = Path(argv[0]).name
        program = Path(argv[0]) if within else self._components.path(name)
        # containerd finds its shim in PATH
        env = {"PATH": PATH if within else f"{program.parent}:{PATH}"}
        process = await self._box.processes.start(
            f"{node.name}/{name}",
            [*within, str(program), *argv[1:]],
            node=node,
            env=env,
            log=self._log_file(node.name, name),
        )
        self._running[node.name, name] = process
        self._started.put_nowait((node, argv, within, process))

    def _log_file(self, node: str, component: str) -> Path:
        return self._box.state / "log" / node / f"{component}.log"

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]], on: Sequence[Node]) -> None:
        """Wait for what components on these nodes bring about; ClusterError as soon as one of them ends meanwhile."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not await holds():
                    self._demand_alive({node.name for node in on})
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise ClusterError(f"not within {_PATIENCE:.0f} s: {what}; logs are in {self._box.state / 'log'}") from None

    def _demand_alive(self, nodes: AbstractSet[str]) -> None:
        for (node, component), process in self._running.items():
            if node in nodes and process.returncode is not None:
                log = self._log_file(node, component)
                last = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
                raise ClusterError(f"{component} on {node} ended with status {process.returncode}; {log} ends:\n{last}")


def _demand_inotify(nodes: int) -> None:
    """Refuse what would fail later with «too many open files»: the limit is of the user, whatever the namespace."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    allowed, needed = int(limit.read_text()), config.inotify_instances(nodes)
    if needed > allowed:
        raise ClusterError(
            f"{nodes} nodes need {needed} inotify instances, fs.inotify.max_user_instances allows {allowed}: "
            f"take fewer nodes or `sysctl -w fs.inotify.max_user_instances={2 * needed}`"
        )


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


async def _accepts(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True


def _write(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write files only root may read: keys are among them. Each appears whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        draft = folder / f".{name}.new"
        draft.touch(0o600)
        draft.write_bytes(data)
        draft.replace(folder / name)
