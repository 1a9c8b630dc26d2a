"""Why a packet passes or not: the engine's own terms, asked about one path. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from eniway.errors import InvalidRequest
from networkpolicy.model import Model
from networkpolicy.terms import Direction, Program, Verdict
from networkpolicy.views import Pod


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether it passes, and what each end says of it."""

    passes: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _End:
    text: str
    address: bytes
    pod: Pod | None


def explain(model: Model, source: str, destination: str, protocol: int, port: int) -> Answer:
    """About a first packet between two ends, each an address or namespace/pod; InvalidRequest if there is none such.

    Not asked: whether the source is the destination's own node, which always passes.
    """
    sender, receiver = _end(model, source), _end(model, destination)
    if sender.address == receiver.address:
        return Answer(passes=True, reasons=(f"{sender.text} reaches itself, whatever the policies",))
    passes, reasons = True, []
    for own, other, direction in ((sender, receiver, Direction.EGRESS), (receiver, sender, Direction.INGRESS)):
        allowed, reason = _side(model, own, other, direction=direction, protocol=protocol, port=port)
        passes = passes and allowed
        reasons.append(f"{direction.lower()} of {own.text}: {reason}")
    return Answer(passes, tuple(reasons))


def _side(model: Model, own: _End, other: _End, *, direction: Direction, protocol: int, port: int) -> tuple[bool, str]:
    if own.pod is None:
        return True, "not a pod of the cluster's network, no policy is about it"
    programs: Mapping[Direction, Program] = {} if own.pod.host_network else model.programs(own.pod)
    if (program := programs.get(direction)) is None:
        return True, "allowed, no policy isolates it"
    term = program.decide(local=own.address, peer=other.address, protocol=protocol, port=port, has=model.has)
    if term is not None:
        return term.verdict is Verdict.ALLOW, f"policy {term.policy} says {term.verdict}"
    names = ", ".join(policy.key for policy in program.policies)
    if program.audit:
        return True, f"audit: {names} would drop it, the namespace is only watched"
    return False, f"dropped, isolated by {names}, none of which allows it"


def _end(model: Model, text: str) -> _End:
    if "/" in text:
        pod = model.pod(*text.split("/", 1))
        if pod is None or not pod.addresses:
            raise InvalidRequest(f"{text}: expected a running pod with an address of the pod network, there is none")
        return _End(text, pod.addresses[0], pod)
    try:
        address = ip_address(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r}: expected an address, or namespace/name of a pod") from error
    if address.version != model.family:
        raise InvalidRequest(f"{text}: expected an address of IPv{model.family}")
    pod = model.pod_at(address.packed, model.each_pod())
    return _End(f"{pod.namespace}/{pod.name}" if pod else text, address.packed, pod)
