"""The cgroups of nodes: one for each, in every hierarchy of the machine (cgroup v1, hybrid, or v2)."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchies(root: Path = ROOT) -> list[Path]:
    """Where cgroups can be made: the root itself under cgroup v2, each controller's folder under v1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    # cpu → cpu,cpuacct and the like are symbolic links to a folder that is listed anyway
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.is_symlink())


def create(path: str, root: Path = ROOT) -> None:
    """Make the cgroup `path` (relative, such as vpcbox-ab12/node-1) usable in every hierarchy; existing ones are kept.

    A cpuset of v1 begins empty and takes no process before it has been given processors and memory nodes; a cgroup of
    v2 offers its children no controller before they are named.
    """
    for hierarchy in hierarchies(root):
        parent = hierarchy
        for part in Path(path).parts:
            _delegate(parent)
            cgroup = parent / part
            cgroup.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if hierarchy != root and (parent / name).exists() and not (cgroup / name).read_text().strip():
                    (cgroup / name).write_text((parent / name).read_text())
            parent = cgroup
        _delegate(parent)


def processes(path: str, root: Path = ROOT) -> set[int]:
    """The processes in the cgroup `path` and below, in any hierarchy, as far as the caller's PID namespace has them."""
    return {
        int(pid)
        for hierarchy in hierarchies(root)
        for folder, _, _ in os.walk(hierarchy / path)
        for pid in _lines(Path(folder, "cgroup.procs"))
        if pid != "0"
    }


def remove(path: str, root: Path = ROOT) -> bool:
    """Remove the cgroup `path` and those below in every hierarchy; False as long as the kernel holds on to one."""
    for hierarchy in hierarchies(root):
        for folder, _, _ in os.walk(hierarchy / path, topdown=False):
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:  # a process is on its way out
                    raise
                return False
    return True


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except FileNotFoundError:  # the cgroup went away meanwhile
        return []


def _delegate(cgroup: Path) -> None:
    if (cgroup / "cgroup.subtree_control").exists():
        for controller in _missing(cgroup):
            (cgroup / "cgroup.subtree_control").write_text(f"+{controller}")


def _missing(cgroup: Path) -> Iterator[str]:
    given = (cgroup / "cgroup.subtree_control").read_text().split()
    return (name for name in (cgroup / "cgroup.controllers").read_text().split() if name not in given)
