import pytest

from latprof.share.merge import merge
from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.storage.manifest import load_manifest
from lookup_tables.table.store import LatencyTable
from tests.latprof.test_share import finished, judge
from tests.toys import DEVICE, chain, synthetic_table

NETWORK = chain(8, 16, 8, 8)
OTHER = chain(8, 24, 8).model_copy(update={"name": "other"})


def test_networks_of_both_tables_are_in_the_merged_one(tmp_path):
    first, second = finished(tmp_path / "a"), finished(tmp_path / "b", OTHER)
    merged = merge(first, second, tmp_path / "c")
    assert merged.networks() == ["chain", "other"]
    assert merged.path("other").read_bytes() == second.path("other").read_bytes()
    assert load_manifest(merged.folder).networks() == ["chain", "other"]


def test_of_a_table_and_its_continuation_the_longer_one_is_taken(tmp_path):
    short = finished(tmp_path / "a")
    long = finished(tmp_path / "b")
    judge(long, "chain")
    merged = merge(short, long, tmp_path / "c")
    assert merged.path("chain").read_bytes() == long.path("chain").read_bytes()


def halves(tmp_path):
    """One profile, its odd runs in one table and its even ones in the other."""
    whole = synthetic_table(tmp_path / "whole", NETWORK, levels=3, samples=6)
    tables = []
    for name, odd in (("a", 0), ("b", 1)):
        table = LatencyTable.create(tmp_path / name, DEVICE)
        plan, *runs = whole.rows("chain")
        table.append("chain", [plan, *runs[odd::2]])
        NETWORK.save(table.network_path("chain"))
        judge(table, "chain")
        tables.append(table)
    return whole, *tables


def test_two_halves_of_a_profile_make_a_whole_one(tmp_path):
    whole, first, second = halves(tmp_path)
    merged = merge(first, second, tmp_path / "c")
    assert {run.key for run in merged.runs(NETWORK)} == {run.key for run in whole.runs(NETWORK)}
    predicted = LatencyModel(NETWORK, merged).latency_s(NETWORK.dense)
    assert predicted == pytest.approx(LatencyModel(NETWORK, whole).latency_s(NETWORK.dense))
    judged = [merged.validation("chain", widths) for widths in ("menu", "any")]
    assert [one.stopped for one in judged] == ["complete", "complete"]
    assert sum(one.architectures for one in judged) == 6


def test_a_network_measured_twice_keeps_both_as_attempts(tmp_path):
    first = synthetic_table(tmp_path / "a", NETWORK, levels=3, samples=3)
    second = LatencyTable.create(tmp_path / "b", DEVICE)
    plan, *runs = first.rows("chain")
    second.append("chain", [plan, *(r.model_copy(update={"pairs": 30}) for r in runs)])
    merged = merge(first, second, tmp_path / "c")
    assert sorted(run.attempt for run in merged.runs(NETWORK)) == [0] * 23 + [1] * 23


def test_runs_of_other_architectures_under_the_same_number_get_numbers_of_their_own(tmp_path):
    first = synthetic_table(tmp_path / "a", NETWORK, levels=3, samples=3)
    second = LatencyTable.create(tmp_path / "b", DEVICE)
    plan, *runs = first.rows("chain")
    swapped = runs[3].model_copy(update={"run": runs[4].run})
    second.append("chain", [plan, swapped, runs[5].model_copy(update={"pairs": 30})])
    merged = merge(second, first, tmp_path / "c").runs(NETWORK)
    of_each = {}
    for run in merged:
        of_each.setdefault((run.purpose, run.run), set()).add(run.architecture.model_dump_json())
    assert all(len(architectures) == 1 for architectures in of_each.values())


def test_tables_of_two_devices_are_never_merged(tmp_path):
    first = finished(tmp_path / "a")
    second = LatencyTable.create(tmp_path / "b", DEVICE.model_copy(update={"threads": 2}))
    with pytest.raises(DeviceMismatch, match="threads: expected 1, found 2"):
        merge(first, second, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_two_plans_of_one_network_are_refused(tmp_path):
    first = synthetic_table(tmp_path / "a", NETWORK, levels=3, samples=3)
    second = synthetic_table(tmp_path / "b", NETWORK, levels=4, samples=3)
    with pytest.raises(TableError, match=r"chain: .* with different plans"):
        merge(first, second, tmp_path / "c")


def test_a_folder_that_holds_something_is_not_merged_into(tmp_path):
    first = finished(tmp_path / "a")
    with pytest.raises(TableError, match="is not empty"):
        merge(first, first, tmp_path / "a")


def test_a_merge_that_fails_leaves_nothing(tmp_path):
    first = synthetic_table(tmp_path / "a", NETWORK, levels=3, samples=3)
    finished(tmp_path / "a", OTHER)
    second = synthetic_table(tmp_path / "b", NETWORK, levels=4, samples=3)
    with pytest.raises(TableError, match="different plans"):
        merge(second, first, tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_priors_that_differ_are_not_merged(tmp_path):
    _, first, second = halves(tmp_path)
    first.prior_path("chain").write_text("{}")
    second.prior_path("chain").write_text("[]")
    with pytest.raises(TableError, match="differ; keep them in two tables"):
        merge(first, second, tmp_path / "c")
