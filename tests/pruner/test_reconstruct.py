import pytest
import torch
from torch import nn

from lookup_tables.network import Architecture
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
