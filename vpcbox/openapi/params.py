"""An Action's parameters, read by name and kind. A parameter nobody reads is refused, never silently without effect."""

import json
import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from vpcbox.world.errors import Refused

MOST_TAGS = 20
_TAG_TEXT = re.compile(r"(?!aliyun|acs:)(?!.*https?://).{0,128}", re.DOTALL)


class Params:
    """Reads parameters; raises Refused with MissingParameter or InvalidParameter and the name of the field."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self.raw = raw
        self._unread = set(raw)

    def text(self, name: str, *, shortest: int = 0, longest: int = 256) -> str | None:
        """A text; an empty one counts as not given."""
        self._unread.discard(name)
        value = self.raw.get(name) or None
        if value is not None and not shortest <= len(value) <= longest:
            raise invalid(name, f"{shortest} to {longest} characters")
        return value

    def required(self, name: str) -> str:
        """A text that must be there."""
        value = self.text(name)
        if value is None:
            raise missing(name)
        return value

    def choice(self, name: str, *choices: str) -> str | None:
        """One of a few words."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise invalid(name, f"one of {', '.join(choices)}")
        return value

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds."""
        value = self.text(name)
        if value is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise invalid(name, f"a number from {low} to {high}")
        return int(value)

    def flag(self, name: str) -> bool | None:
        """``true`` or ``false``."""
        value = self.text(name)
        if value is not None and value.lower() not in {"true", "false"}:
            raise invalid(name, "true or false")
        return None if value is None else value.lower() == "true"

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """``Name.1`` to ``Name.N`` in the order of the numbers."""
        found = {
            int(match[1]): value
            for key, value in self.raw.items()
            if (match := re.fullmatch(re.escape(name) + r"\.([1-9][0-9]{0,3})", key))
        }
        self._unread -= {f"{name}.{n}" for n in found}
        if len(found) > most:
            raise invalid(name, f"at most {most} of them")
        return tuple(found[n] for n in sorted(found) if found[n])

    def json_texts(self, name: str, most: int) -> tuple[str, ...] | None:
        """``["a","b"]``, a JSON array in one parameter."""
        self._unread.discard(name)
        value = self.raw.get(name)
        if not value:
            return None
        try:
            items = json.loads(value)
        except ValueError:
            raise invalid(name, "a JSON array of strings") from None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise invalid(name, "a JSON array of strings")
        if len(items) > most:
            raise invalid(name, f"at most {most} of them")
        return tuple(items)

    def address(self, name: str) -> IPv4Address | None:
        """An IPv4 address."""
        value = self.text(name)
        return None if value is None else _address(name, value)

    def addresses(self, name: str, most: int) -> tuple[IPv4Address, ...]:
        """``Name.1`` to ``Name.N``, each an IPv4 address."""
        return tuple(_address(name, value) for value in self.texts(name, most))

    def cidr(self, name: str) -> IPv4Network | None:
        """An IPv4 network, its address without host bits; a bare address is a /32."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return IPv4Network(value)
        except ValueError:
            raise Refused("InvalidCidrBlock.Malformed", f'Specified CIDR block is not valid: "{name}".') from None

    def rows(self, name: str, most: int) -> tuple[str, ...]:
        """``Name.1.`` to ``Name.N.``: what the fields of each structure of a list begin with."""
        pattern = re.compile(re.escape(name) + r"\.([1-9][0-9]{0,3})\.")
        numbers = sorted({int(match[1]) for key in self.raw if (match := pattern.match(key))})
        if not numbers:
            raise missing(name)
        if len(numbers) > most:
            raise invalid(name, f"at most {most} of them")
        return tuple(f"{name}.{n}." for n in numbers)

    def tags(self) -> dict[str, str]:
        """``Tag.N.Key`` and ``Tag.N.Value``."""
        rows: dict[str, dict[str, str]] = {}
        for name, value in self.raw.items():
            if match := re.fullmatch(r"Tag\.([1-9][0-9]{0,3})\.(Key|Value)", name):
                rows.setdefault(match[1], {})[match[2]] = value
                self._unread.discard(name)
        if len(rows) > MOST_TAGS:
            raise Refused("NumberExceed.Tags", f"The maximum number of Tags is {MOST_TAGS}.")
        tags: dict[str, str] = {}
        for row in rows.values():
            key, value = row.get("Key", ""), row.get("Value", "")
            if not key or not _TAG_TEXT.fullmatch(key):
                raise Refused("InvalidTagKey.Malformed", "The specified Tag.n.Key is not valid.")
            if not _TAG_TEXT.fullmatch(value):
                raise Refused("InvalidTagValue.Malformed", "The specified Tag.n.Value is not valid.")
            if key in tags:
                raise Refused("Duplicate.TagKey", "The Tag.n.Key contain duplicate key.")
            tags[key] = value
        return tags

    def finish(self) -> None:
        """Everything that was given has been read; raises Refused otherwise."""
        given = sorted(name for name in self._unread if self.raw[name])
        if given:
            raise Refused("UnsupportedParameter", f'The parameter "{given[0]}" is not supported.')


def missing(name: str) -> Refused:
    """A mandatory parameter is not there."""
    return Refused(
        "MissingParameter",
        f'The input parameter "{name}" that is mandatory for processing this request is not supplied.',
    )


def invalid(name: str, expected: str) -> Refused:
    """A parameter is not of its kind."""
    return Refused("InvalidParameter", f'The specified parameter "{name}" is not valid: expected {expected}.')


def only_one(*names: str) -> Refused:
    """Of parameters that exclude each other, not exactly one was given."""
    return Refused("InvalidParameter.Conflict", f"Expected exactly one of {', '.join(names)}.")


def _address(name: str, value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except AddressValueError:
        raise invalid(name, "an IPv4 address") from None
