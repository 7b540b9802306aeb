import os

import pytest

from latprof.machine import cores as module
from latprof.machine.cores import Cores
from tests.toys import DEVICE

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a thread to a core"
)


@pytest.fixture
def two_cores(monkeypatch):
    """A machine of two cores; the list of what the thread was bound to."""
    bound = []
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(module.os, "sched_setaffinity", lambda _, cores: bound.append(set(cores)))
    return bound


def test_a_thread_is_bound_while_it_measures_and_free_again_after():
    before = os.sched_getaffinity(0)
    with Cores(DEVICE) as cores:
        assert len(os.sched_getaffinity(0)) == 1
        cores.move()
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_a_thread_is_free_again_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), Cores(DEVICE):
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


def test_two_slow_runs_in_a_row_move_it_to_the_other_core(two_cores):
    with Cores(DEVICE) as cores:
        for quiet in (True, False, True, False):
            cores.saw(quiet)
        assert two_cores == [{0}]
        cores.saw(False)
    assert two_cores == [{0}, {1}, {0, 1}]


def test_where_every_core_is_slow_it_moves_less_and_less_often(two_cores):
    with Cores(DEVICE) as cores:
        for _ in range(2 + 4 + 8):
            cores.saw(False)
        assert two_cores == [{0}, {1}, {0}, {1}]
        cores.saw(True)
        cores.saw(False)
        cores.saw(False)
        assert two_cores[-1] == {0}


def test_the_core_stays_from_one_measurement_to_the_next(two_cores):
    cores = Cores(DEVICE)
    with cores:
        cores.move()
    with cores:
        pass
    assert two_cores == [{0}, {1}, {0, 1}, {1}, {0, 1}]


@pytest.mark.parametrize(("threads", "on_processor"), [(2, True), (1, False)])
def test_more_threads_and_gpus_are_left_where_the_system_puts_them(
    two_cores, threads, on_processor
):
    with Cores(DEVICE.model_copy(update={"threads": threads}), on_processor) as cores:
        cores.move()
    assert two_cores == []
