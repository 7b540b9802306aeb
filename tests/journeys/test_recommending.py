"""One question to several tables: what keeps the most accuracy within a budget?"""

import json

import pytest

from lookup_tables.network import Network
from pruner import models
from pruner.run.recommend import ways_of
from pruner.train.weights import save_weights
from tests.commands import prune_arguments
from tests.toys import DEVICE, SPARSE_DEVICE, synthetic_table

INT8 = {"precision": "int8"}


def cost(speed):
    return lambda spec: (1e-6 + 1e-11 * spec.kept_macs) / speed


@pytest.fixture
def tables(workshop, tmp_path):
    """Of one machine: in FP32, and in INT8."""
    network = Network.load(workshop / "small_resnet.json")
    synthetic_table(tmp_path / "fp32", network, cost(1))
    synthetic_table(tmp_path / "int8", network, cost(2.5), device=DEVICE.model_copy(update=INT8))
    return [tmp_path / "fp32", tmp_path / "int8"]


def test_a_table_prices_what_its_device_can_do():
    def named(device):
        return [(way.name, way.widths, way.density) for way in ways_of("t", device)]

    assert named(DEVICE) == [("prune", True, False)]
    assert named(SPARSE_DEVICE) == [("sparsify", False, True), ("prune + sparsify", True, True)]
    assert named(DEVICE.model_copy(update=INT8)) == [
        ("quantise", False, False), ("quantise + prune", True, False)
    ]  # fmt: skip
    assert named(SPARSE_DEVICE.model_copy(update=INT8)) == [
        ("quantise + sparsify", False, True), ("quantise + prune + sparsify", True, True)
    ]  # fmt: skip


def asked(workshop, out, tables, **changes):
    options = {"method": "uniform", "epochs": 0, "table": None, "calibration_images": 32} | changes
    words = prune_arguments(workshop, out, **options)
    return [*words, *(word for table in tables for word in ("--table", table))]


def test_every_way_is_tried_and_the_best_within_the_budget_is_recommended(
    workshop, tables, tmp_path, pruner, capsys
):
    out = tmp_path / "ways"
    options = asked(workshop, out, tables, speedup=2)
    assert pruner("recommend", *options, "--speedup", 50, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    ways = {row["way"] for row in found["rows"]}
    assert ways == {"as it is", "prune", "quantise", "quantise + prune"}
    (best,) = [row for row in found["rows"] if row["recommended"]]
    budget = found["budgets_ms"][0]
    within = [r for r in found["rows"] if r["latency_ms"] and r["latency_ms"] <= budget * 1.001]
    assert best["held_out"] == max(row["held_out"] for row in within)
    too_much = [row for row in found["rows"] if row["budget_ms"] == found["budgets_ms"][1]]
    assert too_much
    assert all("no architecture" in row["refused"] for row in too_much)
    page = (out / "report.html").read_text()
    assert "http" not in page
    assert "quantise + prune" in page
    assert (out / "recommend.svg").stat().st_size > 1000

    written = {path: path.stat().st_mtime_ns for path in out.glob("*/*.onnx")}
    assert pruner("recommend", *options) == 0
    assert f"* within {budget:.3g} ms: {best['way']}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in written} == written, "nothing was made twice"


@pytest.mark.parametrize(
    ("which", "changes", "said"),
    [
        ([0], {"speedup": None}, "give at least one budget"),
        ([1], {}, "give --latency-ms, or a table in FP32 too"),
        ([0, 0, 0], {"threads": 2}, "threads is 2 there and 1 here"),
        ([0, 0], {}, None),
        ([0], {"speedup": 0.5}, "asks for a slower network"),
        ([0], {"model": "resnet20"}, "the model expects 3×32×32 images"),
    ],
)
def test_tables_that_cannot_answer_together_are_refused(
    workshop, tables, tmp_path, pruner, capsys, which, changes, said
):
    chosen = [tables[number] for number in which]
    if changes.pop("threads", None):
        network = Network.load(workshop / "small_resnet.json")
        device = DEVICE.model_copy(update={"threads": 2})
        synthetic_table(tmp_path / "two", network, device=device)
        chosen = [tables[0], tmp_path / "two"]
    if changes.get("model"):
        changes["weights"] = tmp_path / "colours.safetensors"
        save_weights(models.build("resnet20", 10), changes["weights"])
    if said is None:
        network = Network.load(workshop / "small_resnet.json")
        synthetic_table(tmp_path / "again", network)
        chosen, said = [tables[0], tmp_path / "again"], "two tables price the same (prune)"
    changes.setdefault("speedup", 2)
    assert pruner("recommend", *asked(workshop, tmp_path / "ways", chosen, **changes)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "ways").exists()
