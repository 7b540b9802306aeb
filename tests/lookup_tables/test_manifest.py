import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.errors import ContractError, TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.storage.manifest import MANIFEST, FileRecord, Manifest, load_manifest
from lookup_tables.table.store import LatencyTable
from tests.damage import WAYS, damage
from tests.toys import DEVICE, chain, synthetic_table

NETWORK = chain(8, 16, 8, 8)
PRIOR = "{}"
WIDTHS = np.array([[8, 16, 8], [4, 12, 4], [3, 7, 5]])


@pytest.fixture
def table(tmp_path):
    made = synthetic_table(tmp_path / "table", NETWORK, levels=3, samples=3)
    made.seal("chain")
    return made


def rows(table: LatencyTable):
    return LatencyTable.open(table.folder).rows("chain")


def test_a_sealed_table_reads_as_before(table):
    assert rows(table) == table.rows("chain")
    assert load_manifest(table.folder).networks() == ["chain"]


def test_one_digit_changed_is_refused_naming_the_line(table):
    path = table.path("chain")
    lines = path.read_text().splitlines(keepends=True)
    lines[6] = lines[6].replace('"pairs":12', '"pairs":13')
    path.write_text("".join(lines))
    with pytest.raises(TableError, match=r"chain\.jsonl, line 7: differs from what was sealed"):
        rows(table)


def test_swapped_lines_are_refused(table):
    path = table.path("chain")
    lines = path.read_text().splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    path.write_text("".join(lines))
    with pytest.raises(TableError, match="line 4: differs"):
        rows(table)


def test_a_file_that_ends_too_early_is_refused_even_between_two_lines(table):
    path = table.path("chain")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    with pytest.raises(TableError, match=r"holds \d+ of \d+ bytes: it was copied incompletely"):
        rows(table)


def test_a_sealed_file_that_is_missing_is_named(table):
    table.path("chain").unlink()
    with pytest.raises(TableError, match=r"chain\.jsonl is missing, though manifest\.json lists"):
        rows(table)


def test_another_device_under_the_same_rows_is_refused(table):
    path = table.folder / "device.json"
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 2'))
    with pytest.raises(TableError, match=r"device\.json: differs from what was sealed"):
        LatencyTable.open(table.folder)


def test_a_network_beside_the_rows_is_verified_too(table):
    path = table.network_path("chain")
    NETWORK.save(path)
    table.seal("chain")
    path.write_text(path.read_text().replace("16", "12"))
    with pytest.raises(TableError, match=r"chain\.network\.json: "):
        Network.load(path)


def test_a_profile_may_go_on_after_it_was_sealed(table):
    first = table.runs(NETWORK, "design")[0]
    table.append("chain", [first.model_copy(update={"attempt": 1})])
    assert len(rows(table)) == len(table.rows("chain"))


def test_rows_deleted_by_hand_can_be_measured_anew(table):
    plan = table.plan("chain")
    table.path("chain").unlink()
    fresh = LatencyTable.open(table.folder)
    fresh.append("chain", [plan])
    assert rows(table) == [plan]


def test_an_edited_manifest_is_refused(table):
    path = table.folder / MANIFEST
    path.write_text(path.read_text().replace("chain.jsonl", "train.jsonl"))
    with pytest.raises(TableError, match=r"manifest\.json: its checksum does not match"):
        rows(table)


@pytest.mark.parametrize("name", ["../device.json", "/etc/passwd", "a/b.jsonl", ".hidden", ""])
def test_names_that_leave_the_folder_are_refused(name):
    record = FileRecord.of("x", b"")
    text = json.dumps({"device": "d", "files": {name: record.model_dump()}})
    with pytest.raises(TableError, match=r"m\.json is damaged: files"):
        Manifest.parse(text, "m.json")


@pytest.mark.parametrize("at", ["../up", "/elsewhere/x", "a//b", "a/../b", "a/"])
def test_addresses_that_leave_the_place_are_refused(at):
    record = FileRecord.of("x", b"").model_dump() | {"at": at}
    with pytest.raises(TableError, match="at"):
        Manifest.parse(json.dumps({"device": "d", "files": {"x": record}}), "m.json")


def test_a_newer_manifest_is_refused():
    with pytest.raises(TableError, match="format 2 is newer than the 1"):
        Manifest.parse(b'{"format": 2, "signatures": []}', "m.json")


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\.(jsonl|json)", fullmatch=True),
        st.binary(max_size=60),
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_a_manifest_survives_being_written_and_read(contents, version):
    files = {name: FileRecord.of(name, data) for name, data in contents.items()}
    manifest = Manifest(device="d", version=version, files=files).sealed()
    assert Manifest.parse(manifest.to_json(), "m.json") == manifest


@given(st.sampled_from(WAYS), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_damage_is_refused_or_harmless_and_never_changes_a_prediction(tmp_path_factory, kind, seed):
    folder = tmp_path_factory.mktemp("t") / "t"
    table = synthetic_table(folder, NETWORK, levels=3, samples=2)
    prior = LatencyModel(NETWORK, table).as_prior()
    few = LatencyTable.create(folder.with_name("few"), DEVICE)
    plan, *runs = table.rows("chain")
    few.append("chain", [plan, *runs[:6]])
    NETWORK.save(few.network_path("chain"))
    prior.save(few.prior_path("chain"))
    few.seal("chain")

    def predicted():
        found = LatencyTable.open(few.folder)
        return LatencyModel(found.load_network("chain"), found).predict(WIDTHS).latency_s.tolist()

    before = predicted()
    damage(few.folder, kind, random.Random(seed))
    try:
        after = predicted()
    except ContractError:
        return
    assert after == before


def test_a_file_that_helps_to_read_the_rows_is_missed_when_it_is_gone(table):
    table.prior_path("chain").write_text(PRIOR)
    table.seal("chain")
    table.prior_path("chain").unlink()
    with pytest.raises(TableError, match=r"chain\.prior\.json is missing, though manifest\.json"):
        LatencyModel(NETWORK, LatencyTable.open(table.folder))


def test_rows_without_their_device_are_not_taken_for_this_machines(table):
    (table.folder / "device.json").unlink()
    with pytest.raises(TableError, match=r"device\.json is missing, though"):
        LatencyTable.create(table.folder, DEVICE)
    (table.folder / MANIFEST).unlink()
    with pytest.raises(TableError, match=r"holds rows but no device\.json"):
        LatencyTable.create(table.folder, DEVICE)


def test_another_programs_manifest_beside_a_network_file_is_none_of_ours(tmp_path):
    (tmp_path / MANIFEST).write_text('{"name": "a web page"}')
    NETWORK.save(tmp_path / "mine.json")
    assert Network.load(tmp_path / "mine.json") == NETWORK
