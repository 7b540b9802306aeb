"""Where and how PyTorch computes; what only a GPU can show is in tests/gpu."""

import copy
import math
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from pruner.data import load_data
from pruner.train.compute import (
    compiled,
    fast_arithmetic,
    half_precision,
    loss_scaler,
    on_processor,
)
from pruner.train.finetune import Recipe, fine_tune
from tests.toys import tiny_resnet


def test_models_and_batches_meet_on_the_processor_in_its_layout():
    model = tiny_resnet()
    with on_processor(model, None) as here:
        x = here(torch.randn(2, 1, 8, 8))
        assert x.device == next(model.parameters()).device
        assert here(torch.arange(3)).device == x.device
        weight = model.conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert next(model.parameters()).device.type == "cpu"


FAULTS = """
import resource, torch
from pruner.train.compute import keep_freed_memory
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 << 20)  # 64 MB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert keep_freed_memory()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no say")
def test_freed_memory_is_used_again_instead_of_being_asked_for_anew():
    told = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    ).stdout
    usually, kept = map(int, told.split())
    # All but the first, were pages as large as 2 MB.
    assert usually - kept > 18 * (64 << 20) / (2 << 20)


def test_single_precision_stays_single_when_it_is_asked_for():
    with fast_arithmetic(False):
        assert torch.mm(torch.eye(2), torch.eye(2)).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_a_cpu_computes_in_half_precision_only_with_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    with fast_arithmetic():
        assert torch.mm(torch.eye(2), torch.eye(2)).dtype == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
def test_depthwise_convolutions_learn_in_single_precision_and_are_left_as_they_were(monkeypatch):
    units = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
    model, x = nn.Sequential(conv, nn.Conv2d(4, 2, 1)), torch.randn(2, 4, 8, 8)
    seen = []
    conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    exact = nn.functional.conv2d(x, conv.weight, conv.bias, 2, 1, groups=4)
    with on_processor(model) as here:
        with on_processor(model):
            pass
        with fast_arithmetic():
            assert model(here(x)).dtype == torch.bfloat16
        model(here(x))
        with fast_arithmetic(), torch.no_grad():
            model(here(x))
    learning, plain, scoring = seen
    torch.testing.assert_close(plain, exact)
    assert torch.equal(learning, plain.bfloat16()), "computed exactly, then rounded"
    assert scoring.dtype == torch.bfloat16
    assert not torch.equal(scoring, learning), "without gradients it stays in half precision"
    assert "_conv_forward" not in vars(conv)
    copy.deepcopy(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
def test_without_a_gpu_half_precision_needs_no_loss_scaling():
    assert half_precision() == torch.bfloat16
    assert not loss_scaler().is_enabled()


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_frozen_model_answers_as_it_did_and_keeps_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    model[1].running_mean.fill_(0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        frozen = compiled(model, frozen=True)
        assert frozen is not model
        torch.testing.assert_close(frozen(x), model(x))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_long_training_is_compiled_and_learns_the_same(monkeypatch):
    data = load_data("digits")
    losses, calls = {}, []

    def counted(model, **options):
        calls.append(way)
        return compiled(model, **options)

    monkeypatch.setattr("pruner.train.finetune.compiled", counted)
    for way, from_ in (("plain", math.inf), ("compiled", 1)):
        monkeypatch.setattr("pruner.train.finetune.COMPILED_FROM", from_)
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )
        seen = []
        fine_tune(
            model, data.train, Recipe(epochs=1, batch=128, rate=0.05),
            report=lambda step, total, text, seen=seen: seen.append(float(text.split()[-1])),
        )  # fmt: skip
        losses[way] = seen
        assert not any(name.startswith("_orig_mod") for name in model.state_dict())
    assert calls == ["compiled"]
    assert losses["compiled"] == pytest.approx(losses["plain"], abs=0.05)
    assert losses["plain"][-1] < losses["plain"][0]


@pytest.mark.parametrize(("channels", "expected"), [(1, 0), (8, 1)])
def test_what_is_compiled_follows_from_what_layers_write_not_from_steps(
    monkeypatch, channels, expected
):
    data, calls = load_data("digits"), []
    monkeypatch.setattr("pruner.train.finetune.compiled", lambda model: calls.append(1) or model)
    recipe = Recipe(epochs=1, batch=128, rate=0.05)
    seen = len(data.train) // 128 * 128
    monkeypatch.setattr("pruner.train.finetune.COMPILED_FROM", seen * 4 * 36)
    layers = nn.Conv2d(1, channels, 3), nn.Flatten(), nn.Linear(36 * channels, 10)
    fine_tune(nn.Sequential(*layers), data.train, recipe)  # writes 36 · channels twice, then 10
    assert len(calls) == expected


def test_a_training_leaves_the_state_of_the_process_alone(monkeypatch):
    monkeypatch.setattr("pruner.train.finetune.COMPILED_FROM", math.inf)
    monkeypatch.setattr(
        "pruner.train.compute.keep_freed_memory", lambda: pytest.fail("a command's part")
    )
    before = torch.random.get_rng_state()
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    fine_tune(model, load_data("digits").train, Recipe(epochs=1, batch=256, rate=0.05))
    torch.nn.Linear(1, 1)  # what a caller draws next is what it would have drawn
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Linear(1, 1)
    assert torch.equal(after, torch.random.get_rng_state())


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiling_leaves_the_compilers_settings_alone():
    model = nn.Linear(4, 2).eval()
    before = torch._dynamo.config.suppress_errors
    with torch.no_grad():
        compiled(model)(torch.zeros(1, 4))
    assert torch._dynamo.config.suppress_errors == before
