"""What lies idle for long enough: against a plain minimum over the window."""

from hypothesis import given
from hypothesis import strategies as st

from eniallocator.idle import Idle

STEPS = st.lists(st.tuples(st.floats(0.1, 20.0), st.integers(0, 30)), min_size=1, max_size=40)


@given(STEPS)
def test_never_more_than_was_idle_all_the_time(steps: list[tuple[float, int]]) -> None:
    """Of no moment of the last 30 seconds."""
    idle, now, seen = Idle(30.0, now=0.0), 0.0, [(0.0, 0)]
    for pause, surplus in steps:
        now += pause
        seen.append((now, surplus))
        recent = [value for at, value in seen if at > now - 30.0]
        assert idle.spare(surplus, now) <= min(recent)


@given(STEPS)
def test_what_stays_idle_is_spare_in_the_end(steps: list[tuple[float, int]]) -> None:
    """Nothing is kept for ever, and the time at which it is told to look again is right."""
    idle, now = Idle(30.0, now=0.0), 0.0
    for pause, surplus in steps:
        now += pause
        idle.spare(surplus, now)
    last = steps[-1][1]
    for _ in range(len(steps) + 1):
        if (at := idle.next(now)) is None:
            break
        now = at
        idle.spare(last, now)
    assert idle.spare(last, now) == last


def test_pods_that_come_and_go_leave_nothing_spare() -> None:
    """Thirty go and thirty come, every minute, for an hour."""
    idle = Idle(300.0, now=0.0)
    for minute in range(60):
        assert idle.spare(30, minute * 60.0) == 0
        assert idle.spare(0, minute * 60.0 + 30.0) == 0
