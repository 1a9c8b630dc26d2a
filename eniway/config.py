"""The daemons' configuration: one YAML file; unknown keys are refused, errors name the path and what was expected.

Secrets are not part of it: an access key is read from files of a mounted Secret (``credentials`` names the directory).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from eniway import names
from eniway.errors import BadConfig
from eniway.model import Wish

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base: unknown keys are errors."""


class CloudConfig(_Strict, frozen=True):
    """Where and how the OpenAPI is called."""

    endpoint: str = ""
    """URL that serves ECS and VPC, scheme included; empty: the region's own VPC endpoints over https."""
    metadata: str = "http://100.100.100.200"
    """Base URL of the instance metadata service."""
    authentication: Literal["files", "ram-role", "oidc"] = "files"
    """Where keys come from: files of a Secret; the RAM role of the instance; a RAM role by OIDC (RRSA), as ACK's pod
    identity webhook sets it up."""
    credentials: str = names.CREDENTIALS_DIRECTORY
    """For ``files``: directory with access_key_id, access_key_secret and, of a session, security_token."""
    ram_role: str = ""
    """For ``ram-role``: its name; empty: the one the instance has."""
    calls_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 60
    """Most calls of one Action in a minute that this node makes; quotas are per account, region and Action."""
    api_quota_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Most of the account's quota of an Action that this node, or the operator, takes: the rest is other users'."""
    api_quotas: dict[Id, Annotated[int, msgspec.Meta(ge=1)]] = {}
    """The account's quotas by Action, calls a minute, as the Quota Center shows them, where they are not the usual."""


class PoolConfig(_Strict, frozen=True):
    """How many addresses and cards are kept ahead of demand."""

    min_idle_addresses: Count = 3
    """Free addresses for shared pods that the node keeps at hand: fewer, and it asks the cloud for more."""
    max_idle_addresses: Count = 10
    """Free addresses that it keeps at most: more, and it gives some back; the gap to the minimum spares calls."""
    exclusive_slots: Annotated[int, msgspec.Meta(ge=0, le=64)] | Literal["auto"] = 1
    """ENI slots kept for pods with ``aliyun/eni``: the highest ones; the others carry shared pods.

    ``auto``: every slot but the first is for either, whoever comes first. One slot always stays for shared pods, so an
    instance type with two ENIs offers none by default.
    """
    warm_exclusive: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1
    """Exclusive cards attached ahead of demand."""
    idle_seconds: Seconds = 300.0
    """How long addresses beyond max_idle_addresses, and cards beyond warm_exclusive, lie idle before they go back; and
    how long after its last routed pod a node that asked for none keeps the primary ENI's source check off."""
    cooldown_seconds: Seconds = 30.0
    """How long a released address is not handed out again."""


class NodePool(_Strict, frozen=True):
    """What nodes with certain labels have instead of what stands at the top."""

    match: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """Labels of the Node, all of which it must have with these values. Most of its own a kubelet may set itself; those
    below node-restriction.kubernetes.io it may not."""
    vswitches: Annotated[list[Id], msgspec.Meta(min_length=1)] | None = None
    """In place of ``vswitches``; without it those."""
    security_groups: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=5)] | None = None
    """In place of ``security_groups``, for ENIs that are made from then on; without it those."""


class PodsMayChoose(_Strict, frozen=True):
    """What annotations of exclusive pods may name; whoever may create pods may choose among it."""

    security_groups: list[Id] = []
    """For ``eniway.io/security-groups``. Each ought to let kubelet's probes in."""
    vswitches: list[Id] = []
    """For ``eniway.io/vswitch``: on nodes of its zone."""


class OperatorConfig(_Strict, frozen=True):
    """What ``eniway operator`` does for the cluster, besides ``cluster``, ``cloud`` and ``log_level``."""

    routes: Literal["managed", "external"] = "managed"
    """Who keeps the VPC's routes to the nodes' podCIDRs: eniway, or somebody else (a cloud controller)."""
    region: str = ""
    """Region of the nodes; given together with ``vpc``, or not at all."""
    vpc: str = ""
    """The VPC of the nodes; both empty: where the operator itself runs, by the instance metadata service."""
    route_tables: list[Id] = []
    """Tables to keep; empty: the VPC's system table. Name those too that node vSwitches are bound to instead of it."""
    route_quota: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 200
    """Most custom entries of a table (quota vpc_quota_route_entrys_num)."""
    dry_run: bool = False
    """Log and count (``eniway_dry_run_pending``) what would be done to ENIs and routes, and do nothing to either."""
    most_gone_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    """Share of instances that may be gone at once: beyond it nothing is removed until a person has looked.

    Instances that ENIs of the cluster belong to, or routes lead to; one may always be gone. Raise it for a while after
    a cluster did shrink by more.
    """
    metrics_address: str = ":9531"
    """[HOST]:PORT of /metrics and /healthz."""


