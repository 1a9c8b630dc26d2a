"""`python -m tests.conformance`: suites of others against eniway in a box, with pods of a kind they do not know of.

What has passed of e2e and cyclonus with this build of the image is noted under build/conformance and not run again;
`--afresh` forgets it. Exit status 0 only if all passed.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tests.conformance import cni, cyclonus, e2e
from tests.conformance.cluster import KINDS, cluster
from tests.conformance.progress import Outcome, Progress

BUILD = Path("build/conformance")


def main() -> int:
    """Run what is left of a suite."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--suite", choices=("cni", "e2e", "cyclonus"), required=True)
    parser.add_argument("--kind", choices=KINDS, default="shared", help="what the suite's pods are")
    parser.add_argument("--full", action="store_true", help="cyclonus: two ports, TCP and UDP")
    parser.add_argument("--only", default="", help="parts whose name contains this")
    parser.add_argument("--afresh", action="store_true", help="run again what has passed before")
    options = parser.parse_args()
    if options.suite == "cni":
        return cni.run()
    scratch = (BUILD / f"{options.suite}-{options.kind}{'-full' if options.full else ''}").absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    built = (BUILD.parent / "eniway-image.tar.digest").read_text().strip().removeprefix("sha256:")
    notes = scratch / f"outcomes-{built[:12]}.jsonl"
    if options.afresh:
        notes.unlink(missing_ok=True)
    progress = Progress(notes)
    module = {"e2e": e2e, "cyclonus": cyclonus}[options.suite]
    asked = {"images": module.IMAGES, "programs": module.PROGRAMS}
    with cluster(scratch / "box", options.suite, kind=options.kind, **asked) as made:
        if options.suite == "e2e":
            parts, run = e2e.names(made, scratch), partial(e2e.run, made, scratch)
        else:
            parts, run = list(cyclonus.PARTS), partial(cyclonus.run, made, scratch, full=options.full)
        for name in parts:
            if options.only not in name or progress.passed(name):
                continue
            outcome = run(name)
            progress.add(outcome)
            print(_line(outcome), flush=True)
    outcomes = [progress.outcome(name) for name in parts]
    passed = [outcome for outcome in outcomes if outcome is not None and outcome.passed]
    print(f"{options.suite}, {options.kind} pods: {len(passed)} of {len(parts)} parts passed")
    return 0 if len(passed) == len(parts) else 1


def _line(outcome: Outcome) -> str:
    verdict = "passed" if outcome.passed else "FAILED"
    return f"{verdict}  {outcome.seconds:6.1f} s  {outcome.checks:5} checks  {outcome.name}  {outcome.said}"


if __name__ == "__main__":
    sys.exit(main())
