"""CNI's own words: configuration, arguments and errors (CNI specification 1.1.0, sections 1, 2 and 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from eniway import names
from eniway.errors import (
    BadAnnotation,
    BadConfig,
    CapacityError,
    CloudError,
    ConflictError,
    EniwayError,
    InvalidRequest,
    KernelError,
    KubeError,
    NotReady,
)
from eniway.model import ContainerId, PodRef, PodUid

INCOMPATIBLE_VERSION: Final = 1
UNSUPPORTED_FIELD: Final = 2
INVALID_ENVIRONMENT: Final = 4
DECODING_FAILED: Final = 6
TRY_AGAIN_LATER: Final = 11
INTERNAL: Final = 999

CODES: Final[tuple[tuple[type[EniwayError], int], ...]] = (
    # The first class that fits; below 100 are the specification's codes, the others our own.
    (BadAnnotation, 101),
    (BadConfig, 7),
    (InvalidRequest, INVALID_ENVIRONMENT),
    (NotReady, TRY_AGAIN_LATER),
    (CapacityError, 102),
    (CloudError, 103),
    (KubeError, 104),
    (ConflictError, 105),
    (KernelError, 5),
    (EniwayError, INTERNAL),
)

SINCE: Final[Mapping[str, str]] = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""The first version of the specification that has the verb; the others are as old as the versions we speak."""

_CONTAINER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
"""Section 2, CNI_CONTAINERID."""


class CniError(InvalidRequest):
    """A request that breaks the specification, with the code that it names for that."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> int:
    """The error code the runtime gets for ``error``."""
    if isinstance(error, CniError):
        return error.code
    return next((code for kind, code in CODES if isinstance(error, kind)), INTERNAL)


class Attachment(msgspec.Struct, frozen=True, rename={"container_id": "containerID"}):
    """An interface that still is in use, in a GC request."""

    container_id: str
    ifname: str


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime adds for the capabilities of our conflist; the keys of other capabilities are passed over."""

    pod_annotations: dict[str, str] | None = msgspec.field(name=names.CAPABILITY_POD_ANNOTATIONS, default=None)
    """null for a pod without annotations, as Go writes an empty map."""
    device_id: str | None = msgspec.field(name="deviceID", default=None)
    """The device that a caller such as Multus chose for this network."""


class PrevResult(msgspec.Struct, frozen=True, kw_only=True):
    """A previous result, as far as we read it; what another plugin chained before us put in goes on as it came."""

    interfaces: list[dict[str, Any]] | None = None
    ips: list[dict[str, Any]] | None = None
    routes: list[dict[str, Any]] | None = None
    dns: dict[str, Any] | None = None

    @property
    def addresses(self) -> list[str]:
        """Of all its links, with prefix lengths."""
        return [str(address.get("address", "")) for address in self.ips or ()]


