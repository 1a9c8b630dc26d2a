"""``eniway explain``: why a pod is Pending, node by node."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from eniway.cli.verb import Verb


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("pod", metavar="[NAMESPACE/]POD")
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG or ~/.kube/config")


def _run(options: Namespace) -> int:
    from eniway.extender.explain import main  # noqa: PLC0415 -- a second of imports

    return main(options.pod, options.kubeconfig)


VERB: Final = Verb("explain", "why a pod is Pending, node by node", _arguments, _run)
