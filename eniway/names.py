"""Every name and number that eniway puts into the world, in one place.

A name here is seen by users, by the kernel or by another program (kubelet, containerd, the cloud): changing one is an
upgrade problem, so each says who else relies on it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from eniway.errors import InvariantBroken
from eniway.model import LeaseKey

GROUP: Final = "eniway.io"
"""CRD group and prefix of our annotations, labels and tags."""
API_VERSION: Final = f"{GROUP}/v1alpha1"

RESOURCE_ENI: Final = "aliyun/eni"
"""Extended resource advertised to kubelet; pods ask for it in limits."""
ANNOTATION_NETWORK: Final = f"{GROUP}/network"
"""Pod annotation: ``shared`` or ``routed``; a pod with ``aliyun/eni`` in its limits is exclusive whatever it says."""
ANNOTATION_SECURITY_GROUPS: Final = f"{GROUP}/security-groups"
ANNOTATION_VSWITCH: Final = f"{GROUP}/vswitch"
"""Annotations of exclusive pods (``eniway/choice.py``): ids, several security groups with commas between."""
RESOURCE_ENI_IP: Final = "aliyun/eni-ip"
"""Extended resource of nodes: pods that ask for no network in particular; added to them by an admission policy."""
ANNOTATION_ROOM_SINCE: Final = f"{GROUP}/room-since"
"""Node annotation: room came free then. Its change is what makes kube-scheduler try pods again that found none."""
ANNOTATION_INGRESS_BYTES: Final = "k8s.aliyun.com/ingress-bandwidth"
ANNOTATION_EGRESS_BYTES: Final = "k8s.aliyun.com/egress-bandwidth"
"""Pod annotations, bytes per second (``eniway/units.py``): as other plugins of this cloud read them."""
ANNOTATION_INGRESS_BITS: Final = "kubernetes.io/ingress-bandwidth"
ANNOTATION_EGRESS_BITS: Final = "kubernetes.io/egress-bandwidth"
"""Pod annotations, bits per second: Kubernetes' own, which win over the others."""
ANNOTATION_SERVICE_ADDRESS: Final = f"{GROUP}/service-address"
"""Pod annotation, written by the daemon alone: an exclusive pod's address on its way to Services, by which other nodes
know it."""
ANNOTATION_POLICY_MODE: Final = f"{GROUP}/networkpolicy"
"""Namespace annotation: ``audit`` logs what its pods' policies would drop, and lets it pass."""
TAG_CLUSTER: Final = f"{GROUP}/cluster"
TAG_INSTANCE: Final = f"{GROUP}/instance"
"""ENI tags that say whose a card is; nothing without them is ever detached or deleted."""

CNI_NETWORK: Final = "eniway"
"""Name of the network in the conflist; part of every lease key."""
CNI_TYPE: Final = "eniway"
"""File name of the relay in /opt/cni/bin."""
CNI_CONFLIST: Final = "10-eniway.conflist"
CNI_VERSION: Final = "1.0.0"
CNI_VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CNI_VERSIONS_OFFERED: Final = ("1.0.0", "1.1.0")
CAPABILITY_POD_ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"

STATE_DIRECTORY: Final = "/var/lib/eniway"
RUN_DIRECTORY: Final = "/run/eniway"
CNI_SOCKET: Final = f"{RUN_DIRECTORY}/cni.sock"
DEBUG_SOCKET: Final = f"{RUN_DIRECTORY}/debug.sock"
LABELS_FILE: Final = f"{STATE_DIRECTORY}/labels.json"
CNI_RESULTS: Final = "/var/lib/cni/results"
"""Where the runtime's libcni keeps the results of its ADDs."""
LEDGER_FILE: Final = f"{STATE_DIRECTORY}/ledger.db"
HOST_SYSCTLS: Final = "/host/proc/sys"
"""Where the DaemonSet mounts the node's /proc/sys/net, writable: a container's own is not."""
CONFIG_FILE: Final = "/etc/eniway/config.yaml"
CREDENTIALS_DIRECTORY: Final = "/etc/eniway/credentials"
SWITCH_FILE: Final = "/etc/eniway/switch/cloud-calls"
"""Which OpenAPI calls may be made; of a ConfigMap that need not be there."""
KUBELET_DEVICE_PLUGINS: Final = "/var/lib/kubelet/device-plugins"
KUBELET_POD_RESOURCES: Final = "/var/lib/kubelet/pod-resources/kubelet.sock"

LINK_PREFIX: Final = "eniw"
"""Host veths begin so; kube-proxy's detectLocalMode InterfaceNamePrefix names it. No prefix of eth, ens, enp or enx."""
LINK_GROUP: Final = 101
"""Link group of host veths of pods (and of the Service leg of exclusive pods)."""
POD_LINK: Final = "eth0"
SERVICE_LINK: Final = "veth1"
"""Second link of an exclusive pod: the Service CIDR goes through it to the host."""
GATEWAY: Final = "169.254.1.1"
"""What a pod on a veth takes for its gateway: a permanent neighbour with the host end's MAC."""
FABRIC_MAC: Final = "ee:ff:ff:ff:ff:ff"
"""Answers every ARP in a VPC; pinned as the gateway's neighbour on shared cards."""

