"""Tests run on two threads at most and never on a GPU by accident."""

import fcntl
import hashlib
import io
import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Before numpy is imported, here and in every worker: small matrices of two workers at once, each
# with two threads, take a hundred times as long as with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib
import onnxruntime as ort
import pytest
import torch
from torch.onnx._internal.exporter import _registration as exporter_registration

from latprof import cli as latprof_cli
from latprof.kernels import build
from pruner import cli as pruner_cli
from pruner.graph import capture
from pruner.train.export import export_onnx
from tests.commands import FACTORY, command
from tests.hasty import in_haste


def pytest_configure(config):
    if config.option.markexpr != "gpu":
        torch.cuda.is_available = lambda: False


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What this machine takes when quiet is not learnt from tests, and does not decide on them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", matplotlib.get_cachedir()))
    patch.setenv("LATPROF_ANY_CORE", "1")
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


USERS_CACHE = os.environ.get("XDG_CACHE_HOME")  # before it is exchanged
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # the others have the other cores


torch.set_num_threads(THREADS)  # also for what several tests share


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def _less_of_what_takes_long():
    """Fewer images are measured before a search, agents imitate for fewer steps, and PyTorch's
    exporter lists what it knows once.

    The list takes it half a second at every export. ONNX Runtime's threads keep a core busy while
    they wait, which is another worker's.
    """
    all_cores = ort.SessionOptions

    def options():
        made = all_cores()
        made.intra_op_num_threads = THREADS
        return made

    patch = pytest.MonkeyPatch()
    patch.setattr(ort, "SessionOptions", options)
    patch.setattr("pruner.graph.compensation.IMAGES", 256)
    for name, steps in (("CLONING", 60), ("IMITATION", 5)):
        patch.setattr(f"pruner.search.methods.lap.{name}", steps)
    lists = getattr(exporter_registration, "ONNXRegistry", None)
    if hasattr(lists, "from_torchlib"):  # PyTorch's own affair, and other in other versions
        patch.setattr(lists, "from_torchlib", staticmethod(cache(lists.from_torchlib)))
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _the_projects_networks_are_captured_once():
    """PyTorch's exporter takes a third of a second for a ResNet, and every command traces it."""
    whole, found = capture._exported, {}

    def exported(model, example):
        if not type(model).__module__.startswith("pruner.models"):
            return whole(model, example)
        key = f"{type(model)} {model} {example.shape} {example.device} {model.training}"
        if key not in found:
            found[key] = whole(model, example)
        return found[key]

    patch = pytest.MonkeyPatch()
    patch.setattr(capture, "_exported", exported)
    yield
    patch.undo()


_exported: dict[str, tuple[bytes, float]] = {}  # network → its file, and how it differs


@pytest.fixture(autouse=True)
def _the_same_network_is_exported_once(monkeypatch):
    """Runs export the dense network again and again, a second each; its file is the same."""

    def export(model, shape, path, batch=1, precision="fp32"):
        content = io.BytesIO()
        torch.save(model.state_dict(), content)
        facts = f"{model} {shape} {batch} {precision}".encode()
        key = hashlib.sha256(facts + content.getvalue()).hexdigest()
        if key not in _exported:
            difference = export_onnx(model, shape, path, batch, precision)
            _exported[key] = Path(path).read_bytes(), difference
        Path(path).write_bytes(_exported[key][0])
        return _exported[key][1]

    for user in ("prune", "compare"):
        monkeypatch.setattr(f"pruner.run.{user}.export_onnx", export)


@pytest.fixture
def latprof(monkeypatch):
    return lambda *arguments: command(monkeypatch, latprof_cli.main, *arguments)


@pytest.fixture
def pruner(monkeypatch):
    return lambda *arguments: command(monkeypatch, pruner_cli.main, *arguments)


@contextmanager
def _made_once(tmp_path_factory, name):
    """A folder that all workers share, and whether it is still to be filled."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        yield folder, not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """The operators' library: the user's, which is of these very sources, or compiled once."""
    patch = pytest.MonkeyPatch()
    with _made_once(tmp_path_factory, "kernels"), pytest.MonkeyPatch.context() as own:
        own.delenv("XDG_CACHE_HOME", raising=False)
        if USERS_CACHE:
            own.setenv("XDG_CACHE_HOME", USERS_CACHE)
        patch.setenv("LATPROF_KERNELS", str(build.library()))
    yield Path(os.environ["LATPROF_KERNELS"])
    patch.undo()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """A traced network, its table on this machine, and trained weights, made by the commands."""
    with _made_once(tmp_path_factory, "workshop") as (folder, is_empty):
        if is_empty:
            _fill(folder)
    return folder


def _fill(workshop):
    patch = pytest.MonkeyPatch()
    in_haste(patch)  # a table is needed here, not a good one
    net = workshop / "small_resnet.json"
    made = [
        command(
            patch, pruner_cli.main, "trace", "--model", FACTORY, "--input", "1x8x8", "--out", net
        ),
        command(
            patch, latprof_cli.main, "profile", "--network", net, "--out", workshop / "table",
            "--levels", "3", "--samples", "12",
        ),
        command(
            patch, pruner_cli.main, "train", "--model", FACTORY, "--data", "digits",
            "--epochs", "6", "--out", workshop / "dense.safetensors",
        ),
    ]  # fmt: skip
    patch.undo()
    assert made == [0, 0, 0]


@pytest.fixture(scope="session")
def sparse_table(workshop, kernels, tmp_path_factory):
    """A table of the workshop's network on this machine's block-sparse kernels."""
    with _made_once(tmp_path_factory, "sparse") as (folder, is_empty):
        if is_empty:
            patch = pytest.MonkeyPatch()
            in_haste(patch)
            made = command(
                patch, latprof_cli.main, "profile", "--network", workshop / "small_resnet.json",
                "--kernels", "block_sparse", "--levels", "2", "--samples", "4",
                "--out", folder / "table",
            )  # fmt: skip
            patch.undo()
            assert made == 0
    return folder / "table"