class ExtenderWeights(_Strict, frozen=True):
    """How much each term of a node's score counts against the others; 0 leaves it out."""

    shared: Annotated[float, msgspec.Meta(ge=0)] = 6
    """A pod that says nothing gets an address of an ENI rather than one of the podCIDR."""
    warm: Annotated[float, msgspec.Meta(ge=0)] = 4
    """It can be served without a call of the cloud."""
    packed: Annotated[float, msgspec.Meta(ge=0)] = 2
    """An exclusive pod joins others, so that whole instances keep their slots."""
    stock: Annotated[float, msgspec.Meta(ge=0)] = 1
    """The node's vSwitches have more left than others'."""


class ExtenderConfig(_Strict, frozen=True):
    """Configuration of ``eniway extender``, a file of its own."""

    address: str = "127.0.0.1:9532"
    """[HOST]:PORT of the extender protocol, /metrics, /healthz and /readyz."""
    metrics_address: str = ":9534"
    """[HOST]:PORT of /metrics and /healthz alone, for who looks from elsewhere."""
    tls_certificate: str = ""
    """PEM file to serve https with; empty: plain HTTP, which does between containers of one pod."""
    tls_key: str = ""
    """PEM file of its key; both or neither."""
    journal: str = "/var/lib/eniway-extender/holds.jsonl"
    """File of the places that are held: it has to outlive the container."""
    offer: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Most nodes answered for a pod, a place held on each. More leave more to the scheduler's own scoring; with fewer,
    pods that come together stand in each other's way less. Where room is short it is one."""
    binds: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Bindings under way at once, for a scheduler whose configuration has `bindVerb: bind`; 0: it binds by itself."""
    other_nodes: Literal["refuse", "pass"] = "refuse"
    """Nodes that have no NodeNetwork: virtual nodes, or nodes with another pod network."""
    max_request_bytes: Annotated[int, msgspec.Meta(ge=65536, le=1 << 30)] = 8 << 20
    """Largest request; whole Nodes (nodeCacheCapable: false) take some 20 KiB each, names some 30 bytes."""
    weights: ExtenderWeights = ExtenderWeights()
    """What a node's score is made of."""
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    """What is logged."""


class NodeConfig(_Strict, frozen=True):
    """Configuration of ``eniway node``, and of ``eniway operator``, which reads the same file."""

    cluster: Id
    """Name of this cluster, unique in the account: tags every ENI that eniway makes."""
    vswitches: Annotated[list[Id], msgspec.Meta(min_length=1)]
    """vSwitches for pod ENIs in order of preference; those of other zones are passed over."""
    security_groups: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=5)]
    """Security groups of pod ENIs: what they let in is what reaches pods. They have to let kubelet's probes in."""
    service_cidr: str
    """The cluster's Service CIDR: what exclusive pods reach through the host."""
    cloud: CloudConfig = CloudConfig()
    """Where and how the OpenAPI is called."""
    pool: PoolConfig = PoolConfig()
    """How many addresses and cards are kept ahead of demand."""
    node_pools: list[NodePool] = []
    """The first that fits a Node's labels counts. They are read when the daemon first starts on a node, which waits for
    the API server then, and now and then afterwards: the daemon starts anew where they lead to another pool."""
    pods_may_choose: PodsMayChoose = PodsMayChoose()
    """Security groups and vSwitches that exclusive pods may have by annotation instead of the node's; none by
    default."""
    default_network: Annotated[str, msgspec.Meta(pattern="^(shared|routed|shared-else-routed)$")] = Wish.SHARED.value
    """How pods are connected that say nothing: ``shared-else-routed`` gives a routed address where no shared one can be
    had. Routed pods need a podCIDR on the Node and its route in the VPC."""
    shared_patience_seconds: Seconds = 30.0
    """With ``shared-else-routed``: how long a pod waits for a shared address when one may still come; attaching an ENI
    takes some 10 s. Where none can come, it does not wait."""
    add_deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=220)] = 200.0
    """How long a pod's ADD waits for an address or card before it fails; kubelet gives a sandbox 240 s."""
    snat: Literal["none", "outside-vpc"] = "none"
    """Whose address shared and routed pods have outside the VPC: their own, for which the VPC needs a NAT gateway; or
    the node's, whose primary ENI then carries them, by its public address. Exclusive pods have their own always."""
    vpc_cidrs: list[str] = []
    """With ``snat: outside-vpc``: all IPv4 networks that know pods' addresses, such as the VPC's CIDR blocks, peered
    networks, and the podCIDRs of routed pods; 100.64.0.0/10, the cloud's own services, is always among them."""
    metadata_access: Literal["block", "allow"] = "block"
    """Whether pods may ask the metadata service, which hands out the credentials of the instance's RAM role; the node
    and pods in its network always may. What else the node forwards, as for containers beside Kubernetes, is blocked,
    too. An exclusive pod keeps what it was started with."""
    networkpolicy: bool = True
    """Enforce NetworkPolicy (``on``), or leave it to another engine (``off``), which takes every chain and set of ours
    away."""
    policy_fail_open: bool = False
    """What becomes of a pod whose policies cannot be put in force within 10 s of its ADD: it starts without them, or
    does not start."""
    policy_counters: bool = False
    """Count by policy what it lets pass, in a metric that has each policy's name as a label."""
    policy_drop_events: bool = True
    """Tell by Events on pods what NetworkPolicy drops, by samples: of a pod at most one a minute and direction. Where
    the kernel refuses NFLOG or limit, nothing is told, which the log says once."""
    sweep_seconds: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    """How often books, kernel and cloud are compared when nothing else asks for it."""
    metrics_address: str = ":9530"
    """[HOST]:PORT of /metrics and /healthz."""
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    """The least severity that is logged."""
    operator: OperatorConfig = OperatorConfig()
    """What ``eniway operator`` does for the cluster."""

    @property
    def default_wish(self) -> Wish:
        """``default_network`` as a word of the model."""
        return Wish(self.default_network)

    @property
    def service_network(self) -> IPv4Network:
        """``service_cidr`` parsed."""
        return IPv4Network(self.service_cidr)

    def for_node(self, labels: Mapping[str, str]) -> NodeConfig:
        """The configuration of a Node with these labels: that of the first pool that fits."""
        pool = next((pool for pool in self.node_pools if pool.match.items() <= labels.items()), None)
        if pool is None:
            return self
        return msgspec.structs.replace(
            self,
            vswitches=pool.vswitches or self.vswitches,
            security_groups=pool.security_groups or self.security_groups,
        )

    @property
    def vpc_networks(self) -> frozenset[IPv4Network]:
        """``vpc_cidrs`` parsed."""
        return frozenset(map(IPv4Network, self.vpc_cidrs))


