"""The CNI verbs (specification 1.1.0, section 2): from a request to the books and the kernel, and back to a result.

ADD and DEL of one lease never overlap. An ADD that fails or is cancelled takes back what it did; what even that
cannot is left in the books, where the next DEL or sweep finds it. DEL undoes the kernel before the books let the
address go.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from cni import types
from cni.needs import Attachment, Books, Network, PodSlots
from cni.result import after, as_version, result_of
from cni.types import CniError
from cni.wire import Reply, Request
from eniway import log, metrics, names
from eniway.choice import choice_of
from eniway.errors import BadAnnotation, EniwayError, InvalidRequest, KernelError, NotReady
from eniway.model import NO_CHOICE, UNLIMITED, Bandwidth, Choice, Kind, Lease, LeaseKey, PodRef, Slot, Wish
from eniway.trace import Recent, Record, Steps
from eniway.units import bandwidth_of

_VERBS: Final = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

_log = log.get(__name__)


class Handler:
    """Answers requests.

    ``add_seconds``: how long an ADD may wait for an address or a card. ``default``: what pods get that say nothing.
    """

    def __init__(
        self,
        books: Books,
        network: Network,
        pods: PodSlots,
        *,
        add_seconds: float,
        default: Wish = Wish.SHARED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._books = books
        self._network = network
        self._pods = pods
        self._add_seconds = add_seconds
        self._default = default
        self._clock = clock
        self.recent = Recent()
        self._locks: dict[LeaseKey, asyncio.Lock] = {}
        self._users: Counter[LeaseKey] = Counter()

    async def handle(self, request: Request) -> Reply:
        """The reply to ``request``; every error becomes one, cancellation passes."""
        verb = request.environment.get("CNI_COMMAND", "")
        scope = _Scope(began=self._clock(), steps=Steps(self._clock))
        try:
            output = await self._answer(verb, request, scope)
        except asyncio.CancelledError:
            self._measure(verb, scope, request, "cancelled")
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is, the runtime gets an error object
            self._measure(verb, scope, request, "error", str(error))
            return self._failed(error, verb, scope, request)
        self._measure(verb, scope, request, "success")
        return Reply(0, output)

    async def _answer(self, verb: str, request: Request, scope: _Scope) -> bytes:
        match verb:
            case "ADD":
                return await self._add(request, scope)
            case "DEL":
                return await self._del(request, scope)
            case "CHECK":
                return await self._check(request, scope)
            case "GC":
                return await self._gc(request, scope)
            case "STATUS":
                # Who answers, serves: a node that has no address left still runs its pods and has to stay Ready.
                scope.read(request, strict=False)
                return b""
            case "VERSION":
                versions = {"cniVersion": names.CNI_VERSIONS[-1], "supportedVersions": names.CNI_VERSIONS}
                return msgspec.json.encode(versions) + b"\n"
            case _:
                raise CniError(
                    types.INVALID_ENVIRONMENT, f"CNI_COMMAND: expected one of {', '.join(_VERBS)}, got {verb!r}"
                )

    def _measure(self, verb: str, scope: _Scope, request: Request, result: str, error: str = "") -> None:
        known = verb if verb in _VERBS else "unknown"
        seconds, steps = self._clock() - scope.began, scope.steps.over()
        metrics.CNI_SECONDS.labels(known, scope.kind, result).observe(seconds)
        for step in steps:
            metrics.CNI_STEP_SECONDS.labels(known, scope.kind, step.name).observe(step.seconds)
        if scope.pod is not None:
            self.recent.add(
                Record(
                    verb=verb,
                    pod=str(scope.pod),
                    uid=scope.pod.uid,
                    container=request.environment.get("CNI_CONTAINERID", ""),
                    kind=scope.kind,
                    result=result,
                    error=error,
                    at=time.time() - seconds,
                    seconds=seconds,
                    steps=steps,
                )
            )

    def _failed(self, error: Exception, verb: str, scope: _Scope, request: Request) -> Reply:
        if isinstance(error, InvalidRequest):
            metrics.INVALID_REQUESTS.labels(type(error).__name__).inc()
        fields = {
            "verb": verb,
            "pod": str(scope.pod or ""),
            "container": request.environment.get("CNI_CONTAINERID", ""),
            "code": types.code_of(error),
            "error": str(error),
        }
        if isinstance(error, EniwayError):
            _log.warning("CNI request failed", **fields)
        else:
            _log.error("CNI request failed for a bug", exc_info=error, **fields)
        return Reply(1, types.error_output(error, verb=verb, version=scope.version))

    async def _add(self, request: Request, scope: _Scope) -> bytes:
        config = scope.read(request)
        key = _key(config, request)
        netns = types.required(request.environment, "CNI_NETNS")
        if key.ifname != names.POD_LINK:
            raise CniError(
                types.INVALID_ENVIRONMENT,
                f"CNI_IFNAME: expected {names.POD_LINK}, the pod's only network, got {key.ifname}",
            )
        scope.pod = pod = types.pod(request.environment)
        with log.bind(pod=pod, container=key.container_id):
            scope.steps.enter("turn")
            async with self.turn(key):
                scope.steps.enter("kubelet")
                slots = await self._pods.slots_of(pod)
                _check_device(config, slots)
                need = need_of(slots, config.runtime_config.pod_annotations or {}, self._default)
                scope.kind = need.kind.value
                lease, attachment = await self._attach(key, pod, need, netns, scope)
        result = as_version(result_of(lease, attachment), config.cni_version)
        return msgspec.json.encode(after(result, config.prev_result)) + b"\n"

    async def _attach(
        self, key: LeaseKey, pod: PodRef, need: Need, netns: str, scope: _Scope
    ) -> tuple[Lease, Attachment]:
        known = self._books.lease(key) is not None
        deadline = self._clock() + self._add_seconds
        scope.steps.enter("lease")
        try:
            lease = await self._books.acquire(
                key,
                pod,
                kind=need.kind,
                slot=need.slot,
                netns=netns,
                deadline=deadline,
                else_routed=need.else_routed,
                bandwidth=need.bandwidth,
                choice=need.choice,
            )
            scope.kind = lease.kind.value
            with log.bind(eni=lease.card.eni_id):
                scope.steps.enter("kernel")
                attachment = await self._network.attach(lease)
                scope.steps.enter("books")
                await self._books.confirm(key)
                limits = {} if lease.bandwidth is UNLIMITED else {"bandwidth": str(lease.bandwidth)}
                _log.info(
                    "pod attached", kind=scope.kind, address=str(lease.address), link=attachment.host_link, **limits
                )
        except BaseException:
            # An ADD that only repeats an earlier one takes nothing back: what it found may be in use.
            if not known:
                scope.steps.enter("take back")
                await self._take_back(key)
            raise
        return lease, attachment

    async def _take_back(self, key: LeaseKey) -> None:
        try:
            await self._undo(key)
        except EniwayError as error:
            _log.warning("a failed ADD could not be taken back, left to DEL or sweep", error=str(error))

    async def _undo(self, key: LeaseKey) -> None:
        if (lease := self._books.lease(key)) is not None:
            with log.bind(pod=lease.pod, container=key.container_id, eni=lease.card.eni_id):
                await self._network.detach(lease)
                await self._books.release(key)
                _log.info("pod detached", kind=lease.kind.value, address=str(lease.address))

    async def _del(self, request: Request, scope: _Scope) -> bytes:
        key = _key(scope.read(request, strict=False), request)
        scope.steps.enter("turn")
        async with self.turn(key):
            scope.steps.enter("undo")
            if (lease := self._books.lease(key)) is not None:
                scope.kind = lease.kind.value
                scope.pod = lease.pod
                await self._undo(key)
            else:
                # Books that were lost once may not know what the kernel still has.
                await self._network.remove_orphan(key)
        return b""

    async def _check(self, request: Request, scope: _Scope) -> bytes:
        config = scope.read(request)
        key = _key(config, request)
        if config.prev_result is None:
            raise CniError(7, "prevResult: expected the result of this container's ADD, it is missing")
        async with self.turn(key):
            if (lease := self._books.lease(key)) is None:
                raise CniError(
                    3, f"container {key.container_id}: no lease is known, its ADD never succeeded or DEL was done"
                )
            scope.kind = lease.kind.value
            scope.pod = lease.pod
            # Plugins chained with us may have added others. An older release gave exclusive pods the vSwitch's mask.
            expected = [str(lease.address)]
            given = [address.partition("/")[0] for address in config.prev_result.addresses]
            if not set(expected) <= set(given):
                raise CniError(7, f"prevResult.ips: expected {expected}, got {given}")
            if wrong := await self._network.check(lease):
                raise KernelError(f"the network of pod {lease.pod} is not as planned: {'; '.join(map(str, wrong))}")
        return b""

    async def _gc(self, request: Request, scope: _Scope) -> bytes:
        config = scope.read(request)
        if (valid := config.in_use) is None:
            # As cnitool sends it. No list is no word on who is in use; what has no sandbox the sweep finds.
            return b""
        failed: list[str] = []
        for key in [lease.key for lease in self._books.leases()]:
            # A lease whose ADD is under way is not in the runtime's list yet.
            if key.network != config.name or (key.container_id, key.ifname) in valid or key in self._locks:
                continue
            async with self.turn(key):
                try:
                    await self._undo(key)
                except EniwayError as error:
                    failed.append(f"{key.container_id}: {error}")
        if failed:
            raise NotReady("; ".join(failed))
        return b""

    @asynccontextmanager
    async def turn(self, key: LeaseKey) -> AsyncIterator[None]:
        """One request at a time for a lease, in order of arrival."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


