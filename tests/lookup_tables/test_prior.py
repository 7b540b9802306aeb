import pytest

from lookup_tables.errors import TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.prior import corrected
from lookup_tables.table.prior import Prior
from lookup_tables.table.rows import Plan
from lookup_tables.table.store import LatencyTable
from tests.toys import DEVICE, chain, macs_with_steps, synthetic_table

NETWORK = chain(8, 32, 32, 16)
OTHER = DEVICE.model_copy(update={"name": "other", "threads": 2})


def twice_as_fast_where_it_computes(spec):
    """A device that computes twice as fast and launches as slowly."""
    return 2e-6 + (macs_with_steps(spec) - 2e-6) / 2


def few_runs(folder, count, cost=twice_as_fast_where_it_computes) -> LatencyTable:
    """The first `count` designed networks as measured on the other device."""
    whole = synthetic_table(folder / "whole", NETWORK, cost, levels=4)
    plan, *runs = whole.rows("chain")
    table = LatencyTable.create(folder / "few", OTHER)
    table.append("chain", [plan, *[run for run in runs if run.purpose == "design"][:count]])
    return table


def worst_on_the_menu(table: LatencyTable, truth: LatencyTable) -> float:
    model = LatencyModel(NETWORK, table)
    runs = truth.settled_runs(NETWORK, "unseen")
    return max(abs(model.errors([r for r in runs if not model.off_menu(r.architecture)])))


def test_a_prior_makes_few_runs_go_further(tmp_path):
    source = synthetic_table(tmp_path / "source", NETWORK, levels=4)
    truth = synthetic_table(tmp_path / "t", NETWORK, twice_as_fast_where_it_computes, levels=4)
    table = few_runs(tmp_path, 6)
    without = worst_on_the_menu(table, truth)
    LatencyModel(NETWORK, source).as_prior().save(table.prior_path("chain"))
    assert worst_on_the_menu(table, truth) < min(0.7 * without, 0.01)
    shares = LatencyModel(NETWORK, table).shares
    for spec, share in LatencyModel(NETWORK, truth).shares.items():  # six runs saw half of them
        assert shares[spec] == pytest.approx(share, rel=0.1)


def test_a_prior_of_the_same_costs_changes_nothing(tmp_path):
    source = synthetic_table(tmp_path / "source", NETWORK, levels=4)
    table = few_runs(tmp_path, 6, macs_with_steps)
    LatencyModel(NETWORK, source).as_prior().save(table.prior_path("chain"))
    model = LatencyModel(NETWORK, table)
    for spec, share in LatencyModel(NETWORK, source).shares.items():
        assert model.shares[spec] == pytest.approx(share, rel=1e-3)


def test_a_layer_that_one_device_fuses_away_says_nothing_of_the_others(tmp_path):
    model = LatencyModel(NETWORK, synthetic_table(tmp_path / "source", NETWORK, levels=4))
    prior = model.as_prior()
    shares, nodes = dict(model.shares), dict(model.nodes)
    fused = next(iter(shares))
    shares[fused], nodes[fused] = 5e-7, 0.0
    found, _ = corrected(prior, shares, nodes, dict.fromkeys(shares, 3))
    assert found.pop(fused) == 5e-7
    for spec, share in found.items():
        assert share == pytest.approx(model.shares[spec], rel=1e-3)


@pytest.mark.parametrize(
    ("numbers", "is_read"), [(range(100, 116), True), (range(1, 17), True), (range(16), False)]
)
def test_a_prior_is_read_until_as_many_were_measured_as_the_array_holds(tmp_path, numbers, is_read):
    """Runs at other widths come on top of the array, with higher numbers."""
    source = synthetic_table(tmp_path / "source", NETWORK, levels=4)
    plan, *runs = synthetic_table(tmp_path / "w", NETWORK, macs_with_steps, levels=4).rows("chain")
    design = [run for run in runs if run.purpose == "design"][: len(numbers)]
    assert len(design) >= 4**2
    table = LatencyTable.create(tmp_path / "few", OTHER)
    renumbered = zip(design, numbers, strict=False)
    table.append("chain", [plan, *[r.model_copy(update={"run": n}) for r, n in renumbered]])
    alone = LatencyModel(NETWORK, table).shares
    doubled = LatencyModel(NETWORK, source).as_prior()
    layers = tuple(e.model_copy(update={"share": 3 * e.share}) for e in doubled.layers)
    doubled.model_copy(update={"layers": layers}).save(table.prior_path("chain"))
    assert (LatencyModel(NETWORK, table).shares != alone) == is_read


def test_a_prior_survives_being_written_and_read(tmp_path):
    source = synthetic_table(tmp_path / "source", NETWORK, levels=3)
    prior = LatencyModel(NETWORK, source).as_prior()
    prior.save(tmp_path / "chain.prior.json")
    assert Prior.load(tmp_path / "chain.prior.json") == prior


def test_a_prior_of_another_network_is_refused(tmp_path):
    other = chain(8, 32, 32, 8)
    prior = LatencyModel(other, synthetic_table(tmp_path / "s", other, levels=3)).as_prior()
    table = few_runs(tmp_path, 6)
    prior.save(table.prior_path("chain"))
    with pytest.raises(TableError, match=r"chain\.prior\.json belongs to another network"):
        LatencyModel(NETWORK, table)


def test_a_damaged_prior_is_refused_naming_the_field(tmp_path):
    table = few_runs(tmp_path, 6)
    table.prior_path("chain").write_text('{"fingerprint": 3}')
    with pytest.raises(TableError, match=r"chain\.prior\.json: device"):
        LatencyModel(NETWORK, table)


def test_a_plan_still_reads_without_a_prior(tmp_path):
    table = few_runs(tmp_path, 6)
    assert isinstance(table.plan("chain"), Plan)
    assert table.prior(NETWORK) is None
