"""Rules by which a healthy cloud misbehaves. The OpenAPI, the world and the metadata service ask; the rules answer."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What goes wrong, and what ``target`` names for it."""

    # The OpenAPI's door
    ERROR = "error"  # an Action: answered with code and status, nothing done
    DELAY = "delay"  # an Action: done after so many seconds
    LOST_ANSWER = "lost-answer"  # an Action: done, yet answered with code and status, after so many seconds
    NO_ANSWER = "no-answer"  # an Action: done, and the connection ends without a word, after so many seconds
    EMPTY_ANSWER = "empty-answer"  # a Describe: as if there were nothing
    THROTTLE = "throttle"  # an Action: at most per_minute calls in a minute, then refused until the next
    SESSION_ENDED = "session-ended"  # a RAM role: the session a call is made with ends before its time
    CLOCK_OFF = "clock-off"  # nothing: the OpenAPI's clock is off by so many seconds, either way
    # What an accepted request comes to
    SLOW = "slow"  # an Action whose work goes on after its answer: it takes so many seconds more
    STUCK = "stuck"  # DetachNetworkInterface or DeleteNetworkInterface: never completes until asked again
    LOST_ATTACH = "lost-attach"  # AttachNetworkInterface: accepted, then the ENI falls back, after so many seconds more
    ENI_BUSY = "eni-busy"  # an ENI id: another task is at work on it (Operation.Conflict)
    VPC_BUSY = "vpc-busy"  # a VPC id: its route tables are being written to (TaskConflict)
    VSWITCH_EMPTY = "vswitch-empty"  # a vSwitch id: no free address left in it
    # What is shown
    STOCK_LAG = "stock-lag"  # a vSwitch id: AvailableIpAddressCount is as it was so many seconds ago
    METADATA_LAG = "metadata-lag"  # nothing: the metadata service lags by so many seconds


_TARGETS = {
    Kind.SLOW: {
        "*",
        "AttachNetworkInterface",
        "DetachNetworkInterface",
        "DeleteNetworkInterface",
        "CreateRouteEntry",
        "DeleteRouteEntry",
    },
    Kind.STUCK: {"*", "DetachNetworkInterface", "DeleteNetworkInterface"},
    Kind.LOST_ATTACH: {"*", "AttachNetworkInterface"},
    Kind.CLOCK_OFF: {"*"},
    Kind.METADATA_LAG: {"*"},
}
_TIMED = {Kind.DELAY, Kind.SLOW, Kind.CLOCK_OFF, Kind.STOCK_LAG, Kind.METADATA_LAG}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "kind": (str, Kind),
    "status": (int,),
    "seconds": (int, float),
    "per_minute": (int,),
    "count": (int,),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault. ``target`` ``*`` means any; ``count`` None lasts until cleared; seconds are box time."""

    kind: Kind
    target: str = "*"
    code: str = "InternalError"
    status: int = 500
    message: str = "The request processing has failed due to some unknown error."
    seconds: float = 0.0
    per_minute: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.kind in _TARGETS and self.target not in _TARGETS[self.kind]:
            raise ValueError(f"target: {self.kind} expects one of {sorted(_TARGETS[self.kind])}, got {self.target!r}")
        if not 400 <= self.status <= 599:
            raise ValueError(f"status: expected 400 to 599, got {self.status}")
        if self.kind is Kind.EMPTY_ANSWER and not self.target.startswith(("*", "Describe", "List")):
            raise ValueError(f"target: {self.kind} expects * or an Action that lists, got {self.target!r}")
        if self.seconds < 0 and self.kind is not Kind.CLOCK_OFF:
            raise ValueError(f"seconds: expected 0 or more, got {self.seconds}")
        if self.kind in _TIMED and not self.seconds:
            raise ValueError(f"seconds: {self.kind} expects a number other than 0")
        if self.per_minute < 0:
            raise ValueError(f"per_minute: expected 0 or more, got {self.per_minute}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count: expected 1 or more, got {self.count}")

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> "Rule":
        """A rule from JSON; raises ValueError that names the field."""
        if unknown := set(row) - {"kind", *FIELDS}:
            raise ValueError(f"{min(unknown)}: unknown; expected one of kind, {', '.join(FIELDS)}")
        if row.get("kind") not in set(Kind):
            raise ValueError(f"kind: expected one of {', '.join(Kind)}, got {row.get('kind')!r}")
        for name, value in row.items():
            expected = _TYPES.get(name, (str,))
            if value is not None and type(value) not in expected:
                raise ValueError(f"{name}: expected {' or '.join(t.__name__ for t in expected)}, got {value!r}")
        given = {name: value for name, value in row.items() if value is not None}
        return cls(**{**given, "kind": Kind(row["kind"])})


FIELDS = tuple(field.name for field in fields(Rule) if field.name != "kind")


class Faults:
    """The rules in force. The oldest that fits is taken; one with a count is gone when it is used up."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._rules: dict[str, Rule] = {}
        self._left: dict[str, int] = {}
        self._calls: dict[str, dict[str, tuple[int, int]]] = {}  # by rule and Action: a minute, and the calls in it

    def add(self, rule: Rule) -> str:
        """Put a rule in force; returns its id, for ``clear``."""
        rule_id = f"fault-{next(self._ids)}"
        self._rules[rule_id] = rule
        if rule.count is not None:
            self._left[rule_id] = rule.count
        return rule_id

    def list(self) -> list[dict[str, Any]]:
        """The rules in force, JSON-able, with id and with what is left of the count."""
        return [
            {"id": rule_id, **asdict(rule), "kind": rule.kind.value, "count": self._left.get(rule_id)}
            for rule_id, rule in self._rules.items()
        ]

    def clear(self, rule_id: str | None = None) -> int:
        """Drop one rule, or all; returns how many there were. Raises KeyError for an id not in force."""
        if rule_id is None:
            gone = len(self._rules)
            self._rules.clear()
            self._left.clear()
            self._calls.clear()
            return gone
        del self._rules[rule_id]
        self._left.pop(rule_id, None)
        self._calls.pop(rule_id, None)
        return 1

    def standing(self, kind: Kind, target: str) -> Rule | None:
        """The rule that holds for a state of things; its count stays."""
        found = self._find(kind, target)
        return None if found is None else self._rules[found]

    def strike(self, kind: Kind, target: str) -> Rule | None:
        """The rule that hits this event, one off its count."""
        found = self._find(kind, target)
        return None if found is None else self._use(found)

    def throttled(self, action: str, now: float) -> Rule | None:
        """The throttling rule this call breaks. Calls are counted by Action and whole minutes, as the cloud does."""
        found = self._find(Kind.THROTTLE, action)
        if found is None:
            return None
        minute = int(now // 60)
        counts = self._calls.setdefault(found, {})
        last, calls = counts.get(action, (minute, 0))
        calls = calls + 1 if last == minute else 1
        counts[action] = minute, calls
        return self._use(found) if calls > self._rules[found].per_minute else None

    def longer(self, action: str) -> float:
        """Seconds that the work of an accepted request takes more than usual."""
        rule = self.strike(Kind.SLOW, action)
        return 0.0 if rule is None else rule.seconds

    def _find(self, kind: Kind, target: str) -> str | None:
        return next((i for i, r in self._rules.items() if r.kind is kind and r.target in {"*", target}), None)

    def _use(self, rule_id: str) -> Rule:
        rule = self._rules[rule_id]
        if rule_id in self._left:
            self._left[rule_id] -= 1
            if not self._left[rule_id]:
                self.clear(rule_id)
        return rule
