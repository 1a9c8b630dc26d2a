"""``eniway node``: the node daemon."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from eniway import names
from eniway.cli.verb import Verb


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path(names.CONFIG_FILE), help="default: %(default)s")


def _run(options: Namespace) -> int:
    from eniway.node.app import main  # noqa: PLC0415 -- a second of imports

    return main(options.config)


VERB: Final = Verb("node", "the node daemon", _arguments, _run)
