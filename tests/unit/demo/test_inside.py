"""A pod's processes are found by the cgroups that kubelet names after it."""

from __future__ import annotations

from pathlib import Path

from demo import inside

UID = "0f1e2d3c-0000-4000-8000-000000000001"


def test_process_is_found_by_the_pod_uid_in_its_cgroup(tmp_path: Path) -> None:
    """Both spellings of kubelet's cgroup drivers count, other processes and vanished ones do not."""
    other = "0f1e2d3c-0000-4000-8000-000000000002"
    for pid, cgroup in {
        "7": f"4:memory:/node-1/kubepods/burstable/pod{UID}/abc\n",
        "8": f"0::/kubepods.slice/kubepods-pod{other.replace('-', '_')}.slice/cri-x.scope\n",
        "9": "0::/init.scope\n",
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(cgroup)
    (tmp_path / "10").mkdir()
    assert inside.pids([UID, other, "absent"], proc=tmp_path) == {UID: 7, other: 8}
