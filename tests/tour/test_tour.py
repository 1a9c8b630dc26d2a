"""The tour's commands, pasted one after the other into one shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

from demo.box import Box
from tests.box import hold
from vpcbox.cluster.components import ensure

PAGE = Path(__file__).parents[2] / "docs/tour.md"


def test_every_command_of_the_tour_works(box: Box, tmp_path: Path) -> None:
    """Where a reader would be: in a folder with `.box`, with kubectl, vpcbox and eniway in PATH."""
    kube = hold.kube_of(box)
    hold.clear(kube)
    hold.cool(kube)  # a node whose addresses all cool is not as it should be, and `eniway status` says so
    (tmp_path / ".box").symlink_to(box.state)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").symlink_to(ensure(["kubernetes"]).path("kubectl"))
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert "eniway trace shared" in commands
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-x", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "KUBECONFIG": box.status().kubeconfig},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert len(re.findall(r"was asked by", done.stdout)) == 3
    hold.agree(box)
