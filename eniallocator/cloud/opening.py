"""The cloud as a configuration describes it: endpoint, keys, limits, switch."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from eniallocator.clock import Clock
from eniallocator.cloud.credentials import KeyFiles, Keys
from eniallocator.cloud.ecs import EcsCloud
from eniallocator.cloud.limiter import Limiter
from eniallocator.cloud.metadata import Metadata
from eniallocator.cloud.sessions import Sessions, by_oidc, of_instance
from eniallocator.cloud.switch import Switch
from eniway.config import CloudConfig


@asynccontextmanager
async def open_cloud(
    config: CloudConfig,
    *,
    region: str,
    switch: Switch,
    clock: Clock,
    random: Random,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[EcsCloud]:
    """The OpenAPI of ``region``. BadConfig for what cannot be meant."""
    limiter = Limiter(
        calls_per_minute=config.calls_per_minute,
        quotas=config.api_quotas,
        share=config.api_quota_share,
        clock=clock,
        random=random,
    )
    async with Metadata(config.metadata) as metadata:
        cloud = EcsCloud(
            region=region,
            endpoint=config.endpoint,
            keys=_keys(config, region=region, metadata=metadata, clock=clock, environ=environ),
            limiter=limiter,
            switch=switch,
            clock=clock,
        )
        try:
            yield cloud
        finally:
            cloud.close()


def _keys(config: CloudConfig, *, region: str, metadata: Metadata, clock: Clock, environ: Mapping[str, str]) -> Keys:
    match config.authentication:
        case "files":
            return KeyFiles(Path(config.credentials))
        case "ram-role":
            return Sessions(of_instance(metadata, role=config.ram_role), clock=clock)
        case "oidc":
            sts = config.endpoint or f"https://sts-vpc.{region}.aliyuncs.com"
            return Sessions(by_oidc(environ, endpoint=sts, clock=clock), clock=clock)
