import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.surface import Surface

STAIRS = {(i, o): float(10 * i + (o > 8) * 100) for i in (8, 16) for o in (8, 16, 24)}


def ask(surface, i, o):
    values, interpolated = surface(np.array([i]), np.array([o]))
    return float(values[0]), bool(interpolated[0])


@given(st.sampled_from(list(STAIRS)))
def test_measured_points_are_answered_as_they_are(point):
    assert ask(Surface(STAIRS), *point) == (STAIRS[point], False)


def test_between_points_it_interpolates_and_says_so():
    assert ask(Surface(STAIRS), 12, 24) == (220.0, True)


def test_outside_the_measured_range_there_is_no_answer():
    for point in ((4, 8), (17, 8), (8, 25)):
        assert np.isnan(ask(Surface(STAIRS), *point)[0])


def test_layers_that_keep_their_width_are_a_line():
    surface = Surface({(8, 8): 1.0, (16, 16): 2.0})
    assert ask(surface, 12, 12) == (1.5, True)
    assert np.isnan(ask(surface, 8, 16)[0])


@given(st.permutations(range(6)))
def test_scattered_points_are_kept_and_answers_between_them_stay_near(order):
    points = {(8 + 4 * k, 8 * (1 + order[k])): 1.0 + k + order[k] for k in range(6)}
    surface = Surface(points)
    for (i, o), value in points.items():
        found, interpolated = ask(surface, i, o)
        assert abs(found - value) < 1e-6
        assert not interpolated
    middle, interpolated = ask(surface, 18, 28)
    assert interpolated
    assert min(points.values()) <= middle <= 2 * max(points.values())


def test_interpolation_errors_see_a_step_that_the_line_misses():
    surface = Surface({(1, o): 1.0 + (o >= 16) for o in (8, 16, 24)})
    (error,) = surface.interpolation_errors()
    assert error == -0.25  # the line says 1.5 where 2.0 was measured
