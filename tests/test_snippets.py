"""Every command and every line of Python that the documents show is run, in a small world.

What would take long (a large network, many episodes, another machine) is exchanged for something
small: `VALUES`, `PLACES` and `ADDED` for commands, `SMALLER` for Python. Nothing else is changed,
and a command with a word that is unknown here fails.
"""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
import torch
import typer

from latprof.cli import build_app as latprof_app
from latprof.onnx.writer import build
from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable
from pruner.cli import build_app as pruner_app
from pruner.run.measured import NotTimed
from tests.commands import FACTORY
from tests.hasty import in_haste

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "lookup_tables/FORMAT.md"]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
PROGRAMS = ("latprof", "pruner", "make", "pip")

VALUES = {  # option, value in a document → value here; None: the option is left out
    ("--network", "resnet56"): "small_resnet.json",
    ("--network", "digits_resnet"): "small_resnet.json",
    ("--model", "resnet56"): FACTORY,
    ("--model", "digits_resnet"): FACTORY,
    ("--weights", "resnet56-4bfd9763.th"): "dense.safetensors",
    ("--weights", "runs/demo/dense.safetensors"): "dense.safetensors",
    ("--data", "cifar10"): "digits",
    ("--data-dir", "DATA"): None,
    ("--table", "lookup_tables/data/intel_xeon_processor_1t"): "TABLE",
    ("--table", "runs/demo/table"): "TABLE",
    ("--table", "tables/mine"): "TABLE",
    ("--input", "3x224x224"): "1x8x8",
    ("--speedup", "2"): "1.2",
    ("--speedup", "1.5"): "1.2",
    ("--speedup", "1.6"): "1.2",
    ("--speedup", "3"): None,
    ("--member", "resnet20=resnet20-12fca82f.th"): None,
    ("--member", "resnet32=92.63%"): None,
    ("--epochs", "30"): None,
    ("--epochs", "40"): None,
    ("--epochs", "20"): "1",
    ("--epochs", "5"): None,
    ("--episodes", "60"): None,
    ("--seed", "1"): None,
    ("--threads", "2"): "1",
    ("--version", "3"): "1",
}
PLACES = {"s3://bucket/tables": "place", "https://host/tables": "place"}
ADDED = {
    "latprof profile": ["--levels", "3", "--samples", "12"],
    "latprof validate": ["--samples", "4"],
    "pruner prune": ["--episodes", "4", "--epochs", "0"],
    "pruner compare": ["--episodes", "4", "--epochs", "0"],
}
FEWER = ["--levels", "2", "--samples", "2"]  # of a table that was not begun
# Minutes even when small; tests/journeys and test_repeat.py run them.
ONLY_PARSED = ("latprof repeat", "latprof transfer", "pruner recommend")
OF_DETECTORS = {"anchors", "detection", "yolov3", "yolov3.json"}  # as are these; test_detecting.py
LEFT_OUT = ("latprof kernels build",)  # compiles for a while; test_kernels.py does
SMALLER = {
    "epochs=20, batch=8": "epochs=1, batch=16",
    "image_size=96": "image_size=64",
    "goal=Goal(budget_s=90)": "goal=Goal(samples=4), levels=2",
    'Network.load("digits_resnet")': 'Network.load("small_resnet.json")',
    'model="digits_resnet"': f'model="{FACTORY}"',
    "speedup=1.5": "speedup=1.2",
    "episodes=60": "episodes=4",
    "epochs=5": "epochs=0",
    "epochs=8": "epochs=0",
    "epochs=20": "epochs=2",
}


