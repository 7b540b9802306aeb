"""Which sessions of a comparison count; the timing itself runs in test_journeys."""

from latprof.compare import quiet_sessions
from latprof.measure import Rounds


def session(dense_s: float, pruned_s: float = 1.0) -> Rounds:
    return Rounds([dense_s] * 5, [pruned_s] * 4, [False] * 4)


def test_sessions_in_which_the_dense_network_was_slow_do_not_count():
    quiet, slow = session(1.0), session(1.4)
    assert quiet_sessions([slow, quiet, slow]) == [quiet]


def test_the_pruned_networks_time_never_decides():
    sessions = [session(1.0, 0.5), session(1.05, 5.0), session(1.02, 0.1)]
    assert quiet_sessions(sessions) == sessions


def test_before_the_first_session_none_is_quiet():
    assert quiet_sessions([]) == []
