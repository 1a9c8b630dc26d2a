"""The command `vpcbox`. Its exit status is 0 only when what was asked for is so.

Each command imports what it needs when it runs: `status` and `sh` answer at once.
"""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vpcbox import control
from vpcbox.faults import FIELDS, Kind
from vpcbox.state import StateError, clear, living

DEFAULT_INSTANCE_TYPE = "ecs.g7.xlarge"
MOST_NODES = 50


class CommandError(Exception):
    """The command cannot do what was asked; the text says why."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    given = _parser().parse_args(arguments)
    given.state = given.state.absolute()
    try:
        given.run(given)
    except (CommandError, StateError, control.RefusedError) as error:
        sys.exit(f"vpcbox: {error}")
    except (FileNotFoundError, ConnectionError) as error:
        sys.exit(f"vpcbox: {given.state}: the box does not answer: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _up(given: argparse.Namespace) -> None:
    from vpcbox.cluster.components.build import ComponentError, ensure
    from vpcbox.install import InstallError, demand_sources
    from vpcbox.launch import LaunchFailedError, Options, launch

    options = Options(
        state=str(given.state),
        nodes=given.nodes,
        instance_type=_instance_type(given.instance_type),
        install=given.install,
        speed=given.speed,
        kube_proxy=given.kube_proxy,
        containerd=_containerd(given.containerd),
        jumbo_frames=given.jumbo_frames,
    )
    began = time.monotonic()
    try:
        if given.install == "eniway":
            demand_sources()
        ensure(progress=lambda line: _progress(time.monotonic() - began, line))
    except (ComponentError, InstallError) as error:
        raise CommandError(error) from error
    before = time.monotonic() - began
    try:
        for elapsed, stage in launch(options):
            _progress(before + elapsed, stage)
    except LaunchFailedError as error:
        raise CommandError(f"{error}\nlogs are in {given.state}; `vpcbox down` clears it") from error
    except KeyboardInterrupt:
        clear(given.state)
        raise
    _progress(time.monotonic() - began, "Ready")


def _containerd(folder: Path | None) -> str:
    from vpcbox.cluster.components.build import CONTAINERD

    if folder is None:
        return ""
    if missing := [name for name in CONTAINERD if not (folder / name).is_file()]:
        raise CommandError(f"--containerd: expected {', '.join(CONTAINERD)} in {folder}, without {', '.join(missing)}")
    return str(folder.absolute())


def _components(given: argparse.Namespace) -> None:
    from vpcbox.cluster.components.build import ComponentError, ensure
    from vpcbox.cluster.components.pins import DEFAULT_GROUPS

    began = time.monotonic()
    more = [name for name in given.groups.split(",") if name]
    try:
        components = ensure(
            dict.fromkeys([*DEFAULT_GROUPS, *more]), lambda line: _progress(time.monotonic() - began, line)
        )
    except ComponentError as error:
        raise CommandError(error) from error
    for name, path in sorted(components.files.items()):
        print(f"{name:28} {path}")


def _status(given: argparse.Namespace) -> None:
    living(given.state)
    status = control.ask(given.state, "status")
    if given.json:
        print(json.dumps(status, indent=2))
        return
    vpc, cloud = status["vpc"], status["openapi"]
    print(f"box         pid {status['pid']}")
    print(f"kubeconfig  {status['kubeconfig']}")
    print(f"OpenAPI     {cloud['endpoint']} region {cloud['region']} access key {cloud['access_key_id']}")
    print(f"VPC         {vpc['id']} route table {vpc['route_table_id']} security group {vpc['security_group_id']}")
    for vswitch in vpc["vswitches"]:
        print(f"vSwitch     {vswitch['id']} {vswitch['zone']} {vswitch['cidr']}")
    for node in (*status["nodes"], status["outside"]):
        where = f"pid {node['pid']}" if node["pid"] else node["status"]
        print(f"{node['name']:11} {node['address']:15} {node['instance_id']} {node['instance_type']} {where}")


def _sh(given: argparse.Namespace) -> None:
    living(given.state)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    place = control.ask(given.state, "place", name=given.node)
    path = os.pathsep.join([*place["path"], os.environ.get("PATH", os.defpath)])
    argv = ["nsenter", f"--target={place['pid']}", "--mount", "--net", "--uts", "--pid", "--", *(command or ["sh"])]
    os.execvpe("nsenter", argv, {**os.environ, "PATH": path})  # noqa: S606 - becomes the command, status and all


def _node_add(given: argparse.Namespace) -> None:
    living(given.state)
    instance_type = _instance_type(given.instance_type) if given.instance_type else None
    print(control.ask(given.state, "node-add", progress=_progress, instance_type=instance_type))


def _instance(given: argparse.Namespace) -> None:
    living(given.state)
    control.ask(given.state, f"instance-{given.power}", progress=_progress, name=given.node)


def _image_load(given: argparse.Namespace) -> None:
    living(given.state)
    if not given.archive.is_file():
        raise CommandError(f"TAR: expected an image archive, found no file {given.archive}")
    control.ask(given.state, "image-load", progress=_progress, archive=str(given.archive.absolute()))


def _fault_add(given: argparse.Namespace) -> None:
    living(given.state)
    rule: dict[str, Any] = {"kind": given.kind}
    for setting in given.settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise CommandError(f"expected FIELD=VALUE, got {setting!r}")
        rule[name] = _number(value) if name in {"status", "per_minute", "count", "seconds"} else value
    print(control.ask(given.state, "fault-add", rule=rule))


def _fault_list(given: argparse.Namespace) -> None:
    living(given.state)
    for rule in control.ask(given.state, "fault-list"):
        print(json.dumps(rule))


def _fault_clear(given: argparse.Namespace) -> None:
    living(given.state)
    print(f"{control.ask(given.state, 'fault-clear', id=given.id)} cleared")


def _down(given: argparse.Namespace) -> None:
    print("down" if clear(given.state) else f"no box in {given.state}")


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # the box says what it expected


def _progress(elapsed: float, stage: str) -> None:
    print(f"{elapsed:7.1f} s  {stage}", file=sys.stderr, flush=True)


def _instance_type(name: str) -> str:
    from vpcbox.world.instance_types import load

    known = load()
    full = name if name.startswith("ecs.") else f"ecs.{name}"
    if full not in known:
        raise CommandError(f"--instance-type: expected one of {', '.join(known)}; got {name!r}")
    return full


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= MOST_NODES:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {MOST_NODES}, got {text!r}")
    return int(text)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 1000, got {text!r}")
    return speed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vpcbox", description="A VPC in a box, with a real Kubernetes on it.")
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument("--state", type=Path, default=Path(".box"), metavar="DIR", help="the box's directory (.box)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, to: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = to.add_parser(name, help=text, description=text, parents=[state])
        made.set_defaults(run=run)
        return made

    def group(name: str, text: str) -> Any:
        return commands.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="COMMAND")

    components = command("components", _components, "build or find the real components of Kubernetes")
    components.add_argument("--with", dest="groups", default="", metavar="GROUP,…", help="more groups: cnitool")

    up = command("up", _up, "make a box and wait until it is Ready")
    up.add_argument("--nodes", type=_count, default=3, metavar="N", help="nodes of the cluster (3)")
    up.add_argument("--instance-type", default=DEFAULT_INSTANCE_TYPE, metavar="T", help=DEFAULT_INSTANCE_TYPE)
    up.add_argument("--install", choices=("eniway", "none"), default="eniway", help="the pod network (eniway)")
    up.add_argument(
        "--speed", type=_speed, default=1.0, metavar="X", help="the cloud's time runs so many times as fast (1)"
    )

    up.add_argument(
        "--kube-proxy", choices=("iptables", "nftables"), default="iptables", help="kube-proxy's mode (iptables)"
    )
    up.add_argument(
        "--containerd", type=Path, metavar="DIR", help="take containerd, its shim and ctr (1.6 or later) from there"
    )
    up.add_argument("--jumbo-frames", action="store_true", help="MTU 8500 on instances whose type has it")

    status = command("status", _status, "what is in the box, and where")
    status.add_argument("--json", action="store_true", help="for programs")

    shell = command("sh", _sh, "run a command in the namespaces of a node, of `outside` or of `control`")
    shell.add_argument("node", metavar="NODE")
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD…")

    node_add = command("add", _node_add, "one more node", group("node", "the cluster's nodes"))
    node_add.add_argument("--instance-type", metavar="T", help="as the others'")

    instance = group("instance", "the power of the cluster's instances")
    for verb, text in {
        "stop": "cut an instance's power: its ENIs stay attached",
        "start": "boot a stopped instance, and wait until its node is there again",
        "reboot": "stop and start",
        "release": "give an instance back to the cloud, its pods and its disk with it",
    }.items():
        power = command(verb, _instance, text, instance)
        power.add_argument("node", metavar="NODE")
        power.set_defaults(power=verb)

    load = command("load", _image_load, "bring an image archive to every node", group("image", "images of the nodes"))
    load.add_argument("archive", type=Path, metavar="TAR")

    fault = group("fault", "what goes wrong in the cloud")
    add = command("add", _fault_add, "put a rule in force; prints its id", fault)
    add.add_argument("kind", metavar="KIND", help=", ".join(Kind))
    add.add_argument("settings", nargs="*", metavar="FIELD=VALUE", help=f"of {', '.join(FIELDS)}")
    command("list", _fault_list, "the rules in force, a line of JSON each", fault)
    clear_ = command("clear", _fault_clear, "drop a rule, or all", fault)
    clear_.add_argument("id", nargs="?", metavar="ID")

    command("down", _down, "end the box and remove all of it; nothing to do is fine")
    return parser
