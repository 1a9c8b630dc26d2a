"""The box process: makes a VPC, instances in it and a Kubernetes on them, and is all of it until it ends.

It is pid 1 of its PID namespace and has a mount namespace of its own, so the kernel clears everything when it dies. It
stays in the machine's network namespace: 127.0.0.1 there leads to the API server and to the cloud's API, nothing else
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import secrets
import signal
import socket
import string
import sys
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from aiohttp import web

from vpcbox import account, control, instances
from vpcbox.cluster.cluster import Cluster
from vpcbox.cluster.commands import ISSUER
from vpcbox.cluster.components.build import ComponentSet, ensure
from vpcbox.fabric import netns
from vpcbox.fabric.router import Router
from vpcbox.faults import Faults, Rule
from vpcbox.forward import forward, local_listener
from vpcbox.install import Installation, InstallError
from vpcbox.launch import Options
from vpcbox.metadata import server as metadata
from vpcbox.openapi import server as openapi
from vpcbox.openapi.credentials import Credentials
from vpcbox.openapi.ram import Ram
from vpcbox.processes import Node, Processes, Vpc
from vpcbox.reaper import reap_orphans
from vpcbox.world import instance_types
from vpcbox.world.clock import Clock
from vpcbox.world.model import REGION, ZONE
from vpcbox.world.world import World

METADATA = IPv4Address("100.100.100.200")
OPENAPI = IPv4Address("100.100.0.80")
API_SERVER_PORT = 6443
VPC_CIDR = IPv4Network("10.0.0.0/16")
NODES_CIDR = IPv4Network("10.0.0.0/20")
PODS_CIDRS = (IPv4Network("10.0.16.0/20"), IPv4Network("10.0.32.0/20"))

_log = logging.getLogger(__name__)


class Box:
    """Everything of one box. Satisfies `processes.BoxContext`."""

    def __init__(self, box_id: str, options: Options, machine_proc: int, says: int) -> None:
        """Nothing is made before `run`."""
        self.id = box_id
        self.cgroup = f"vpcbox-{box_id}"
        self.state = Path(options.state)
        self.processes = Processes()
        self.control: Node
        self.outside: Node
        self.vpc: Vpc
        self.api_port = 0
        self._options = options
        self._machine_proc = machine_proc
        self._says = says
        self._began = time.monotonic()
        self._nodes: dict[str, Node] = {}
        self._off: set[str] = set()  # names of instances that are stopped
        self._numbers = itertools.count(1)  # of nodes; a number is not given twice
        self._changing = asyncio.Lock()
        self._router = Router(self.state / "netns")
        self._faults = Faults()
        clock = Clock(options.speed)
        self._credentials = Credentials(clock)
        self._ram = Ram([account.ROLE])
        self._world = World(clock, self._router, random.Random(), instance_types.load(), faults=self._faults)
        self._world.jumbo_frames = options.jumbo_frames
        self._openapi_port = 0
        self._cluster: Cluster | None = None
        self._components: ComponentSet | None = None

    def stage(self, text: str) -> None:
        """Tell whoever waits for the box, and the log, what happens now."""
        self._say(stage=text, elapsed=time.monotonic() - self._began)
        _log.info("%s", text)

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits for the box why there will be none."""
        self._say(error=control.reason(error))

    def _say(self, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            os.write(self._says, json.dumps(fields).encode() + b"\n")

    async def run(self) -> None:
        """Make the box and be it until SIGTERM."""
        for number in (signal.SIGTERM, signal.SIGINT):
            # There is nothing to put in order that the kernel does not do at once when this process is gone
            asyncio.get_running_loop().add_signal_handler(number, os._exit, 0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reap_orphans())
            self.stage("VPC")
            await self._router.open((METADATA, OPENAPI))
            tasks.create_task(self._router.run())
            tasks.create_task(self._world.run())
            self.vpc = self._make_vpc()
            await self._serve()
            self.stage("instances")
            await self._boot_instances()
            api_server = local_listener()
            self.api_port = api_server.getsockname()[1]
            tasks.create_task(forward(api_server, self.control.netns, self.control.address, API_SERVER_PORT))
            tasks.create_task(control.serve(control.listener(self.state), self._verbs()))
            if self._options.cluster:
                cluster = await self._start_cluster()
                tasks.create_task(cluster.run())
            try:
                await self._install()
            except InstallError as error:  # the box stays, to be looked at
                _log.error("%s", error)
                self._say(error=str(error))
            else:
                self.stage("ready")
            os.close(self._says)
            self._says = os.open(os.devnull, os.O_WRONLY)

    def _make_vpc(self) -> Vpc:
        vpc = self._world.create_vpc("box", VPC_CIDR)
        nodes = self._world.create_vswitch("nodes", vpc.id, NODES_CIDR)
        pods = [self._world.create_vswitch(f"pods-{n}", vpc.id, cidr) for n, cidr in enumerate(PODS_CIDRS, 1)]
        group = self._world.create_security_group("box", vpc.id)
        letters = string.ascii_letters + string.digits
        key = "LTAI5t" + "".join(secrets.choice(letters) for _ in range(18))
        secret = "".join(secrets.choice(letters) for _ in range(30))
        self._credentials.add(key, secret)
        return Vpc(
            region=REGION,
            zone=ZONE,
            vpc_id=vpc.id,
            route_table_id=vpc.route_table_id,
            security_group_id=group.id,
            node_vswitch_id=nodes.id,
            pod_vswitch_ids=tuple(vswitch.id for vswitch in pods),
            access_key_id=key,
            access_key_secret=secret,
        )

    async def _serve(self) -> None:
        """Open the cloud's doors: metadata inside, the API inside and on the machine's 127.0.0.1."""
        cloud = openapi.application(self._world, self._credentials, self._faults, self._ram)
        local = local_listener()
        self._openapi_port = local.getsockname()[1]
        await _serve_http(cloud, netns.listener(self._router.path, str(OPENAPI), 80), local)
        guide = metadata.application(self._world, self._world.instance_of, self._credentials)
        await _serve_http(guide, netns.listener(self._router.path, str(METADATA), 80))

    async def _boot_instances(self) -> None:
        nodes = [f"node-{next(self._numbers)}" for _ in range(self._options.nodes)]
        names = ["control", "outside", *nodes]
        async with asyncio.TaskGroup() as booting:
            booted = {name: booting.create_task(self._boot(name, self._options.instance_type)) for name in names}
        self.control = booted.pop("control").result()
        self.outside = booted.pop("outside").result()
        self._nodes = {name: task.result() for name, task in booted.items()}

    async def _boot(self, name: str, instance_type: str) -> Node:
        instance = await self._world.create_instance(
            name,
            instance_type,
            self.vpc.node_vswitch_id,
            [self.vpc.security_group_id],
            ram_role=account.ROLE.name,
        )
        return await self._boot_guest(name, instance.id, instance_type)

    async def _boot_guest(self, name: str, instance_id: str, instance_type: str) -> Node:
        address = self._world.primary(instance_id).primary_address
        namespace = await self._router.instance(instance_id)
        guest = await instances.boot(name, instance_id, address, namespace, self.state)
        pid = guest.holder.pid
        return Node(name, instance_id, instance_type, address, namespace, pid, instances.boot_id(pid), guest.directory)

    async def _start_cluster(self) -> Cluster:
        self._components = await asyncio.to_thread(ensure, progress=self.stage)
        if self._options.containerd:
            self._components = self._components.with_containerd(Path(self._options.containerd))
        self._cluster = Cluster(self, self._components, proxy_mode=self._options.kube_proxy)
        await self._cluster.up(list(self._nodes.values()))
        self._ram.add(account.provider(ISSUER, self._cluster.token_key))
        return self._cluster

    async def _install(self) -> None:
        if self._cluster and self._components and self._options.install == "eniway":
            installation = Installation(self, self._cluster, self._components)
            await installation.install(list(self._nodes.values()))

    def _verbs(self) -> dict[str, control.Verb]:
        return {
            "status": self._status,
            "place": self._place,
            "node-add": self._add_node,
            "instance-stop": self._stop_instance,
            "instance-start": self._start_instance,
            "instance-reboot": self._reboot_instance,
            "instance-release": self._release_instance,
            "image-load": self._load_image,
            "fault-add": self._add_fault,
            "fault-list": self._list_faults,
            "fault-clear": self._clear_faults,
        }

    async def _status(self, _question: Mapping[str, Any], _say: Callable[[str], None]) -> dict[str, Any]:
        """The shape of `vpcbox status --json`; pids and paths are the machine's."""
        vpc = self.vpc
        return {
            "pid": int(os.readlink("self", dir_fd=self._machine_proc)),
            "kubeconfig": str(self._cluster.kubeconfig) if self._cluster else None,
            "openapi": {
                "endpoint": f"http://127.0.0.1:{self._openapi_port}",
                "region": vpc.region,
                "zone": vpc.zone,
                "access_key_id": vpc.access_key_id,
                "access_key_secret": vpc.access_key_secret,
            },
            "vpc": {
                "id": vpc.vpc_id,
                "route_table_id": vpc.route_table_id,
                "security_group_id": vpc.security_group_id,
                "vswitches": [
                    {"id": vswitch.id, "zone": vswitch.zone, "cidr": str(vswitch.cidr)}
                    for vswitch in self._world.vswitches.values()
                ],
            },
            "nodes": [self._describe(node) for node in self._nodes.values()],
            "outside": self._describe(self.outside),
        }

    def _describe(self, node: Node) -> dict[str, Any]:
        """Shape of a node; while its instance is stopped, what is of its processes is null."""
        pid = None if node.name in self._off else instances.machine_pid(node.pid, self._machine_proc)
        return {
            "name": node.name,
            "instance_id": node.instance_id,
            "instance_type": node.instance_type,
            "status": self._world.instances[node.instance_id].status.value,
            "netns": pid and f"/proc/{pid}/ns/net",
            "pid": pid,
            "address": str(node.address),
            "containerd_socket": pid and f"/proc/{pid}/root/run/containerd/containerd.sock",
        }

    async def _place(self, question: Mapping[str, Any], _say: Callable[[str], None]) -> dict[str, Any]:
        """Say where a command for an instance runs: a pid of its namespaces, and where the cluster's programs are."""
        places = {"control": self.control, "outside": self.outside, **self._nodes}
        name = question["name"]
        if name not in places:
            raise control.RefusedError(f"NODE: expected one of {', '.join(places)}, got {name!r}")
        if name in self._off:
            raise control.RefusedError(f"NODE: {name} is stopped")
        programs = sorted({str(file.parent) for file in self._components.files.values()}) if self._components else []
        return {"pid": instances.machine_pid(places[name].pid, self._machine_proc), "path": programs}

    async def _add_node(self, question: Mapping[str, Any], say: Callable[[str], None]) -> str:
        """One more instance, and a node of the cluster on it."""
        async with self._changing:
            name = f"node-{next(self._numbers)}"
            instance_type = question.get("instance_type") or self._options.instance_type
            say(f"instance {name}")
            node = await self._boot(name, instance_type)
            self._nodes[name] = node
            await self._join(node, say)
            return name

    async def _join(self, node: Node, say: Callable[[str], None]) -> None:
        if self._cluster and self._components:
            say(f"{node.name} joins the cluster")
            await self._cluster.add_node(node)
            if self._options.install == "eniway":
                await Installation(self, self._cluster, self._components).extend(node)

    async def _stop_instance(self, question: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Its processes end, its memory is gone, its disk and its ENIs stay."""
        async with self._changing:
            await self._stop(self._node(question, off=False), say)

    async def _start_instance(self, question: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Boot a stopped instance; what of the cluster ran there runs again."""
        async with self._changing:
            await self._start(self._node(question, off=True), say)

    async def _reboot_instance(self, question: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Stop it and start it."""
        async with self._changing:
            node = self._node(question, off=False)
            await self._stop(node, say)
            await self._start(node, say)

    async def _release_instance(self, question: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """It is gone without a word to its pods, and so is its Node: a cloud controller manager would see to that."""
        async with self._changing:
            node = self._node(question, off=question["name"] in self._off)
            if node.name not in self._off:
                await self._stop(node, say)
            await self._world.power.release(node.instance_id)
            del self._nodes[node.name]
            self._off.remove(node.name)
            if self._cluster:
                say(f"{node.name} leaves the cluster")
                await self._cluster.forget_node(node)

    def _node(self, question: Mapping[str, Any], *, off: bool) -> Node:
        name = question["name"]
        if name not in self._nodes:
            raise control.RefusedError(f"NODE: expected one of {', '.join(self._nodes)}, got {name!r}")
        if (name in self._off) != off:
            raise control.RefusedError(f"NODE: {name} is {'running' if off else 'stopped'}")
        return self._nodes[name]

    async def _stop(self, node: Node, say: Callable[[str], None]) -> None:
        say(f"{node.name} stops")
        self._off.add(node.name)
        if self._cluster:
            await self._cluster.stop_node(node)
        await instances.halt(node.pid, f"{self.cgroup}/{node.name}")
        await self._world.power.stop(node.instance_id)
        await self._router.release(node.instance_id)

    async def _start(self, node: Node, say: Callable[[str], None]) -> None:
        say(f"{node.name} boots")
        await self._world.power.start(node.instance_id)
        self._nodes[node.name] = await self._boot_guest(node.name, node.instance_id, node.instance_type)
        self._off.remove(node.name)
        await self._join(self._nodes[node.name], say)

    async def _load_image(self, question: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Bring an image archive to every node."""
        if self._cluster is None:
            raise control.RefusedError("the box has no cluster to load an image into")
        running = [node for node in self._nodes.values() if node.name not in self._off]
        say(f"to {len(running)} nodes")
        await self._cluster.load_image(Path(question["archive"]), running)

    async def _add_fault(self, question: Mapping[str, Any], _say: Callable[[str], None]) -> str:
        return self._faults.add(Rule.parse(question["rule"]))

    async def _list_faults(self, _question: Mapping[str, Any], _say: Callable[[str], None]) -> list[dict[str, Any]]:
        return self._faults.list()

    async def _clear_faults(self, question: Mapping[str, Any], _say: Callable[[str], None]) -> int:
        try:
            return self._faults.clear(question.get("id"))
        except KeyError:
            raise control.RefusedError(f"ID: no fault {question['id']!r} is in force") from None


async def _serve_http(application: web.Application, *listeners: socket.socket) -> None:
    runner = web.AppRunner(application, access_log=None, handle_signals=False, max_line_size=openapi.LONGEST_LINE)
    await runner.setup()
    for listening in listeners:
        await web.SockSite(runner, listening).start()


def _become_first(state: Path) -> int:
    """Settle into the new PID namespace, on mounts of its own; returns a descriptor of the machine's /proc."""
    machine_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    netns.unshare(netns.CLONE_NEWNS)
    netns.mount("none", "/", "", netns.MS_REC | netns.MS_PRIVATE)
    netns.mount("proc", "/proc", "proc", netns.MS_NOSUID | netns.MS_NODEV | netns.MS_NOEXEC)
    namespaces = state / "netns"
    namespaces.mkdir()
    netns.mount("netns", str(namespaces), "tmpfs", netns.MS_NOSUID | netns.MS_NODEV | netns.MS_NOEXEC, "mode=755")
    return machine_proc


def main(box_id: str, says: int, options: Options) -> None:
    """Be a box; `says` is a descriptor that progress is written to."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.set_inheritable(says, False)
    machine_proc = _become_first(Path(options.state))
    if sys.version_info < (3, 12):  # later ones do so by themselves: no thread for each child
        watcher = asyncio.PidfdChildWatcher()
        asyncio.get_event_loop_policy().set_child_watcher(watcher)

    async def live() -> None:
        box = Box(box_id, options, machine_proc, says)
        try:
            await box.run()
        except Exception as error:
            _log.exception("the box ends")
            box.fail(error)
            raise SystemExit(1) from error

    asyncio.run(live())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Options(**json.loads(sys.argv[3])))
