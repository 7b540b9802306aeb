"""The pruner on a GPU: training, scoring and choosing filters there. Run by `make gpu-check`."""

import multiprocessing

import pytest
import torch
from torch import nn

from lookup_tables.architecture import Architecture
from pruner.criteria.dynamic import Phase, select
from pruner.criteria.taylor import importance
from pruner.data import load_data
from pruner.graph.compensation import Reconstruction
from pruner.graph.surgery import cut, keep_best
from pruner.graph.trace import trace
from pruner.train.accuracy import accuracy, recalibrate, score
from pruner.train.compute import on_processor, processor
from pruner.train.finetune import Recipe, fine_tune
from tests.toys import imagenet_folder, tiny_resnet

pytestmark = pytest.mark.gpu
DATA = load_data("digits")
THINNER = 2  # every group to a half


@pytest.fixture(scope="module")
def trained():
    assert torch.cuda.is_available(), "no NVIDIA GPU: this check needs one"
    torch.manual_seed(0)
    model = tiny_resnet()
    fine_tune(model, DATA.train, Recipe(epochs=8, batch=64, rate=0.1))
    return model


def halved(network):
    return Architecture(widths={g.name: g.width // THINNER for g in network.groups})


def test_training_happens_on_the_gpu_and_the_model_comes_back(trained):
    assert processor().type == "cuda"
    with on_processor(trained) as here:
        assert next(trained.parameters()).is_cuda
        assert here(torch.zeros(1, 1, 8, 8)).is_cuda
    assert not next(trained.parameters()).is_cuda
    assert accuracy(trained, DATA.held_out) > 0.9


def test_half_and_single_precision_agree(trained):
    fast, exact = (accuracy(trained, DATA.held_out, fast=fast) for fast in (True, False))
    assert fast == pytest.approx(exact, abs=0.02)


def test_a_training_with_patience_continues_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)

    def interrupt(step, total, text):
        if step == 13:
            raise KeyboardInterrupt

    recipe = Recipe(epochs=3, batch=128, rate=0.1, patience=2)
    model = tiny_resnet()
    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, DATA.train, recipe, tmp_path / "c.pt", None, interrupt, DATA.held_out)
    steps = []
    fine_tune(
        model, DATA.train, recipe, tmp_path / "c.pt", None,
        lambda step, *_: steps.append(step), DATA.held_out,
    )  # fmt: skip
    assert steps[0] == 13
    assert accuracy(model, DATA.held_out) > 0.3


def test_files_are_read_ahead_of_the_gpu_and_training_learns_the_same(tmp_path, monkeypatch):
    imagenet_folder(tmp_path, classes=2, train=40, val=2)
    images = load_data("imagenet", tmp_path).train
    processes = []

    def learned():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 7, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        fine_tune(
            model, images, Recipe(epochs=2, batch=8, rate=0.1),
            report=lambda *_: processes.append(len(multiprocessing.active_children())),
        )  # fmt: skip
        return model.state_dict()

    ahead = learned()
    assert max(processes) > 0
    monkeypatch.setattr("pruner.train.reading.readers_for", lambda *_: 0)
    torch.testing.assert_close(learned(), ahead, rtol=1e-3, atol=1e-4)


def test_a_network_is_cut_refitted_and_scored(trained):
    traced = trace(trained, (1, 8, 8), "tiny")
    architecture = Architecture(widths=halved(traced.network).widths, removed=("layer1.1",))
    kept = keep_best(traced.network, architecture, importance(traced, DATA.train))
    refitted = Reconstruction(traced, DATA.train).refit(kept, architecture.removed)
    model = cut(refitted, architecture, kept)
    recalibrate(model, DATA.train, 500, fast=True)
    found = accuracy(model, DATA.held_out, fast=True)
    assert found > 0.2
    assert score(model, DATA.held_out) == pytest.approx(found, abs=0.1)


def test_filters_are_chosen_while_they_train(trained):
    traced = trace(trained, (1, 8, 8), "tiny")
    architecture = halved(traced.network)
    chosen, kept = select(traced, architecture, DATA.train, Phase(steps=20, interval=5))
    model = cut(chosen, architecture, kept)
    assert not any(p.is_cuda for p in model.parameters())
    assert all(len(kept[g.name]) == g.width // THINNER for g in traced.network.groups)
