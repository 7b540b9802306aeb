import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.errors import TableError
from lookup_tables.network import Network
from lookup_tables.table.home import DATA, home_of, named_apart
from lookup_tables.table.rows import Run
from lookup_tables.table.store import LatencyTable
from tests.lookup_tables.test_network import with_head
from tests.toys import DEVICE, chain, synthetic_table

NETWORK = chain(8, 16, 8, 8)
VALIDATION = LatencyTable.open(DATA / "amd_epyc_1t").validation("resnet20")


@pytest.fixture
def table(tmp_path):
    return synthetic_table(tmp_path / "table", NETWORK, levels=3, samples=3)


def edit(table: LatencyTable, line: int, change) -> None:
    """Rewrite one line (from 1) of a table's file, as a careless hand would."""
    path = table.path("chain")
    lines = path.read_text().splitlines()
    row = json.loads(lines[line - 1])
    change(row)
    lines[line - 1] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


def test_rows_survive_being_written_and_read(table):
    written = table.rows("chain")
    assert LatencyTable.open(table.folder).rows("chain") == written
    assert sum(isinstance(row, Run) for row in written) == 23


@pytest.mark.parametrize("value", [-1e-5, 0, float("nan"), float("inf")])
def test_a_layer_time_that_is_no_time_is_refused_naming_the_line(table, value):
    edit(table, 3, lambda row: row["layers"][0].update(seconds=value))
    with pytest.raises(TableError, match=r"line 3: layers\.0\.seconds: Input should be"):
        LatencyTable.open(table.folder).rows("chain")


@pytest.mark.parametrize("field", ["dense_s", "whole_s", "ratio"])
def test_a_whole_network_time_of_zero_is_refused(table, field):
    edit(table, 4, lambda row: row.update({field: 0}))
    with pytest.raises(TableError, match=f"line 4: {field}: .* greater than 0, found 0"):
        LatencyTable.open(table.folder).rows("chain")


def _in_milliseconds(row):
    for layer in row["layers"]:
        layer["seconds"] *= 1e3


def _all_in_milliseconds(row):
    _in_milliseconds(row)
    for name in ("dense_s", "whole_s"):
        row[name] *= 1e3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row["architecture"]["widths"].update(nobody=8), "has no group 'nobody'"),
        (lambda row: row["architecture"]["widths"].update(g0=1600), "width 1600 is outside"),
        (_in_milliseconds, "its layers take .* Seconds are expected"),
        (_all_in_milliseconds, "its 12 pairs would take .* Seconds are expected"),
    ],
)
def test_a_run_that_cannot_be_one_of_its_network_is_refused_naming_the_line(table, change, said):
    edit(table, 3, change)
    with pytest.raises(TableError, match=f"line 3: .*{said}"):
        LatencyTable.open(table.folder).runs(NETWORK)


def test_a_duplicate_run_is_refused_naming_both_lines(table):
    path = table.path("chain")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2]]) + "\n")
    with pytest.raises(
        TableError, match="line 25: design run 1, attempt 0 is a duplicate of line 3"
    ):
        LatencyTable.open(table.folder).rows("chain")


def test_a_newer_format_is_refused_whatever_else_it_holds(table):
    edit(table, 1, lambda row: row.update(format=4, clocks=[1, 2]))
    with pytest.raises(TableError, match="format 4 is newer than the 3"):
        LatencyTable.open(table.folder).rows("chain")


def test_a_damaged_line_in_the_middle_is_no_truncated_one(table):
    path = table.path("chain")
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = lines[4][:40] + "\n"
    path.write_text("".join(lines))
    with pytest.raises(TableError, match="line 5: not JSON; the file is damaged"):
        LatencyTable.open(table.folder).rows("chain")
    assert not table.drop_truncated_line("chain")


def test_a_file_whose_first_line_was_lost_can_be_begun_again(table):
    table.path("chain").write_text("")
    fresh = LatencyTable.open(table.folder)
    assert fresh.plan("chain") is None
    with pytest.raises(TableError, match="line 1: the line is incomplete"):
        fresh.require_network(NETWORK)


def test_an_unknown_field_is_refused(table):
    edit(table, 2, lambda row: row.update(seconds_total=1.0))
    with pytest.raises(TableError, match="line 2: seconds_total"):
        LatencyTable.open(table.folder).rows("chain")


