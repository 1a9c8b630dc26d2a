"""The world as policies see it, event by event: who is selected by what, and who is in which set. No I/O.

Only policies that select a pod of this node are programmed, and only the sets that these refer to are kept. A pod of
this node has the addresses of its lease, at once and both if there are two; any other those that the API server knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from datapath.ipset import Element
from eniway.model import Lease, LeaseKey
from networkpolicy import index
from networkpolicy.compiler import compile_policy
from networkpolicy.index import Change, Index, Tracked, selector_of
from networkpolicy.terms import Direction, Family, NetSet, Policy, Program, SetRef
from networkpolicy.views import Keeper, NamespaceView, Pod, PodView, PolicyView

AUDIT: Final = "audit"
_NAME_LABEL: Final = "kubernetes.io/metadata.name"


@dataclass(slots=True)
class Endpoint:
    """A pod of this node, by its lease."""

    lease: Lease
    pod: Pod | None = None
    """As last seen: a lease outlives the object of a pod that was deleted by force."""
    programs: Mapping[Direction, Program] = field(default_factory=dict)
    """None of a direction in which no policy isolates it."""
    six: Mapping[Direction, Program] = field(default_factory=dict)
    """The same for IPv6."""

    def of(self, family: Family) -> Mapping[Direction, Program]:
        """Programs for packets of a family. Of a model for IPv6, ``programs`` are for IPv6."""
        return self.six if family == 6 else self.programs

    def is_of(self, pod: Pod) -> bool:
        """Whether the lease is that pod's, not a predecessor's of the same name. An old runtime tells no uid."""
        uid = self.lease.pod.uid
        return not uid or uid in pod.uids


@dataclass(slots=True)
class _Space:
    labels: Mapping[str, str]
    audit: bool


@dataclass(slots=True)
class Delta:
    """What happened since the last one was taken."""

    members: Mapping[Tracked, Change]
    programs: bool
    """Whether any endpoint came or went, or has other programs."""
    dropped: Collection[Tracked] = ()
    """Sets whose members nobody asks for any more."""


class Model:
    """Objects are told as they come, in any order; ``take`` and ``endpoints`` say what follows.

    A pod of this node that no object was seen of is shut off, unless ``fail_open``. ``sampled``: programs log a few of
    the packets that they drop.
    """

    def __init__(self, family: Family, *, fail_open: bool = False, sampled: bool = False) -> None:
        self.family: Final = family
        self.sampled = sampled
        """May be changed as long as nothing was told."""
        self._fail_open = fail_open
        self._keeper = Keeper(family)
        self._pods: defaultdict[str, dict[str, Pod]] = defaultdict(dict)
        self._spaces: dict[str, _Space] = {}
        self._policies: defaultdict[str, dict[str, Policy]] = defaultdict(dict)
        self._endpoints: dict[LeaseKey, Endpoint] = {}
        self._by_pod: defaultdict[tuple[str, str], list[Endpoint]] = defaultdict(list)
        self._active: dict[str, tuple[Policy, int]] = {}
        """By digest, with the number of endpoints that it isolates."""
        self._index = Index()
        self._changed = True
        self._programs: dict[tuple[str, ...], Program] = {}

    # -- what is

    @property
    def endpoints(self) -> Mapping[LeaseKey, Endpoint]:
        """By lease."""
        return self._endpoints

    def active(self) -> Collection[str]:
        """Policies that isolate a pod of this node, as namespace/name."""
        return [policy.key for policy, _ in self._active.values()]

    def members(self, ref: SetRef) -> Iterable[Element]:
        """Elements of a set that an active policy refers to."""
        return ref.elements if isinstance(ref, NetSet) else self._index.members(ref)

    def pod(self, namespace: str, name: str) -> Pod | None:
        """As the API server has it."""
        return self._pods.get(namespace, {}).get(name)

    def programs(self, pod: Pod) -> Mapping[Direction, Program]:
        """What the policies that select a pod allow it, of this node or not."""
        policies = self._policies.get(pod.namespace, {})
        chosen = [policies[name] for name in sorted(policies) if policies[name].subject.matches(pod.labels)]
        space = self._spaces.get(pod.namespace)
        audit = space is not None and space.audit
        programs: dict[Direction, Program] = {}
        for direction in Direction:
            isolating = tuple(policy for policy in chosen if policy.of(direction) is not None)
            if isolating:
                program = Program(direction, isolating, audit, self.sampled)
                programs[direction] = self._programs.setdefault(program.key, program)
        return programs

    def has(self, ref: SetRef, element: Element) -> bool:
        """Whether a set, of an active policy or not, has an element. Looks through pods: for questions, not packets."""
        if isinstance(ref, NetSet):
            return ref.has(element.address)
        return any(
            element in index.elements(ref, pod, self._addresses(pod), self._labels_of(pod.namespace))
            for pod in self._candidates(ref)
        )

    def each_pod(self) -> Iterator[Pod]:
        """Every pod; what comes or goes meanwhile may be among them or not."""
        for namespace in list(self._pods):
            yield from list(self._pods.get(namespace, {}).values())

    def pod_at(self, address: bytes, among: Iterable[Pod]) -> Pod | None:
        """The first of some pods that has an address."""
        return next((pod for pod in among if address in self._addresses(pod)), None)

    def take(self) -> Delta:
        """What changed since the last call."""
        dropped = frozenset(self._index.idle)
        delta = Delta(self._index.take(), self._changed, dropped)
        self._changed = False
        return delta

    # -- pods of this node

    def attach(self, lease: Lease) -> Endpoint:
        """A pod of this node has, or is about to have, a network."""
        known = self._endpoints.get(lease.key)
        if known is not None and known.lease == lease:
            return known
        if known is not None and known.lease.pod == lease.pod:
            # What is known of it stays: its object may be gone by now.
            known.lease = lease
            if known.pod is not None and known.pod is self.pod(lease.pod.namespace, lease.pod.name):
                self._reindex(known.pod, known.pod)
            self._changed = True
            return known
        if known is not None:
            self.detach(lease.key)
        endpoint = self._endpoints[lease.key] = Endpoint(lease)
        who = (lease.pod.namespace, lease.pod.name)
        self._by_pod[who].append(endpoint)
        pod = self.pod(*who)
        if pod is not None and endpoint.is_of(pod):
            endpoint.pod = pod
            self._reindex(pod, pod)
        self._reprogram(endpoint)
        self._changed = True
        return endpoint

    def detach(self, key: LeaseKey) -> None:
        """It has none any more. One that is not known is no error."""
        endpoint = self._endpoints.pop(key, None)
        if endpoint is None:
            return
        who = (endpoint.lease.pod.namespace, endpoint.lease.pod.name)
        self._by_pod[who].remove(endpoint)
        if not self._by_pod[who]:
            del self._by_pod[who]
        if (pod := self.pod(*who)) is not None:
            self._reindex(pod, pod)
        self._set_programs(endpoint, {})
        self._changed = True

    # -- objects

    def put_pod(self, view: PodView) -> None:
        """A pod is, or is now, as ``view`` says."""
        pod = self._keeper.pod(view)
        old = self._pods[pod.namespace].get(pod.name)
        if old == pod:
            self._keeper.let_go(pod)
            return
        if old is not None:
            self._keeper.let_go(old)
        self._pods[pod.namespace][pod.name] = pod
        self._reindex(old, pod)
        for endpoint in self._by_pod.get((pod.namespace, pod.name), ()):
            if endpoint.is_of(pod):
                relabelled = endpoint.pod is None or endpoint.pod.labels != pod.labels
                endpoint.pod = pod
                if relabelled:
                    self._reprogram(endpoint)

    def drop_pod(self, namespace: str, name: str) -> None:
        """It is gone."""
        old = self._pods.get(namespace, {}).pop(name, None)
        if old is not None:
            self._keeper.let_go(old)
            self._reindex(old, None)
            if not self._pods[namespace]:
                del self._pods[namespace]

    def put_namespace(self, view: NamespaceView) -> None:
        """A namespace is, or is now, as ``view`` says."""
        name, notes = view.metadata.name, view.metadata.annotations
        labels = {**(view.metadata.labels or {}), _NAME_LABEL: name}
        self._put_space(name, _Space(labels, notes is not None and notes.mode == AUDIT))

    def drop_namespace(self, name: str) -> None:
        """It is gone."""
        self._put_space(name, None)

    def put_policy(self, view: PolicyView) -> None:
        """A policy is, or is now, as ``view`` says."""
        policy = compile_policy(view.metadata.namespace, view.metadata.name, view.spec, self.family)
        old = self._policies[policy.namespace].get(policy.name)
        if old is not None and old.digest == policy.digest:
            return
        self._policies[policy.namespace][policy.name] = policy
        self._repolicy(policy.namespace, old, policy)

    def drop_policy(self, namespace: str, name: str) -> None:
        """It is gone."""
        if (old := self._policies.get(namespace, {}).pop(name, None)) is not None:
            self._repolicy(namespace, old)
            if not self._policies[namespace]:
                del self._policies[namespace]

    def is_local(self, namespace: str, name: str) -> bool:
        """Whether a pod of that name has a lease here."""
        return (namespace, name) in self._by_pod

    def pods(self) -> set[str]:
        """Keys of all pods, namespace/name; so for the other kinds of object."""
        return {f"{space}/{name}" for space, pods in self._pods.items() for name in pods}

    def namespaces(self) -> set[str]:
        """Names."""
        return set(self._spaces)

    def policies(self) -> set[str]:
        """Keys."""
        return {f"{space}/{name}" for space, policies in self._policies.items() for name in policies}

    # -- what follows

    def _addresses(self, pod: Pod) -> tuple[bytes, ...]:
        """Where a pod is heard from."""
        if pod.host_network or pod.finished:
            return ()
        for endpoint in reversed(self._by_pod.get((pod.namespace, pod.name), [])):
            if endpoint.is_of(pod):
                given = (endpoint.lease.address, endpoint.lease.service_address)
                return tuple(a.packed for a in given if a is not None and a.version == self.family)
        return pod.addresses

    def _labels_of(self, namespace: str) -> Mapping[str, str] | None:
        space = self._spaces.get(namespace)
        return None if space is None else space.labels

    def _reindex(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        addresses = () if new is None else self._addresses(new)
        self._index.update(old, new, addresses, self._labels_of(pod.namespace))

    def _put_space(self, name: str, space: _Space | None) -> None:
        old = self._spaces.get(name)
        if space is None:
            self._spaces.pop(name, None)
        else:
            self._spaces[name] = space
        labels = self._labels_of(name)
        if (old.labels if old else None) != labels:
            refs = self._index.by_namespaces()
            for pod in self._pods.get(name, {}).values() if refs else ():
                addresses = self._addresses(pod)
                for ref in refs:
                    self._index.place(pod, addresses, labels, ref)
        if (old is not None and old.audit) != (space is not None and space.audit):
            self._repolicy(name)

    def _repolicy(self, namespace: str, *changed: Policy | None) -> None:
        """Programs anew for pods of a namespace, where policies changed: for those that one of these selects."""
        subjects = [policy.subject for policy in changed if policy is not None]
        for endpoint in self._endpoints.values():
            pod = endpoint.pod
            if pod is None or pod.namespace != namespace:
                continue
            if not changed or any(subject.matches(pod.labels) for subject in subjects):
                self._reprogram(endpoint)

    def _reprogram(self, endpoint: Endpoint) -> None:
        """Find the programs of an endpoint anew."""
        pod = endpoint.pod
        self._set_programs(endpoint, self._unseen() if pod is None else self.programs(pod))

    def _unseen(self) -> Mapping[Direction, Program]:
        """Programs of a pod that no object was seen of."""
        return {} if self._fail_open else {way: Program(way, (), sampled=self.sampled) for way in Direction}

    def _set_programs(self, endpoint: Endpoint, programs: Mapping[Direction, Program]) -> None:
        before, endpoint.programs = endpoint.programs, programs
        endpoint.six = {way: program.six() for way, program in programs.items()} if self.family == 4 else programs
        if {way: program.key for way, program in before.items()} == {way: p.key for way, p in programs.items()}:
            return
        self._changed = True
        # First what is new: a set that both refer to is not filled again.
        for policy in _policies(programs):
            self._use(policy)
        for policy in _policies(before):
            self._unuse(policy)

    def _use(self, policy: Policy) -> None:
        key = policy.digest
        known = self._active.get(key)
        self._active[key] = (policy, 1 if known is None else known[1] + 1)
        if known is not None:
            return
        for ref in policy.refs():
            if not isinstance(ref, NetSet) and self._index.track(ref):
                for pod in self._candidates(ref):
                    self._index.place(pod, self._addresses(pod), self._labels_of(pod.namespace), ref)

    def _unuse(self, policy: Policy) -> None:
        known, uses = self._active[policy.digest]
        if uses > 1:
            self._active[policy.digest] = (known, uses - 1)
            return
        del self._active[policy.digest]
        for ref in known.refs():
            if not isinstance(ref, NetSet):
                self._index.untrack(ref)
        self._programs = {key: program for key, program in self._programs.items() if policy.digest not in program.key}

    def _candidates(self, ref: Tracked) -> Iterator[Pod]:
        """Pods that may be in a set: those of its namespaces."""
        selector = selector_of(ref)
        if selector.namespace is not None:
            yield from self._pods.get(selector.namespace, {}).values()
            return
        for name, pods in self._pods.items():
            space = self._labels_of(name)
            if space is not None and (selector.namespaces is None or selector.namespaces.matches(space)):
                yield from pods.values()


def _policies(programs: Mapping[Direction, Program]) -> Iterator[Policy]:
    """Those of an endpoint, each once."""
    seen: dict[str, Policy] = {}
    for program in programs.values():
        for policy in program.policies:
            seen[policy.digest] = policy
    yield from seen.values()
