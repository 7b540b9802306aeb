"""A table of JCW's shape becomes one of ours, with its gaps; networks are searched on it."""

import json

import numpy as np
import pytest

from latprof.share.foreign import (
    DENSITY_SHARES,
    FREE_S,
    WIDTH_SHARES,
    convert_jcw,
    convolutions,
)
from lookup_tables.architecture import Architecture
from lookup_tables.errors import TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Staircase
from pruner.search.methods import METHODS
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Scored, Searcher
from pruner.search.space import Kind, SearchSpace
from tests.toys import tiny_network

NETWORK = tiny_network()


def published(network=NETWORK) -> np.ndarray:
    """Milliseconds of every convolution but the first: a call, and what is computed."""
    outputs, inputs, density = np.meshgrid(
        WIDTH_SHARES, WIDTH_SHARES, DENSITY_SHARES, indexing="ij"
    )
    full = {layer.name: spec for layer, spec in network.layer_specs(network.dense)}
    found = []
    for number, layer in enumerate(convolutions(network)):
        spec = full[layer.name]
        ms = 1e-3 * spec.out_channels * spec.in_channels * (0.1 + outputs * inputs * density)
        found.append(ms * (number > 0))
    return np.array(found)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jcw")
    np.save(folder / "jcw.npy", published())
    return convert_jcw(folder / "jcw.npy", NETWORK, folder / "t", "ms")


def test_a_network_takes_the_sum_of_its_convolutions(converted):
    model = LatencyModel(NETWORK, converted.table)
    dense_s = published()[:, -1, -1, -1].sum() * 1e-3
    assert converted.dense_s == pytest.approx(dense_s, rel=1e-4)
    assert model.dense_s == pytest.approx(dense_s, rel=1e-3)
    second = convolutions(NETWORK)[1]
    lowest = model.latency_s(Architecture(density={second.name: 0.5}))
    saved_s = np.diff(published()[1, -1, -1, [5, 10]])[0] * 1e-3
    assert model.dense_s - lowest == pytest.approx(saved_s, rel=0.1)
    assert converted.rmspe < 0.02


def test_what_the_array_does_not_have_is_named_and_free(converted):
    first = convolutions(NETWORK)[0].name
    others = [layer.name for layer in NETWORK.layers if layer.kind != "conv"]
    assert {*converted.gaps} == {first, *others}
    (run, *_) = converted.table.runs(NETWORK)
    times = {entry.layer.kind: entry.seconds for entry in run.layers}
    assert times["linear"] == FREE_S


@pytest.mark.parametrize("method", ["jcw", "thompson_front"])
def test_widths_and_densities_are_searched_on_it(converted, method):
    latency = LatencyModel(NETWORK, converted.table)
    latency = latency.with_menu(Staircase(latency).menu())
    densities = Staircase(latency).densities()
    space = SearchSpace.of(latency.network, {Kind.WIDTH, Kind.DENSITY}, densities)
    problem = SearchProblem(
        space, latency, latency.dense_s / 1.6, episodes=12,
        importance=lambda: {g.name: np.ones(g.width) for g in NETWORK.groups},
        weights_importance=lambda: {n: np.ones(100) for n in NETWORK.sparse_layers},
    )  # fmt: skip
    own = {"population": 6, "generations": 2} if method == "jcw" else {}
    searcher, asked = Searcher(METHODS[method].make(problem, METHODS[method].settings(**own))), []
    while batch := searcher.ask():
        asked += batch
        searcher.tell([Scored(each, 0.5, latency.latency_s(each)) for each in batch])
    assert any(each.density for each in asked)
    assert min(map(latency.latency_s, asked)) <= problem.budget_s


def test_convolutions_are_in_the_order_of_a_models_modules():
    names = [layer.name for layer in convolutions(NETWORK)]
    assert names[0] == "conv1"
    assert names[1:] == sorted(names[1:])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a: a[:-1], "convolutions × output widths"),
        (lambda a: a[..., :10], "convolutions × output widths"),
        (lambda a: a.astype(int), "floating point"),
        (lambda a: -a, "below 0"),
        (lambda a: np.where(a > 0, np.nan, a), "below 0"),
        (lambda a: 0 * a, "all its values are 0"),
        (lambda _: None, "not an array of numbers"),
    ],
)
def test_an_array_that_cannot_be_one_of_the_network_leaves_nothing(tmp_path, spoil, says):
    file, spoilt = tmp_path / "jcw.npy", spoil(published())
    file.write_text("no array") if spoilt is None else np.save(file, spoilt)
    with pytest.raises(TableError, match=says):
        convert_jcw(file, NETWORK, tmp_path / "t", "ms")
    assert not (tmp_path / "t").exists()


def test_the_command_says_what_it_found_and_refuses_an_unknown_unit(tmp_path, latprof, capsys):
    np.save(tmp_path / "jcw.npy", published())
    NETWORK.save(tmp_path / "tiny.json")
    options = [tmp_path / "jcw.npy", "--network", tmp_path / "tiny.json", "--out", tmp_path / "t"]
    assert latprof("convert", *options, "--unit", "hours") == 1
    assert "expected one of s, ms, us" in capsys.readouterr().err
    assert latprof("convert", *options, "--unit", "ms", "--json") == 0
    assert "conv1" in json.loads(capsys.readouterr().out)["gaps"]
    assert latprof("convert", *options, "--unit", "ms") == 1
    assert "holds a table" in capsys.readouterr().err
    assert latprof("verify", tmp_path / "t") == 0
