"""What of a suite has been run, in a file: a run that was ended goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part of a suite ended."""

    name: str
    passed: bool
    seconds: float
    checks: int = 0
    """Single probes or specs in it, where the suite counts them."""
    said: str = ""
    """Why it failed."""


class Progress:
    """Outcomes by name, one JSON line each; a part that failed is run again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = {outcome.name: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}

    def passed(self, name: str) -> bool:
        """Whether this part has passed before."""
        return name in self._known and self._known[name].passed

    def add(self, outcome: Outcome) -> None:
        """Note an outcome, on disk before this returns."""
        self._known[outcome.name] = outcome
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")

    def outcome(self, name: str) -> Outcome | None:
        """The last outcome of a part."""
        return self._known.get(name)
