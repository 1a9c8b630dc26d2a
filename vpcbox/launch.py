"""The birth of the box process: pid 1 of a new PID namespace, in the machine's network namespace."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vpcbox import state
from vpcbox.fabric import netns


@dataclass(frozen=True)
class Options:
    """What a box is to be."""

    state: str  # absolute path
    nodes: int
    instance_type: str
    install: str  # eniway or none
    speed: float = 1.0
    kube_proxy: str = "iptables"  # its mode, or nftables
    containerd: str = ""  # absolute path of a folder with another containerd; empty: the one that is built
    jumbo_frames: bool = False  # for instances whose type has them
    cluster: bool = True  # False: instances, and no cluster on them


class LaunchFailedError(Exception):
    """The box ended before it was ready, or cannot get ready; the text is its reason."""


def launch(options: Options) -> Iterator[tuple[float, str]]:
    """Start a box and yield (seconds since, what it does) until it is ready.

    Raises StateError where none can be, LaunchFailedError with the reason if it ends or is not what was asked for. The
    box outlives the caller.
    """
    if os.geteuid() != 0:
        raise state.StateError("a box is made of namespaces, mounts and cgroups: it must be run as root")
    directory = Path(options.state)
    state.prepare(directory)
    box_id = secrets.token_hex(3)
    said, says = os.pipe()
    try:
        pid = _spawn(options, box_id, says)
    except BaseException:
        os.close(said)
        shutil.rmtree(directory)
        raise
    finally:
        os.close(says)
    with open(said) as progress:  # noqa: PTH123 - a pipe
        state.write(directory, state.Record(box_id, pid, state.start_time(pid) or 0))
        for line in progress:
            event = json.loads(line)
            if "error" in event:
                raise LaunchFailedError(event["error"])
            if event["stage"] == "ready":
                return
            yield event["elapsed"], event["stage"]
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    how = signal.Signals(-ended).name if ended < 0 else f"exit status {ended}"
    raise LaunchFailedError(f"the box ended without a word ({how}); its log is {directory / state.LOG}")


def _spawn(options: Options, box_id: str, says: int) -> int:
    python_path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    os.set_inheritable(says, True)
    with open("/proc/self/ns/pid", "rb") as home, (Path(options.state) / state.LOG).open("ab") as log:  # noqa: PTH123
        try:
            netns.unshare(netns.CLONE_NEWPID)  # holds for children only, the first of which is pid 1
        except PermissionError as error:
            raise state.StateError("a box is made of namespaces: this root may not make any") from error
        try:
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", "vpcbox.box", box_id, str(says), json.dumps(asdict(options))],
                {**os.environ, "PYTHONPATH": python_path},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                ],
                setsid=True,
            )
        finally:
            netns.setns(home.fileno(), netns.CLONE_NEWPID)