IFB_PREFIX: Final = "ifb-"
"""Links through which packets are shaped that have no queue of their own to wait in begin so."""
IFB_IN: Final = "ifb-in"
IFB_OUT: Final = "ifb-out"
"""In an exclusive pod: what it receives by all its links, and what it sends."""
QDISC_HANDLE: Final = 0xE21
"""Major number of our tbf qdiscs (``tc`` shows e21:): what carries it is ours."""
FILTER_PREFERENCE: Final = 0xE21
"""Preference of our tc filters of ingress, for the same purpose; programs of others that come first see packets first.
Those of egress have the next one."""

RULE_PODS: Final = 512
"""Priority of the node-wide rule that reads the table of pod host routes first."""
TABLE_PODS: Final = 999
RULE_METADATA: Final = 1024
"""Priority of the rule by which the node itself reaches the metadata service; what it forwards there meets the next."""
TABLE_METADATA: Final = 998
METADATA_SERVICE: Final = "100.100.100.200"
"""Tells any caller of the instance who it is, credentials of its RAM role included."""
RULE_OUTSIDE: Final = 1536
"""Priority of the rule for what shared pods begin, where pods take the node's address outside the VPC."""
TABLE_OUTSIDE: Final = 997
CLOUD_SERVICES: Final = "100.64.0.0/10"
"""DNS, metadata, storage and others of the cloud's own, which take an address of the VPC for what it is."""
RULE_ENI: Final = 2048
"""Priority of the fwmark rules, one per shared card."""
TABLE_ENI_BASE: Final = 1000
"""Table of the shared card in slot N is 1000 + N. Routed pods have none: they leave by the main table, so unmarked."""
ROUTE_PROTOCOL: Final = 81
"""rtm_protocol of our routes and rules (not in iproute2's list): what carries it is ours, nothing else is."""
MARK_MASK: Final = 0xF8
MARK_SHIFT: Final = 3
"""Slot of the card a packet has to leave by: bits 3..7 of the packet mark, clear of kube-proxy's 0x4000 and 0x8000."""
MARK_SLOTS: Final = MARK_MASK >> MARK_SHIFT
"""The highest slot that has a mark; shared cards stand in no higher one."""
MARK_BEGUN: Final = 0x100
"""Packet mark of what a shared pod sends in a connection that it began itself; only where TABLE_OUTSIDE is in use."""
KUBE_PROXY_MASQUERADE: Final = 0x4000
"""kube-proxy's masqueradeBit 14."""
NFT_TABLE: Final = "eniway"
"""Of the family ip."""
NFT_SOURCES: Final = "sources"
"""Its map: address of a pod on a shared card → mark of the card."""
IPSET_PODS: Final = "eniway-pods"
"""hash:ip: addresses of all pods that reach the host by a veth, routed ones too."""
IPSET_HAIRPIN: Final = "eniway-hairpin"
"""hash:net,iface: (eth0 address, host link) of exclusive pods, matched dst,src: its own Service."""
IPSET_EXCLUSIVE: Final = "eniway-exclusive"
"""hash:ip: eth0 addresses of this node's exclusive pods."""
CHAIN_PREFIX: Final = "ENIWAY-"
POLICY_CHAIN_PREFIX: Final = "ENIWAY-NP-"
"""Chains of NetworkPolicy, in the table mangle of the node and of exclusive pods."""
POLICY_SET_PREFIX: Final = "eniway-np-"
"""Sets of NetworkPolicy, there as well."""
POLICY_LOG_GROUP: Final = 8171
"""NFLOG group of packets that NetworkPolicy would drop (audit), for programs of others."""
POLICY_SAMPLE_GROUP: Final = 8172
"""NFLOG group of the few that the daemon itself tells of by Events."""
POLICY_LOG_PREFIX: Final = "eniway-np "
"""What NFLOG prefixes begin with; "drop" or "audit" and the direction follow."""

ENI_NAME: Final = "eniway"
"""NetworkInterfaceName of cards that eniway creates."""


def host_link(key: LeaseKey) -> str:
    """Name of a lease's veth in the host namespace: prefix and 11 hex digits of the key's SHA-256 (IFNAMSIZ - 1)."""
    return LINK_PREFIX + hashlib.sha256(key.alias.encode()).hexdigest()[:11]


def ifb(key: LeaseKey) -> str:
    """Name of the link in the host namespace through which a pod's egress is shaped: as its veth, after a dash."""
    return IFB_PREFIX + host_link(key).removeprefix(LINK_PREFIX)


def eni_table(slot: int) -> int:
    """Routing table of the shared card in ``slot``."""
    return TABLE_ENI_BASE + slot


def eni_mark(slot: int) -> int:
    """Packet mark (under MARK_MASK) of the shared card in ``slot``; InvariantBroken for one that has none."""
    if not 0 < slot <= MARK_SLOTS:
        # A rule for such a mark would match every packet that carries none.
        raise InvariantBroken(f"slot {slot} has no packet mark: expected 1 … {MARK_SLOTS}")
    return slot << MARK_SHIFT


def device_id(slot: int) -> str:
    """Id under which kubelet knows a slot, stable for the life of the node (≤ 63 characters)."""
    return f"eni-slot-{slot}"


def slot_of(device: str) -> int:
    """Slot of a device id of ours; ValueError for anything else."""
    prefix, _, number = device.rpartition("-")
    if prefix != "eni-slot" or not number.isdecimal():
        raise ValueError(f"{device!r} is not a device of {RESOURCE_ENI}: expected eni-slot-N")
    return int(number)
