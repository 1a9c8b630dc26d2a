"""``eniway operator``: what one process does for the cluster."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from eniway import names
from eniway.cli.verb import Verb


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path(names.CONFIG_FILE), help="default: %(default)s")
    parser.add_argument("--kubeconfig", type=Path, help="how to reach the API server; default: as a pod does")


def _run(options: Namespace) -> int:
    from eniway.operator.app import main  # noqa: PLC0415 -- a second of imports

    return main(options.config, options.kubeconfig)


VERB: Final = Verb("operator", "what one process does for the cluster", _arguments, _run)
