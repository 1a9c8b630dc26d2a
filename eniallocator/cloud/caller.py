"""Actions by name, for the rooms whose answers are read item by item: who signs and sends, and what lists look like."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol, TypeVar

from eniway.model import InstanceId

_T = TypeVar("_T")
Read = Callable[[dict[str, Any]], _T]

MOST_INSTANCES: Final = 100
"""Ids of one DescribeInstances."""


class Caller(Protocol):
    """Signs and sends an Action of a product by name."""

    async def call(
        self,
        product: str,
        action: str,
        params: Mapping[str, str],
        read: Read[_T],
        *,
        form: Mapping[str, str] | None = None,
    ) -> _T:
        """What ``read`` makes of the decoded answer; raises the errors of ``eniallocator.cloud.errors``.

        An answer that ``read`` cannot make sense of (KeyError, TypeError, ValueError, AttributeError) is Transient.
        ``form`` travels in the body.
        """
        ...


def listed(answer: Mapping[str, Any], outer: str, inner: str) -> list[dict[str, Any]]:
    """A list as the OpenAPI wraps it; empty ones may be [], {} or missing."""
    wrapped = answer.get(outer) or {}
    return list(wrapped.get(inner) or []) if isinstance(wrapped, dict) else []


async def existing(caller: Caller, ids: Collection[InstanceId]) -> frozenset[InstanceId]:
    """DescribeInstances: those of ``ids``, at most ``MOST_INSTANCES``, that the cloud lists."""
    params = {"InstanceIds": json.dumps(sorted(ids)), "PageSize": str(MOST_INSTANCES), "PageNumber": "1"}
    return await caller.call(
        "Ecs",
        "DescribeInstances",
        params,
        lambda answer: frozenset(InstanceId(item["InstanceId"]) for item in listed(answer, "Instances", "Instance")),
    )


def nothing(_: dict[str, Any]) -> None:
    """Of an answer that says no more than that it is one."""


def cursor_of(answer: Mapping[str, Any]) -> str:
    """NextToken of a page; "" for the last."""
    return str(answer.get("NextToken") or "")
