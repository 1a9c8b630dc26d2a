"""``eniway``: one program, a process for each subcommand. Heavy imports stay behind the subcommand that needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from eniway import names
from eniway.errors import EniwayError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eniway", description="Pod networking for Kubernetes on Alibaba Cloud.")
    parser.add_argument("--version", action="version", version=metadata.version("eniway"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    node = commands.add_parser("node", help="the node daemon")
    node.add_argument("--config", type=Path, default=Path(names.CONFIG_FILE), help="default: %(default)s")
    operator = commands.add_parser("operator", help="what one process does for the cluster")
    operator.add_argument("--config", type=Path, default=Path(names.CONFIG_FILE), help="default: %(default)s")
    operator.add_argument("--kubeconfig", type=Path, help="how to reach the API server; default: as a pod does")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 after an orderly end, 1 and a line on standard error when it cannot work, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "operator":
            from eniway.operator.app import main as operator  # noqa: PLC0415 -- a second of imports

            return operator(options.config, options.kubeconfig)
        from eniway.node.app import main as node  # noqa: PLC0415 -- as above

        status = node(options.config)
    except* EniwayError as group:
        for error in _leaves(group):
            sys.stderr.write(f"eniway {options.command}: {error}\n")
        status = 1
    return status


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
