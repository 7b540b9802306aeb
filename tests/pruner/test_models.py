import argparse
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pruner import ModelError, models
from pruner.models.resnet import resnet20, zero_padded_shortcut
from pruner.train.weights import load_weights, save_weights


def published_checkpoint(path, model):
    """A file in the layout of the published CIFAR-10 ResNets: no shortcut weights, `module.`."""
    state = {
        f"module.{name}": value
        for name, value in model.state_dict().items()
        if "shortcut" not in name and "num_batches" not in name
    }
    torch.save({"state_dict": state, "best_prec1": 91.7}, path)
    return state


def test_the_shortcut_convolution_computes_the_zero_padded_one():
    x = torch.randn(2, 16, 8, 8)
    convolved = nn.functional.conv2d(x, zero_padded_shortcut(16, 32), stride=2)
    padded = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(convolved, padded)


def test_a_published_checkpoint_loads_as_it_is(tmp_path):
    trained = resnet20()
    published_checkpoint(tmp_path / "r.th", trained)
    loaded = resnet20()
    load_weights(loaded, tmp_path / "r.th")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(trained.eval()(x), loaded.eval()(x))


def test_weights_survive_being_written_and_read_in_half_precision(tmp_path):
    model, again = resnet20(), resnet20()
    save_weights(model, tmp_path / "w.safetensors", half=True)
    load_weights(again, tmp_path / "w.safetensors")
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.bn1.weight"), r"misses bn1\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "has unknown entries: extra"),
        (
            lambda s: s.update({"module.conv1.weight": torch.zeros(8, 3, 3, 3)}),
            r"conv1\.weight is \(8, 3, 3, 3\), but the model has \(16, 3, 3, 3\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_naming_the_first_misfit(tmp_path, change, message):
    state = published_checkpoint(tmp_path / "r.th", resnet20())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "r.th")
    with pytest.raises(ModelError, match=f"does not fit CifarResNet: .*{message}"):
        load_weights(resnet20(), tmp_path / "r.th")


def test_weights_for_other_classes_fill_everything_but_the_last_layer(tmp_path):
    trained, fresh = resnet20(100), resnet20(10)
    save_weights(trained, tmp_path / "w.safetensors")
    before = fresh.linear.weight.clone()
    with pytest.raises(ModelError, match=r"linear\.weight is \(100, 64\)"):
        load_weights(fresh, tmp_path / "w.safetensors")
    load_weights(fresh, tmp_path / "w.safetensors", but_head=True)
    assert torch.equal(fresh.linear.weight, before)
    for name, value in trained.state_dict().items():
        assert name.startswith("linear") or torch.equal(fresh.state_dict()[name], value), name


def test_a_first_layer_for_other_images_does_not_pass_for_a_last_one_for_other_classes(tmp_path):
    grey = resnet20()
    grey.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    save_weights(grey, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"conv1\.weight is \(16, 1, 3, 3\)"):
        load_weights(resnet20(), tmp_path / "w.safetensors", but_head=True)


def test_weights_of_another_network_do_not_pass_for_those_of_other_classes(tmp_path):
    save_weights(models.build("resnet32"), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="has unknown entries"):
        load_weights(resnet20(), tmp_path / "w.safetensors", but_head=True)


@pytest.mark.parametrize("name", ["w.safetensors", "w.th"])
def test_a_broken_weights_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ModelError, match="not a readable weights file"):
        load_weights(resnet20(), tmp_path / name)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such weights file"):
        load_weights(resnet20(), tmp_path / "none.th")


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18_32", 11_173_962), ("resnet50_32", 23_520_842)]
)
def test_networks_for_small_images_keep_their_maps_until_the_second_stage(name, parameters):
    model = models.build(name).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    seen = {}
    model.layer1.register_forward_hook(lambda *call: seen.update(first=call[2].shape))
    model.layer4.register_forward_hook(lambda *call: seen.update(last=call[2].shape))
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert (seen["first"][2:], seen["last"][2:]) == ((32, 32), (4, 4))


def test_a_users_own_model_comes_from_a_file_and_a_factory(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Conv2d(3, 8, 3))\n"
    )
    assert isinstance(models.build(f"{tmp_path}/mine.py:small"), nn.Sequential)
    with pytest.raises(ModelError, match="has no function 'large'"):
        models.build(f"{tmp_path}/mine.py:large")


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(ModelError, match=r"Known: resnet20.*file.py:factory"):
        models.build("resnet57")


def test_a_missing_model_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such Python file"):
        models.build(f"{tmp_path}/none.py:f")


@pytest.mark.parametrize("under", ["state_dict", "model_state_dict", "model", "net", "ema"])
def test_weights_are_found_in_what_trainings_save(tmp_path, under):
    trained, options = resnet20(), argparse.Namespace(epochs=90)
    beside = {"args": options, "epoch": 3, "best": np.float64(0.93), "seed": np.int64(1)}
    torch.save({under: trained.state_dict(), **beside}, tmp_path / "w.pth")
    loaded = resnet20()
    assert load_weights(loaded, tmp_path / "w.pth") == f"a state dict under `{under}`, in float32"
    assert torch.equal(loaded.conv1.weight, trained.conv1.weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_wrappers_write_before_every_name_is_dropped(tmp_path, prefix, name):
    trained, loaded = resnet20(), resnet20()
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    counters = {f"{prefix}conv1.total_ops": torch.zeros(1)}
    write = save_file if name.endswith("safetensors") else torch.save
    write(state | counters, tmp_path / name)
    assert f"without the prefix {prefix}," in load_weights(loaded, tmp_path / name)
    assert torch.equal(loaded.conv1.weight, trained.conv1.weight)


def test_a_name_that_the_model_has_itself_is_no_wrapper(tmp_path):
    trained, loaded = (torch.nn.Sequential(OrderedDict(model=resnet20())) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    assert "prefix" not in load_weights(loaded, tmp_path / "w.pth")
    assert torch.equal(loaded.model.conv1.weight, trained.model.conv1.weight)


def test_a_whole_model_is_refused_with_what_to_save_and_a_file_cut_short_by_its_name(tmp_path):
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save(resnet20(), whole)
    with pytest.raises(ModelError, match=r"whole.pth holds Python objects .*model.state_dict"):
        load_weights(resnet20(), whole)
    torch.save(resnet20().state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:50_000])
    with pytest.raises(ModelError, match=r"cut.pth: not a readable weights file"):
        load_weights(resnet20(), cut)


def test_a_checkpoint_without_weights_is_refused_naming_what_it_holds(tmp_path):
    torch.save({"mine": resnet20().state_dict(), "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="found a dictionary of mine, epoch"):
        load_weights(resnet20(), tmp_path / "w.pth")
