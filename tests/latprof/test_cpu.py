"""ONNX Runtime on CPU: what its profiler says, and what it keeps to itself."""

import numpy as np
import pytest

from latprof import CannotRun
from latprof.onnx.writer import build, random_input
from latprof.runtimes import ort_cpu as cpu
from latprof.runtimes.here import this_device
from latprof.runtimes.ort_cpu import Instrumented, require_all_kept
from lookup_tables.network import INPUT
from tests.toys import chain

NETWORK = chain(8, 8, 8)


def test_a_profiler_that_stopped_before_the_last_run_is_an_error():
    require_all_kept(cpu.MOST_EVENTS - 1, runs=10)
    with pytest.raises(CannotRun, match="keeps 1000000 events, but 10 runs"):
        require_all_kept(cpu.MOST_EVENTS, runs=10)


def test_a_network_whose_runs_make_too_many_events_is_refused(monkeypatch):
    model = build(NETWORK, NETWORK.dense).SerializeToString()
    feed = {INPUT: random_input(NETWORK)}
    made = Instrumented(NETWORK, NETWORK.dense, model, feed, this_device())
    for _ in range(3):
        made.run()
    monkeypatch.setattr(cpu, "MOST_EVENTS", 3)
    with pytest.raises(CannotRun, match="a network with fewer layers"):
        made.layer_times(np.ones(3), np.ones(3, dtype=bool))
