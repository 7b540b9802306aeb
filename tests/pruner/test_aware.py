"""Networks that learn with the roundings of INT8."""

import copy

import pytest
import torch

from pruner.data import load_data
from pruner.graph.aware import PREFIX, learned, quantisation_aware
from pruner.graph.trace import trace
from pruner.train.accuracy import accuracy
from pruner.train.finetune import Recipe, fine_tune
from tests.toys import Branches, tiny_resnet

DATA = load_data("digits")


@pytest.mark.parametrize(("build", "shape"), [(tiny_resnet, (1, 8, 8)), (Branches, (3, 8, 8))])
def test_it_computes_nearly_the_same_with_few_values(build, shape):
    torch.manual_seed(0)
    traced = trace(build().eval(), shape, "toy")
    aware = quantisation_aware(traced).train()
    x = torch.randn(32, *shape)
    with torch.no_grad():
        for _ in range(3):  # ranges follow what is seen
            aware(x)
        traced.module.load_state_dict(learned(aware))  # BatchNorm has followed too
        expected, found = traced.module.eval()(x), aware.eval()(x)
    assert not torch.equal(expected, found)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    assert len(found.unique()) <= 256


def test_weights_have_255_values_a_filter_and_learn_as_they_are():
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "toy")
    aware = quantisation_aware(traced).train()
    (name,) = [n for n, _ in aware.named_children() if n == f"{PREFIX}layer1_0_conv1"]
    weight = aware.get_parameter("layer1.0.conv1.weight")
    rounded = aware.get_submodule(name)(weight)
    step = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    assert (rounded - weight).abs().max() <= step.max() / 2 * 1.01
    assert torch.allclose((rounded / step).round(), rounded / step, atol=1e-3)
    aware(torch.randn(8, 1, 8, 8)).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_what_it_learns_is_the_plain_networks():
    torch.manual_seed(0)
    plain = tiny_resnet()
    fine_tune(plain, DATA.train, Recipe(epochs=4, batch=64, rate=0.1))
    traced = trace(copy.deepcopy(plain).eval(), (1, 8, 8), "toy")
    aware = quantisation_aware(traced)
    fine_tune(aware, DATA.train, Recipe(epochs=1, batch=64, rate=0.01))
    before = copy.deepcopy(plain.state_dict())
    plain.load_state_dict(learned(aware))
    assert any(not torch.equal(before[name], value) for name, value in plain.state_dict().items())
    assert abs(accuracy(plain, DATA.held_out) - accuracy(aware, DATA.held_out)) < 0.05
    assert accuracy(plain, DATA.held_out) > 0.6


def test_an_interrupted_training_continues_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    recipe = Recipe(epochs=1, batch=128, rate=0.01)

    def trained(checkpoint=None, report=lambda *_: None):
        torch.manual_seed(0)
        aware = quantisation_aware(trace(tiny_resnet().eval(), (1, 8, 8), "toy"))
        fine_tune(aware, DATA.train, recipe, checkpoint, report=report)
        return learned(aware)

    def interrupt(step, total, text):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "c.pt", interrupt)
    whole, continued = trained(), trained(tmp_path / "c.pt")
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
