import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]


def _vpcbox(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "vpcbox", *words]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "--nodes", "many"), "--nodes: expected a number from 0 to 50, got 'many'"),
        (("up", "--speed", "0"), "--speed: expected a number above 0"),
        (("up", "--install", "none", "--instance-type", "g0.tiny"), "--instance-type: expected one of ecs."),
        (("up", "--install", "calico"), "--install: invalid choice"),
        (("status",), "there is no box"),
        (("sh", "node-1", "--", "true"), "there is no box"),
        (("node", "add"), "there is no box"),
        (("image", "load", "/nowhere.tar"), "there is no box"),
        (("fault", "list"), "there is no box"),
        (("frobnicate",), "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """The exit status is not 0, the message names the field or the reason, and nothing is made."""
    verb = 2 if words[0] in {"node", "image", "fault"} else 1
    answer = _vpcbox(*words[:verb], "--state", str(tmp_path / "box"), *words[verb:])
    assert answer.returncode != 0
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "box").exists()


def test_down_without_a_box_is_fine(tmp_path: Path) -> None:
    """Nothing to do is no error."""
    assert _vpcbox("down", "--state", str(tmp_path / "box")).returncode == 0
