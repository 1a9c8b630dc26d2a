"""``eniway extender``: the scheduler's extender, beside kube-scheduler."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from eniway.cli.verb import Verb


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="default: none, each key has its own")
    parser.add_argument("--kubeconfig", type=Path, help="how to reach the API server; default: as a pod does")


def _run(options: Namespace) -> int:
    from eniway.extender.app import main  # noqa: PLC0415 -- a second of imports

    return main(options.config, options.kubeconfig)


VERB: Final = Verb("extender", "the scheduler's extender, beside kube-scheduler", _arguments, _run)