MINE = """
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from tests.toys import small_resnet as small_net

def images():
    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    return TensorDataset(pixels[:1400], labels[:1400]), TensorDataset(pixels[1400:], labels[1400:])
"""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each command; comments and continued lines are as in a shell."""
    joined = text.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [found for found in words if found]


def shown() -> list[tuple[str, list[list[str]]]]:
    """(page, the commands of one block); a block is run as a whole, from top to bottom.

    What two pages show alike is run once.
    """
    found = {}
    for page in PAGES:
        for block in blocks(page, ""):
            if block.startswith(PROGRAMS):
                words = commands(block)
                found.setdefault(str(words), (page.name, words))
    return [*found.values()]


def small(words: list[str], device: str) -> list[str]:
    program, name, *rest = words
    values = VALUES | {("--network", "resnet56"): "small_resnet"} if name == "pull" else VALUES
    places = PLACES | {"titan_rtx": device}
    answer, options = [], iter(rest)
    nested = [rest[0]] if name == "kernels" else []
    for word in options:
        if not word.startswith("--"):
            answer.append(places.get(word, word))
            continue
        value = next(options, None) if takes_value(program, [name, *nested], word) else None
        if value is None:
            answer.append(word)
        elif (now := values.get((word, value), value)) is not None:
            answer += [word, now]
    ended = ["--budget", "1s"] if "--error" in rest else []  # else it measures until it is there
    added = ADDED.get(f"{program} {name}", [])
    if name == "profile" and _begins(answer):
        added = FEWER
    return [name, *answer, *ended, *added]


def _begins(profile: list[str]) -> bool:
    """Whether it begins a table: what was begun goes on with the options of its beginning."""
    out = next((value for word, value in pairwise(profile) if word == "--out"), None)
    if out is None:  # beside the tables that are there, for another network or block
        return "--onnx" in profile or "--block" in profile
    return not Path(out, "device.json").exists()


def takes_value(program: str, names: list[str], option: str) -> bool:
    app = {"latprof": latprof_app, "pruner": pruner_app}[program]()
    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    found = [one for one in command.params if option in (*one.opts, *one.secondary_opts)]
    assert found, f"{program} {' '.join(names)} has no {option}"
    return not found[0].is_flag


@pytest.fixture(scope="session")
def finished_world(workshop, kernels, tmp_path_factory):
    """What the commands find: tables, a network, weights, ONNX files, an architecture."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(workshop / "small_resnet.json", folder)
    shutil.copy(workshop / "dense.safetensors", folder)
    device = LatencyTable.open(workshop / "table").device.name
    for name in ("TABLE", "A", "B", "table", f"data/{device}", "runs/demo/table"):
        shutil.copytree(workshop / "table", folder / name)
    network = Network.load(workshop / "small_resnet.json")
    half = Architecture(widths={group.name: group.width // 2 for group in network.groups})
    half.save(folder / "a.json")
    onnx.save(build(network, network.dense), str(folder / "dense.onnx"))
    onnx.save(build(network, half), str(folder / "model.onnx"))
    sparse = Architecture(density=dict.fromkeys(network.sparse_layers, 0.5))
    onnx.save(build(network, sparse), str(folder / "zeros.onnx"))
    shutil.copy(kernels, folder / "libblock_sparse.so")
    (folder / "lookup_tables").symlink_to(ROOT / "lookup_tables")
    (folder / "mine.py").write_text(MINE)
    shown = blocks(ROOT / "docs/guide.md", "python")
    (folder / "rewards.py").write_text(next(code for code in shown if "def small(" in code))
    shutil.copy(workshop / "dense.safetensors", folder / "mine.safetensors")
    return folder


@pytest.fixture
def world(finished_world, tmp_path, monkeypatch):
    shutil.copytree(finished_world, tmp_path / "world", symlinks=True)
    monkeypatch.chdir(tmp_path / "world")
    for place in ("DATA", "ELSEWHERE"):
        monkeypatch.setattr(f"lookup_tables.table.home.{place}", tmp_path / "world" / "data")
    in_haste(monkeypatch)
    # Tables that are measured in haste promise too little to prune by.
    monkeypatch.setattr("pruner.run.journey.Journey.widest", 0.0)
    return tmp_path / "world"


def made_by(words: list[str]) -> list[list[str]]:
    """What `make` would run, the installation left out."""
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *words[1:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    run = [c for c in commands(told.stdout) if c[0].startswith(".venv/bin/")]
    assert run or words[1:] == ["help"], f"{' '.join(words)} does nothing"
    return [[Path(c[0]).name, *c[1:]] for c in run]


@pytest.mark.parametrize(
    ("page", "block"), shown(), ids=lambda value: value if isinstance(value, str) else value[0][1]
)
def test_the_commands_of_a_document_run(page, block, world, latprof, pruner, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if page != "README.md":  # it takes as long as all the rest
        not_timed = NotTimed("this test does not look at it")
        monkeypatch.setattr("pruner.run.prune.measure_pair", lambda *_: not_timed)
    device = LatencyTable.open(world / "TABLE").device.name
    run = {"latprof": latprof, "pruner": pruner}
    for words in block:
        for made in made_by(words) if words[0] == "make" else [words]:
            if made[0] not in run:
                assert made[0] in ("pip", "pytest", "python"), made
            elif " ".join(made[:3]) in LEFT_OUT:
                assert takes_value(made[0], made[1:3], made[3])
            elif " ".join(made[:2]) in ONLY_PARSED or OF_DETECTORS & {*made}:
                app = {"latprof": latprof_app, "pruner": pruner_app}[made[0]]()
                command = typer.main.get_command(app).commands[made[1]]
                command.make_context(made[1], made[2:])
            else:
                busy = made[1] in ("doctor", "compare")
                allowed = (0, 4) if "--error" in made else (0, 6) if busy else (0,)
                assert run[made[0]](*small(made, device)) in allowed, " ".join(made)


def smaller(code: str) -> str:
    for shown_code, here in SMALLER.items():
        code = code.replace(shown_code, here)
    return code


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_the_python_of_a_document_runs_from_top_to_bottom(page, world):
    torch.manual_seed(0)
    shutil.rmtree(world / "table")  # it makes its own
    found = {"images": torch.zeros(1, 1, 8, 8).numpy()}
    for block in blocks(page, "python"):
        exec(compile(smaller(block), page.name, "exec"), found)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, world, monkeypatch):
    for part, pictures in (("TRAIN", 64), ("HELD_OUT", 24), ("TEST", 16)):
        monkeypatch.setattr(f"pruner.data.detection.shapes.{part}", pictures)
    cells = json.loads(notebook.read_text())["cells"]
    code = [smaller("".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    found = {}
    for cell in code:
        exec(compile(cell, notebook.name, "exec"), found)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_output(notebook):
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(c["outputs"]) for c in cells) >= len(cells) - 2
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    assert not re.search(r"(/home/|/root/|/Users/|/tmp/)", notebook.read_text())


def test_the_parts_to_install_that_documents_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page in PAGES:
        for named in re.findall(r"pip install (?:-e )?'\.\[([\w,]+)\]'", page.read_text()):
            assert set(named.split(",")) <= {*extras}, page.name
