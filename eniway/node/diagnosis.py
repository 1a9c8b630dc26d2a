"""Ledger, kernel, kubelet and cloud side by side: what differs, what it is called, and who may mend it. Pure.

The books' own comparisons decide what differs where there are any (``sweep.compare``, ``reading.confront``), so that
nothing is named which their remedies would not see. ENTRIES is the truth about what each difference means and whether
`eniway doctor --fix` mends it: it does only what the daemon does by itself sooner or later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from cni import conflist
from eniallocator.cloud.api import EniStatus
from eniallocator.lifecycle import State
from eniallocator.reading import Answer, Reading, confront
from eniallocator.records import EniRecord, LeaseRecord
from eniway import names
from eniway.model import EniId, Kind, LeaseKey, Slot
from eniway.node import sweep

PodName = tuple[str, str]
"""Namespace and name."""


class Party(StrEnum):
    """Who is asked, in the order in which they are shown."""

    LEDGER = "ledger"
    KERNEL = "kernel"
    KUBELET = "kubelet"
    CLOUD = "cloud"
    HOST = "host"
    """Files of the runtime."""
    KUBE_PROXY = "kubeProxy"


class Mend(StrEnum):
    """Which of the daemon's own ways puts it right."""

    SWEEP = "sweep"
    """As every minute (``sweep.Sweeper``)."""
    CLOUD = "cloud"
    """As every ten minutes (``eniallocator.survey``)."""
    FILES = "files"
    """As at the start (``cni.conflist``)."""


class Name(StrEnum):
    """What differs."""

    NODE_NETWORK = "node-network"
    CARD_NETWORK = "card-network"
    CARD_ELSEWHERE = "card-elsewhere"
    POD_NETWORK = "pod-network"
    SANDBOX_GONE = "sandbox-gone"
    STRAY_LINK = "stray-link"
    STRAY_MEMBER = "stray-set-member"
    STRAY_ROUTE = "stray-route"
    LEASE_LOST = "lease-lost"
    CARD_GONE = "card-gone"
    CARD_BACK = "card-back"
    CARD_UNKNOWN = "card-unknown"
    ADDRESS_UNKNOWN = "address-unknown"
    ADDRESS_GONE = "address-gone"
    POD_CUT_OFF = "pod-cut-off"
    POD_UNKNOWN = "pod-unknown"
    SLOT_DIFFERS = "slot-differs"
    SLOT_UNUSED = "slot-unused"
    SLOT_NOT_OFFERED = "slot-not-offered"
    LEDGER_BEHIND = "ledger-behind"
    CNI_FILE = "cni-file"
    PORTMAP_MISSING = "portmap-missing"
    OTHER_NETWORK_FIRST = "other-network-first"
    LOCAL_PODS = "local-pods"
    MASQUERADE_MARK = "masquerade-mark"


@dataclass(frozen=True, slots=True)
class Entry:
    """``mend`` None: there is nothing to do by a program that is sure not to do harm; ``remedy`` is for a person."""

    means: str
    mend: Mend | None
    remedy: str
    passes: bool = False
    """As a rule it is over within seconds: a pod is being started or ended."""


