import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.model.surface import ChannelStep, Surface, find_step

STAIRS = {(i, o): float(10 * i + (o > 8) * 100) for i in (8, 16) for o in (8, 16, 24)}
AVX512 = ChannelStep(block=16, alignment=4)


def ask(surface, i, o):
    values, interpolated = surface(np.array([i]), np.array([o]))
    return float(values[0]), bool(interpolated[0])


def blocked(i, o, step=AVX512):
    """Seconds of a device that pads aligned widths to blocks and is slow at all others."""
    slow = 1.0 if i < step.block or i % step.alignment == 0 else 2.5
    return 1e-6 * (20 + slow * step.blocks(np.array(i)) * step.blocks(np.array(o)) / 16)


def measured(count, seed=0, cost=blocked):
    """A grid of multiples of 8 up to 64, and random widths between."""
    grid = [(i, o) for i in range(8, 65, 8) for o in range(8, 65, 8)]
    drawn = np.random.default_rng(seed).integers(8, 65, (count, 2))
    return {(int(i), int(o)): float(cost(i, o)) for i, o in (*grid, *drawn)}


@given(st.sampled_from(list(STAIRS)))
def test_measured_points_are_answered_as_they_are(point):
    assert ask(Surface(STAIRS), *point) == (STAIRS[point], False)


def test_between_points_it_interpolates_and_says_so():
    value, interpolated = ask(Surface(STAIRS), 12, 24)
    assert interpolated
    assert value == pytest.approx(220.0, rel=0.05)


def test_outside_the_measured_range_there_is_no_answer():
    for point in ((4, 8), (17, 8), (8, 25)):
        assert np.isnan(ask(Surface(STAIRS), *point)[0])


def test_layers_that_keep_their_width_are_a_line():
    surface = Surface({(8, 8): 1.0, (12, 12): 1.5, (16, 16): 2.0})
    value, interpolated = ask(surface, 14, 14)
    assert interpolated
    assert value == pytest.approx(1.75, rel=0.05)
    assert np.isnan(ask(surface, 8, 16)[0])


@given(st.permutations(range(6)))
def test_scattered_points_are_kept_and_answers_between_them_stay_near(order):
    points = {(8 + 4 * k, 8 * (1 + order[k])): 1.0 + k + order[k] for k in range(6)}
    surface = Surface(points)
    for (i, o), value in points.items():
        assert ask(surface, i, o) == (value, False)
    middle, interpolated = ask(surface, 18, 28)
    assert interpolated
    assert 0.5 * min(points.values()) <= middle <= 2 * max(points.values())


def test_the_channel_step_of_a_device_is_found_from_its_measurements():
    families = [measured(60, seed) for seed in range(3)]
    assert find_step(families) == AVX512


def test_a_device_without_steps_has_none():
    families = [measured(60, seed, lambda i, o: 1e-6 * (20 + i * o / 16)) for seed in range(3)]
    assert find_step(families).alignment == 1


def test_a_few_points_on_one_grid_tell_nothing_about_steps():
    assert find_step([{(8, 8): 1.0, (16, 16): 2.0}]) == ChannelStep(1, 1)
    assert find_step([]) == ChannelStep(1, 1)


def test_knowing_the_step_odd_widths_are_predicted_from_other_odd_widths():
    i, o = (axis.ravel() for axis in np.meshgrid(range(16, 65), range(8, 65)))
    truth = np.array([blocked(*widths) for widths in zip(i.tolist(), o.tolist(), strict=True)])
    points = measured(120)
    errors = Surface(points, AVX512)(i, o)[0] / truth - 1
    without = Surface(points)(i, o)[0] / truth - 1
    assert np.sqrt(np.mean(errors**2)) < 0.08
    assert np.abs(errors).max() < 0.4  # some on a step's edge have no neighbour that was measured
    assert np.sqrt(np.mean(errors**2)) < np.sqrt(np.mean(without**2)) / 3


@given(st.integers(5, 32).map(lambda n: 4 * n), st.sampled_from(range(16, 129, 16)))
def test_within_a_block_an_aligned_width_costs_what_the_whole_block_does(width, other):
    grid = range(16, 129, 16)
    surface = Surface({(i, o): blocked(i, o) for i in grid for o in grid}, AVX512)
    whole = int(AVX512.blocks(np.array(width)))
    assert ask(surface, width, other)[0] == pytest.approx(ask(surface, whole, other)[0], rel=0.001)
    assert ask(surface, other, width)[0] == pytest.approx(ask(surface, other, whole)[0], rel=0.001)


def test_a_whole_table_of_answers_agrees_with_answers_one_by_one():
    surface = Surface(measured(40), AVX512)
    x, y = np.random.default_rng(1).integers(8, 65, (2, 50))
    together, interpolated = surface(x, y)
    alone = surface._answer(np.stack([x, y], axis=-1))
    assert together[interpolated] == pytest.approx(alone[interpolated])


def test_left_out_points_show_a_step_that_neighbours_miss():
    errors, _ = Surface({(1, o): 1.0 + (o == 16) for o in (8, 16, 24)}).left_out()
    assert errors[1] < -0.25  # the neighbours say less than the 2.0 that was measured


def test_an_answer_is_sure_at_measured_points_and_less_so_away_from_them():
    surface = Surface(measured(0), AVX512)
    x, y = np.array([16, 20, 19]), np.array([16, 20, 19])
    at_point, aligned, odd = surface.relative_spread(x, y)
    assert at_point == 0
    assert 0 < aligned < odd


def test_convolutions_that_were_measured_at_equal_widths_only_still_answer_for_others():
    points = {(1, 1): 1e-6, (8, 8): 4e-6, (16, 16): 9e-6}
    seconds, interpolated = Surface(points, mixes=True)(np.array([13, 8]), np.array([15, 8]))
    assert np.isfinite(seconds).all()
    assert interpolated.tolist() == [True, False]
    assert np.isnan(Surface(points)(np.array([13]), np.array([15]))[0]).all()
