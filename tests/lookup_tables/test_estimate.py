from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprof.profile.design import unseen
from lookup_tables.architecture import Architecture
from lookup_tables.errors import ArchitectureError, NotMeasured, TableError
from lookup_tables.model.calibration import calibrate, layer_shares
from lookup_tables.model.latency_model import CHUNK, SMALLEST, LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable
from pruner.graph.trace import trace
from tests.toys import Merging, chain, macs_with_steps, models_of, synthetic_table, true_s

NETWORKS = {"chain": chain(16, 32, 16, 8), "resnet20": Network.load("resnet20")}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """One latency model per toy network, from a noiseless table at all 8 levels."""
    return models_of(tmp_path_factory, NETWORKS, levels=8)


@pytest.mark.parametrize("name", list(NETWORKS))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_on_the_menu_a_noiseless_table_predicts_exactly(model_of, name, data):
    network, model = NETWORKS[name], model_of(name)
    widths = {g.name: data.draw(st.sampled_from(g.choices)) for g in network.groups}
    removed = [b.name for b in network.blocks if data.draw(st.booleans())]
    architecture = Architecture(widths=widths, removed=tuple(removed))
    prediction = model.predict_architectures([architecture])
    assert prediction.latency_s[0] == pytest.approx(true_s(network, architecture), rel=1e-3)
    assert prediction.interpolated[0] == 0
    assert prediction.low_s[0] <= prediction.latency_s[0] <= prediction.high_s[0]


def test_an_array_is_answered_like_its_members_one_by_one(model_of):
    network, model = NETWORKS["resnet20"], model_of("resnet20")
    rng = np.random.default_rng(0)
    widths = np.stack([rng.choice(g.choices, 50) for g in network.groups], axis=1)
    removed = rng.random((50, len(network.blocks))) < 0.3
    together = model.predict(widths, removed).latency_s
    alone = [
        model.predict(w[None], r[None]).latency_s[0] for w, r in zip(widths, removed, strict=True)
    ]
    assert together == pytest.approx(alone)


def test_removals_may_be_given_as_numbers(model_of):
    network, model = NETWORKS["resnet20"], model_of("resnet20")
    dense = np.array([[g.width for g in network.groups]])
    removed = np.zeros((1, len(network.blocks)), int)
    removed[0, 2] = 1
    assert model.predict(dense, removed).latency_s == model.predict(dense, removed > 0).latency_s
    with pytest.raises(ValueError, match=r"removed: expected shape \(1, 7\)"):
        model.predict(dense, removed[:, :3])


def test_sums_of_many_branches_stay_within_what_was_measured(tmp_path):
    network = trace(Merging(4), (3, 8, 8), "merging").network
    model = LatencyModel(network, synthetic_table(tmp_path / "t", network, levels=8))
    for architecture in (network.dense, *unseen(network, 30, seed=9)):
        expected = true_s(network, architecture)
        assert model.latency_s(architecture) == pytest.approx(expected, rel=0.25)


def test_the_layers_of_an_architecture_add_up_to_its_latency(model_of):
    network, model = NETWORKS["resnet20"], model_of("resnet20")
    architecture = Architecture(removed=("layer1.1",))
    layers = model.layers(architecture)
    total = sum(layer.seconds for layer in layers) + model.calibration.b * model.dense_s
    assert total == pytest.approx(model.latency_s(architecture))
    assert [layer.name for layer in layers] == [
        kept.name for kept in network.kept_layers(architecture)
    ]


def test_a_width_between_menu_levels_is_interpolated_and_says_so(model_of):
    model = model_of("chain")
    exact = model.predict_architectures([Architecture(widths={"g1": 16})])
    between = model.predict_architectures([Architecture(widths={"g1": 12})])
    assert exact.interpolated[0] == 0
    assert 0.3 < between.interpolated[0] <= 1
    relative = (between.high_s - between.low_s) / between.latency_s
    assert relative[0] > ((exact.high_s - exact.low_s) / exact.latency_s)[0]


