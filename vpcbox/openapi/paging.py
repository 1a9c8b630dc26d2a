"""Pages of a list: by number, or by a token that says where the next page begins."""

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vpcbox.openapi.params import Params, invalid

T = TypeVar("T")

_ANY = 10**9 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, with what the answer says about it."""

    items: list[T]
    total: int
    next_token: str = ""
    number: int = 1
    size: int = 10

    def tokens(self) -> dict[str, object]:
        """The answer's fields where pages go by token."""
        return {"NextToken": self.next_token} if self.next_token else {}

    def numbers(self) -> dict[str, object]:
        """The answer's fields where pages go by number."""
        return {"PageNumber": self.number, "PageSize": self.size, "TotalCount": self.total}


@dataclass(frozen=True, slots=True)
class Paging:
    """What was asked for. A token names the last item seen, so pages hold while items come and go."""

    size: int
    number: int = 1
    after: str | None = None

    @classmethod
    def of(cls, p: Params, *, most: int, most_by_number: int, default: int = 10, clamp: bool = False) -> "Paging":
        """Read NextToken and MaxResults, or PageNumber and PageSize.

        ``clamp``: a MaxResults out of bounds (10 to ``most``) counts as the bound; it is refused otherwise.
        """
        number = p.number("PageNumber", 1, 1_000_000)
        size = p.number("PageSize", 1, most_by_number)
        if p.text("NextToken", longest=1024) is None and p.text("MaxResults") is None:
            return cls(size=size or default, number=number or 1)
        return cls.by_token(p, most=most, default=default, clamp=clamp)

    @classmethod
    def by_token(cls, p: Params, *, most: int, default: int, clamp: bool = False, name: str = "MaxResults") -> "Paging":
        """Read NextToken and MaxResults, or whatever the Action calls the latter."""
        token = p.text("NextToken", longest=1024)
        results = p.number(name, -_ANY if clamp else 1, _ANY if clamp else most)
        results = default if results is None else results
        return cls(size=min(max(results, 10), most) if clamp else results, after=_decode(token) if token else "")

    def cut(self, items: Iterable[T], key: Callable[[T], str]) -> Page[T]:
        """The page of ``items``; ``key`` is unique and sorts them."""
        ordered = sorted(items, key=key)
        if self.after is None:
            start = (self.number - 1) * self.size
            return Page(ordered[start : start + self.size], len(ordered), number=self.number, size=self.size)
        rest = [item for item in ordered if key(item) > self.after]
        page = rest[: self.size]
        more = len(rest) > self.size
        return Page(page, len(ordered), next_token=_encode(key(page[-1])) if more else "", size=self.size)


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise invalid("NextToken", "the token of the page before") from None