ENTRIES: Final[Mapping[Name, Entry]] = {
    Name.NODE_NETWORK: Entry(
        "rules, chains, sets or settings that all pods stand on are not as planned", Mend.SWEEP, "puts them back"
    ),
    Name.CARD_NETWORK: Entry(
        "a card's table, rule, neighbour or settings are not as planned", Mend.SWEEP, "puts them back"
    ),
    Name.CARD_ELSEWHERE: Entry(
        "a card in service has no link on this node, nor in a pod of ours",
        None,
        "nothing is handed out of a shared one until it is back; find the network namespace that it was moved to",
    ),
    Name.POD_NETWORK: Entry(
        "links, routes, set members or limits of a pod are not as planned", Mend.SWEEP, "puts them back"
    ),
    Name.SANDBOX_GONE: Entry(
        "a lease whose pod sandbox is gone: its DEL never came", Mend.SWEEP, "releases it; its addresses cool down"
    ),
    Name.STRAY_LINK: Entry("a pod's link that no lease accounts for", Mend.SWEEP, "removes it"),
    Name.STRAY_MEMBER: Entry("members of our sets that no lease accounts for", Mend.SWEEP, "removes them"),
    Name.STRAY_ROUTE: Entry(
        "an address is routed to a link that is no pod's",
        None,
        "the address is not handed out as long as that is so; who made the route may remove it",
    ),
    Name.LEASE_LOST: Entry(
        "a pod from before the ledger was lost",
        None,
        "it works, and its address is not handed out to others; replace the pod",
    ),
    Name.CARD_GONE: Entry(
        "a card that the cloud no longer shows at this instance", Mend.CLOUD, "nothing more is handed out of it"
    ),
    Name.CARD_BACK: Entry("a card that was lost is at this instance again", Mend.CLOUD, "takes it back into service"),
    Name.CARD_UNKNOWN: Entry(
        "an ENI with this node's tags that the ledger lacks", Mend.CLOUD, "adopts it, or deletes one without a slot"
    ),
    Name.ADDRESS_UNKNOWN: Entry("a card of ours has an address that the ledger lacks", Mend.CLOUD, "adopts it"),
    Name.ADDRESS_GONE: Entry("a free address that its card no longer has", Mend.CLOUD, "forgets it"),
    Name.POD_CUT_OFF: Entry(
        "the VPC no longer delivers a pod's address to this node",
        None,
        "no program can give it back: delete the pod, its controller makes another",
    ),
    Name.POD_UNKNOWN: Entry(
        "a sandbox stands whose pod kubelet does not know",
        None,
        "kubelet ends sandboxes that it has lost; if this one stays: crictl pods, crictl stopp",
        passes=True,
    ),
    Name.SLOT_DIFFERS: Entry(
        "a pod has another ENI slot than kubelet gave it",
        None,
        "delete the pod, its controller makes another",
        passes=True,
    ),
    Name.SLOT_UNUSED: Entry(
        "kubelet gave an ENI slot to a pod that has no lease of it",
        None,
        "eniway trace POD says what its ADD waits for",
        passes=True,
    ),
    Name.SLOT_NOT_OFFERED: Entry(
        "kubelet does not offer an ENI slot that is ready for a pod",
        None,
        "the device plugin registers for ever; if it stays: kubelet's log, and /var/lib/kubelet/device-plugins",
        passes=True,
    ),
    Name.LEDGER_BEHIND: Entry(
        "the disk does not take what the daemon knows", None, "make room below /var/lib/eniway; it is written then"
    ),
    Name.CNI_FILE: Entry("a file that the container runtime needs is missing or another", Mend.FILES, "writes it"),
    Name.PORTMAP_MISSING: Entry(
        "the CNI plugin portmap is not on the node: no pod starts",
        None,
        "put it into /opt/cni/bin, from the package kubernetes-cni or a release of containernetworking/plugins",
    ),
    Name.OTHER_NETWORK_FIRST: Entry(
        "the container runtime uses another network's configuration, which sorts before ours",
        None,
        "it is not ours: remove it where eniway is to be the pod network",
    ),
    Name.LOCAL_PODS: Entry(
        "kube-proxy does not tell local pods by their links' names",
        None,
        f"detectLocalMode: InterfaceNamePrefix, detectLocal.interfaceNamePrefix: {names.LINK_PREFIX}; restart it",
    ),
    Name.MASQUERADE_MARK: Entry(
        "kube-proxy marks packets that it masquerades in another way than eniway expects: pods lose their addresses",
        None,
        f"masqueradeBit: {names.KUBE_PROXY_MASQUERADE.bit_length() - 1}, its default; restart it",
    ),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is in the node's network namespace and in those of its pods."""

    alive: frozenset[str]
    """Those netns paths of the leases that are namespaces."""
    links: Mapping[LeaseKey, str]
    """Lease keys that host links carry, with the links' names."""
    routed: frozenset[IPv4Address]
    """Addresses that are routed to links."""
    routed_to: Mapping[LeaseKey, frozenset[IPv4Address]]
    """Of these, those of each lease key's link."""
    members: Mapping[IPv4Address, frozenset[str]]
    """Members of our sets that no lease accounts for: address → sets."""
    node: tuple[str, ...] = ()
    """What is wrong, in words; this and the next two."""
    cards: Mapping[EniId, tuple[str, ...]] = field(default_factory=dict)
    leases: Mapping[LeaseKey, tuple[str, ...]] = field(default_factory=dict)
    absent: frozenset[EniId] = frozenset()
    """Cards that should be in the node's namespace and are not."""


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Of the PodResources API."""

    pods: Mapping[PodName, tuple[Slot, ...]]
    """All active pods, with the slots that each was given."""
    allocatable: frozenset[Slot]
    """What it was told is healthy, given away or not."""


@dataclass(frozen=True, slots=True)
class KubeProxy:
    """How it was configured."""

    local_pods: str
    """detectLocalMode and what belongs to it."""
    masquerade_bit: int | None
    """Of its mark for packets that are to be masqueraded."""


@dataclass(frozen=True, slots=True)
class Host:
    """What is around us."""

    files: tuple[str, ...] = ()
    """Those of ours that are missing or others."""
    first: str | None = None
    """The network configuration that the runtime uses."""
    portmap: bool = True
    """Whether that plugin is there."""
    kube_proxy: KubeProxy | None = None
    """None where it cannot be asked, or there is none."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing on which they do not agree: ``name`` and ``of`` (a pod, an ENI, an address, …) identify it."""

    name: Name
    of: str
    said: tuple[tuple[Party, str], ...]
    """By whom it was seen, and how; who is not there has nothing to do with it."""
    since: float | None = None
    """When the ledger's record of it began, in seconds since the epoch."""

    @property
    def entry(self) -> Entry:
        """What it means, and what mends it."""
        return ENTRIES[self.name]


Key = tuple[Name, str]


def lasting(first: Collection[Difference], second: Collection[Difference]) -> tuple[Difference, ...]:
    """Those of ``second`` that ``first`` had, too.

    Five parties cannot be asked at one instant: a pod that comes or goes meanwhile is a difference for a moment.
    """
    before = {(one.name, one.of) for one in first}
    return tuple(one for one in second if (one.name, one.of) in before)


def diagnose(
    ledger: Reading,
    kernel: Kernel | None,
    kubelet: Kubelet | None,
    cloud: Answer | None,
    host: Host = Host(),
    *,
    trusted: bool = True,
) -> tuple[Difference, ...]:
    """All differences, one a thing; None: who could not be asked, and is not compared.

    ``trusted``: the ledger knows of every lease there is.
    """
    found: list[Difference] = []
    if ledger.owes:
        found.append(_named(Name.LEDGER_BEHIND, names.LEDGER_FILE, ledger="more in memory than on disk"))
    if kernel is not None:
        found += _with_kernel(ledger, kernel, trusted=trusted)
    if kubelet is not None:
        alive = None if kernel is None else kernel.alive
        found += _with_kubelet(ledger, kubelet, alive)
    if cloud is not None:
        found += _with_cloud(ledger, cloud)
    return (*found, *_around(host))


def _with_kernel(ledger: Reading, kernel: Kernel, *, trusted: bool) -> Iterator[Difference]:
    if kernel.node:
        yield _named(Name.NODE_NETWORK, "node", kernel="; ".join(kernel.node))
    by_id = {card.eni_id: card for card in ledger.cards.values()}
    for eni_id, wrong in sorted(kernel.cards.items()):
        if wrong:
            card = by_id.get(eni_id)
            yield _named(Name.CARD_NETWORK, eni_id, ledger=_card(card), kernel="; ".join(wrong), since=_since(card))
    for eni_id in sorted(kernel.absent):
        card = by_id.get(eni_id)
        yield _named(Name.CARD_ELSEWHERE, eni_id, ledger=_card(card), kernel="no link", since=_since(card))
    findings = sweep.compare(leases=ledger.leases, alive=kernel.alive, links=kernel.links)
    for held in _held(ledger, findings.released):
        yield _named(
            Name.SANDBOX_GONE, str(held.pod), ledger=_lease(ledger, held), kernel=f"no {held.netns}", since=held.since
        )
    for lease in findings.checked:
        if wrong := kernel.leases.get(lease.key, ()):
            yield _named(
                Name.POD_NETWORK,
                str(lease.pod),
                ledger=_lease(ledger, lease),
                kernel="; ".join(wrong),
                since=lease.since,
            )
    for key in sorted(findings.orphaned):
        routed = ", ".join(map(str, sorted(kernel.routed_to.get(key, ()))))
        name = Name.STRAY_LINK if trusted else Name.LEASE_LOST
        link = kernel.links[key]
        yield _named(name, link, ledger="no lease", kernel=f"{key.alias}{f', {routed}' if routed else ''}")
    yield from _strays(ledger, kernel, trusted=trusted)


def _strays(ledger: Reading, kernel: Kernel, *, trusted: bool) -> Iterator[Difference]:
    leased = {address for held in ledger.leases for address in held.addresses}
    if trusted:
        for address, sets in sorted(kernel.members.items()):
            yield _named(Name.STRAY_MEMBER, str(address), ledger="no lease", kernel=", ".join(sorted(sets)))
    of_links = {address for routed in kernel.routed_to.values() for address in routed}
    for address in sorted(kernel.routed - of_links - leased):
        yield _named(Name.STRAY_ROUTE, str(address), ledger="no lease", kernel=f"a route of table {names.TABLE_PODS}")


def _with_kubelet(ledger: Reading, kubelet: Kubelet, alive: Collection[str] | None) -> Iterator[Difference]:
    for held in ledger.leases:
        given = kubelet.pods.get(_pod(held))
        if given is None:
            if alive is not None and held.netns in alive:
                said = _lease(ledger, held)
                yield _named(Name.POD_UNKNOWN, str(held.pod), ledger=said, kubelet="no such pod", since=held.since)
        elif (slot := _slot(ledger, held)) is not None and slot not in given:
            told = ", ".join(map(names.device_id, given)) or "no slot"
            yield _named(Name.SLOT_DIFFERS, str(held.pod), ledger=_lease(ledger, held), kubelet=told, since=held.since)
    leased = {_slot(ledger, held) for held in ledger.leases}
    for (namespace, name), slots in sorted(kubelet.pods.items()):
        for slot in slots:
            if slot not in leased:
                told = f"given to {namespace}/{name}"
                yield _named(Name.SLOT_UNUSED, names.device_id(slot), ledger="no lease", kubelet=told)
    for slot in sorted(ledger.offered - kubelet.allocatable):
        yield _named(Name.SLOT_NOT_OFFERED, names.device_id(slot), ledger="ready", kubelet="not allocatable")


def _with_cloud(ledger: Reading, cloud: Answer) -> Iterator[Difference]:
    findings = confront(ledger, cloud)
    if findings is None:
        return
    for name, tokens, told in (
        (Name.CARD_GONE, findings.vanished, "not at this instance"),
        (Name.CARD_BACK, findings.returned, "InUse"),
    ):
        for token in tokens:
            card = ledger.cards[token]
            yield _named(name, str(card.eni_id), ledger=_card(card), cloud=told, since=card.since)
    for eni in findings.strays:
        yield _named(Name.CARD_UNKNOWN, eni.eni_id, ledger="no card", cloud=f"{eni.status}, {eni.address}")
    for token, address in findings.gained:
        where = f"{ledger.cards[token].eni_id}"
        yield _named(Name.ADDRESS_UNKNOWN, str(address), ledger="no address", cloud=f"of {where}")
    leased = {address for held in ledger.leases for address in held.addresses}
    owners = {address: token for token, addresses in ledger.addresses.items() for address in addresses}
    for address in findings.missing:
        if address not in leased:
            where = f"{ledger.cards[owners[address]].eni_id}"
            yield _named(Name.ADDRESS_GONE, str(address), ledger=f"of {where}", cloud=f"not of {where}")
    yield from _cut_off(ledger, cloud)


def _cut_off(ledger: Reading, cloud: Answer) -> Iterator[Difference]:
    here = {
        eni.eni_id: frozenset((eni.address, *eni.secondary)) for eni in cloud.attached if eni.status is EniStatus.IN_USE
    }
    by_id = {card.eni_id: token for token, card in ledger.cards.items()}
    primary = by_id.get(ledger.identity.primary_eni)
    for held in ledger.leases:
        needed: defaultdict[str, list[IPv4Address]] = defaultdict(list)
        if held.kind is not Kind.ROUTED:
            needed[held.token].append(held.address)
        if held.service_address is not None and primary is not None:
            needed[primary].append(held.service_address)
        for token, addresses in needed.items():
            card = ledger.cards[token]
            if not _rests(card, cloud):
                continue
            missing = [str(one) for one in addresses if one not in here.get(card.known_id, ())]
            if missing:
                told = f"{card.eni_id} has no {', '.join(missing)}"
                yield _named(Name.POD_CUT_OFF, str(held.pod), ledger=_lease(ledger, held), cloud=told, since=held.since)


def _rests(card: EniRecord, cloud: Answer) -> bool:
    """Whether the answer can be about the card as it is now."""
    still = cloud.before.get(card.token) == card and card.token not in cloud.touched
    return still and card.state in (State.READY, State.LOST)


def _around(host: Host) -> Iterator[Difference]:
    for path in host.files:
        yield _named(Name.CNI_FILE, path, host="missing, or another's")
    if not host.portmap:
        yield _named(Name.PORTMAP_MISSING, conflist.PORTMAP, host="missing")
    if host.first is not None and host.first != names.CNI_CONFLIST:
        yield _named(Name.OTHER_NETWORK_FIRST, host.first, host=f"before {names.CNI_CONFLIST}")
    if (proxy := host.kube_proxy) is None:
        return
    if proxy.local_pods != f"InterfaceNamePrefix {names.LINK_PREFIX}":
        yield _named(Name.LOCAL_PODS, "kube-proxy", kubeProxy=proxy.local_pods)
    if proxy.masquerade_bit is not None and 1 << proxy.masquerade_bit != names.KUBE_PROXY_MASQUERADE:
        yield _named(Name.MASQUERADE_MARK, "kube-proxy", kubeProxy=f"masqueradeBit {proxy.masquerade_bit}")


def _held(ledger: Reading, keys: Collection[LeaseKey]) -> Iterator[LeaseRecord]:
    by_key = {held.key: held for held in ledger.leases}
    return (by_key[key] for key in keys)


def _named(name: Name, of: str, *, since: float | None = None, **said: str) -> Difference:
    return Difference(name, of, tuple((party, said[party]) for party in Party if party in said), since)


def _pod(held: LeaseRecord) -> PodName:
    return held.pod.namespace, held.pod.name


def _lease(ledger: Reading, held: LeaseRecord) -> str:
    card = ledger.cards[held.token]
    where = "" if held.kind is Kind.ROUTED else f" of {card.eni_id}"
    slot = f" in slot {card.slot}" if held.kind is Kind.EXCLUSIVE else ""
    service = "" if held.service_address is None else f" and {held.service_address}"
    return f"{held.kind}, {held.address}{where}{slot}{service}"


def _slot(ledger: Reading, held: LeaseRecord) -> Slot | None:
    """Of an exclusive pod."""
    return ledger.cards[held.token].slot if held.kind is Kind.EXCLUSIVE else None


def _card(card: EniRecord | None) -> str:
    return "" if card is None else f"{card.use}, {card.state}, slot {card.slot}"


def _since(card: EniRecord | None) -> float | None:
    return None if card is None else card.since
