import os

import pytest

from latprof import DeviceNotHere
from latprof.machine.processor import described
from latprof.runtimes import cards, ort_cuda
from latprof.runtimes.base import Usage
from latprof.runtimes.cards import parse_gpus
from latprof.runtimes.here import this_device


def test_cpu_is_this_machine():
    device = this_device("cpu")
    assert device.kind == "cpu"
    assert device.threads == 1
    assert device.name.endswith("_1t")


def test_the_machines_own_name_is_accepted():
    device = this_device("cpu")
    assert this_device(device.name) == device


def test_a_device_that_is_not_here_says_what_is_and_where_a_table_may_come_from():
    with pytest.raises(
        DeviceNotHere, match=r"device titan_rtx is not here\. This machine has: CPU"
    ):
        this_device("titan_rtx")
    with pytest.raises(DeviceNotHere, match="make profile DEVICE=titan_rtx"):
        this_device("titan_rtx")


def test_more_threads_than_cores_are_refused():
    with pytest.raises(DeviceNotHere, match=r"this process may use only \d+ cores"):
        this_device("cpu", Usage(threads=10_000))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_unknown_precision_is_refused_before_any_device_is_looked_for(device):
    with pytest.raises(DeviceNotHere, match="--precision int9: expected one of fp32, fp16, int8"):
        this_device(device, Usage(precision="int9"))


def test_half_precision_is_refused_on_cpu():
    with pytest.raises(
        DeviceNotHere, match="fp16 is measured on GPUs only; use fp32 or int8 on a CPU"
    ):
        this_device("cpu", Usage(precision="fp16"))


def test_threads_and_batch_are_part_of_the_name():
    assert this_device("cpu", Usage(batch=4)).name.endswith("_1t_b4")


def test_cuda_graphs_are_refused_on_cpu():
    with pytest.raises(DeviceNotHere, match="CUDA graphs need a GPU"):
        this_device("cpu", Usage(cuda_graph=True))


def test_a_tables_device_is_used_as_it_was_measured():
    device = this_device("cpu", Usage(batch=4))
    assert this_device(device.kind, Usage.of(device)) == device


def test_the_processors_this_process_may_use_are_part_of_the_identity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 0, 1, 2}, raising=False)
    assert this_device("cpu").affinity == "0-2,5"


def test_threads_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1}, raising=False)
    with pytest.raises(DeviceNotHere, match="may use only 1 cores"):
        this_device("cpu", Usage(threads=2))


def test_cudnns_options_are_refused_on_cpu():
    with pytest.raises(DeviceNotHere, match="--algorithm-search applies to cuDNN"):
        this_device("cpu", Usage(algorithm_search="NONSENSE"))


ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

