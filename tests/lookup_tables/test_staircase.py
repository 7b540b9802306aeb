from itertools import pairwise

import numpy as np
import pytest

from lookup_tables.architecture import Architecture
from lookup_tables.errors import TableError
from lookup_tables.layer import LayerSpec
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import MOST_CHOICES, Staircase
from tests.toys import chain, synthetic_table

NETWORK = chain(32, 64, 32, 8)


def stairs_of_16(spec: LayerSpec) -> float:
    """Seconds that climb in steps of 16 output channels; a launch costs 2 µs."""
    rounded = -(-spec.out_channels // 16) * 16
    area = spec.out_size[0] * spec.out_size[1]
    return 2e-6 + spec.in_channels * rounded * spec.kernel[0] * spec.kernel[1] * area * 1e-10


@pytest.fixture(scope="module")
def stairs(tmp_path_factory):
    every_width = tuple(
        group.model_copy(update={"choices": tuple(range(group.width // 4, group.width + 1, 4))})
        for group in NETWORK.groups
    )
    network = NETWORK.model_copy(update={"groups": every_width})
    table = synthetic_table(tmp_path_factory.mktemp("t"), network, stairs_of_16, levels=13)
    return Staircase(LatencyModel(network, table))


def test_the_right_edge_of_a_step_is_offered_and_nothing_that_costs_as_much(stairs):
    steps = {step.width: step for step in stairs.steps(stairs.network.group["g1"])}
    # What g1 feeds costs in proportion to its width, so every width saves there; in the last
    # group's own layer the steps of 16 show.
    assert steps[64].edge
    for step in steps.values():
        if not step.edge:
            assert steps[step.better].seconds <= step.seconds + 0.001 * stairs.model.dense_s
            assert step.better > step.width


def test_dominated_widths_are_never_on_the_menu(stairs):
    model = stairs.model
    for group in stairs.menu().groups:
        assert group.choices[-1] == group.width
        costs = [
            model.latency_s(Architecture(widths={group.name: width})) for width in group.choices
        ]
        assert all(a < b for a, b in pairwise(costs))


def test_a_width_that_a_wider_one_beats_is_named_with_the_wider_one(tmp_path):
    network = chain(64, 8)

    def slow_unless_aligned(spec):
        odd = spec.out_channels % 16 and spec.out_channels > 16
        return 1e-5 + spec.in_channels * spec.out_channels * (1e-8 + 2e-8 * bool(odd))

    every = network.groups[0].model_copy(update={"choices": tuple(range(16, 65, 4))})
    network = network.model_copy(update={"groups": (every,)})
    table = synthetic_table(tmp_path / "t", network, slow_unless_aligned, levels=13)
    stairs = Staircase(LatencyModel(network, table))
    assert not {w for w in stairs.menu().groups[0].choices if w > 24 and w % 16}
    wider, _ = stairs.advice(Architecture(widths={"g0": 36}))
    assert (wider[0].group, wider[0].width) == ("g0", 36)
    assert wider[0].instead in (48, 64)
    assert wider[0].saves_s > 0


def test_the_cheapest_layers_are_bound_by_launch_and_heavy_ones_by_compute(stairs):
    layers = {layer.name: layer for layer in stairs.layers(stairs.network.dense)}
    assert layers["conv1"].binding == "compute"
    tiny = LayerSpec(kind="conv", in_channels=1, out_channels=1, in_size=(4, 4))
    assert stairs.binding(tiny, stairs_of_16(tiny)) == "launch"


def test_a_layer_that_only_moves_bytes_is_bound_by_memory(stairs):
    pool = LayerSpec(
        kind="max_pool", in_channels=64, out_channels=64, in_size=(64, 64), kernel=(2, 2),
        stride=(2, 2),
    )  # fmt: skip
    assert stairs.binding(pool, 1e-4) == "memory"


def test_a_layer_that_is_far_from_the_best_of_both_is_bound_by_neither(stairs):
    odd = LayerSpec(kind="depthwise", in_channels=63, out_channels=63, in_size=(16, 16), groups=63)
    assert stairs.binding(odd, 1e-2) == "neither"


def test_what_pruning_failed_to_buy_is_the_time_above_the_macs_share(stairs):
    half = Architecture(widths={"g1": 36})
    layer = {layer.name: layer for layer in stairs.layers(half)}["conv1"]
    assert layer.macs_share == pytest.approx(36 / 64)
    assert layer.lost_s == pytest.approx(layer.seconds - layer.dense_s * 36 / 64)
    assert layer.lost_s > 0  # 36 channels run as 48


def test_a_search_sees_the_menu_and_the_prices_stay(stairs):
    offered = stairs.model.with_menu(stairs.menu())
    assert offered.network.groups == stairs.menu().groups
    for width in offered.network.groups[1].choices:
        architecture = Architecture(widths={"g1": width})
        assert offered.latency_s(architecture) == pytest.approx(
            stairs.model.latency_s(architecture)
        )


def test_a_model_is_not_lent_to_another_network(stairs):
    with pytest.raises(TableError, match="is not the network"):
        stairs.model.with_menu(chain(8, 8))


def test_a_long_staircase_is_offered_in_part(tmp_path):
    network = chain(256, 8)
    table = synthetic_table(tmp_path / "t", network)
    stairs = Staircase(LatencyModel(network, table))
    choices = stairs.menu().groups[0].choices
    assert len(choices) <= MOST_CHOICES
    assert (choices[0], choices[-1]) == (64, 256)  # as narrow as the menu it came with


def test_every_measured_width_has_a_step(stairs):
    for group in stairs.network.groups:
        widths = [step.width for step in stairs.steps(group)]
        assert widths == list(range(stairs.lowest_width(group), group.width + 1))
        assert np.isfinite([step.seconds for step in stairs.steps(group)]).all()
