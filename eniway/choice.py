"""Security groups and vSwitch of an exclusive pod's ENI: what annotations choose and the configuration allows. Pure.

Whoever may create pods may write annotations, and a security group opens ways to what is guarded by it: so only what
the configuration lists can be chosen, and nothing by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from eniway import names
from eniway.config import PodsMayChoose
from eniway.errors import BadAnnotation
from eniway.model import NO_CHOICE, Choice, SecurityGroupId, VSwitchId

MOST_GROUPS: Final = 5
"""Of an ENI, as the cloud has it."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}", re.ASCII)


def choice_of(annotations: Mapping[str, str], *, exclusive: bool) -> Choice:
    """What a pod chooses; BadAnnotation for words that are no ids, and of a pod that has no ENI of its own."""
    groups, vswitch = annotations.get(names.ANNOTATION_SECURITY_GROUPS), annotations.get(names.ANNOTATION_VSWITCH)
    if groups is None and vswitch is None:
        return NO_CHOICE
    if not exclusive:
        named = names.ANNOTATION_VSWITCH if groups is None else names.ANNOTATION_SECURITY_GROUPS
        raise BadAnnotation(f"annotation {named}: expected on a pod with {names.RESOURCE_ENI} in its limits only")
    return Choice(
        security_groups=() if groups is None else _groups(groups),
        vswitch=None if vswitch is None else VSwitchId(_id(names.ANNOTATION_VSWITCH, vswitch, "the id of a vSwitch")),
    )


def check_allowed(choice: Choice, allowed: PodsMayChoose) -> None:
    """BadAnnotation names what ``pods_may_choose`` does not list."""
    _within(names.ANNOTATION_SECURITY_GROUPS, choice.security_groups, "security_groups", allowed.security_groups)
    chosen = () if choice.vswitch is None else (choice.vswitch,)
    _within(names.ANNOTATION_VSWITCH, chosen, "vswitches", allowed.vswitches)


def _groups(text: str) -> tuple[SecurityGroupId, ...]:
    expected = f"1 to {MOST_GROUPS} ids of security groups with commas between"
    ids = {_id(names.ANNOTATION_SECURITY_GROUPS, part.strip(), expected) for part in text.split(",")}
    if len(ids) > MOST_GROUPS:
        raise BadAnnotation(f"annotation {names.ANNOTATION_SECURITY_GROUPS}: expected {expected}, got {len(ids)}")
    return tuple(SecurityGroupId(one) for one in sorted(ids))


def _id(annotation: str, text: str, expected: str) -> str:
    if not _ID.fullmatch(text):
        raise BadAnnotation(f"annotation {annotation}: expected {expected}, got {text!r}")
    return text


def _within(annotation: str, chosen: tuple[str, ...], key: str, allowed: list[str]) -> None:
    if refused := [one for one in chosen if one not in allowed]:
        raise BadAnnotation(
            f"annotation {annotation}: expected of those that the configuration allows"
            f" (pods_may_choose.{key}: {', '.join(allowed) or 'none'}), got {', '.join(refused)}"
        )
