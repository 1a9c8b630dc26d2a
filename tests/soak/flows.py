"""A stream of numbered datagrams in each pod's network namespace, to an instance that is no node and back."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.box import Instance

PORT = 5401


@dataclass(frozen=True, slots=True)
class Count:
    """What became of a flow."""

    sent: int
    received: int
    missing: tuple[int, ...]
    """The first numbers that did not come back."""

    @property
    def complaint(self) -> str:
        """Empty where every datagram came back, and there was one."""
        if not self.sent:
            return "nothing was sent"
        lost = self.sent - self.received
        return f"{lost} of {self.sent} datagrams lost, the first {self.missing}" if lost else ""


class Flows:
    """Flows by the name of their pod; ended by ``end``, or all at the end of ``flows``."""

    def __init__(self, program: Path, target: Instance) -> None:
        self._argv = [str(program), "send", str(target.address), str(PORT)]
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._running

    def begin(self, name: str, pid: int) -> None:
        """In the network namespace of a process; returns when the first datagram is on its way, or nothing can be."""
        argv = ["nsenter", f"--net=/proc/{pid}/ns/net", *self._argv]
        self._running[name] = sender = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert sender.stdout is not None
        sender.stdout.readline()

    def end(self, name: str) -> Count | None:
        """Stop one and count; None where there was none."""
        if (process := self._running.pop(name, None)) is None:
            return None
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
        sent, received, *missing = map(int, said.split() or ["0", "0"])
        return Count(sent, received, tuple(missing))

    def names(self) -> list[str]:
        """Of those that run."""
        return list(self._running)


@contextmanager
def flows(directory: Path, target: Instance) -> Iterator[Flows]:
    """Flows to ``target``, which echoes."""
    program = directory / "flow"
    source = Path(__file__).with_name("flow.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    argv = ["nsenter", f"--net={target.netns}", str(program), "echo", str(target.address), str(PORT)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdout is not None
        if echo.stdout.readline() != "ready\n":
            raise RuntimeError("the echo did not begin")
        running = Flows(program, target)
        try:
            yield running
        finally:
            for name in running.names():
                running.end(name)
            echo.terminate()
