"""Runs are not timed here: what is looked at is where entries appear."""

from tests.journeys.conftest import _timed_where_it_is_looked_at as _not_timed  # noqa: F401 - autouse
