"""One round over a VPC's ENIs: look at all, prove who is gone, delete a few of what was left behind.

Everything is decided anew from what the cloud says; a lost answer, another leader or a crash in the middle change
nothing. Off the nodes, because a dying node cannot: detach and delete are two calls.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from eniallocator import abandoned, evidence
from eniallocator.cloud.errors import Busy, NotFound, WrongState
from eniallocator.cloud.fleet import FleetApi, FleetEni
from eniway import log
from eniway.model import EniId, InstanceId

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round found and did."""

    ours: int
    """ENIs of this cluster, all instances together."""
    abandoned: int
    gone: frozenset[InstanceId]
    deleted: tuple[EniId, ...]
    """With ``dry_run``: what would have been."""
    too_many: bool


async def salvage(
    api: FleetApi,
    *,
    vpc_id: str,
    cluster: str,
    placed: Collection[InstanceId],
    most_percent: int,
    dry_run: bool,
    random: Random,
) -> Round:
    """Do one round. ``placed``: instances that are nodes. Raises the errors of ``cloud.errors``."""
    seen = abandoned.census(await api.enis(vpc_id), cluster)
    gone = await evidence.gone(api, seen.suspects(placed), placed, random=random)
    plan = abandoned.plan(seen, gone, most_percent=most_percent)
    deleted = [eni.eni_id for eni in plan.delete if dry_run or await _delete(api, eni)]
    return Round(
        ours=len(seen.ours),
        abandoned=plan.abandoned,
        gone=gone,
        deleted=tuple(deleted),
        too_many=plan.too_many,
    )


async def _delete(api: FleetApi, eni: FleetEni) -> bool:
    """Whether it is on its way out; what is busy now has its turn in the next round."""
    try:
        await api.delete_eni(eni.eni_id)
    except NotFound:
        return True
    except (Busy, WrongState) as error:
        _log.info("not deleted yet", eni=eni.eni_id, error=str(error))
        return False
    return True
