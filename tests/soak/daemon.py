"""`python -m tests.soak.daemon`: the whole daemon under every fault of the cloud and killed at any await, for long.

What of it is real, and what is not, says ``tests.box.mortal_daemon``. Stories are as those of ``tests.soak.books``,
and what goes wrong on a node is told too: kubelet starts anew, the API server is away, sandboxes end without a DEL,
somebody's hand is at our rules and links, the ledger is lost, a process ends between two messages to the kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.box import own_machine
from tests.box.mortal import IN_MEMORY
from tests.box.mortal_daemon import MortalDaemon, mortal_daemon
from tests.soak.books import Step, Story, arguments, tell


class DaemonStory(Story):
    """Random steps of a daemon's life."""

    life: MortalDaemon
    lost = False
    """The ledger is to be lost between two lives."""

    def weights(self) -> dict[Step, int]:
        more: dict[Step, int] = {
            self._kubelet: 2,
            self._api_server: 1,
            self._cut: 4,
            self._lose: 2,
            self._meddle: 2,
            self._ledger: 1,
        }
        return {**super().weights(), **more}

    async def _step(self) -> None:
        await super()._step()
        if self.life.crashed.is_set():
            await self._restart()

    async def _kubelet(self) -> None:
        await self.life.stop_kubelet()
        await asyncio.sleep(self.random.choice([0.0, 2.0, 20.0]))
        await self.life.start_kubelet()

    async def _api_server(self) -> None:
        self.life.kube.away = not self.life.kube.away

    async def _cut(self) -> None:
        self.life.cut(self.random.randrange(200))

    async def _ledger(self) -> None:
        """It is lost; kernel, cloud and the runtime's memory are as they should be then, and not for long."""
        await self._calm()
        await self.life.settle()
        self.lost = True
        await self._kill()

    async def _while_dead(self) -> None:
        if self.lost:
            self.lost = False
            self.life.lose_ledger()

    async def _lose(self) -> None:
        if names := self.life.names():
            await self.life.lose(self.random.choice(names))

    async def _meddle(self) -> None:
        self.life.meddle()
        if self.random.random() < 0.5:
            # And nothing else: the next sweep has put it right.
            await self._calm()
            await asyncio.sleep(90.0)
            await self.life.settle()

    async def _calm(self) -> None:
        self.life.kube.away = False
        self.life.cut(None)
        await super()._calm()

    async def _end(self) -> None:
        self.life.cut(None)
        if self.life.crashed.is_set():
            await self._restart()
        await super()._end()


async def story(seed: int, steps: int) -> Story:
    """One story on a node of its own."""
    random = Random(seed)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        async with mortal_daemon(Path(directory), Random(f"life {seed}"), exclusive_slots=1) as life:
            told = DaemonStory(life, random)
            await told.tell(steps)
            return told


def main() -> int:
    """Stories until ``--steps`` are done."""
    options = arguments(argparse.ArgumentParser(description=__doc__))
    own_machine.enter()
    return tell("daemon", story, options)


if __name__ == "__main__":
    sys.exit(main())
