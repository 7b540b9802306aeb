"""The GPU's way of measuring, played on the CPU: same sessions, bindings and chain, another clock.

Whether a GPU agrees is for `make gpu-check`.
"""

import time

import numpy as np
import onnxruntime as ort
import pytest
import torch

from latprof import CannotRun, DeviceNotHere
from latprof.onnx.writer import build, random_input
from latprof.runtimes import cuda_session as cuda
from latprof.runtimes.cuda_session import Instrumented, Running
from lookup_tables.architecture import Architecture
from lookup_tables.network import INPUT, Network
from pruner.graph.trace import trace
from tests.toys import DEVICE, Branches

RESNET = Network.load("resnet20")
BRANCHES = trace(Branches(), (3, 8, 8), "branches").network
GPU = DEVICE.model_copy(update={"kind": "cuda"})


class HostClock:
    """Events that note the host's time; keeps what was asked of it in order."""

    name, card, stream, graph_stream = "host", "toy 80GB", 1, 2

    def __init__(self):
        self.asked = []

    def event(self):
        return [0.0]

    def record(self, event, graph=False):
        self.asked.append("record in a graph's stream" if graph else "record")
        event[0] = time.perf_counter()

    def wait(self, event):
        self.asked.append("wait")

    def between_s(self, first, last):
        return last[0] - first[0]

    def delay(self, seconds):
        self.asked.append("delay")
        assert seconds > 0


@pytest.fixture
def clock(monkeypatch):
    made = HostClock()
    monkeypatch.setattr(cuda, "driver", lambda: made)
    monkeypatch.setattr(cuda, "MEMORY", "cpu")
    monkeypatch.setattr(cuda, "_sessions", type(cuda._sessions)())

    def on_cpu(model, device, graph):
        return ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(cuda, "_open", on_cpu)
    return made


def instrumented(network, architecture):
    feed = {INPUT: random_input(network)}
    return Instrumented(network, architecture, b"", feed, GPU)


