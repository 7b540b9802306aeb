import functools
import http.server
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from latprof import PlaceError
from latprof.share.place import Place
from latprof.share.pull import PULLING, pull
from latprof.share.push import push
from latprof.share.versions import shared
from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.storage.files import only_writer
from lookup_tables.storage.manifest import MANIFEST, load_manifest
from lookup_tables.table.rows import Validation
from lookup_tables.table.store import LatencyTable, repeats_path
from tests.toys import DEVICE, chain, synthetic_table

NETWORK = chain(8, 16, 8, 8)
OTHER = chain(8, 24, 8).model_copy(update={"name": "other"})


def finished(folder, network=NETWORK, samples=3) -> LatencyTable:
    table = synthetic_table(folder, network, levels=3, samples=samples)
    judge(table, network.name)
    return table


def judge(table: LatencyTable, network: str) -> None:
    table.append(
        network,
        [
            Validation(
                architectures=3, rmspe=0.01, within_5_percent=1.0, rank_correlation=1.0,
                worst=0.02, flops_rmspe=0.1, flops_rank_correlation=0.9, interval_90=0.02,
                measuring_s=1.0, peak_memory_bytes=1, measured_at="2026-01-01T00:00:00+00:00",
                tool_version="0.1.0", stopped="complete",
            )
        ],
    )  # fmt: skip


@pytest.fixture
def table(tmp_path):
    return finished(tmp_path / "table")


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path / "shared"))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def test_what_is_pulled_is_what_was_pushed(table, place, tmp_path):
    manifest, news = push(table, place)
    assert (manifest.version, news) == (1, ["chain.jsonl", "device.json"])
    pulled, came = pull(place, DEVICE.name, tmp_path / "here")
    assert (pulled.version, came) == (1, ["chain.jsonl", "device.json"])
    assert files(tmp_path / "here") == files(table.folder)
    assert LatencyTable.open(tmp_path / "here").rows("chain") == table.rows("chain")


def test_pushing_again_without_news_makes_no_version(table, place):
    push(table, place)
    manifest, news = push(table, place)
    assert (manifest.version, news) == (1, [])


def test_a_table_that_grew_is_a_new_version_and_the_old_one_stays(table, place, tmp_path):
    push(table, place)
    before = table.path("chain").read_bytes()
    judge(table, "chain")
    assert push(table, place)[1] == ["chain.jsonl"]
    pull(place, DEVICE.name, tmp_path / "now")
    pull(place, DEVICE.name, tmp_path / "then", version=1)
    assert (tmp_path / "now" / "chain.jsonl").read_bytes() == table.path("chain").read_bytes()
    assert (tmp_path / "then" / "chain.jsonl").read_bytes() == before


def test_an_earlier_state_of_a_table_never_replaces_a_later_one(table, place, tmp_path):
    earlier = tmp_path / "earlier"
    push(table, place)
    pull(place, DEVICE.name, earlier)
    judge(table, "chain")
    push(table, place)
    assert push(LatencyTable.open(earlier), place) == (shared(place)[0][0].manifest, [])


def test_two_networks_of_one_device_join_in_the_place(table, place, tmp_path):
    push(table, place)
    push(finished(tmp_path / "second", OTHER), place)
    assert shared(place)[0][0].manifest.networks() == ["chain", "other"]
    pull(place, DEVICE.name, tmp_path / "one", networks=["other"])
    assert LatencyTable.open(tmp_path / "one").networks() == ["other"]
    pull(place, DEVICE.name, tmp_path / "one")
    assert LatencyTable.open(tmp_path / "one").networks() == ["chain", "other"]


