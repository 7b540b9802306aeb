import pytest
import torch
from torch import nn

from lookup_tables.network import Architecture
from pruner import reconstruct
from pruner.data import load_data
from pruner.reconstruct import Reconstruction
from pruner.surgery import cut
from pruner.trace import trace

IMAGES = load_data("digits").train


class Twins(nn.Module):
    """Its second four channels are copies of its first four, so that half of them are enough."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1, bias=bias)
        self.norm = nn.Identity() if bias else nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)
        with torch.no_grad():
            self.first.weight[4:] = self.first.weight[:4]
            self.first.bias[4:] = self.first.bias[:4]

    def forward(self, x):
        x = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        return self.head(x.mean((2, 3)))


def outputs(model):
    x, _ = IMAGES.batch(torch.arange(64))
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.parametrize("bias", [True, False])
def test_channels_that_others_can_replace_are_replaced(bias):
    torch.manual_seed(0)
    traced = trace(Twins(bias).eval(), (1, 8, 8), "twins")
    kept = {g.name: torch.arange(g.width) for g in traced.network.groups}
    kept["first"] = torch.arange(4)
    architecture = Architecture(widths={"first": 4})
    refitted = Reconstruction(traced, IMAGES).refit(kept)
    dense = outputs(traced.module)
    plain, mended = (outputs(cut(t, architecture, kept)) for t in (traced, refitted))
    lost, left = ((found - dense).pow(2).mean() for found in (plain, mended))
    assert left < 0.02 * lost


def refitted_weights(reconstruction, network, width):
    kept = {g.name: torch.arange(g.width) for g in network.groups}
    found = reconstruction.refit(kept | {"first": torch.arange(width)})
    return found.module.state_dict()


def test_what_is_left_decides_the_weights_whatever_was_asked_before():
    torch.manual_seed(0)
    traced = trace(Twins(True).eval(), (1, 8, 8), "twins")
    asked_before, fresh = Reconstruction(traced, IMAGES), Reconstruction(traced, IMAGES)
    for width in (4, 6, 4):
        found = refitted_weights(asked_before, traced.network, width)
        found["second.weight"].add_(1.0)  # a model belongs to who asked for it
    now, then = (refitted_weights(r, traced.network, 4) for r in (asked_before, fresh))
    assert all(torch.equal(now[name], then[name]) for name in now)


def test_a_layer_is_fitted_once_for_the_same_inputs_and_no_more_than_fits_is_kept(monkeypatch):
    fits = []

    def count(*arguments):
        fits.append(arguments)
        return least_squares(*arguments)

    least_squares = reconstruct._least_squares
    monkeypatch.setattr(reconstruct, "_least_squares", count)
    traced = trace(Twins(True).eval(), (1, 8, 8), "twins")
    reconstruction = Reconstruction(traced, IMAGES)
    for width in (4, 6, 4, 6):
        refitted_weights(reconstruction, traced.network, width)
    assert len(fits) == 2
    monkeypatch.setattr(reconstruct, "REMEMBERED", 6 * (4 * 9 + 1))  # one of them
    for width in (5, 4, 4):
        refitted_weights(reconstruction, traced.network, width)
    assert len(fits) == 4


def test_the_dense_network_is_left_as_it_is():
    torch.manual_seed(0)
    traced = trace(Twins(True).eval(), (1, 8, 8), "twins")
    before = {name: value.clone() for name, value in traced.module.state_dict().items()}
    kept = {g.name: torch.arange(g.width) for g in traced.network.groups}
    refitted = Reconstruction(traced, IMAGES).refit(kept | {"first": torch.arange(4)})
    assert all(torch.equal(traced.module.state_dict()[n], v) for n, v in before.items())
    unchanged = Reconstruction(traced, IMAGES).refit(kept)
    assert all(torch.equal(unchanged.module.state_dict()[n], v) for n, v in before.items())
    assert not torch.equal(refitted.module.second.weight, traced.module.second.weight)
