"""Label selectors (Kubernetes API, LabelSelector): parsed once, compared by what they say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec


class Operator(StrEnum):
    """Of a requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on labels; ``values`` are sorted."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """NotIn and DoesNotExist hold where the key is missing, too."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class Selector:
    """All of ``requirements``; none at all selects everything. None in their place: nothing is selected."""

    requirements: tuple[Requirement, ...] | None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with ``labels`` is selected."""
        return self.requirements is not None and all(wanted.holds(labels) for wanted in self.requirements)

    def anchors(self) -> tuple[tuple[str | None, str | None], ...]:
        """(key, value) of labels of which every selected object has at least one.

        (key, None) is the key with any value, (None, None) any object: what an index files the selector under.
        """
        if self.requirements is None:
            return ()
        fixed = [wanted for wanted in self.requirements if wanted.operator is Operator.IN]
        if fixed:
            narrow = min(fixed, key=lambda wanted: len(wanted.values))
            return tuple((narrow.key, value) for value in narrow.values)
        for wanted in self.requirements:
            if wanted.operator is Operator.EXISTS:
                return ((wanted.key, None),)
        return ((None, None),)


EVERYTHING: Final = Selector(())
NOTHING: Final = Selector(None)


class _Expression(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    operator: Operator
    values: tuple[str, ...] | None = None


class _LabelSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: dict[str, str] | None = msgspec.field(default=None, name="matchLabels")
    expressions: tuple[_Expression, ...] | None = msgspec.field(default=None, name="matchExpressions")


_DECODER: Final = msgspec.json.Decoder(_LabelSelector)


def parse(raw: msgspec.Raw | bytes) -> Selector:
    """The selector in a JSON object; NOTHING for one that says what is not known here."""
    try:
        said = _DECODER.decode(raw)
    except msgspec.DecodeError:
        return NOTHING
    wanted = {Requirement(key, Operator.IN, (value,)) for key, value in (said.labels or {}).items()}
    for expression in said.expressions or ():
        values = tuple(sorted(set(expression.values or ())))
        if bool(values) != (expression.operator in {Operator.IN, Operator.NOT_IN}):
            return NOTHING
        wanted.add(Requirement(expression.key, expression.operator, values))
    return Selector(tuple(sorted(wanted)))
