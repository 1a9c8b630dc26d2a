"""``eniway uninstall``: clean the node that it runs on. In the place of the daemon's pod: docs/install.md."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from eniway import names
from eniway.cli.verb import FAILED, NOT_WELL, OK, REFUSED, Verb


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path(names.CONFIG_FILE), help="default: %(default)s")
    parser.add_argument(
        "--stay",
        action="store_true",
        help="in the place of the daemon: wait for pods to end, clean the node, then be Ready and stay",
    )


def _run(options: Namespace) -> int:
    from eniway.node.uninstall import InUse, main  # noqa: PLC0415 -- a second of imports

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        remains = main(options.config, stays=options.stay, told=tell)
    except InUse as error:
        sys.stderr.write(f"eniway uninstall: refused: {error}\n")
        return REFUSED
    for line in remains.lines:
        sys.stderr.write(f"eniway uninstall: remains: {line}\n")
    if remains.node:
        return FAILED
    return NOT_WELL if remains.cloud else OK


VERB: Final = Verb("uninstall", "clean this node, once its daemon and its pods have ended", _arguments, _run)
