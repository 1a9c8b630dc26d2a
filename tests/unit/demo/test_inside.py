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


def test_a_container_is_told_from_what_a_dead_runtime_has_left_of_its_pod(tmp_path: Path) -> None:
    """Both have the pod's cgroup."""
    for pid, container in (("7", "left"), ("8", "abc")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(f"0::/node-1/kubepods/pod{UID}/{container}\n")
    assert inside.pids_in(["abc", "gone"], proc=tmp_path) == {"abc": 8}


def test_resident_memory_is_summed_over_the_processes_of_a_container(tmp_path: Path) -> None:
    """The pod's sandbox and other pods do not count; a kernel thread has no memory to count."""
    for pid, container, status in (
        ("7", "abc", "Name:\tpython\nVmRSS:\t  100 kB\n"),
        ("8", "abc", "Name:\tkthread\n"),
        ("9", "def", "VmRSS:\t  50 kB\n"),
        ("11", "abc", "VmRSS:\t  20 kB\n"),
    ):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(f"4:memory:/node-1/kubepods/pod{UID}/{container}\n")
        (tmp_path / pid / "status").write_text(status)
    assert inside.resident("abc", proc=tmp_path) == 120 * 1024
