import pytest
import torch
from torch import nn

from lookup_tables.architecture import Architecture
from pruner import models
from pruner.data import load_data
from pruner.graph import compensation as reconstruct
from pruner.graph.compensation import Reconstruction, _least_squares
from pruner.graph.shortcuts import heirs
from pruner.graph.surgery import cut
from pruner.graph.trace import trace
from tests.toys import tiny_resnet

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


class Linear(nn.Module):
    """A stem and two blocks without activations: the stem could do what the blocks add."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        make = nn.BatchNorm2d if norm else lambda channels: nn.Identity()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1, bias=not norm), make(8)
        self.one, self.one_norm = nn.Conv2d(8, 8, 1, bias=not norm), make(8)
        self.two, self.two_norm = nn.Conv2d(8, 8, 1, bias=not norm), make(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem_norm(self.stem(x))
        x = x + self.one_norm(self.one(x))
        x = x + self.two_norm(self.two(x))
        return self.head(torch.relu(x).mean((2, 3)))


def all_kept(traced):
    return {g.name: torch.arange(g.width) for g in traced.network.groups}


def without(traced, removed, taken_over):
    """What the network without some blocks computes."""
    kept = all_kept(traced)
    if taken_over:
        traced = Reconstruction(traced, IMAGES).refit(kept, removed)
    return outputs(cut(traced, Architecture(removed=tuple(removed)), kept))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("removed", [["one"], ["two"], ["one", "two"]])
def test_what_removed_blocks_add_is_added_by_the_layer_before_them(norm, removed):
    torch.manual_seed(0)
    traced = trace(Linear(norm).eval(), (1, 8, 8), "linear")
    dense = outputs(traced.module)
    lost, left = ((without(traced, removed, t) - dense).pow(2).mean() for t in (False, True))
    assert {block.name for block in traced.network.blocks} == {"one", "two"}
    assert left < 0.05 * lost  # the ridge costs a little


def read_by(path, model):
    """What a module of the model reads."""
    seen = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    outputs(model)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("removed", "widths", "reader"),
    [
        (("layer1.0",), {}, "layer1.1.conv1"),
        (("layer1.1",), {"layer1.0.conv1": 8}, "layer2.0.conv1"),
        (("layer1.0", "layer1.1"), {}, "layer2.0.conv1"),
        (("layer2.1",), {"layer2.0.conv1": 12}, "linear"),
    ],
)
def test_what_is_read_behind_removed_blocks_stays_nearer_to_what_it_was(removed, widths, reader):
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    architecture = Architecture(widths=widths, removed=removed)
    kept = all_kept(traced) | {name: torch.arange(width) for name, width in widths.items()}
    refitted = Reconstruction(traced, IMAGES).refit(kept, removed)
    dense = read_by(reader, traced.module)
    plain, mended = (read_by(reader, cut(t, architecture, kept)) for t in (traced, refitted))
    assert (mended - dense).pow(2).mean() < 0.7 * (plain - dense).pow(2).mean()


def test_a_layer_takes_over_from_the_removed_blocks_up_to_the_first_that_stays():
    traced = trace(models.build("resnet20", 10).eval(), (3, 32, 32), "resnet20")
    removed = {"layer1.0", "layer1.2", "layer2.1", "layer2.2"}
    assert {heir.path: last for heir in heirs(traced) if (last := heir.last(removed))} == {
        "conv1": "layer1.0",
        "layer1.1.conv2": "layer1.2",
        "layer2.0.conv2": "layer2.2",
        "layer2.1.conv2": "layer2.2",  # which goes itself
    }


@pytest.mark.parametrize(
    ("model", "shape", "without"),
    [
        ("resnet20", (3, 32, 32), set()),
        ("mobilenet_v2_32", (3, 32, 32), set()),
        ("resnet18", (3, 64, 64), {"layer1.0"}),  # reads a pool
        ("resnet50", (3, 64, 64), {"layer1.0.conv1"}),  # the same
    ],
)
def test_every_removable_block_behind_a_convolution_has_an_heir(model, shape, without):
    traced = trace(models.build(model, 10).eval(), shape, model)
    first = {next(iter(heir.sums)) for heir in heirs(traced)}
    assert {block.name for block in traced.network.blocks} - first == without


def test_of_a_projection_and_the_layer_beside_it_the_one_that_reads_more_takes_over():
    traced = trace(models.build("resnet18", 10).eval(), (3, 64, 64), "resnet18")
    paths = [heir.path for heir in heirs(traced)]
    assert paths == ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]
    network = {layer.name: layer for layer in traced.network.layers}
    assert network["layer2.0.downsample.0"].residual == "layer2.0.conv2"


class Fork(nn.Module):
    """Two blocks read the stem; with `skip` the head reads what lies between two blocks in turn."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.stem, self.one, self.two = (nn.Conv2d(n, 8, 3, padding=1) for n in (1, 8, 8))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        first = torch.relu(x + self.one(x))
        second = first if self.skip else x
        second = torch.relu(second + self.two(second))
        return self.head(torch.cat([first, second], dim=1).mean((2, 3)))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("removed", [["one"], ["two"], ["one", "two"]])