def test_other_rows_of_the_same_network_are_refused_unless_told_to_replace(table, place, tmp_path):
    push(table, place)
    measured_again = finished(tmp_path / "again", samples=4)
    with pytest.raises(TableError, match=r"chain\.jsonl: .* holds different rows.*--replace"):
        push(measured_again, place)
    assert push(measured_again, place, replace=True)[0].version == 2
    with pytest.raises(TableError, match="holds different rows"):
        pull(place, DEVICE.name, table.folder)
    pull(place, DEVICE.name, table.folder, replace=True)
    assert files(table.folder) == files(measured_again.folder)
    assert LatencyTable.open(table.folder).rows("chain") == measured_again.rows("chain")


def test_a_table_of_another_device_of_that_name_is_refused(table, place, tmp_path):
    push(table, place)
    other = LatencyTable.create(tmp_path / "o", DEVICE.model_copy(update={"threads": 2}))
    other.append("chain", table.rows("chain"))
    with pytest.raises(DeviceMismatch, match="threads: expected 2, found 1"):
        push(other, place)
    with pytest.raises(DeviceMismatch, match="threads"):
        pull(place, DEVICE.name, other.folder)


def test_an_unfinished_network_is_not_shared(place, tmp_path):
    table = synthetic_table(tmp_path / "t", NETWORK, levels=3, samples=3)
    with pytest.raises(TableError, match=r"not finished.*latprof profile"):
        push(table, place)
    assert shared(place) == ([], [])