class _Scope:
    """What is known of a request so far, for its metric, its log line and its error object."""

    def __init__(self, *, began: float, steps: Steps) -> None:
        self.began = began
        self.steps = steps
        self.version = names.CNI_VERSION
        self.kind = ""
        self.pod: PodRef | None = None

    def read(self, request: Request, *, strict: bool = True) -> types.NetConf:
        """The request's configuration, noting its version."""
        config = types.parse_config(request.config, strict=strict)
        self.version = config.cni_version
        types.introduced(request.environment.get("CNI_COMMAND", ""), config.cni_version)
        return config


@dataclass(frozen=True, slots=True)
class Need:
    """What a pod is to have."""

    kind: Kind
    slot: Slot | None = None
    """Of an exclusive pod."""
    else_routed: bool = False
    """Where no shared address can be had."""
    bandwidth: Bandwidth = UNLIMITED
    choice: Choice = NO_CHOICE
    """Of an exclusive pod."""


def need_of(slots: Sequence[Slot], annotations: Mapping[str, str], default: Wish) -> Need:
    """What a pod is to have: a device decides before the annotation does, the annotation before the default."""
    said = annotations.get(names.ANNOTATION_NETWORK)
    if said not in {None, Wish.SHARED, Wish.ROUTED}:
        raise BadAnnotation(f"annotation {names.ANNOTATION_NETWORK}: expected 'shared' or 'routed', got {said!r}")
    if len(slots) > 1:
        raise BadAnnotation(
            f"{names.RESOURCE_ENI}: expected at most 1 in the limits of all containers, got {len(slots)}"
        )
    bandwidth = bandwidth_of(annotations)
    choice = choice_of(annotations, exclusive=bool(slots))
    if slots:
        return Need(Kind.EXCLUSIVE, slots[0], bandwidth=bandwidth, choice=choice)
    wish = default if said is None else Wish(said)
    if wish is Wish.ROUTED:
        return Need(Kind.ROUTED, bandwidth=bandwidth)
    return Need(Kind.SHARED, else_routed=wish is Wish.SHARED_ELSE_ROUTED, bandwidth=bandwidth)


def _check_device(config: types.NetConf, slots: Sequence[Slot]) -> None:
    """A device that the caller names, as Multus does, has to be one that kubelet gave to this pod."""
    held = [names.device_id(slot) for slot in slots]
    for field, device in (("deviceID", config.device_id), ("runtimeConfig.deviceID", config.runtime_config.device_id)):
        if device is not None and device not in held:
            had = ", ".join(held) or "none"
            raise CniError(7, f"{field}: expected a device that kubelet gave to this pod ({had}), got {device!r}")


def _key(config: types.NetConf, request: Request) -> LeaseKey:
    environment = request.environment
    return LeaseKey(config.name, types.container_id(environment), types.interface_name(environment))
