from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eniway.trace import Recent, Record, Step, Steps


@given(st.lists(st.floats(min_value=0, max_value=9)), st.floats(min_value=0, max_value=9))
def test_steps_leave_no_time_out(waits: Sequence[float], last: float) -> None:
    """From the first to the end, each begins where the one before ends."""
    now = 0.0
    steps = Steps(lambda: now)
    for number, wait in enumerate(waits):
        steps.enter(str(number))
        now += wait
    now += last
    over = steps.over()
    assert [step.name for step in over] == [str(number) for number in range(len(waits))]
    assert sum(step.seconds for step in over) == pytest.approx(now if waits else 0)


def record(pod: str, verb: str) -> Record:
    return Record(
        verb=verb,
        pod=pod,
        uid="u",
        container="c",
        kind="shared",
        result="success",
        at=0,
        seconds=1,
        steps=(Step("kernel", 1),),
    )


def test_the_oldest_request_is_forgotten_for_the_newest() -> None:
    """Memory is bounded whatever a node goes through."""
    recent = Recent(kept=2)
    for verb in ("ADD", "DEL", "ADD"):
        recent.add(record("default/web", verb))
    recent.add(record("default/other", "ADD"))
    assert [one.verb for one in recent.of("default/web")] == ["ADD"]
    assert recent.of("default/nobody") == []