Model\t\t: {model}
"""


def test_arm_processors_without_a_model_name_are_told_apart():
    four = described(ARM.format(part="0xd08", model="Raspberry Pi 4 Model B Rev 1.4"))
    five = described(ARM.format(part="0xd0b", model="Raspberry Pi 5 Model B Rev 1.0"))
    assert four[0] == "Raspberry Pi 4 Model B Rev 1.4"
    assert four[1]["cpu_part"] == "0xd08"
    assert four[1]["vector_units"] == "asimd"
    assert four[1] != five[1]


def test_an_x86_processor_is_known_by_its_name_and_stepping():
    text = "model name\t: A CPU\nmodel\t\t: 17\nstepping\t: 1\nflags\t\t: sse avx2 avx512f\n"
    name, detail = described(text)
    assert name == "A CPU"
    assert detail == {"model": "17", "stepping": "1", "vector_units": "avx2 avx512f"}


LISTING = (
    "NVIDIA TITAN RTX, GPU-1f, 24576 MiB, 550.54, 7.5, 2100 MHz\n"
    "NVIDIA GeForce RTX 3090, GPU-2a, 24576 MiB, 550.54, 8.6, 2100 MHz\n"
    "NVIDIA H100 80GB HBM3, GPU-3c, 81559 MiB, 550.54, 9.0, 1980 MHz\n"
    "No devices were found\n"
)


def test_gpus_are_known_by_what_the_hardware_reports():
    found = parse_gpus(LISTING)
    assert [gpu.short_name for gpu in found] == ["titan_rtx", "rtx_3090", "h100_80gb_hbm3"]
    assert found[0].uuid == "GPU-1f"
    assert found[1].compute_capability == "8.6"


def test_a_gpu_without_a_runtime_for_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cards, "gpus", lambda: parse_gpus(LISTING))
    monkeypatch.setattr(ort_cuda.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceNotHere, match=r"cannot use it: .*pip install onnxruntime-gpu"):
        this_device("titan_rtx")


@pytest.fixture
def titan(monkeypatch):
    """A machine with the cards above and a runtime for them; no card is touched."""
    monkeypatch.setattr(cards, "gpus", lambda: parse_gpus(LISTING))
    monkeypatch.setattr(ort_cuda.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort_cuda, "_library_version", lambda name, function: "12.4")


def test_everything_that_decides_a_gpus_latency_is_in_its_identity(titan):
    plain = this_device("titan_rtx")
    assert (plain.name, plain.kind, plain.driver, plain.cuda) == (
        "titan_rtx", "cuda", "550.54", "12.4",
    )  # fmt: skip
    others = {
        "titan_rtx_fp16_b8": Usage(batch=8, precision="fp16"),
        "titan_rtx_graph": Usage(cuda_graph=True),
        "titan_rtx": Usage(algorithm_search="HEURISTIC"),
    }
    for name, usage in others.items():
        other = this_device("titan_rtx", usage)
        assert other.name == name
        assert plain.differences(other)
        assert this_device(other.name, usage) == other
    different = plain.differences(this_device("titan_rtx", Usage(algorithm_search="HEURISTIC")))
    assert different == {
        "provider_options.cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC"),
    }


def test_cuda_means_the_first_card(titan):
    assert this_device("cuda").processor == "NVIDIA TITAN RTX"


def test_an_unknown_algorithm_search_is_refused_with_the_known_ones(titan):
    with pytest.raises(DeviceNotHere, match="EXHAUSTIVE, HEURISTIC, DEFAULT"):
        this_device("titan_rtx", Usage(algorithm_search="FAST"))


def test_an_absent_gpu_is_told_beside_the_ones_that_are_here(titan):
    with pytest.raises(DeviceNotHere, match=r"GPU 'NVIDIA TITAN RTX' \(--device titan_rtx\)"):
        this_device("a100")


def test_every_card_is_measured_as_itself(titan):
    for gpu in parse_gpus(LISTING):
        device = this_device(gpu.short_name)
        assert device.processor == gpu.name
        assert cards.uuid_of(device) == gpu.uuid
        assert this_device(device.processor, Usage.of(device)) == device


def test_the_driver_is_asked_for_a_card_once_however_many_networks_are_opened(titan, monkeypatch):
    asked = []
    monkeypatch.setattr(cards, "uuid_of", lambda device: asked.append(device.name) or "GPU-1f")
    monkeypatch.setattr(ort_cuda, "_shown", set())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for _ in range(3):
        ort_cuda._show_only(this_device("titan_rtx"))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1f"
        monkeypatch.setattr(cards, "gpus", lambda: parse_gpus(LISTING))
    assert asked == ["titan_rtx"]


def test_a_card_that_is_gone_is_told(titan):
    gone = this_device("titan_rtx").model_copy(update={"processor": "NVIDIA A100", "name": "a100"})
    with pytest.raises(DeviceNotHere, match="device a100 is not here"):
        cards.uuid_of(gone)


SLICES = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 1g.5gb      Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
"""


def test_a_slice_of_a_card_is_a_device_of_its_own_known_by_its_uuid():
    card = cards.Gpu("NVIDIA A100-SXM4-40GB", "GPU-aaaa", "40960 MiB", "550", "8.0", "1410 MHz")
    slices = cards.parse_slices(SLICES, [card])
    assert [s.name for s in slices] == [f"{card.name} MIG 3g.20gb", f"{card.name} MIG 1g.5gb"]
    found = cards.visible([card, *slices], "MIG-2222")
    assert [(gpu.uuid, gpu.short_name) for gpu in found] == [
        ("MIG-2222", "a100_sxm4_40gb_mig_1g_5gb")
    ]
    assert cards.visible([card, *slices], "0") == [card]


@pytest.mark.parametrize(
    ("allowed", "seen"),
    [(None, 3), ("", 0), ("1", ["rtx_3090"]), ("0,2", ["titan_rtx", "h100_80gb_hbm3"]),
     ("GPU-3c", ["h100_80gb_hbm3"])],
)  # fmt: skip
def test_only_cards_that_the_user_left_visible_are_here(allowed, seen):
    found = [gpu.short_name for gpu in cards.visible(parse_gpus(LISTING), allowed)]
    assert found == seen if isinstance(seen, list) else len(found) == seen
