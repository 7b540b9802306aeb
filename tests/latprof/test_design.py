from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprof.profile.design import (
    LEVELS,
    SMALLER,
    any_width,
    design,
    field,
    level_widths,
    narrowest_width,
    thin,
    unseen,
    whole_range,
    with_densities,
)
from lookup_tables.model.latency_model import DENSITIES
from lookup_tables.network import Network, network_names
from tests.toys import chain, tiny_network


@pytest.mark.parametrize("order", LEVELS)
def test_every_field_is_a_field(order):
    multiply, add = field(order)
    elements = set(range(order))
    for a in range(order):
        assert set(add[a]) == elements
        if a:
            assert set(multiply[a]) == elements
    for a, b, c in product(range(order), repeat=3):
        assert multiply[a, add[b, c]] == add[multiply[a, b], multiply[a, c]]


@pytest.mark.parametrize("name", network_names())
def test_every_pair_of_widths_of_every_layer_is_run(name):
    network = Network.load(name)
    runs = design(network, 8, seed=3)
    for layer in network.layers:
        geometry = network.geometry[layer.name]
        groups = sorted({g for g, _ in (*geometry.in_form.factors, *geometry.out_form.factors)})
        for pair in combinations(groups, 2) if len(groups) > 2 else [groups]:
            seen = {tuple(run.widths[g] for g in pair) for run in runs}
            assert seen >= set(product(*(network.group[g].choices for g in pair)))


@given(st.sampled_from(LEVELS[:5]), st.integers(0, 20))
def test_any_number_of_levels_gives_its_square_of_runs_and_the_two_extremes(levels, seed):
    network = chain(16, 16, 16, 8)
    runs = design(network, levels, seed)
    assert len(runs) == levels**2 + min(SMALLER, levels**2) + 2
    assert runs[0] == network.dense
    assert set(runs[1].widths.values()) == {1}


@pytest.mark.parametrize("levels", LEVELS)
def test_the_narrowest_and_the_full_width_are_always_run(levels):
    network = Network.load("resnet20")
    runs = design(network, levels, seed=0)
    for group in network.groups:
        widths = {run.widths[group.name] for run in runs}
        assert {group.choices[0], group.width} <= widths


def test_the_same_seed_gives_the_same_runs():
    network = Network.load("resnet20")
    assert design(network, 8, 1) == design(network, 8, 1)
    assert design(network, 8, 1) != design(network, 8, 2)


def test_a_number_of_levels_without_a_field_is_refused():
    with pytest.raises(ValueError, match="6 levels: choose one of 2, 3, 4"):
        design(chain(8, 8), 6, 0)


def test_unseen_architectures_are_new_and_differ():
    network = Network.load("resnet20")
    known = design(network, 8, 0)
    tests = unseen(network, 40, 0, exclude=known)
    texts = {a.model_dump_json() for a in tests}
    assert len(texts) == 40
    assert not texts & {a.model_dump_json() for a in known}
    menu, other = tests[::2], tests[1::2]
    assert all(a.widths[g.name] in g.choices for a in menu for g in network.groups)
    assert all(any(a.widths[g.name] not in g.choices for g in network.groups) for a in other)
    for kind in (menu, other):
        assert np.mean([bool(a.removed) for a in kind]) == pytest.approx(0.5, abs=0.1)


def test_a_table_is_judged_by_shallow_networks_thin_and_wide_ones_alike():
    network = Network.load("resnet56")
    full = sum(group.width for group in network.groups)
    shallow = [a for a in unseen(network, 96, 0) if len(a.removed) >= 9]
    width = np.array([sum(a.widths.values()) / full for a in shallow])
    assert len(shallow) >= 24
    assert (width > 0.75).sum() >= 6
    assert (width < 0.65).sum() >= 6


@given(st.integers(0, 1000))
def test_a_network_without_blocks_is_designed_as_if_there_were_none_in_any(seed):
    network = chain(16, 16, 16, 8)
    drawn = [*design(network, 3, seed), *unseen(network, 20, seed)]
    assert not any(architecture.removed for architecture in drawn)