def test_a_file_that_does_not_begin_with_its_plan_is_refused(table):
    path = table.path("chain")
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(TableError, match="line 1: expected the plan"):
        LatencyTable.open(table.folder).rows("chain")


def test_a_missing_network_names_those_that_are_there(table):
    with pytest.raises(TableError, match=r"no network 'vgg' \(it holds: chain\).*latprof profile"):
        table.rows("vgg")


def test_a_table_of_another_network_of_that_name_is_refused(table):
    with pytest.raises(TableError, match="measured with another network called chain"):
        table.require_network(chain(8, 24, 8))


def test_a_network_that_differs_from_the_one_measured_is_told_by_its_first_difference(table):
    NETWORK.save(table.network_path("chain"))
    with pytest.raises(TableError, match="conv1 with 16 channels there, conv conv1 with 24 chan"):
        table.require_network(chain(8, 24, 8, 8))
    larger = NETWORK.model_copy(update={"input_shape": (3, 32, 32)})
    with pytest.raises(TableError, match="3×16×16 images there, 3×32×32 here"):
        table.require_network(Network.model_validate(larger.model_dump()))


def test_a_table_prices_a_network_for_fewer_classes_by_the_one_that_it_knows(table):
    NETWORK.save(table.network_path("chain"))
    fewer = NETWORK.model_dump()
    fewer["layers"][-1]["channels"] = 3
    for name in ("chain", "chain_3_classes"):
        assert table.pricing(Network.model_validate(fewer | {"name": name})) == NETWORK
    assert table.pricing(NETWORK) is NETWORK
    fewer["layers"][-1]["channels"] = 9
    with pytest.raises(TableError, match="8 channels there, conv conv3 with 9 channels here"):
        table.pricing(Network.model_validate(fewer))
    with pytest.raises(TableError, match="holds no network 'other'"):
        table.pricing(Network.model_validate(fewer | {"name": "other"}))


def test_tables_go_beside_the_shipped_ones_only_in_a_checkout(monkeypatch, tmp_path):
    assert home_of("cpu") == DATA / "cpu"
    monkeypatch.setattr("lookup_tables.table.home.DATA", tmp_path / "lookup_tables" / "data")
    assert home_of("cpu") == Path("tables/cpu")


def test_devices_of_one_name_get_homes_of_their_own_and_find_them_again(monkeypatch, tmp_path):
    monkeypatch.setattr("lookup_tables.table.home.home_of", lambda name: tmp_path / name)

    def of(vector_units):
        detail = DEVICE.processor_detail | {"vector_units": vector_units}
        return DEVICE.model_copy(update={"processor_detail": detail})

    wide, narrow, other = of("avx2 avx512f"), of("avx2"), of("sse")
    assert named_apart(wide) == (wide, {})
    LatencyTable.create(tmp_path / wide.name, wide)
    assert named_apart(wide) == (wide, {})
    for _ in range(2):  # when it is free, and when it holds the device's own table
        named, differing = named_apart(narrow)
        assert named == narrow.model_copy(update={"name": f"{DEVICE.name}_avx2"})
        if not (tmp_path / named.name).exists():
            assert differing == {"processor_detail.vector_units": ("avx2", "avx2 avx512f")}
        LatencyTable.create(tmp_path / named.name, named)
    named, differing = named_apart(other.model_copy(update={"runtime_version": "9.9.9"}))
    assert named.name == f"{DEVICE.name}_sse"
    assert differing["runtime_version"] == ("9.9.9", DEVICE.runtime_version)
    LatencyTable.create(tmp_path / f"{DEVICE.name}_sse", named)
    assert named_apart(other)[0].name == f"{DEVICE.name}_sse_2"
    (tmp_path / wide.name / "device.json").write_text("{}")
    assert named_apart(narrow)[0].name == f"{DEVICE.name}_avx2"  # its own is there all the same
    with pytest.raises(TableError):
        named_apart(of("neon"))


def test_a_table_of_this_device_is_found_under_whatever_name_it_has(monkeypatch, tmp_path):
    monkeypatch.setattr("lookup_tables.table.home.home_of", lambda name: tmp_path / name)
    LatencyTable.create(tmp_path / "called_otherwise", DEVICE)
    assert named_apart(DEVICE)[0].name == "called_otherwise"


