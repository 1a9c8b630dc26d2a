"""Runs on a node: CNI ADD by one executable after the other, then many at once, each into a fresh namespace.

cni_add.py ROUND COUNT TOGETHER: makes COUNT ADDs of each plugin in turn, then TOGETHER of eniway's at once, undoes
them and prints {"eniway": [ms…], "bridge": [ms…], "together": [ms…]}. The wall time is that of the executable, from its
start to its end, as a runtime would wait for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE = Path("/run/eniway-bench")
ENIWAY = Path("/opt/cni/bin/eniway")
CONFLIST = Path("/etc/cni/net.d/10-eniway.conflist")
BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "type": "bridge",
    "bridge": "bench0",
    "isGateway": True,
    "ipam": {"type": "host-local", "subnet": "10.245.0.0/24", "dataDir": str(STATE / "host-local")},
}


def eniway_configuration() -> dict[str, Any]:
    """What a runtime hands the first plugin of the installed conflist."""
    conflist = json.loads(CONFLIST.read_text())
    plugin: dict[str, Any] = conflist["plugins"][0]
    runtime: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": {}}
    return {"cniVersion": conflist["cniVersion"], "name": conflist["name"], "runtimeConfig": runtime, **plugin}


def environment_of(verb: str, executable: Path, name: str) -> dict[str, str]:
    """What a runtime tells a plugin of the pod and namespace ``name``."""
    uid = f"00000000-0000-4000-8000-{int(name.encode().hex()[-12:], 16):012x}"
    arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={name};K8S_POD_UID={uid}"
    return {
        **os.environ,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": name.encode().hex().ljust(64, "0"),
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(executable.parent),
        "CNI_ARGS": arguments,
    }


def call(verb: str, executable: Path, configuration: dict[str, Any], name: str) -> float:
    """One call of a plugin; its wall time in milliseconds. RuntimeError with the plugin's words where it fails."""
    environment = environment_of(verb, executable, name)
    stdin = json.dumps(configuration).encode()
    began = time.perf_counter()
    done = subprocess.run([executable], input=stdin, env=environment, stdout=subprocess.PIPE, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{executable.name} {verb}: {done.stdout.decode(errors='replace')}")
    return took * 1000


def together(verb: str, names: list[str]) -> list[float]:
    """All names at once by eniway's executable; the wall time of each in milliseconds."""
    began: dict[int, float] = {}
    took: list[float] = []
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(json.dumps(eniway_configuration()).encode())
        stdin.flush()
        for name in names:
            # A file of its own: whoever shares one shares its position.
            given = os.open(f"/proc/self/fd/{stdin.fileno()}", os.O_RDONLY)
            at = time.perf_counter()
            process = os.posix_spawn(
                ENIWAY,
                [str(ENIWAY)],
                environment_of(verb, ENIWAY, name),
                file_actions=[(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, stdout.fileno(), 1)],
            )
            began[process] = at
            os.close(given)
        while began:
            process, status = os.wait()
            took.append((time.perf_counter() - began.pop(process)) * 1000)
            if status:
                raise RuntimeError(f"eniway {verb}: {os.pread(stdout.fileno(), 1 << 16, 0).decode(errors='replace')}")
    return took


@contextmanager
def namespaces(names: list[str]) -> Iterator[None]:
    """Empty ones of these names."""
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def main() -> None:
    """Measure."""
    turn, count, many = map(int, sys.argv[1:4])
    bridge = shutil.which("host-local")
    if bridge is None:
        raise SystemExit("the reference plugins are not in PATH")
    plugins = {"eniway": (ENIWAY, eniway_configuration()), "bridge": (Path(bridge).with_name("bridge"), BRIDGE)}
    order = list(plugins) if turn % 2 else list(reversed(plugins))
    took: dict[str, list[float]] = {name: [] for name in plugins}
    for number in range(count):
        for plugin in order:
            executable, configuration = plugins[plugin]
            name = f"b{turn}n{number}{plugin[0]}"
            with namespaces([name]):
                took[plugin].append(call("ADD", executable, configuration, name))
                call("DEL", executable, configuration, name)
    names = [f"b{turn}m{number}" for number in range(many)]
    with namespaces(names):
        took["together"] = together("ADD", names)
        together("DEL", names)
    subprocess.run(["ip", "link", "delete", "bench0"], check=False)
    shutil.rmtree(STATE, ignore_errors=True)
    sys.stdout.write(json.dumps(took) + "\n")


if __name__ == "__main__":
    main()