def test_a_longer_list_of_unseen_architectures_begins_with_the_shorter_one():
    network = Network.load("resnet20")
    assert unseen(network, 60, 0)[:20] == unseen(network, 20, 0)


def test_unseen_architectures_keep_to_the_menu_that_was_measured():
    network = Network.load("resnet20")
    menu = {g.name: level_widths(g, 2) for g in network.groups}
    for architecture in unseen(network, 20, 0, menu=menu)[::2]:
        assert all(architecture.widths[name] in widths for name, widths in menu.items())


def test_a_network_with_few_architectures_is_also_tested_between_its_menu():
    network = chain(8, 8)  # one group of widths 2, 4 and 8
    tests = unseen(network, 40, 0, exclude=design(network, 3, 0))
    assert {a.widths["g0"] for a in tests} == {3, 5, 6, 7}


def test_a_network_of_which_only_blocks_may_go_is_tested_without_them():
    network = tiny_network()
    widths = {group.name: group.width for group in network.groups}
    layers = tuple(
        layer.model_copy(update={"group": None, "channels": widths[layer.group]})
        if layer.group
        else layer
        for layer in network.layers
    )
    network = network.model_copy(update={"groups": (), "layers": layers})
    tests = unseen(network, 40, 0, exclude=[network.dense])
    assert len(tests) == len({one.removed for one in tests}) == 2 ** len(network.blocks) - 1


@given(st.integers(0, 1000))
def test_any_width_means_from_a_quarter_the_others_go_down_to_the_narrowest(seed):
    network = Network.load("resnet20")
    rng = np.random.default_rng(seed)
    quarter = any_width(network, rng)
    others = thin(network, rng), whole_range(network, rng)
    for group in network.groups:
        assert group.width / 4 <= quarter.widths[group.name] <= group.width
        for other in others:
            network.check(other)
            assert narrowest_width(group) <= other.widths[group.name] <= group.width
        assert narrowest_width(group) <= group.choices[0]


def test_a_third_of_thin_networks_have_less_than_a_quarter_of_all_channels():
    network, rng = Network.load("resnet56"), np.random.default_rng(0)
    drawn = [thin(network, rng) for _ in range(200)]
    full = sum(group.width for group in network.groups)
    shares = [sum(architecture.widths.values()) / full for architecture in drawn]
    assert 0.3 < sum(share < 0.25 for share in shares) / len(shares) < 0.6
    assert 0.3 < sum(bool(architecture.removed) for architecture in drawn) / len(drawn) < 0.6


def test_every_density_meets_every_width_that_its_layer_reads_and_writes():
    network = Network.load("resnet20")
    runs = design(network, 8, 3, network.sparse_layers)
    for name in network.sparse_layers:
        geometry = network.geometry[name]
        for group in {g for g, _ in (*geometry.in_form.factors, *geometry.out_form.factors)}:
            seen = {(run.widths[group], run.density.get(name, 1.0)) for run in runs}
            assert seen >= set(product(network.group[group].choices, DENSITIES))


@given(st.integers(0, 50), st.booleans())
def test_random_densities_are_in_range_and_no_width_below_the_menu(seed, on_menu):
    network = Network.load("resnet20")
    rng = np.random.default_rng(seed)
    drawn = with_densities(network, thin(network, rng), rng, on_menu)
    network.check(drawn)
    assert all(DENSITIES[0] <= share < 1 for share in drawn.density.values())
    assert all(drawn.widths[g.name] >= g.choices[0] for g in network.groups)
    if on_menu:
        assert {*drawn.density.values()} <= {*DENSITIES}


def test_without_sparse_layers_the_design_is_the_one_of_every_table_so_far():
    network = Network.load("resnet20")
    assert all(not run.density for run in design(network, 8, 0))
    assert all(not run.density for run in unseen(network, 20, 0))