def test_a_width_below_the_measured_range_is_an_error_that_says_how_to_measure_it(tmp_path):
    network = chain(64, 8)
    model = LatencyModel(network, synthetic_table(tmp_path / "t", network))
    assert model.lowest_widths == {"g0": 6}
    with pytest.raises(NotMeasured, match=r"never measured on toy_1t.*latprof profile"):
        model.predict_architectures([Architecture(widths={"g0": 5})])


def test_a_density_is_refused_where_no_sparse_kernel_was_measured(model_of):
    with pytest.raises(NotMeasured, match=r"no sparse kernels.*conv1 has density 0\.5"):
        model_of("chain").predict_architectures([Architecture(density={"conv1": 0.5})])


def test_unknown_groups_are_refused_before_any_look_up(model_of):
    with pytest.raises(ArchitectureError, match="no group 'nope'"):
        model_of("chain").predict_architectures([Architecture(widths={"nope": 4})])


@pytest.mark.parametrize(
    ("widths", "message"),
    [(np.ones((2, 9), int), r"expected shape \(n, 3\)"), (np.array([[16, 32, 99]]), "width 99")],
)
def test_an_array_of_another_shape_or_range_is_refused(model_of, widths, message):
    with pytest.raises(ValueError, match=message):
        model_of("chain").predict(widths)


def test_a_width_out_of_range_is_named_by_its_place_in_the_whole_array(model_of):
    widths = np.full((CHUNK + 10, 3), 8)
    widths[CHUNK + 3, 2] = 99
    with pytest.raises(ValueError, match=f"architecture {CHUNK + 3}, group"):
        model_of("chain").predict(widths)


def test_an_unfinished_table_says_how_to_finish_it(tmp_path):
    network = NETWORKS["chain"]
    table = synthetic_table(tmp_path / "t", network, levels=4)
    path = table.path("chain")
    path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n")
    with pytest.raises(
        TableError, match=r"holds 3 design runs, too few .* continue with: latprof profile"
    ):
        LatencyModel.load(network, table.folder)


def test_the_overhead_of_the_runtimes_profiler_is_calibrated_away(tmp_path):
    network = NETWORKS["resnet20"]
    table = synthetic_table(tmp_path / "t", network, levels=8)
    overhead_s = 4e-6
    rows = [table.rows("resnet20")[0]]
    for run in table.runs(network):
        layers = tuple(e.model_copy(update={"seconds": e.seconds + overhead_s}) for e in run.layers)
        rows.append(run.model_copy(update={"layers": layers}))
    slow = LatencyTable.create(tmp_path / "slow", table.device)
    slow.append("resnet20", rows)
    model = LatencyModel(network, slow)
    on_menu = [r for r in table.runs(network, "unseen") if not model.off_menu(r.architecture)]
    assert on_menu
    for run in on_menu:
        assert model.latency_s(run.architecture) == pytest.approx(run.whole_s, rel=0.01)


def test_errors_of_a_large_network_do_not_become_a_constant_cost(tmp_path):
    """A constant of a hundredth of a large network would be most of one cut to a fiftieth."""
    network = NETWORKS["chain"]
    table = synthetic_table(tmp_path / "t", network, lambda s: 1000 * macs_with_steps(s), levels=8)
    wrong = [
        run.model_copy(update={"ratio": run.ratio - 0.01 * (1 - run.ratio)})
        for run in table.settled_runs(network, "design")
    ]
    shares, nodes = layer_shares(wrong)
    dense_s = wrong[0].dense_s
    found = calibrate(wrong, shares, nodes, dense_s)
    assert dense_s > 0.01
    assert abs(found.b) * dense_s < 60e-6


def test_no_prediction_is_0_or_less(model_of, monkeypatch):
    network, model = NETWORKS["chain"], model_of("chain")
    monkeypatch.setattr(model, "calibration", replace(model.calibration, b=-2.0))
    found = model.predict_architectures([network.dense])
    assert found.latency_s[0] == pytest.approx(SMALLEST * model.dense_s)
    assert found.low_s[0] > 0
