"""Tables of a device whose kernels leave out weights: widths and densities in, seconds out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.architecture import Architecture
from lookup_tables.errors import ArchitectureError, NotMeasured
from lookup_tables.model.latency_model import DENSITIES, LatencyModel
from lookup_tables.model.sparse_surface import SparseSurface
from lookup_tables.network import Network
from tests.toys import SPARSE_DEVICE, by_kept_weights, chain, models_of, synthetic_table, true_s

NETWORKS = {"chain": chain(32, 64, 32, 8), "resnet20": Network.load("resnet20")}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    return models_of(tmp_path_factory, NETWORKS, by_kept_weights, levels=8, device=SPARSE_DEVICE)


@pytest.mark.parametrize("name", list(NETWORKS))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_densities_are_predicted_as_the_device_takes_them(model_of, name, data):
    network, model = NETWORKS[name], model_of(name)
    widths = {g.name: data.draw(st.integers(g.choices[0], g.width)) for g in network.groups}
    density = {n: data.draw(st.floats(DENSITIES[0], 1)) for n in network.sparse_layers}
    removed = tuple(b.name for b in network.blocks if data.draw(st.booleans()))
    architecture = Architecture(widths=widths, removed=removed, density=density)
    truth_s = true_s(network, architecture, by_kept_weights)
    # 6.3 % where all layers have nearly the lowest density and a width between the menu's; 1.2 %
    # is the root mean square of random ones.
    assert model.latency_s(architecture) == pytest.approx(truth_s, rel=0.08)


def test_a_layer_takes_time_in_proportion_to_what_it_keeps(model_of):
    model, network = model_of("chain"), NETWORKS["chain"]
    halves = [Architecture(density={"conv1": d}) for d in (1.0, 0.5)]
    full, half = (next(e for e in model.layers(a) if e.name == "conv1").seconds for a in halves)
    spec = {layer.name: s for layer, s in network.layer_specs(halves[0])}["conv1"]
    weights_s = spec.macs * 1e-11
    assert full - half == pytest.approx(weights_s / 2, rel=0.03)


def test_the_layers_and_an_array_say_what_one_architecture_does(model_of):
    network, model = NETWORKS["resnet20"], model_of("resnet20")
    rng = np.random.default_rng(0)
    widths = np.stack([rng.choice(g.choices, 30) for g in network.groups], axis=1)
    removed = rng.random((30, len(network.blocks))) < 0.3
    densities = rng.choice(DENSITIES, (30, len(network.sparse_layers)))
    together = model.predict(widths, removed, densities).latency_s
    off_menu = model.predict(widths, removed, densities - 1e-9).latency_s
    assert together == pytest.approx(off_menu, rel=1e-6)
    for i in range(5):
        architecture = Architecture(
            widths=dict(zip(network.group, map(int, widths[i]), strict=True)),
            removed=tuple(network.blocks[j].name for j in np.flatnonzero(removed[i])),
            density=dict(zip(model.sparse_layers, map(float, densities[i]), strict=True)),
        )  # fmt: skip
        assert model.latency_s(architecture) == pytest.approx(together[i])
        parts = sum(entry.seconds for entry in model.layers(architecture))
        assert parts + model.calibration.b * model.dense_s == pytest.approx(together[i])


def test_without_densities_all_weights_are_kept(model_of):
    network, model = NETWORKS["resnet20"], model_of("resnet20")
    widths = np.array([[g.width for g in network.groups]])
    full = np.ones((1, len(model.sparse_layers)))
    assert model.predict(widths).latency_s == model.predict(widths, None, full).latency_s


def test_a_density_that_was_never_measured_is_refused_with_the_range(model_of):
    with pytest.raises(NotMeasured, match=r"density 0\.01 .* at densities 0\.1 … 1"):
        model_of("chain").predict_architectures([Architecture(density={"conv1": 0.01})])


def test_a_layer_that_cannot_be_sparse_is_refused_by_name(model_of):
    with pytest.raises(
        ArchitectureError, match=r"conv0 cannot be sparse; those that can are conv1"
    ):
        model_of("chain").predict_architectures([Architecture(density={"conv0": 0.5})])


def test_densities_of_another_shape_are_refused(model_of):
    with pytest.raises(ValueError, match=r"densities: expected shape \(1, 3\)"):
        model_of("chain").predict(np.array([[32, 64, 32]]), None, np.ones((1, 2)))


def test_multiply_accumulates_count_only_what_is_kept(model_of):
    network, model = NETWORKS["chain"], model_of("chain")
    half = Architecture(density=dict.fromkeys(network.sparse_layers, 0.5))
    (stem,) = (s for layer, s in network.layer_specs(half) if layer.name == "conv0")
    rest = network.macs_of(network.dense) - stem.macs
    assert network.macs_of(half) == stem.macs + rest / 2
    assert model.in_macs().latency_s(half) == pytest.approx(
        model.dense_s * network.macs_of(half) / network.macs_of(network.dense)
    )


def test_a_network_whose_layers_are_as_wide_as_its_image_is_priced(tmp_path):
    network = chain(64, 64, 64, 8).model_copy(update={"input_shape": (64, 16, 16)})
    network = Network.model_validate(network.model_dump())
    table = synthetic_table(tmp_path / "t", network, by_kept_weights, levels=4,
                            device=SPARSE_DEVICE)  # fmt: skip
    model = LatencyModel(network, table)
    for density in (1.0, 0.4):
        asked = Architecture(density={"conv1": density, "conv2": density})
        truth_s = true_s(network, asked, by_kept_weights)
        assert model.latency_s(asked) == pytest.approx(truth_s, rel=0.05)


# -- one family ------------------------------------------------------------------------------


def points(noise=0.0, clock_s=0.0):
    rng = np.random.default_rng(0)
    found = {}
    for x in (16, 32, 64):
        for y in (16, 32, 64):
            for d in DENSITIES:
                cost_s = 2e-6 + y * (5e-8 + x * d * 2e-9)
                found[x, y, d] = cost_s * (1 + noise * rng.normal()) + clock_s * rng.normal()
    return found


def test_a_line_in_what_is_kept_is_found_again():
    surface = SparseSurface(points(), 16)
    x, y, d = np.array([24, 64]), np.array([48, 20]), np.array([0.33, 0.9])
    values, interpolated = surface(x, y, d)
    whole = np.array([48, 32])  # an output is computed in whole blocks
    assert values == pytest.approx(2e-6 + whole * (5e-8 + x * d * 2e-9), rel=0.02)
    assert interpolated.all()


def test_what_a_clock_hardly_sees_is_not_answered_too_low_on_average():
    noisy = SparseSurface(points(noise=0.03, clock_s=5e-7), 16)
    exact = points()
    x, y, d = np.array([*exact]).T
    off = noisy(x, y, d)[0] / np.array([*exact.values()]) - 1
    assert abs(off.mean()) < 0.02


def test_outside_what_was_measured_there_is_no_answer():
    surface = SparseSurface(points(), 16)
    values, _ = surface(np.array([8, 16, 16]), np.array([16, 80, 16]), np.array([1, 1, 0.05]))
    assert np.isnan(values).all()


def test_measured_widths_and_densities_are_not_interpolated():
    surface = SparseSurface(points(), 16)
    assert not surface(np.array([16]), np.array([64]), np.array([0.1]))[1].any()
    assert surface(np.array([16]), np.array([64]), np.array([0.11]))[1].all()
