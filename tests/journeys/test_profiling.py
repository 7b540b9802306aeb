"""Tables made, read, shared and compared through the commands."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from latprof.cli.show import BINDINGS, print_validations
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.device import Device
from lookup_tables.network import Network
from lookup_tables.storage.files import only_writer
from lookup_tables.storage.manifest import MANIFEST, load_manifest
from lookup_tables.table.home import DATA
from lookup_tables.table.rows import Validation
from lookup_tables.table.store import LatencyTable
from tests.hasty import HASTY, in_haste

ROOT = Path(__file__).parents[2]


def test_a_place_where_nothing_is_says_so(tmp_path, latprof, capsys):
    assert latprof("list", tmp_path / "none") == 0
    assert "holds no table" in capsys.readouterr().out
    assert latprof("pull", tmp_path / "none", "--out", tmp_path / "table") == 1
    assert "holds no table. Check the address" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_finished_table_is_sealed_verified_and_gets_a_card(workshop, tmp_path, latprof, capsys):
    shutil.copytree(workshop / "table", tmp_path / "table")
    assert latprof("verify", tmp_path / "table") == 0
    assert "as sealed" in capsys.readouterr().out
    assert latprof("card", tmp_path / "table") == 0
    assert "small_resnet" in (tmp_path / "table" / "README.md").read_text()
    picture = tmp_path / "picture.png"
    named = ("--table", tmp_path / "table", "--network", "small_resnet")
    assert latprof("plot", *named, "--out", picture) == 0
    rows = tmp_path / "table" / "small_resnet.jsonl"
    rows.write_text(rows.read_text().replace('"pairs":', '"pairs":1', 1))
    capsys.readouterr()
    assert latprof("verify", tmp_path / "table") == 1
    assert "small_resnet.jsonl, line 2: differs from what was sealed" in capsys.readouterr().err


def test_a_table_that_is_being_written_is_not_profiled_by_a_second_process(
    workshop, tmp_path, latprof, capsys
):
    shutil.copytree(workshop / "table", tmp_path / "table")
    network = workshop / "small_resnet.json"
    with only_writer(tmp_path / "table"):
        options = ["--network", network, "--levels", "3", "--samples", "12"]
        assert latprof("profile", *options, "--out", tmp_path / "table") == 1
    assert "another process is writing into it" in capsys.readouterr().err


@pytest.mark.skipif(
    not hasattr(ort, "set_global_thread_pool_sizes"),
    reason="this ONNX Runtime refuses more than one thread; it says so",
)
def test_a_table_of_one_thread_becomes_one_of_two_threads(workshop, tmp_path, latprof, capsys):
    options = ["--from", workshop / "table", "--network", "small_resnet"]
    options += ["--samples", 12, "--unseen", 4, "--out", tmp_path / "t"]
    assert latprof("transfer", *options) == 1
    assert "on this very device" in capsys.readouterr().err
    # In a process of its own: a thread pool is one for the rest of a process.
    command = [*HASTY, "transfer", *options, "--threads", 2, "--json"]
    made = subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    menu, any_ = json.loads(made.stdout)
    assert (menu["widths"], any_["widths"]) == ("menu", "any")
    made = LatencyTable.open(tmp_path / "t")
    network = Network.load(workshop / "small_resnet.json")
    assert made.device.threads == 2
    assert len({run.run for run in made.runs(network, "design")}) == 12
    assert made.prior(network).device.threads == 1
    assert latprof("verify", tmp_path / "t") == 0


def test_two_tables_are_merged_by_a_command(workshop, tmp_path, latprof, capsys):
    assert latprof("merge", workshop / "table", workshop / "table", "--out", tmp_path / "m") == 0
    assert LatencyTable.open(tmp_path / "m").networks() == ["small_resnet"]


def test_predict_prints_what_scripts_need(workshop, tmp_path, latprof, capsys):
    path = tmp_path / "a.json"
    path.write_text('{"widths": {"conv1": 8}, "removed": ["layer1.0"]}')
    arguments = ["--network", workshop / "small_resnet.json", "--architecture", path]
    assert latprof("predict", "--table", workshop / "table", *arguments, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["low_ms"] < answer["latency_ms"] < answer["high_ms"] <= answer["dense_ms"] * 2
    assert answer["speedup"] == pytest.approx(answer["dense_ms"] / answer["latency_ms"])
    assert {layer["name"] for layer in answer["layers"]} >= {"conv1", "linear"}
    assert latprof("predict", "--table", workshop / "table", *arguments) == 0
    assert "interpolated" in capsys.readouterr().out


def test_validate_measures_without_changing_the_table(workshop, latprof, capsys):
    table = workshop / "table"
    before = (table / "small_resnet.jsonl").read_bytes()
    arguments = ["--table", table, "--network", workshop / "small_resnet.json", "--samples", "10"]
    assert latprof("validate", *arguments, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["widths"] for result in results] == ["menu", "any"]
    assert sum(result["architectures"] + result["dropped"] for result in results) == 10
    assert (table / "small_resnet.jsonl").read_bytes() == before


def test_a_doubtful_table_says_so(capsys):
    result = Validation(
        architectures=40, rmspe=0.09, within_5_percent=0.6, rank_correlation=0.9, worst=0.2,
        flops_rmspe=0.1, flops_rank_correlation=0.9, interval_90=0.2, measuring_s=9.0,
        peak_memory_bytes=1, measured_at="now", tool_version="0",
    )  # fmt: skip
    print_validations("net", Path("table"), [result], json_=False)
    assert "the machine may have been busy" in capsys.readouterr().out
    good = result.model_copy(update={"rmspe": 0.01})
    print_validations("net", Path("table"), [good], json_=False)
    assert "busy" not in capsys.readouterr().out


def test_explain_names_layers_steps_and_widths(workshop, tmp_path, latprof, capsys):
    path = tmp_path / "a.json"
    path.write_text('{"widths": {"conv1": 31, "layer1.0.conv1": 17}}')
    arguments = ["--table", workshop / "table", "--network", workshop / "small_resnet.json"]
    arguments += ["--architecture", path]
    assert latprof("explain", *arguments) == 0
    assert "of its MACs" in capsys.readouterr().out
    assert latprof("explain", *arguments, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {layer["bound_by"] for layer in answer["layers"]} <= {*BINDINGS}
    for advice in answer["wider_and_no_slower"]:
        assert advice["instead"] > advice["width"]
    for advice in answer["narrower_and_faster"]:
        assert advice["instead"] < advice["width"]
        assert advice["saves_s"] > 0


def test_steps_lists_the_widths_worth_choosing(workshop, latprof, capsys):
    arguments = ["--table", workshop / "table", "--network", workshop / "small_resnet.json"]
    assert latprof("steps", *arguments) == 0
    assert "candidate widths" in capsys.readouterr().out
    assert latprof("steps", *arguments, "--json") == 0
    menu = json.loads(capsys.readouterr().out)["menu"]
    assert menu["conv1"][-1] == 64
    assert latprof("steps", *arguments, "--group", "conv1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("edge")
    assert latprof("steps", *arguments, "--group", "conv1", "--json") == 0
    assert {row["edge"] for row in json.loads(capsys.readouterr().out)} == {True, False}
    assert latprof("steps", *arguments[:-1], "small_resnet") == 0  # its file lies beside the rows
    assert latprof("steps", *arguments, "--group", "nope") == 1
    assert "--group 'nope' is unknown; small_resnet has conv1" in capsys.readouterr().err


def test_a_table_does_not_differ_from_itself_and_says_so(workshop, latprof, capsys):
    table = workshop / "table"
    network = ["--network", workshop / "small_resnet.json"]
    assert latprof("diff", table, table, *network) == 0
    assert "0 of" in capsys.readouterr().out
    assert latprof("diff", table, table, *network, "--json") == 0
    assert json.loads(capsys.readouterr().out)["small_resnet"]["changed"] == []


def test_tables_of_two_processors_are_told_apart_by_device_layer_and_network(latprof, capsys):
    tables = [DATA / name for name in ("intel_xeon_processor_1t", "amd_epyc_1t")]
    assert latprof("diff", *tables, "--network", "vgg16_32") == 5
    told = capsys.readouterr().out
    assert "device processor: Intel(R) Xeon(R) Processor → AMD EPYC" in told
    assert "device runtime_version: 1.31.1 → 1.32.0" in told
    assert "entries differ beyond noise" in told
    assert "predicted speedups change by" in told


def test_a_network_that_no_table_holds_is_no_difference_but_a_mistake(workshop, latprof, capsys):
    table = workshop / "table"
    assert latprof("diff", table, table, "--network", "resnet65") == 1
    assert "is not in both tables; they share small_resnet" in capsys.readouterr().err


def test_sealing_anew_takes_sound_files_only_and_keeps_the_version(
    workshop, tmp_path, latprof, capsys
):
    table = tmp_path / "t"
    shutil.copytree(workshop / "table", table)
    manifest = load_manifest(table).model_copy(update={"version": 3})
    (table / MANIFEST).write_text(manifest.to_json())
    rows = table / "small_resnet.jsonl"
    whole = rows.read_text()
    rows.write_text(whole.replace(":", ";", 1))
    before = (table / MANIFEST).read_text()
    assert latprof("verify", table, "--seal") == 1
    assert (table / MANIFEST).read_text() == before
    rows.write_text(whole)
    (table / MANIFEST).write_text("{")
    assert latprof("verify", table, "--seal") == 0
    (table / MANIFEST).write_text(before)
    assert latprof("verify", table, "--seal") == 0
    assert load_manifest(table).version == 3
    assert [path.name for path in table.glob("*.former")] == []
    (tmp_path / "p").mkdir()
    shutil.copy(table / MANIFEST, tmp_path / "p")
    capsys.readouterr()
    assert latprof("verify", tmp_path / "p", "--seal") == 1
    assert "is not a table's folder" in capsys.readouterr().err
    assert (tmp_path / "p" / MANIFEST).exists()


def test_a_table_that_became_slower_in_part_ends_diff_with_code_5(
    workshop, tmp_path, latprof, capsys
):
    table = LatencyTable.open(workshop / "table")
    slower = LatencyTable.create(tmp_path / "slower", table.device)
    rows = []
    for row in table.rows("small_resnet"):
        if getattr(row, "layers", ()):
            layers = tuple(
                entry.model_copy(update={"seconds": entry.seconds * 4})
                if entry.layer.in_size == (4, 4)
                else entry
                for entry in row.layers
            )
            row = row.model_copy(update={"layers": layers})
        rows.append(row)
    slower.append("small_resnet", rows)
    arguments = ["diff", workshop / "table", slower.folder]
    assert latprof(*arguments, "--network", workshop / "small_resnet.json") == 5
    printed = capsys.readouterr().out
    assert "differ beyond noise" in printed
    assert "at 4×4" in printed


def test_a_network_that_exists_only_as_onnx_is_profiled(
    workshop, tmp_path, latprof, capsys, monkeypatch
):
    in_haste(monkeypatch)
    (tmp_path / "dense.json").write_text("{}")
    arguments = ["--architecture", tmp_path / "dense.json", "--out", tmp_path / "My Net.onnx"]
    assert latprof("export", "--network", workshop / "small_resnet.json", *arguments) == 0
    out = ["--out", tmp_path / "table"]
    options = ["--onnx", tmp_path / "My Net.onnx", "--levels", "2", "--samples", "4", *out]
    assert latprof("profile", *options) == 0
    printed = capsys.readouterr().out
    assert re.search(r"My Net\.onnx itself takes \d\.\d+× the time of the network", printed)
    saved = tmp_path / "table" / "my_net.network.json"
    path = tmp_path / "dense.json"
    table = ["--table", tmp_path / "table", "--network", saved]
    assert latprof("predict", *table, "--architecture", path) == 0


def test_profile_wants_a_network_or_a_file_but_not_both(latprof, capsys):
    assert latprof("profile") == 1
    assert "either --network or --onnx" in capsys.readouterr().err


def test_an_error_that_was_not_reached_ends_with_code_4(
    workshop, tmp_path, latprof, capsys, monkeypatch
):
    in_haste(monkeypatch)
    arguments = ["--network", workshop / "small_resnet.json", "--levels", "2", "--samples", "4"]
    arguments += ["--error", "0.001%", "--budget", "5s", "--out", tmp_path / "t"]
    assert latprof("profile", *arguments) == 4
    assert "stopped by the budget of 5 s: reached" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["soon", "0%", "150%", "-1%"])
def test_a_wrong_error_is_refused(latprof, capsys, text):
    assert latprof("profile", "--network", "resnet20", f"--error={text}", "--dry-run") == 1
    assert "expected a share such as 2%" in capsys.readouterr().err


def test_export_writes_a_network_that_compare_times(workshop, tmp_path, latprof, capsys):
    net = workshop / "small_resnet.json"
    (tmp_path / "dense.json").write_text("{}")
    (tmp_path / "thin.json").write_text('{"widths": {"conv1": 2}}')
    for name in ("dense", "thin"):
        arguments = [
            "--architecture",
            tmp_path / f"{name}.json",
            "--out",
            tmp_path / f"{name}.onnx",
        ]
        assert latprof("export", "--network", net, *arguments) == 0
    capsys.readouterr()
    assert latprof("compare", tmp_path / "dense.onnx", tmp_path / "thin.onnx", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["speedup_low"] <= answer["speedup"] <= answer["speedup_high"]
    assert answer["pairs"] > 0


def test_a_dry_run_says_what_would_be_measured(workshop, latprof, capsys):
    net = workshop / "small_resnet.json"
    assert latprof("profile", "--network", net, "--dry-run", "--out", workshop / "never") == 0
    printed = capsys.readouterr().out
    assert "120 pruned networks to measure layer by layer" in printed
    assert re.search(r"About \d+ s", printed)
    assert not (workshop / "never").exists()


def test_a_profile_without_a_folder_leaves_another_devices_table_of_that_name_alone(
    workshop, tmp_path, monkeypatch, latprof, capsys
):
    monkeypatch.setattr("lookup_tables.table.home.DATA", tmp_path / "no_checkout" / "data")
    in_haste(monkeypatch)
    monkeypatch.chdir(tmp_path)
    identity = json.loads((workshop / "table" / "device.json").read_text())
    taken = tmp_path / "tables" / identity["name"]
    taken.mkdir(parents=True)
    other = identity | {"runtime_version": "1.0.0"}
    (taken / "device.json").write_text(json.dumps(other))
    network = workshop / "small_resnet.json"
    assert latprof("profile", "--network", network, "--levels", 3, "--samples", 2) == 0
    said = capsys.readouterr().err
    assert f"tables/{identity['name']} belongs to another device" in said
    assert f"runtime_version: 1.0.0 there, {identity['runtime_version']} here" in said
    beside = taken.with_name(f"{identity['name']}_{identity['runtime_version']}")
    assert (beside / "small_resnet.jsonl").exists()
    assert json.loads((beside / "device.json").read_text())["name"] == beside.name
    assert [path.name for path in taken.iterdir()] == ["device.json"]
    assert json.loads((taken / "device.json").read_text()) == other


def test_a_dry_run_leaves_out_what_an_interrupted_profile_has_measured(
    workshop, tmp_path, latprof, capsys
):
    def asked(folder, levels=3):
        options = ("--network", workshop / "small_resnet.json", "--levels", levels, "--out", folder)
        capsys.readouterr()
        code = latprof("profile", *options, "--dry-run")
        said = capsys.readouterr()
        found = re.search(r"(\d+) pruned networks to measure .* and (\d+) held-out", said.out)
        return code, said, [int(number) for number in found.groups()] if found else None

    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(workshop / "table" / "device.json", begun)
    rows_of = begun / "small_resnet.jsonl"
    rows = (workshop / "table" / "small_resnet.jsonl").read_text().splitlines(keepends=True)
    rows_of.write_text("".join(rows[:8]) + rows[8][:40])  # killed while it wrote
    _, _, whole = asked(tmp_path / "new")
    code, said, missing = asked(begun)
    assert code == 0
    there = re.search(r"has (\d+) of the pruned and (\d+) of the held-out networks", said.out)
    designed, judged = map(int, there.groups())
    assert designed + judged == 7
    assert missing == [whole[0] - designed, whole[1] - judged]
    assert rows_of.read_text().endswith(rows[8][:40]), "nothing is written"
    code, said, _ = asked(begun, levels=4)
    assert code == 1
    assert f"{rows_of} was begun with 3 levels" in said.err
    edited = tmp_path / "edited"
    shutil.copytree(workshop / "table", edited)
    (edited / rows_of.name).write_text("".join(rows).replace("0.", "1.", 1))
    code, said, _ = asked(edited)
    assert code == 1
    assert f"{edited / rows_of.name}, line " in said.err


def test_networks_and_devices_can_be_listed(workshop, latprof, capsys):
    assert latprof("networks", "--json") == 0
    assert "resnet56" in json.loads(capsys.readouterr().out)
    assert latprof("networks", "--network", "resnet20") == 0
    assert "group layer2.0.shortcut" in capsys.readouterr().out
    assert latprof("devices", "--table", workshop / "table", "--json") == 0
    assert json.loads(capsys.readouterr().out)["threads"] == 1
    assert latprof("devices") == 0
    assert "processor" in capsys.readouterr().out


def test_a_device_that_is_not_here_ends_with_code_3(latprof, capsys):
    assert latprof("profile", "--network", "resnet20", "--device", "titan_rtx") == 3
    message = capsys.readouterr().err
    assert message.startswith("error: device titan_rtx is not here. This machine has: CPU")
    assert "Traceback" not in message


def test_validating_a_foreign_table_is_refused(workshop, tmp_path, latprof, capsys):
    device = Device.load(workshop / "table" / "device.json")
    device.model_copy(update={"runtime_version": "0.1"}).save(tmp_path / "device.json")
    arguments = ["--network", workshop / "small_resnet.json"]
    assert latprof("validate", "--table", tmp_path, *arguments) == 3
    assert "runtime_version: expected" in capsys.readouterr().err


def test_a_wrong_number_of_levels_is_refused_with_the_right_ones(latprof, capsys):
    assert latprof("profile", "--network", "resnet20", "--levels=6", "--dry-run") == 1
    assert "--levels must be one of 2, 3, 4, 5, 7, 8" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples=1", "--batch=0", "--threads=0", "--seed=-1"])
def test_options_out_of_range_are_refused_by_name(latprof, capsys, option):
    assert latprof("profile", "--network", "resnet20", option, "--dry-run") == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_file_for_another_batch_is_not_compared_on_a_tables_device(
    workshop, tmp_path, latprof, capsys
):
    (tmp_path / "a.json").write_text("{}")
    for batch in (1, 2):
        arguments = ["--architecture", tmp_path / "a.json", "--batch", batch]
        arguments += [
            "--network",
            workshop / "small_resnet.json",
            "--out",
            tmp_path / f"{batch}.onnx",
        ]
        assert latprof("export", *arguments) == 0
    files = [tmp_path / "1.onnx", tmp_path / "2.onnx"]
    assert latprof("compare", *files, "--table", workshop / "table") == 1
    assert "made for batches of 2, but the table's device runs 1" in capsys.readouterr().err


def test_files_that_read_other_images_or_cannot_run_are_not_compared(
    workshop, tmp_path, latprof, capsys
):
    good, wide, broken = (tmp_path / f"{name}.onnx" for name in ("good", "wide", "broken"))
    (tmp_path / "a.json").write_text("{}")
    network = ("--network", workshop / "small_resnet.json", "--architecture", tmp_path / "a.json")
    assert latprof("export", *network, "--out", good) == 0
    model = onnx.load(good)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9
    onnx.save(model, wide)
    assert latprof("compare", good, wide) == 1
    assert "reads" in capsys.readouterr().err
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    onnx.save(model, wide)
    assert latprof("compare", good, wide) == 1
    assert "free dimensions besides the batch" in capsys.readouterr().err
    model = onnx.load(good)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, broken)
    assert latprof("compare", good, broken) == 1
    assert "the runtime cannot run it" in capsys.readouterr().err


def test_other_threads_than_the_tables_are_refused(tmp_path, latprof, capsys):
    LatencyTable.create(tmp_path / "t", this_device("cpu", Usage(threads=2)))
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert latprof("compare", *files, "--table", tmp_path / "t", "--threads", 1) == 1
    assert "--threads 1: the table's device uses 2" in capsys.readouterr().err


def test_a_transfer_into_a_folder_that_another_process_writes_leaves_nothing(
    workshop, tmp_path, latprof, capsys
):
    source = LatencyTable.open(workshop / "table")
    other = source.device.model_copy(update={"runtime_version": "0.1"})
    shutil.copytree(workshop / "table", tmp_path / "from")
    (tmp_path / "from" / "manifest.json").unlink()
    other.save(tmp_path / "from" / "device.json")
    LatencyTable.create(tmp_path / "t", this_device())
    before = sorted(path.name for path in (tmp_path / "t").iterdir())
    options = ["--from", tmp_path / "from", "--network", "small_resnet", "--out", tmp_path / "t"]
    with only_writer(tmp_path / "t"):
        assert latprof("transfer", *options) == 1
    assert "another process is writing into it" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == before


def test_a_file_that_is_no_architecture_is_named(workshop, tmp_path, latprof, capsys):
    path = tmp_path / "a.json"
    path.write_bytes(b"\x80\xff\x00")
    options = ("--network", workshop / "small_resnet.json", "--architecture", path)
    assert latprof("export", *options, "--out", tmp_path / "x.onnx") == 1
    assert f"{path}: not an architecture" in capsys.readouterr().err


def test_a_network_of_which_nothing_can_be_chosen_is_not_profiled(
    workshop, tmp_path, latprof, capsys
):
    frozen = Network.load(workshop / "small_resnet.json")
    layers = tuple(layer.model_copy(update={"group": None}) for layer in frozen.layers)
    frozen.model_copy(update={"layers": layers, "groups": (), "blocks": ()}).save(
        tmp_path / "n.json"
    )
    assert latprof("profile", "--network", tmp_path / "n.json", "--out", tmp_path / "t") == 1
    assert "nothing to profile" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("text", ["soon", "0", "-5s", "3 days"])
def test_a_wrong_duration_is_refused(latprof, capsys, text):
    assert latprof("profile", "--network", "resnet20", f"--budget={text}", "--dry-run") == 1
    assert "expected a duration such as 90s" in capsys.readouterr().err