def parse(text: str, *, source: str) -> NodeConfig:
    """The configuration in ``text``; BadConfig names ``source``, the path of the key and what was expected."""
    try:
        config = msgspec.yaml.decode(text, type=NodeConfig, strict=True)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{source}: {error}") from error
    except msgspec.DecodeError as error:
        raise BadConfig(f"{source}: not YAML: {error}") from error
    try:
        config.service_network  # noqa: B018 -- a property that checks
    except ValueError as error:
        raise BadConfig(
            f"{source}: `$.service_cidr`: expected an IPv4 network such as 172.21.0.0/20: {error}"
        ) from error
    for place, cidr in enumerate(config.vpc_cidrs):
        try:
            IPv4Network(cidr)
        except ValueError as error:
            raise BadConfig(
                f"{source}: `$.vpc_cidrs[{place}]`: expected an IPv4 network such as 10.0.0.0/8: {error}"
            ) from error
    if (config.snat == "outside-vpc") != bool(config.vpc_cidrs):
        raise BadConfig(f"{source}: `$.vpc_cidrs`: expected the VPC's networks with snat: outside-vpc, and only then")
    if config.pool.min_idle_addresses > config.pool.max_idle_addresses:
        raise BadConfig(f"{source}: `$.pool.min_idle_addresses`: expected at most max_idle_addresses")
    if bool(config.operator.region) != bool(config.operator.vpc):
        raise BadConfig(f"{source}: `$.operator`: expected both of region and vpc, or neither")
    return config


def parse_extender(text: str, *, source: str) -> ExtenderConfig:
    """As ``parse``, for the extender."""
    try:
        config = msgspec.yaml.decode(text or "{}", type=ExtenderConfig, strict=True)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{source}: {error}") from error
    except msgspec.DecodeError as error:
        raise BadConfig(f"{source}: not YAML: {error}") from error
    if bool(config.tls_certificate) != bool(config.tls_key):
        raise BadConfig(f"{source}: `$.tls_certificate`: expected both of tls_certificate and tls_key, or neither")
    return config


def load_extender(path: Path) -> ExtenderConfig:
    """Read and parse the extender's configuration file."""
    try:
        return parse_extender(path.read_text(encoding="utf-8"), source=str(path))
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error


def load(path: Path) -> NodeConfig:
    """Read and parse a configuration file."""
    try:
        return parse(path.read_text(encoding="utf-8"), source=str(path))
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error