def test_a_file_of_the_same_size_with_other_rows_is_read_anew(table):
    path, first = table.path("chain"), table.rows("chain")
    text = path.read_text()
    path.write_text(text.replace('"measuring_s":0.1', '"measuring_s":0.2', 1))
    assert path.stat().st_size == len(text.encode())
    assert table.rows("chain") != first


def test_a_truncated_last_line_is_refused_and_the_lines_before_are_kept(table):
    path = table.path("chain")
    whole = path.read_bytes()
    path.write_bytes(whole[:-25])
    fresh = LatencyTable.open(table.folder)
    with pytest.raises(TableError, match=r"line 24: the line is incomplete.*latprof profile"):
        fresh.rows("chain")
    assert fresh.drop_truncated_line("chain")
    assert len(fresh.rows("chain")) == 23
    assert whole.startswith(path.read_bytes())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_wherever_a_writer_is_killed_only_the_row_being_written_is_lost(tmp_path_factory, data):
    table = synthetic_table(tmp_path_factory.mktemp("t") / "t", NETWORK, levels=2, samples=2)
    path = table.path("chain")
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    fresh = LatencyTable.open(table.folder)
    fresh.drop_truncated_line("chain")
    complete = whole[:cut].count(b"\n")
    if complete == 0:
        assert fresh.plan("chain") is None  # it can be begun again
    else:
        assert fresh.rows("chain") == table_rows(table, whole)[:complete]


def table_rows(table: LatencyTable, content: bytes):
    copy = table.folder.parent / "copy"
    complete = LatencyTable.create(copy, DEVICE)
    complete.path("chain").write_bytes(content)
    return complete.rows("chain")


def test_a_second_attempt_in_a_quiet_moment_replaces_a_disturbed_one(table):
    first = table.runs(NETWORK, "design")[0]
    disturbed = first.model_copy(
        update={"attempt": 1, "dense_s": first.dense_s * 1.5, "ratio": 9.0}
    )
    table.append("chain", [disturbed])
    assert table.settled_runs(NETWORK, "design")[0].ratio == first.ratio


def test_two_quiet_attempts_are_averaged(table):
    first = table.runs(NETWORK, "design")[0]
    table.append("chain", [first.model_copy(update={"attempt": 1, "ratio": first.ratio + 0.2})])
    settled = table.settled_runs(NETWORK, "design")[0]
    assert settled.ratio == pytest.approx(first.ratio + 0.1)


def test_a_table_prices_fewer_classes_by_the_nearest_network_that_is_finished(tmp_path):
    three = with_head(chain(8, 16, 8), channels=3)
    for name, classes in (("alpha", 4), ("beta", 20), ("gamma", 6)):
        known = with_head(chain(8, 16, 8), channels=classes).model_copy(update={"name": name})
        table = synthetic_table(tmp_path / "t", known)
        known.save(table.network_path(name))
        if name != "alpha":
            table.append(name, [VALIDATION])
    assert table.pricing(three).name == "gamma"


def test_a_digest_is_of_what_predictions_follow_from(tmp_path):
    network = chain(8, 16)
    table = synthetic_table(tmp_path / "t", network)
    before = table.digest(network.name)
    table.append(network.name, [VALIDATION])
    assert LatencyTable.open(tmp_path / "t").digest(network.name) == before
    run = table.runs(network)[0]
    table.append(network.name, [run.model_copy(update={"attempt": 1})])
    assert LatencyTable.open(tmp_path / "t").digest(network.name) != before


def read_while_it_grows(folder, go, seen, most):
    """Every state that a reader meets: how many rows, or that the last line is not whole yet."""
    table = LatencyTable.open(folder)
    go.wait(60)
    while not seen or seen[-1] != most:
        try:
            seen.append(len(table.rows("chain")))
        except TableError as error:
            if "incomplete" not in str(error):
                raise


def test_a_reader_beside_a_writer_meets_whole_rows_only(table):
    rows = table.rows("chain")
    run = next(row for row in rows if isinstance(row, Run))
    go, seen = threading.Event(), []
    reader = threading.Thread(
        target=read_while_it_grows, args=(table.folder, go, seen, len(rows) + 40)
    )
    reader.start()
    go.set()
    for number in range(40):
        table.append("chain", [run.model_copy(update={"attempt": number + 1})])
    reader.join(60)
    assert not reader.is_alive()
    assert seen == sorted(seen)
    assert seen[-1] == len(rows) + 40