def test_what_others_read_as_well_is_not_changed_for_a_removed_block(skip, removed):
    torch.manual_seed(0)
    traced = trace(Fork(skip).eval(), (1, 8, 8), "fork")
    kept = all_kept(traced)
    refitted = Reconstruction(traced, IMAGES).refit(kept, removed)
    found, before = refitted.module.state_dict(), traced.module.state_dict()
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    takes_over = skip and "one" in removed  # of the two behind it the head reads both
    assert changed == ({"stem.weight", "stem.bias"} if takes_over else set())


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_ridge_leaves_the_constant_alone_however_large_the_inputs_are(scale):
    generator = torch.Generator().manual_seed(0)
    rows = scale * torch.randn(4096, 4, generator=generator, dtype=torch.float64)
    wanted = (rows @ torch.tensor([[0.5], [-1.0], [0.25], [2.0]], dtype=torch.float64)) + 377.0
    rows = nn.functional.pad(rows, (0, 1), value=1.0)
    layer = nn.Linear(4, 1).double()
    fitted = _least_squares(
        layer, torch.arange(4), rows.T @ rows / len(rows), rows.T @ wanted / len(rows), True
    )
    assert fitted[0, -1].item() == pytest.approx(377.0, rel=1e-3)


class InPlace(nn.Module):
    """Three blocks; activations and additions overwrite what they read, or do not."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace, self.relu = inplace, nn.ReLU(inplace=inplace)
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def added(self, to, other):
        return self.relu(to.add_(other) if self.inplace else to + other)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.added(self.first(x), x)
        x = self.added(x, self.second(x))
        x = self.added(x, self.third(x))
        return self.head(x.mean((2, 3)))


def test_what_is_overwritten_in_place_is_measured_before():
    found = []
    for inplace in (True, False):
        torch.manual_seed(0)
        traced = trace(InPlace(inplace).eval(), (1, 8, 8), "blocks")
        refitted = Reconstruction(traced, IMAGES).refit(all_kept(traced), ["first", "third"])
        found.append(refitted.module.state_dict())
    for heir in ("stem", "second"):
        assert not torch.equal(
            found[0][f"{heir}.weight"], traced.module.get_parameter(f"{heir}.weight")
        )
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_network_whose_blocks_stay_is_refitted_as_if_they_could_not_go():
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    kept = all_kept(traced) | {"layer1.0.conv1": torch.arange(8)}
    one, other = (
        Reconstruction(traced, IMAGES, depth=depth).refit(kept).module.state_dict()
        for depth in (True, False)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    before = traced.module.state_dict()
    assert {n for n in one if not torch.equal(one[n], before[n])} == {"layer1.0.conv2.weight"}