def test_a_file_changed_in_the_place_is_refused_naming_file_and_line(table, place, tmp_path):
    push(table, place)
    path = next((tmp_path / "shared").rglob("chain.jsonl"))
    path.write_text(path.read_text().replace('"pairs":12', '"pairs":21', 1))
    with pytest.raises(TableError, match=r"chain\.jsonl, line 2: differs from what was sealed"):
        pull(place, DEVICE.name, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_file_that_never_arrived_in_the_place_is_named(table, place, tmp_path):
    push(table, place)
    next((tmp_path / "shared").rglob("chain.jsonl")).unlink()
    with pytest.raises(TableError, match=r"chain\.jsonl is missing, though the manifest lists it"):
        pull(place, DEVICE.name, tmp_path / "here")


def test_a_folder_that_was_sealed_can_be_pulled_from_as_it_is(table, tmp_path):
    table.seal("chain")
    os.replace(table.folder, tmp_path / DEVICE.name)
    manifest, _ = pull(Place(str(tmp_path)), DEVICE.name, tmp_path / "here")
    assert manifest.version == 0
    assert LatencyTable.open(tmp_path / "here").networks() == ["chain"]


def test_a_pull_fetches_only_what_an_interrupted_one_left_missing(table, place, tmp_path):
    push(table, place)
    partial = tmp_path / "here.partial"
    partial.mkdir()
    (partial / PULLING).touch()
    (partial / "chain.jsonl").write_bytes(table.path("chain").read_bytes())
    next((tmp_path / "shared").rglob("chain.jsonl")).unlink()  # it need not be read again
    pull(place, DEVICE.name, tmp_path / "here")
    assert files(tmp_path / "here") == files(table.folder)
    assert not partial.exists()


def test_a_pull_never_mixes_with_a_folder_that_is_no_table(table, place, tmp_path):
    push(table, place)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("…")
    with pytest.raises(TableError, match="is not empty and is not a table"):
        pull(place, DEVICE.name, tmp_path / "home")
    assert not (tmp_path / "home.partial").exists()


def test_a_refused_pull_leaves_no_second_table_behind(table, place, tmp_path):
    push(table, place)
    LatencyTable.create(tmp_path / "t", DEVICE.model_copy(update={"runtime_version": "0.1"}))
    with pytest.raises(DeviceMismatch, match="a folder of its own with --out"):
        pull(place, DEVICE.name, tmp_path / "t")
    assert not (tmp_path / "t.partial").exists()


def test_an_unknown_device_names_those_that_are_there(table, place, tmp_path):
    push(table, place)
    with pytest.raises(TableError, match=f"Devices there: {DEVICE.name}"):
        pull(place, "titan_rtx", tmp_path / "here")


def test_a_place_that_cannot_be_reached_is_an_error_of_one_line():
    with pytest.raises(PlaceError, match=r"http://127\.0\.0\.1:9.*Check the address"):
        shared(Place("http://127.0.0.1:9/tables"))
    with pytest.raises(PlaceError, match="nowhere"):
        Place("nowhere://tables")


def test_what_an_interrupted_pull_of_another_device_left_does_not_come_along(
    table, place, tmp_path
):
    push(table, place)
    partial = tmp_path / "here.partial"
    partial.mkdir()
    (partial / PULLING).touch()
    (partial / "foreign.jsonl").write_bytes(table.path("chain").read_bytes())
    pull(place, DEVICE.name, tmp_path / "here")
    assert LatencyTable.open(tmp_path / "here").networks() == ["chain"]


def test_a_folder_that_no_pull_left_is_not_emptied(table, place, tmp_path):
    push(table, place)
    (tmp_path / "here.partial").mkdir()
    (tmp_path / "here.partial" / "thesis.tex").write_text("…")
    with pytest.raises(TableError, match=r"this pull needs the folder .*here\.partial"):
        pull(place, DEVICE.name, tmp_path / "here")
    assert (tmp_path / "here.partial" / "thesis.tex").read_text() == "…"


STEPS = (
    (os, "replace"), (os, "link"), (shutil, "rmtree"), (shutil, "copystat"), (Path, "unlink"),
    (Path, "touch"),
)  # fmt: skip


class Killed(BaseException):
    """As Ctrl-C, at a step of our choice."""


def dying(monkeypatch, at):
    """Let the process die before its step number `at`; returns the steps taken."""
    taken = []

    def stepping(real):
        def act(*arguments, **options):
            taken.append(real.__name__)
            if len(taken) > at:
                raise Killed
            return real(*arguments, **options)

        return act

    for place, name in STEPS:
        monkeypatch.setattr(place, name, stepping(getattr(place, name)))
    return taken


def pulled_whole(folder, networks):
    """The table is sealed, and every row of it reads."""
    found = LatencyTable.open(folder)
    assert load_manifest(folder).networks() == found.networks() == sorted(networks)
    for network in found.networks():
        found.rows(network)
    return found


@pytest.mark.parametrize("first", [True, False], ids=["first pull", "into a table"])
def test_a_pull_that_is_killed_at_any_step_leaves_the_former_table_or_the_new_one(
    table, place, tmp_path, monkeypatch, first
):
    """Killed at every step in turn, then again: nothing is lost, and the next pull goes on."""
    push(table, place)
    both = ["chain", "other"]
    pull(place, DEVICE.name, tmp_path / "begun")
    (tmp_path / "begun" / "README.md").write_text("ours")
    push(finished(tmp_path / "second", OTHER), place)
    for at in count():
        here = tmp_path / str(at) / "here"
        if not first:
            shutil.copytree(tmp_path / "begun", here)
        with monkeypatch.context() as patch, suppress(Killed):
            taken = dying(patch, at)
            pull(place, DEVICE.name, here)
        if here.exists():
            networks = LatencyTable.open(here).networks()
            assert networks in ([both] if first else [["chain"], both]), (at, taken)
            pulled_whole(here, networks)
        pull(place, DEVICE.name, here)
        pulled_whole(here, both)
        if not first:
            assert (here / "README.md").read_text() == "ours"
        assert [path.name for path in here.parent.iterdir()] == ["here"], (at, taken)
        assert not [path for path in here.iterdir() if path.name.startswith(".")], (at, taken)
        if len(taken) <= at:
            break
    assert at > (3 if first else 10)


def test_a_folder_of_ones_own_that_a_swap_would_use_is_left_alone(table, place, tmp_path):
    push(table, place)
    pull(place, DEVICE.name, tmp_path / "here")
    (tmp_path / "here.former").mkdir()
    (tmp_path / "here.former" / "thesis.tex").write_text("…")
    push(finished(tmp_path / "second", OTHER), place)
    with pytest.raises(TableError, match=r"here\.former already exists"):
        pull(place, DEVICE.name, tmp_path / "here")
    assert (tmp_path / "here.former" / "thesis.tex").read_text() == "…"
    assert LatencyTable.open(tmp_path / "here").networks() == ["chain"]


def test_a_table_begun_after_a_kill_and_the_former_one_are_both_kept(
    table, place, tmp_path, monkeypatch
):
    push(table, place)
    pull(place, DEVICE.name, tmp_path / "here")
    push(finished(tmp_path / "second", OTHER), place)
    with monkeypatch.context() as patch, suppress(Killed):
        real, calls = os.replace, []

        def between(source, target):
            calls.append(str(target))
            if str(source).endswith("whole"):
                raise Killed
            return real(source, target)

        patch.setattr(os, "replace", between)
        pull(place, DEVICE.name, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    LatencyTable.create(tmp_path / "here", DEVICE)  # as a profile would
    with pytest.raises(TableError, match="To keep both, move one of them away"):
        pull(place, DEVICE.name, tmp_path / "here")
    assert (tmp_path / "here.former" / "chain.jsonl").exists()
    assert (tmp_path / "here" / "device.json").exists()


def test_a_push_waits_for_nobody_who_writes_the_table(table, place):
    with only_writer(table.folder), pytest.raises(TableError, match="another process"):
        push(table, place)


def test_replaced_rows_do_not_keep_what_lay_beside_the_former_ones(table, place, tmp_path):
    repeats_path(table.folder, "chain").write_text("{}")
    push(table, place)
    other = finished(tmp_path / "again", samples=4)
    push(other, place, replace=True)
    assert "chain.repeats.json" not in shared(place)[0][0].manifest.files
    pull(place, DEVICE.name, table.folder, replace=True)
    assert files(table.folder) == files(other.folder)


def test_of_two_different_files_beside_the_same_rows_none_is_taken_silently(table, place, tmp_path):
    repeats_path(table.folder, "chain").write_text("{}")
    push(table, place)
    pull(place, DEVICE.name, tmp_path / "here")
    repeats_path(table.folder, "chain").write_text('{"newer": 1}')
    table.seal("chain", ["chain.repeats.json"])
    with pytest.raises(TableError, match=r"same rows but a different chain\.repeats\.json"):
        push(table, place)
    push(table, place, replace=True)
    with pytest.raises(TableError, match="same rows but a different"):
        pull(place, DEVICE.name, tmp_path / "here")


def test_damage_is_neither_pushed_nor_sealed(table, place):
    NETWORK.save(table.network_path("chain"))
    table.seal("chain")
    path = table.network_path("chain")
    path.write_text(path.read_text().replace("16", "12"))
    with pytest.raises(TableError, match=r"chain\.network\.json: differs from what was sealed"):
        push(table, place)
    with pytest.raises(TableError, match="differs"):
        table.seal("chain")


@pytest.mark.parametrize("name", ["chain.jsonl", "device.json"])
@pytest.mark.parametrize("harm", [lambda data: None, lambda data: data[:-9] + b"#" * 9])
def test_pushing_again_mends_what_was_lost_in_the_place(table, place, tmp_path, name, harm):
    push(table, place)
    path = next((tmp_path / "shared").rglob(name))
    harmed = harm(path.read_bytes())
    path.unlink() if harmed is None else path.write_bytes(harmed)
    with pytest.raises(TableError):
        pull(place, DEVICE.name, tmp_path / "here")
    assert push(table, place)[1] == [name]
    pull(place, DEVICE.name, tmp_path / "here")
    assert files(tmp_path / "here") == files(table.folder)


def test_pulling_again_mends_a_damaged_file_here(table, place, tmp_path):
    push(table, place)
    pull(place, DEVICE.name, tmp_path / "here")
    path = tmp_path / "here" / "chain.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert pull(place, DEVICE.name, tmp_path / "here")[1] == ["chain.jsonl"]
    assert files(tmp_path / "here") == files(table.folder)


def test_an_older_version_never_comes_silently_or_not_at_all(table, place, tmp_path):
    push(table, place)
    first = table.path("chain").read_bytes()
    judge(table, "chain")
    push(table, place)
    with pytest.raises(TableError, match=r"holds newer rows of chain\.jsonl"):
        pull(place, DEVICE.name, table.folder, version=1)
    pull(place, DEVICE.name, table.folder, version=1, replace=True)
    assert table.path("chain").read_bytes() == first
    with pytest.raises(TableError, match="does not exist; the current version is 2"):
        pull(place, DEVICE.name, tmp_path / "new", version=7)


def test_a_tables_own_folder_is_not_pushed_into(table, tmp_path):
    table.seal("chain")
    home = tmp_path / "home" / DEVICE.name
    home.parent.mkdir()
    os.replace(table.folder, home)
    with pytest.raises(TableError, match="is a table's own folder, not a shared place"):
        push(finished(tmp_path / "other", OTHER), Place(str(home.parent)))
    assert LatencyTable.open(home).networks() == ["chain"]


def test_a_pulled_table_is_not_pushed_into_either(table, place, tmp_path):
    push(table, place)
    home = tmp_path / "home" / DEVICE.name
    pull(place, DEVICE.name, home)
    assert load_manifest(home).version == 1
    with pytest.raises(TableError, match="is a table's own folder"):
        push(finished(tmp_path / "other", OTHER), Place(str(home.parent)))
    assert LatencyTable.open(home).rows("chain") == table.rows("chain")


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/b", "Titan_RTX", ""])
def test_a_name_that_is_no_folder_of_the_place_is_refused(table, place, tmp_path, name):
    if name:
        with pytest.raises(PlaceError, match="cannot be a table's name"):
            push(table, place, name=name)
    with pytest.raises(PlaceError, match="cannot be a table's name"):
        pull(place, name, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def renamed(manifest, old, new):
    return {"files": {new if name == old else name: r for name, r in manifest.files.items()}}


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: {"device": "../../elsewhere"},
        lambda manifest: {"device": "another"},
        lambda manifest: renamed(manifest, "chain.jsonl", "run_me.desktop"),
        lambda manifest: renamed(manifest, "device.json", "other.jsonl"),
    ],
)
def test_a_manifest_never_leads_out_of_the_tables_folder(table, place, tmp_path, change):
    """Whoever can write a place cannot write anything but a table on a reader's machine."""
    manifest, _ = push(table, place)
    path = tmp_path / "shared" / DEVICE.name / MANIFEST
    path.write_text(manifest.model_copy(update=change(manifest)).to_json())
    found, problems = shared(place)
    assert found == []
    assert len(problems) == 1
    assert "checksum does not match" not in problems[0]
    with pytest.raises(TableError):
        pull(place, DEVICE.name, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_two_devices_of_one_name_live_beside_each_other(table, place, tmp_path):
    push(table, place)
    newer = DEVICE.model_copy(update={"runtime_version": "9.9"})
    other = LatencyTable.create(tmp_path / "o", newer)
    other.append("chain", table.rows("chain"))
    with pytest.raises(DeviceMismatch, match="--as NAME"):
        push(other, place)
    push(other, place, name="toy_9.9")
    pull(place, "toy_9.9", tmp_path / "here")
    assert LatencyTable.open(tmp_path / "here").device == newer


def test_one_broken_table_does_not_hide_the_others(table, place, tmp_path):
    push(table, place)
    (tmp_path / "shared" / "broken").mkdir()
    (tmp_path / "shared" / "broken" / MANIFEST).write_text("{")
    (tmp_path / "shared" / "index.json").write_text('{"devices": [3, null]}')
    found, problems = shared(place)
    assert [one.device.name for one in found] == [DEVICE.name]
    assert len(problems) == 1
    assert "broken" in problems[0]


def test_a_version_of_a_newer_format_is_not_overwritten(table, place, tmp_path):
    push(table, place)
    newer = tmp_path / "shared" / DEVICE.name / "versions" / "000002.json"
    newer.write_text('{"format": 2}')
    judge(table, "chain")
    with pytest.raises(TableError, match="format 2 is newer"):
        push(table, place)


def test_a_damaged_version_file_never_rolls_a_place_back(table, place, tmp_path):
    push(table, place)
    judge(table, "chain")
    push(table, place)
    (tmp_path / "shared" / DEVICE.name / "versions" / "000002.json").write_text("{")
    assert push(table, place)[0].version == 2
    push(finished(tmp_path / "second", OTHER), place)
    assert shared(place)[0][0].manifest.networks() == ["chain", "other"]
    pull(place, DEVICE.name, tmp_path / "here")
    assert (tmp_path / "here" / "chain.jsonl").read_bytes() == table.path("chain").read_bytes()


# -- writers that compete, and writers that die ------------------------------------------------


def test_of_two_who_create_a_file_one_is_told(place):
    assert place.create("a/1.json", b"first")
    assert not place.create("a/1.json", b"second")
    assert place.read("a/1.json") == b"first"
    assert place.names("a") == ["1.json"]


def test_a_push_in_the_middle_of_another_loses_nothing(table, place, tmp_path, monkeypatch):
    other = finished(tmp_path / "second", OTHER)
    slow = Place(place.url)
    real, pushed = slow.create, []

    def create(*arguments):
        if not pushed:
            pushed.append(push(other, place))
        return real(*arguments)

    monkeypatch.setattr(slow, "create", create)
    assert push(table, slow)[0].version == 2
    assert shared(place)[0][0].manifest.networks() == ["chain", "other"]


def test_a_slow_writer_does_not_leave_its_older_version_current(
    table, place, tmp_path, monkeypatch
):
    other = finished(tmp_path / "second", OTHER)
    slow = Place(place.url)
    real, pushed = slow.write, []

    def write(path, data):
        if path.endswith(MANIFEST) and not pushed:
            pushed.append(push(other, place))
        real(path, data)

    monkeypatch.setattr(slow, "write", write)
    push(table, slow)
    assert shared(place)[0][0].manifest.version == 2


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("writes", range(3))
def test_a_push_that_dies_leaves_a_whole_table_or_none_to_readers_and_can_be_repeated(
    table, place, tmp_path, monkeypatch, writes, again
):
    """The files, the claim, the manifest: a push of news does at least these three writes."""
    before = None
    if again:
        push(table, place)
        before = table.path("chain").read_bytes()
        judge(table, "chain")
    left = [writes]

    def dying(real):
        @functools.wraps(real)
        def write(*arguments):
            if left[0] == 0:
                raise Interrupted
            left[0] -= 1
            return real(*arguments)

        return write

    dies = Place(place.url)
    monkeypatch.setattr(dies, "write", dying(dies.write))
    monkeypatch.setattr(dies, "create", dying(dies.create))
    with pytest.raises(Interrupted):
        push(table, dies)
    if again:
        pull(place, DEVICE.name, tmp_path / "seen")
        assert (tmp_path / "seen" / "chain.jsonl").read_bytes() == before
    else:
        assert shared(place) == ([], [])
    push(table, place)
    pull(place, DEVICE.name, tmp_path / "after")
    assert (tmp_path / "after" / "chain.jsonl").read_bytes() == table.path("chain").read_bytes()


def _push_networks(url, folder, names):
    table = LatencyTable.open(folder)
    for name in names:
        push(table, Place(url), [name])


def test_writers_that_push_at_once_lose_nothing_of_each_other(place, tmp_path):
    names = [f"net{i}" for i in range(6)]
    folders = []
    for half in (names[:3], names[3:]):
        for name in half:
            finished(tmp_path / half[0], NETWORK.model_copy(update={"name": name}))
        folders.append(tmp_path / half[0])
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_push_networks, args=(place.url, folder, half))
        for folder, half in zip(folders, (names[:3], names[3:]), strict=True)
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        for table in shared(place)[0]:
            folder = tmp_path / f"seen{len(seen)}"
            manifest, _ = pull(place, DEVICE.name, folder)
            LatencyTable.open(folder).rows(manifest.networks()[0])
            seen.add(table.manifest.version)
            folder.rename(tmp_path / uuid.uuid4().hex)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen  # readers found whole tables while others wrote
    assert shared(place)[0][0].manifest.networks() == names


# -- real servers ------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path):
    """A real HTTP server on the folder that tables were pushed to; it lists no folders."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def list_directory(self, path):
            self.send_error(403)  # as web servers do that list none

        def log_message(self, *arguments):
            pass

    (tmp_path / "shared").mkdir(exist_ok=True)
    handler = functools.partial(Files, directory=tmp_path / "shared")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_table_is_read_over_http(table, place, web, tmp_path):
    push(table, place)
    there = Place(web)
    assert [found.device for found in shared(there)[0]] == [DEVICE]
    pull(there, DEVICE.name, tmp_path / "here")
    assert files(tmp_path / "here") == files(table.folder)
    with pytest.raises(TableError, match="does not exist"):
        pull(there, "titan_rtx", tmp_path / "none")


@pytest.fixture(scope="module")
def s3():
    """A real S3-compatible server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture
def bucket(s3, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"tables-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/shared"
    s3fs.S3FileSystem.clear_instance_cache()


def test_tables_travel_through_a_bucket(table, bucket, tmp_path):
    place = Place(bucket)
    assert shared(place) == ([], [])
    push(table, place)
    judge(table, "chain")
    assert push(table, place)[0].version == 2
    push(finished(tmp_path / "second", OTHER), Place(bucket))
    pull(place, DEVICE.name, tmp_path / "here")
    assert LatencyTable.open(tmp_path / "here").networks() == ["chain", "other"]
    assert (tmp_path / "here" / "chain.jsonl").read_bytes() == table.path("chain").read_bytes()
    assert [found.manifest.version for found in shared(place)[0]] == [3]


def test_a_bucket_itself_decides_which_of_two_writers_was_first(bucket):
    place = Place(bucket)
    assert place.create("d/versions/000001.json", b"first")
    assert not Place(bucket).create("d/versions/000001.json", b"second")
    assert place.read("d/versions/000001.json") == b"first"


def test_a_bucket_that_is_not_there_is_an_error_of_one_line(bucket):
    with pytest.raises(PlaceError, match="s3://no-such-bucket"):
        push_anything(Place("s3://no-such-bucket-here/tables"))


def push_anything(place):
    place.write("a", b"b")


def test_the_manifest_of_a_pull_lists_just_what_came(table, place, tmp_path):
    push(table, place)
    push(finished(tmp_path / "second", OTHER), place)
    pull(place, DEVICE.name, tmp_path / "here", networks=["chain"])
    assert load_manifest(tmp_path / "here").networks() == ["chain"]
    assert json.loads((tmp_path / "here" / MANIFEST).read_text())["version"] == 2


def test_two_pulls_into_one_folder_do_not_meet(table, place, tmp_path):
    push(table, place)
    (tmp_path / "t.partial").mkdir()
    with only_writer(tmp_path / "t.partial"), pytest.raises(TableError, match="another process"):
        pull(place, table.device.name, tmp_path / "t")
    pull(place, table.device.name, tmp_path / "t")
    with only_writer(tmp_path / "t"), pytest.raises(TableError, match="another process"):
        pull(place, table.device.name, tmp_path / "t")
    assert pull(place, table.device.name, tmp_path / "t")[1] == []