class NetConf(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A plugin's configuration as libcni hands it over on stdin."""

    cni_version: str = "0.1.0"
    name: str = ""
    runtime_config: RuntimeConfig = msgspec.field(default_factory=RuntimeConfig)
    prev_result: PrevResult | None = None
    device_id: str | None = msgspec.field(name="deviceID", default=None)
    """As in ``runtime_config``: Multus writes it here too."""
    valid_attachments: list[Attachment] | msgspec.UnsetType | None = msgspec.field(
        name="cni.dev/valid-attachments", default=msgspec.UNSET
    )
    attachments: list[Attachment] | msgspec.UnsetType | None = msgspec.field(
        name="cni.dev/attachments", default=msgspec.UNSET
    )
    """What 1.1.0 called ``valid_attachments`` at one place by mistake; libcni writes both."""

    @property
    def in_use(self) -> frozenset[tuple[str, str]] | None:
        """(container, interface) of each attachment that a GC has to spare; None: the runtime did not say.

        An empty list, which Go writes as null too, says that there is none.
        """
        lists = [said for said in (self.valid_attachments, self.attachments) if said is not msgspec.UNSET]
        if not lists:
            return None
        return frozenset((one.container_id, one.ifname) for said in lists for one in said or ())


_KNOWN_KEYS: Final = {
    *("cniVersion", "name", "type", "capabilities", "runtimeConfig", "prevResult", "args"),
    # Multus adds the device to a delegate's configuration under both names.
    *("deviceID", "pciBusID"),
}


def parse_config(text: bytes, *, strict: bool = True) -> NetConf:
    """The configuration in ``text``; CniError names what is wrong with it.

    ``strict`` refuses keys that nobody reads, but for those of the specification's own name space (cni.dev/).
    """
    try:
        raw = msgspec.json.decode(text, type=dict[str, Any])
        config = msgspec.convert(raw, NetConf)
    except msgspec.ValidationError as error:
        raise CniError(7, f"network configuration: {error}") from error
    except msgspec.DecodeError as error:
        raise CniError(DECODING_FAILED, f"network configuration: expected a JSON object: {error}") from error
    if config.cni_version not in names.CNI_VERSIONS:
        expected = ", ".join(names.CNI_VERSIONS)
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion: expected one of {expected}, got {config.cni_version!r}")
    if not config.name or "/" in config.name:
        raise CniError(7, f"name: expected the name of the network, without a slash, got {config.name!r}")
    unknown = sorted(key for key in raw if key not in _KNOWN_KEYS and not key.startswith("cni.dev/"))
    if strict and unknown:
        raise CniError(UNSUPPORTED_FIELD, f"network configuration: unknown keys {', '.join(unknown)}")
    return config


def introduced(verb: str, version: str) -> None:
    """CniError when ``version``, one of names.CNI_VERSIONS, does not have ``verb`` yet."""
    since = SINCE.get(verb)
    if since is not None and names.CNI_VERSIONS.index(version) < names.CNI_VERSIONS.index(since):
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion: {verb} expects {since} or later, got {version!r}")


def required(environment: Mapping[str, str], name: str) -> str:
    """The value of a variable that the verb needs; CniError when it is missing or empty."""
    if not (value := environment.get(name, "")):
        raise CniError(INVALID_ENVIRONMENT, f"{name}: expected a value, it is missing or empty")
    return value


def container_id(environment: Mapping[str, str]) -> ContainerId:
    """CNI_CONTAINERID; CniError when it is missing or not of the specification's form."""
    value = required(environment, "CNI_CONTAINERID")
    if _CONTAINER_ID.fullmatch(value) is None:
        expected = "expected a letter or digit, then letters, digits, underscores, dots and hyphens"
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID: {expected}, got {value!r}")
    return ContainerId(value)


def interface_name(environment: Mapping[str, str]) -> str:
    """CNI_IFNAME; CniError unless it is a name that Linux takes (dev_valid_name() in net/core/dev.c)."""
    value = required(environment, "CNI_IFNAME")
    if len(value.encode()) > 15 or value in {".", ".."} or any(char in "/:" or char.isspace() for char in value):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME: expected the name of a network interface, got {value!r}")
    return value


def pod(environment: Mapping[str, str]) -> PodRef:
    """The pod that CNI_ARGS names, as kubelet's runtimes do (K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID)."""
    arguments: dict[str, str] = {}
    for argument in filter(None, environment.get("CNI_ARGS", "").split(";")):
        name, equals, value = argument.partition("=")
        if not (name and equals):
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: expected KEY=VALUE pairs with ; between, got {argument!r}")
        arguments[name] = value
    wanted = ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID")
    if missing := [name for name in wanted if not arguments.get(name)]:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: expected {', '.join(missing)}: eniway serves pods only")
    return PodRef(arguments["K8S_POD_NAMESPACE"], arguments["K8S_POD_NAME"], PodUid(arguments["K8S_POD_UID"]))


def error_output(error: BaseException, *, verb: str, version: str) -> bytes:
    """The error object of section 5.

    go-cni takes any error of a DEL that says "not found" for a success and never asks again, so none says it.
    """
    text = str(error) or type(error).__name__
    if verb == "DEL":
        text = re.sub("not found", "missing", text, flags=re.IGNORECASE)
    return msgspec.json.encode({"cniVersion": version, "code": code_of(error), "msg": f"eniway: {text}"}) + b"\n"