@pytest.mark.parametrize("network", [RESNET, BRANCHES], ids=["resnet20", "branches"])
def test_the_chain_of_layers_computes_what_the_network_computes(clock, network):
    """With one weight seed a layer, both differ; so the chain's own layers are run by hand."""
    chain = instrumented(network, network.dense)
    chain.run_s()
    tensors = {INPUT: random_input(network)}
    for step in chain._steps:
        pairs = zip(step.layer.input_names, step.layer.sources, strict=True)
        feed = {name: tensors[source] for name, source in pairs}
        session = ort.InferenceSession(
            step.layer.model().SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (tensors[step.layer.name],) = session.run(None, feed)
    last = chain._steps[-1]
    assert np.allclose(last._tensors[last.layer.name].numpy(), tensors[last.layer.name], rtol=1e-4)


def test_every_layer_gets_the_time_between_its_two_events(clock):
    chain = instrumented(RESNET, RESNET.dense)
    total = [chain.run_s() for _ in range(4)]
    kept = np.array([True, False, True])
    times = chain.layer_times(np.full(3, 2.0), kept)  # of the last three runs
    assert [entry.layer for entry in times] == [s for _, s in RESNET.layer_specs(RESNET.dense)]
    rows = np.array(chain._rows[-3:])[kept]
    assert [entry.seconds for entry in times] == pytest.approx(list(np.median(rows, axis=0)))
    assert sum(chain._rows[0]) == pytest.approx(total[0])


def test_work_is_queued_behind_a_delay_and_the_host_waits_once(clock):
    chain = instrumented(RESNET, RESNET.dense)
    clock.asked.clear()
    chain.run_s()
    layers = len(RESNET.layer_specs(RESNET.dense))
    assert clock.asked == ["delay", *["record"] * (layers + 1), "wait"]


def test_every_layer_of_a_network_has_weights_of_its_own_and_the_next_network_opens_few(clock):
    instrumented(RESNET, RESNET.dense)
    opened = len(cuda._sessions)
    assert opened == len(RESNET.layer_specs(RESNET.dense))
    instrumented(RESNET, Architecture(removed=("layer1.1",)))
    assert len(cuda._sessions) == opened  # nothing new in a network with a block less


def test_a_host_too_slow_to_queue_all_layers_is_told(clock, monkeypatch):
    monkeypatch.setattr(cuda, "_LONGEST_DELAY_S", 1e-9)
    with pytest.warns(UserWarning, match="the layers' times include host time"):
        instrumented(RESNET, RESNET.dense)


def test_old_sessions_make_room_for_new_ones(clock, monkeypatch):
    monkeypatch.setattr(cuda, "_MOST_SESSIONS", 3)
    instrumented(RESNET, RESNET.dense).run_s()
    assert len(cuda._sessions) == 3


def test_a_whole_network_runs_bound_to_the_device_and_as_a_graph(clock):
    model = build(RESNET, RESNET.dense).SerializeToString()
    running = Running(model, {INPUT: random_input(RESNET)}, GPU)
    assert running.run_s() > 0
    assert clock.asked[-3:] == ["record", "record", "wait"]
    assert running.has_graph
    assert running.graph_s() > 0
    assert clock.asked[-3:] == [*["record in a graph's stream"] * 2, "wait"]


def test_a_network_that_cannot_be_captured_is_timed_as_a_stream_alone(clock, monkeypatch):
    real = cuda._open

    def refusing(model, device, graph):
        if graph:
            raise RuntimeError("operation not permitted when stream is capturing")
        return real(model, device, graph)

    monkeypatch.setattr(cuda, "_open", refusing)
    model = build(RESNET, RESNET.dense).SerializeToString()
    running = Running(model, {INPUT: random_input(RESNET)}, GPU)
    assert not running.has_graph
    assert running.run_s() > 0


def test_outputs_of_any_type_and_size_are_bound(clock, tmp_path):
    class Two(torch.nn.Module):
        def forward(self, x):
            return x.argmax(1), x.nonzero()

    path = tmp_path / "two.onnx"
    torch.onnx.export(
        Two().eval(), (torch.randn(1, 4, 2, 2),), path, input_names=["x"], verbose=False
    )
    feed = {"x": np.ones((1, 4, 2, 2), np.float32)}
    assert Running(str(path), feed, GPU.model_copy(update={"precision": "fp16"})).run_s() > 0


def test_a_process_that_runs_another_card_measures_nothing(clock):
    other = GPU.model_copy(update={"processor": "NVIDIA X"})
    model = build(RESNET, RESNET.dense).SerializeToString()
    with pytest.raises(DeviceNotHere, match=r"runs CUDA on toy 80GB, but the device is NVIDIA X"):
        Running(model, {INPUT: random_input(RESNET)}, other)


def test_a_slice_is_not_measured_as_the_whole_card(clock):
    clock.card = f"{GPU.processor} MIG 1g.5gb"
    model = build(RESNET, RESNET.dense).SerializeToString()
    with pytest.raises(DeviceNotHere, match=r"a separate device\. Put its UUID"):
        Running(model, {INPUT: random_input(RESNET)}, GPU)


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, "a smaller --batch"), ({"enable_cuda_graph": "1"}, "leave out --cuda-graph")],
)
def test_what_the_runtime_refuses_is_said_in_one_line(clock, monkeypatch, options, says):
    def out_of_memory(*arguments):
        raise RuntimeError("Failed to allocate memory\nat some line")

    monkeypatch.setattr(cuda, "_open", out_of_memory)
    device = GPU.model_copy(update={"provider_options": options})
    with pytest.raises(CannotRun, match=f"Failed to allocate memory .*{says}"):
        Running(b"", {INPUT: random_input(RESNET)}, device)


def test_a_device_that_runs_graphs_runs_nothing_else(clock, monkeypatch):
    opened = []
    real = cuda._open
    monkeypatch.setattr(cuda, "_open", lambda *a: (opened.append(a[2]), real(*a))[1])
    device = GPU.model_copy(update={"provider_options": {"enable_cuda_graph": "1"}})
    model = build(RESNET, RESNET.dense).SerializeToString()
    running = Running(model, {INPUT: random_input(RESNET)}, device)
    running.run_s(), running.graph_s()
    assert opened == [True]
