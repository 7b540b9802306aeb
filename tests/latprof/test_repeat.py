import json
import math
import subprocess
from pathlib import Path

import pytest

from latprof import DISTURBED_EXIT, Disturbed, OptionError
from latprof.profile.plan import keep_plan
from latprof.profile.repeat import _as_options, repeat, repeatability
from latprof.runtimes.here import this_device
from lookup_tables.errors import TableError
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable, repeats_path
from tests.hasty import HASTY
from tests.lookup_tables.test_diff import disturbed_copy
from tests.toys import DEVICE, synthetic_table, tiny_network

ROOT = Path(__file__).parents[2]
RESNET20 = Network.load("resnet20")
TINY = tiny_network()


def test_the_spread_is_that_of_the_noise_that_was_put_in(tmp_path):
    clean = synthetic_table(tmp_path / "clean", RESNET20, levels=4)
    noise = 0.02
    tables = [disturbed_copy(clean, tmp_path / str(i), seed=i, noise=noise) for i in range(5)]
    result = repeatability(RESNET20, tables)
    assert result.tables == 5
    # Medians over several runs scatter less than one run, predictions less than entries.
    assert 0.1 * noise < result.entries.median_spread < noise
    assert result.predictions.median_spread < result.entries.median_spread
    assert result.entries.median_spread <= result.entries.p95_spread <= result.entries.worst_spread
    assert result.flagged == (0, 0, 0, 0)


def test_identical_tables_repeat_perfectly(tmp_path):
    tables = [synthetic_table(tmp_path / str(i), RESNET20, levels=4) for i in range(2)]
    assert math.isclose(repeatability(RESNET20, tables).entries.worst_spread, 0, abs_tol=1e-12)


@pytest.fixture
def network_file(tmp_path):
    TINY.save(tmp_path / "tiny.json")
    return tmp_path / "tiny.json"


def real_table(tmp_path):
    """A table of this machine that was begun for the tiny network."""
    table = LatencyTable.create(tmp_path / "table", this_device())
    keep_plan(table, TINY, 2, 0)
    return table


def test_tables_are_rebuilt_in_processes_of_their_own_and_the_result_kept_beside_the_table(
    tmp_path, network_file, monkeypatch
):
    run = subprocess.run

    def hastily(command, **options):
        return run([*HASTY, *command[command.index("profile") :]], cwd=ROOT, **options)

    monkeypatch.setattr("latprof.profile.repeat.subprocess.run", hastily)
    table = real_table(tmp_path)
    options = ["--levels", "2", "--samples", "2", "--budget", "60s"]
    arguments = (TINY, table, 2, tmp_path / "again", options, str(network_file))
    result = repeat(*arguments)
    assert result.predictions.count == 200
    saved = json.loads(repeats_path(table.folder, "tiny").read_text())
    assert saved["tables"] == 2
    assert (tmp_path / "again" / "2" / "tiny.jsonl").exists()


def test_a_table_without_the_network_is_not_repeated(tmp_path, network_file):
    table = LatencyTable.create(tmp_path / "table", this_device())
    with pytest.raises(TableError, match="tiny"):
        repeat(TINY, table, 2, tmp_path / "again", [], str(network_file))
    assert not (tmp_path / "again").exists()


def test_a_profile_that_fails_is_reported_with_its_own_words(tmp_path, network_file):
    table = real_table(tmp_path)
    with pytest.raises(OptionError, match=r"table 1 failed: .*--levels"):
        repeat(TINY, table, 2, tmp_path / "again", ["--levels", "6"], str(network_file))


def test_a_profile_refused_on_a_busy_machine_is_a_refusal_of_the_repeat(
    tmp_path, network_file, monkeypatch
):
    refused = subprocess.CompletedProcess([], DISTURBED_EXIT, "", "error: too busy: a quota\n")
    monkeypatch.setattr("latprof.profile.repeat.subprocess.run", lambda *_, **__: refused)
    with pytest.raises(Disturbed, match="table 1 failed: too busy: a quota"):
        repeat(TINY, real_table(tmp_path), 2, tmp_path / "again", [], str(network_file))


def test_a_gpu_is_repeated_in_the_way_it_was_measured():
    options = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC"}
    device = DEVICE.model_copy(
        update={"kind": "cuda", "processor": "NVIDIA X", "provider_options": options}
    )
    made = " ".join(_as_options(device))
    assert "--device NVIDIA X --algorithm-search HEURISTIC --cuda-graph" in made
