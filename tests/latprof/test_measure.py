import numpy as np
import pytest

from latprof.detect import this_device
from latprof.measure import Bench
from lookup_tables.network import Architecture
from pruner.trace import trace
from tests.toys import tiny_resnet

NETWORK = trace(tiny_resnet(), (1, 8, 8), "tiny").network


@pytest.fixture(scope="module")
def bench():
    return Bench(NETWORK, this_device(), target_s=0.01)


def test_every_layer_of_a_running_network_gets_a_time(bench):
    architecture = Architecture(widths={"conv1": 8}, removed=("layer1.0",))
    sample = bench.measure(architecture)
    expected = [spec for _, spec in NETWORK.layer_specs(architecture)]
    assert [entry.layer for entry in sample.layers] == expected
    assert all(entry.seconds > 0 for entry in sample.layers)
    assert sample.ratio > 0
    assert sample.pairs >= 1


def test_an_uninstrumented_run_has_whole_network_times_only(bench):
    assert bench.measure(Architecture(), instrumented=False).layers == ()


def test_rounds_in_a_slow_phase_are_set_aside(bench):
    quiet = bench.is_quiet(np.array([1.0, 1.02, 1.0, 1.5, 1.01, 3.0]) * 10)
    assert quiet.tolist() == [True, True, True, False, True, False]


def test_at_least_a_quarter_of_the_rounds_is_kept(bench):
    slow = 1000.0 * np.arange(1, 9)
    assert bench.is_quiet(slow).sum() >= 2
