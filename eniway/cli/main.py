"""``eniway``: one program, a file of this folder for each subcommand (verb.py says what one is)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Final

from eniway.cli import doctor, explain, extender, node, operator, pods, status, trace, uninstall
from eniway.cli.verb import FAILED, Verb
from eniway.errors import EniwayError

VERBS: Final[tuple[Verb, ...]] = (
    node.VERB,
    operator.VERB,
    extender.VERB,
    explain.VERB,
    status.VERB,
    pods.VERB,
    trace.VERB,
    doctor.VERB,
    uninstall.VERB,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eniway", description="Pod networking for Kubernetes on Alibaba Cloud.")
    parser.add_argument("--version", action="version", version=metadata.version("eniway"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for verb in VERBS:
        verb.arguments(commands.add_parser(verb.name, help=verb.summary, description=verb.summary))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit status, as verb.py lists them."""
    options = _parser().parse_args(arguments)
    (chosen,) = (verb for verb in VERBS if verb.name == options.command)
    status = FAILED
    try:
        status = chosen.run(options)
    except* EniwayError as group:
        for error in _leaves(group):
            sys.stderr.write(f"eniway {options.command}: {error}\n")
    return status


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
