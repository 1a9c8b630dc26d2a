"""The node daemon as its composition root builds it, in this process and on a virtual clock, and what it lives on.

Real: ``eniway.node.app.run`` and all that it builds; the OpenAPI and the metadata service, over HTTP by the simulator,
through the official SDK; ENIs as links of the simulator's router, pods as network namespaces, every change of the
kernel; the sockets of CNI, device plugin and PodResources; the ledger, on a disk of 4 MiB.

Stand-ins: kubelet is that of the device plugin's tests, the API server says yes to all. The runtime's part is played
here: a namespace for each pod, ADD and DEL as the relay asks them, none where the daemon is away.

Not there: NetworkPolicy, whose watches would need an API server in earnest, and packets: what the kernel is told is
read back, not tried.

A kill is a kill as far as one process can: nothing more is written, called or begun in the kernel, and nobody hears of
what is under way; half of what the ledger was handed is lost. ``cut`` ends it before or after a write of the ledger, a
call of the cloud or an operation of the kernel, or between two messages of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import subprocess
from collections.abc import AsyncIterator, Iterable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

import grpc
import msgspec
from aiohttp import web

import datapath.network
from cni import types
from cni.server import Door
from datapath.apply import apply
from datapath.kernel import Kernel
from deviceplugin import rpc
from eniallocator import Books
from eniallocator.cloud.switch import Calls
from eniallocator.ledger import Ledger
from eniway import names
from eniway.config import NodeConfig
from eniway.errors import NotReady
from eniway.kube.client import Connection
from eniway.model import NO_CHOICE, Choice, Kind, Lease
from eniway.node import app
from tests.box import own_machine
from tests.box.allocator_world import Rig, rig
from tests.box.mortal import COOLDOWN, Life
from tests.box.sandboxes import Pod, address, ask, destroy
from tests.box.virtual_time import VirtualLoop
from tests.box.yes_server import YesServer
from tests.unit.deviceplugin.kubelet import Kubelet, Plugin
from vpcbox.fabric import netns

NODE: Final = "node-1"
POD_CIDR: Final = "172.20.1.0/27"
_FIRST_PORT: Final = 9530
_PORTS: Final = 10_000
LONGEST_ADD: Final = 220.0
LONGEST_DEL: Final = 60.0
_EXPECTED: Final = {types.TRY_AGAIN_LATER, 102, 103, 105, 5}
"""Codes of a failed ADD: not ready, no capacity, cloud, conflict, kernel. Any other is a bug."""


class Killed(Exception):
    """The process ended within a piece of work in the kernel."""


class MortalDaemon(Life):
    """The daemon of one node."""

    def __init__(
        self,
        cloud: Rig,
        random: Random,
        *,
        server: str,
        kube: YesServer,
        config: NodeConfig,
        ends: asyncio.TaskGroup,
    ) -> None:
        """``server``: where ``kube`` is served. ``ends``: of sandboxes, which outlive whoever asked for them."""
        super().__init__(cloud, random)
        self.kube = kube
        self.pods: dict[str, Pod] = {}
        self.kubelet: Kubelet | None = None
        self._config = config
        self._server = server
        self._serials = count(1)
        self._given: dict[int, Pod] = {}
        """Slots that kubelet gave away."""
        self._loop = _loop()
        self._ends = ends
        self._task: asyncio.Task[None] | None = None
        self._network: Any = None
        self._door: Any = None
        self._ledgers: list[Ledger] = []
        self._left: int | None = None
        """Points until it ends."""
        self.passed: list[str] = []
        """Points since the last ``cut``."""

    # -- life and death

    async def live(self) -> None:
        self._dead = False
        self.crashed.clear()
        self.lives += 1
        self._books = None
        tls = Connection(self._server, tls=False, token=lambda: None)  # type: ignore[arg-type]  # plain HTTP
        # What was opened and not yet said to be closed a process's end would close.
        port = _FIRST_PORT + self.lives % _PORTS
        config = msgspec.structs.replace(self._config, metrics_address=f"127.0.0.1:{port}")
        self._task = asyncio.create_task(
            app.run(
                config,
                node=NODE,
                server=tls,
                clock=self.clock,
                random=Random(self.random.getrandbits(32)),
                new_id=lambda: f"{next(self.cloud.names):032x}",
            )
        )
        await asyncio.sleep(0.5)

    async def kill(self) -> None:
        was_cut, self._dead, self._left = self._dead, True, None
        assert self._task is not None
        died = self._task.done() and not was_cut
        for ledger in self._ledgers:
            if self.random.random() < 0.5:
                with contextlib.suppress(queue.Empty):
                    while (lost := ledger._queue.get_nowait()) is not None:
                        lost.done.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()
        assert not died, "the daemon ended by itself"
        while self._loop.busy:  # noqa: ASYNC110 -- threads that end tell nobody
            await asyncio.sleep(0.001)
        for ledger in self._ledgers:
            if ledger._writer.is_alive():
                ledger.close()
        self._ledgers.clear()
        if self._door is not None and self._door._socket is not None:
            self._door._socket.close()
        self._door = None

    def cut(self, after: int | None) -> None:
        """End at the point that comes after so many; ``crashed`` tells when. None: count only."""
        self._left = after
        self.passed.clear()

    def _passes(self, what: str) -> bool:
        """Whether it lives on; ``what`` is about to be done, or was. Also from threads."""
        if not self._dead:
            self.passed.append(what)
            if self._left is not None and len(self.passed) > self._left:
                self._dead = True
                self._loop.call_soon_threadsafe(self.crashed.set)
        return not self._dead

    @contextlib.contextmanager
    def watched(self) -> Any:
        """Stand between the composition root and what it builds."""
        opened = Ledger.open
        loop = self._loop

        def applied(kernel: Kernel, ops: Iterable[Any]) -> None:
            for op in ops:
                if not self._passes(f"before {type(op).__name__} {type(op.item).__name__}"):
                    raise Killed
                apply(kernel, (op,))

        def open_one(path: Path) -> Ledger:
            ledger = opened(path)
            self._ledgers.append(ledger)
            return ledger

        def door(*args: Any, **named: Any) -> Any:
            self._door = made(*args, **named)
            return self._door

        made = Door
        with contextlib.ExitStack() as stack:
            for where, what, stand_in in (
                (app, "Books", self._born),
                (app, "Door", door),
                (datapath.network, "apply", applied),
                (Ledger, "open", open_one),
                (rpc.Channel, "call", loop.counted(rpc.Channel.call)),
                (rpc.Channel, "close", loop.counted(rpc.Channel.close)),
                (rpc.Server, "__aenter__", loop.counted(rpc.Server.__aenter__)),
                (rpc.Server, "__aexit__", loop.counted(rpc.Server.__aexit__)),
                (Plugin, "call", loop.counted(Plugin.call)),
            ):
                stack.enter_context(patch.object(where, what, stand_in))
            yield

    def _born(self, opening: Any, **rooms: Any) -> Books:
        books = self._books = Books(opening, **rooms)
        self._network = rooms["kernel"]
        self._tap_ledger(books._ledger)
        self._tap_cloud(rooms["cloud"])
        self._tap_kernel(rooms["kernel"])
        known = {lease.key: lease for lease in books.leases()}
        # Of lost books it is asked in the end only.
        for key, lease in () if opening.rebuilt else self.told.items():
            assert known.get(key) == lease, f"{key.alias} was told {lease} and is {known.get(key)}"
        return books

    def _tap_ledger(self, ledger: Ledger) -> None:
        write = ledger.write

        def written(*changes: Any, owe: bool = False) -> asyncio.Future[None]:
            done: asyncio.Future[None] = self._loop.create_future()
            if not self._passes("before write"):
                done.cancel()
                return done

            def heard(real: asyncio.Future[None]) -> None:
                if done.cancelled():
                    return
                if real.cancelled() or not self._passes("after write"):
                    done.cancel()
                elif (error := real.exception()) is not None:
                    done.set_exception(error)
                else:
                    done.set_result(None)

            write(*changes, owe=owe).add_done_callback(heard)
            return done

        ledger.write = written  # type: ignore[method-assign]

    def _tap_cloud(self, cloud: Any) -> None:
        call = cloud._call

        async def called(action: str, *rest: Any) -> Any:
            self._live_on(f"before {action}")
            said = await call(action, *rest)
            self._live_on(f"after {action}")
            return said

        cloud._call = called

    def _tap_kernel(self, network: Any) -> None:
        run = network._run

        async def worked(operation: str | None, *rest: Any, **named: Any) -> Any:
            if operation is None:
                # It only reads.
                said = await run(operation, *rest, **named)
                if self._dead:
                    raise asyncio.CancelledError
                return said
            self._live_on(f"before {operation}")
            try:
                return await run(operation, *rest, **named)
            finally:
                self._live_on(f"after {operation}")

        network._run = worked

    def _live_on(self, what: str) -> None:
        if not self._passes(what):
            raise asyncio.CancelledError

    # -- what pods do

    async def add(
        self,
        name: str,
        *,
        slot: int | None = None,
        within: float = LONGEST_ADD,
        choice: Choice = NO_CHOICE,
        routed: bool | None = None,
    ) -> Lease:
        """As Life says; ``routed`` None: sometimes."""
        if routed is None:
            routed = slot is None and self.random.random() < 0.1
        annotations = {names.ANNOTATION_NETWORK: "routed"} if routed else {}
        if choice.security_groups:
            annotations[names.ANNOTATION_SECURITY_GROUPS] = ",".join(choice.security_groups)
        pod = Pod(name, next(self._serials), annotations)
        told = False
        try:
            await self._admit(pod, slot)
            netns.create(pod.netns)
            reply = await ask(pod.request("ADD"), min(within, LONGEST_ADD))
            if reply is None:
                raise NotReady("the daemon is away, or took too long")
            answer = json.loads(reply.output)
            if reply.status != 0:
                assert answer["code"] in _EXPECTED, answer
                raise NotReady(answer["msg"])
            lease = self.books.lease(pod.key)
            assert lease is not None, f"{pod.key} was told {answer} and is not in the books"
            assert {ip["address"].partition("/")[0] for ip in answer["ips"]} == {str(lease.address)}
            assert lease.kind is (Kind.EXCLUSIVE if slot else Kind.ROUTED if routed else Kind.SHARED)
            assert address(pod.netns) == lease.address
            pod.remember(answer)
            self.pods[name] = pod
            told = True
            self.chosen[lease.key] = choice
            self.tell(lease)
            return lease
        finally:
            if not told:
                self._ends.create_task(self._end(pod, None))

    async def release(self, name: str) -> None:
        pod = self.pods.pop(name)
        # The runtime goes on, whoever waits.
        await asyncio.shield(self._ends.create_task(self._end(pod, self.told.pop(pod.key))))

    async def lose(self, name: str) -> None:
        """A sandbox ends, and nobody asks for its DEL."""
        pod = self.pods.pop(name)
        del self.told[pod.key]
        await self._bury(pod)

    async def _admit(self, pod: Pod, slot: int | None) -> None:
        """Kubelet's part."""
        if self.kubelet is None:
            raise NotReady("kubelet is away")
        if slot is None:
            self.kubelet.pods["default", pod.name] = []
            return
        plugin = self.kubelet.plugins.get(names.RESOURCE_ENI)
        if plugin is None or slot in self._given:
            raise NotReady("kubelet has no device for the pod")
        self._given[slot] = pod
        try:
            await plugin.allocate(names.device_id(slot))
        except grpc.aio.AioRpcError as error:
            raise NotReady("the device plugin went away") from error
        self.kubelet.pods["default", pod.name] = [names.device_id(slot)]

    async def _end(self, pod: Pod, lease: Lease | None) -> None:
        """DEL until it succeeds, and the end of the sandbox; ``lease`` is what it had."""
        for pause in (1.0, 5.0, 30.0, 60.0, 0.0):
            # Where the daemon is away the relay says that all is well.
            reply = await ask(pod.request("DEL"), LONGEST_DEL)
            if reply is None:
                break
            if reply.status == 0:
                if lease is not None:
                    self.rest(lease)
                break
            await asyncio.sleep(pause)
        pod.forget()
        await self._bury(pod)

    async def _bury(self, pod: Pod) -> None:
        """The sandbox goes, then kubelet forgets the pod."""
        if pod.netns.exists():
            await self._loop.run_in_executor(None, destroy, pod)
        for slot in [slot for slot, holder in self._given.items() if holder is pod]:
            del self._given[slot]
        if self.kubelet is not None and pod.name not in self.pods:
            self.kubelet.pods.pop(("default", pod.name), None)

    # -- what goes wrong around it

    def slots(self) -> list[int]:
        listed = {} if self.kubelet is None else self.kubelet.last_list
        return [names.slot_of(device) for device, health in listed.items() if health == "Healthy"]

    def turn_switch(self, calls: Calls) -> None:
        switch = Path(names.SWITCH_FILE)
        switch.parent.mkdir(parents=True, exist_ok=True)
        switch.write_text(calls.value)

    def fill_disk(self) -> None:
        own_machine.fill_disk()

    def clear_disk(self) -> None:
        own_machine.clear_disk()

    def meddle(self) -> None:
        """Somebody's hand takes away what is ours of the node's kernel state."""
        links = [name for _, name in socket.if_nameindex() if name.startswith(names.LINK_PREFIX)]
        hands = [
            f"rule del pref {names.RULE_PODS}",
            f"rule flush pref {names.RULE_ENI}",
            f"route flush table {names.TABLE_PODS}",
            *(f"link del {self.random.choice(links)}" for _ in links[:1]),
        ]
        subprocess.run(["ip", *self.random.choice(hands).split()], check=False, capture_output=True)

    def lose_ledger(self) -> None:
        """While it does not run: the disk forgets all, or has garbage instead."""
        for path in Path(names.STATE_DIRECTORY).glob("ledger.db*"):
            path.unlink()
        if self.random.random() < 0.5:
            Path(names.LEDGER_FILE).write_bytes(self.random.randbytes(5000))

    async def start_kubelet(self) -> None:
        """A kubelet that knows its pods."""
        assert self.kubelet is None
        self.kubelet = Kubelet(Path("/var/lib/kubelet"))
        for pod in self.pods.values():
            slots = [slot for slot, holder in self._given.items() if holder is pod]
            self.kubelet.pods["default", pod.name] = [names.device_id(slot) for slot in slots]
        await self.kubelet.__aenter__()

    async def stop_kubelet(self) -> None:
        """And none."""
        if self.kubelet is not None:
            running, self.kubelet = self.kubelet, None
            await self._loop.counted(running.__aexit__)()

    # -- what must be so

    def check(self) -> None:
        super().check()
        if self._task is not None and self._task.done() and not self._dead:
            raise AssertionError("the daemon ended by itself")

    def differences(self) -> list[str]:
        if self._books is None:
            return ["the daemon has no books"]
        said = super().differences()
        links = {name for _, name in socket.if_nameindex() if name.startswith((names.LINK_PREFIX, names.IFB_PREFIX))}
        wanted = {names.host_link(key) for key in self.told}
        return said + [f"the link {name} is a leak or missing" for name in links ^ wanted]

    def kernel(self) -> list[str]:
        """All of the node's kernel state that could be left behind, as text."""
        commands = (
            "ip -o rule",
            "ip -o -4 route show table all",
            "ip -o -4 neigh show nud permanent",
            "ipset save",
            f"nft -s list table ip {names.NFT_TABLE}",
        )
        said = [name for _, name in socket.if_nameindex()]
        for command in commands:
            done = subprocess.run(command.split(), check=True, capture_output=True, text=True)
            said += [line.strip() for line in done.stdout.splitlines()]
        return sorted(said)

    async def settle(self, *, seconds: float = 3600.0) -> None:
        await super().settle(seconds=seconds)
        for lease in tuple(self.told.values()):
            wrong = await self._network.check(lease)
            assert not wrong, f"the network of {lease.pod} is not as planned: {wrong}"


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


@contextlib.asynccontextmanager
async def _serving(server: YesServer) -> AsyncIterator[str]:
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def mortal_daemon(directory: Path, random: Random, **pool: Any) -> AsyncIterator[MortalDaemon]:
    """An instance in virtual time, and no daemon on it yet. Call on a loop of virtual time, on a machine of its own."""
    router = own_machine.NodeRouter()
    await router.open()
    carrying = asyncio.create_task(router.run())
    kube = YesServer(NODE, pod_cidr=POD_CIDR)
    try:
        with own_machine.fresh():
            async with (
                rig(directory, wire=router) as cloud,
                _serving(kube) as server,
            ):
                config = msgspec.structs.replace(cloud.config(cooldown_seconds=COOLDOWN, **pool), networkpolicy=False)
                async with asyncio.TaskGroup() as ends:
                    life = MortalDaemon(cloud, random, server=server, kube=kube, config=config, ends=ends)
                    with life.watched():
                        await life.start_kubelet()
                        try:
                            yield life
                        finally:
                            await life.stop_kubelet()
    finally:
        carrying.cancel()
        await asyncio.wait([carrying])
        await router.close()
        for left in own_machine.NAMESPACES.iterdir():
            netns.destroy(left)
