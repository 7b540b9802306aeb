"""What only a GPU can show. Run by `make gpu-check`; nothing here skips."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from latprof.onnx.writer import build, random_input
from latprof.profile.bench import Bench
from latprof.profile.journey import Goal, profile
from latprof.runtimes.base import Usage
from latprof.runtimes.cards import gpus
from latprof.runtimes.here import this_device
from lookup_tables.architecture import Architecture
from lookup_tables.network import INPUT, Network
from lookup_tables.table.store import LatencyTable

pytestmark = pytest.mark.gpu
NETWORK = Network.load("resnet20")


@pytest.fixture(scope="module")
def device():
    assert gpus(), "no NVIDIA GPU: this check needs one"
    return this_device("cuda")


@pytest.fixture(scope="module")
def bench(device):
    return Bench(NETWORK, device, target_s=0.05)


def test_the_identity_names_driver_cuda_and_cudnn(device):
    assert device.kind == "cuda"
    assert device.driver
    assert device.cuda not in (None, "unknown")
    assert device.cudnn not in (None, "unknown")
    assert this_device(device.name) == device


def test_the_gpu_computes_what_the_cpu_computes(device):
    import onnxruntime as ort

    from latprof.runtimes.cuda_session import _Bound

    model = build(NETWORK, NETWORK.dense).SerializeToString()
    feed = {INPUT: random_input(NETWORK)}
    cpu = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    bound = _Bound(model, feed, device, graph=False)
    bound.run()
    bound._binding.synchronize_outputs()
    gpu = bound._tensors[-1].numpy()
    assert np.allclose(gpu, cpu, rtol=1e-2, atol=1e-2 * np.abs(cpu).max())


def test_every_layer_is_timed_and_the_sum_is_near_the_whole(bench):
    sample = bench.measure(NETWORK.dense)
    assert [entry.layer for entry in sample.layers] == [
        spec for _, spec in NETWORK.layer_specs(NETWORK.dense)
    ]
    total_s = sum(entry.seconds for entry in sample.layers)
    assert 0.5 < total_s / sample.whole_s < 2


def test_a_graph_is_replayed_beside_the_stream(bench):
    sample = bench.measure(Architecture(widths={"conv1": 8}), instrumented=False)
    assert sample.graph_ratio > 0


def test_clocks_and_throttling_are_noted_with_every_run(bench):
    conditions = bench.measure(NETWORK.dense, instrumented=False).conditions
    assert conditions.sm_clock_mhz > 100
    assert conditions.power_w > 0


@pytest.mark.parametrize("usage", [Usage(precision="fp16"), Usage(batch=8), Usage(cuda_graph=True)])
def test_every_way_of_use_runs(usage):
    sample = Bench(NETWORK, this_device("cuda", usage), target_s=0.02).measure(NETWORK.dense)
    assert sample.ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", [n for n in ("pycuda", "torch") if find_spec(n)])
def test_events_come_from_either_library_that_is_there(name):
    from latprof.runtimes import cuda_driver

    made = {"pycuda": cuda_driver._Pycuda, "torch": cuda_driver._Torch}[name]()
    first, last = made.event(), made.event()
    made.record(first)
    made.delay(0.01)
    made.record(last)
    made.wait(last)
    assert 0.005 < made.between_s(first, last) < 0.05
    assert made.card.startswith(gpus()[0].name)


def test_a_table_is_profiled_and_written(device, tmp_path):
    outcome = profile(
        NETWORK, device, tmp_path / "t", levels=2, goal=Goal(budget_s=60.0, samples=4)
    )
    table = LatencyTable.open(tmp_path / "t")
    assert outcome.menu.architectures > 0
    rows = [json.loads(line) for line in table.path("resnet20").read_text().splitlines()]
    assert all("conditions" in row for row in rows if row["row"] == "run")
