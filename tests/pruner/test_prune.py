"""What the journey decides between its steps."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from pruner import RunError, SearchError, models
from pruner.criteria.dynamic import Phase, select
from pruner.run import origin, prune
from pruner.run.folder import RunFolder
from pruner.run.journey import Journey, groups_of
from pruner.run.settings import Settings
from pruner.search.log import SearchLog
from pruner.search.searcher import evaluated_here
from pruner.train.finetune import Recipe
from pruner.train.weights import save_weights
from tests.toys import synthetic_table, tiny_network

TINY = tiny_network()
SETTINGS = Settings(model="m.py:f", weights="w", data="digits", table="t", speedup=1.5)


def widths(first, second):
    return Architecture(widths={"conv1": first, "layer1.0.conv1": second})


@pytest.fixture
def journey(tmp_path):
    latency = LatencyModel(TINY, synthetic_table(tmp_path / "table", TINY))
    whole = {}  # accuracies on all held-out images
    return SimpleNamespace(
        settings=SETTINGS,
        latency=latency,
        limit_s=latency.latency_s(widths(8, 16)),
        score=lambda architecture: whole[architecture.model_dump_json()],
        whole=whole,
    )


def logged(journey, folder, scores):
    """A search log of (architecture, accuracy on the sample, accuracy on all)."""
    for architecture, _, accuracy in scores:
        journey.whole[architecture.model_dump_json()] = accuracy
    sample = {architecture.model_dump_json(): first for architecture, first, _ in scores}
    score = evaluated_here(lambda a: sample[a.model_dump_json()])
    log = SearchLog(folder / "search.jsonl", score, journey.latency)
    for architecture, *_ in scores:
        log.score(architecture)
    return log


def test_the_network_found_is_the_best_on_all_held_out_images(journey, tmp_path):
    flattered, best = widths(8, 8), widths(8, 12)
    scores = [(flattered, 0.9, 0.6), (best, 0.8, 0.7), (widths(4, 4), 0.1, 0.1)]
    assert prune.choose(journey, logged(journey, tmp_path, scores)) == best


def test_only_the_samples_few_best_are_looked_at_again(journey, tmp_path):
    scores = [(widths(8, n), 0.9 - n / 100, 0.5 + n / 100) for n in range(5, 13)]
    found = prune.choose(journey, logged(journey, tmp_path, scores))
    assert found == scores[prune.RESCORED - 1][0]  # the best of all held-out images among the five


def test_what_is_too_slow_never_wins(journey, tmp_path):
    slow, fitting = TINY.dense, widths(4, 4)
    scores = [(slow, 1, 1), (fitting, 0.1, 0.1)]
    assert prune.choose(journey, logged(journey, tmp_path, scores)) == fitting
    with pytest.raises(SearchError, match="none of the 1 architectures"):
        prune.choose(journey, logged(journey, tmp_path / "table", [(slow, 1, 1)]))


def test_fine_tuning_follows_every_option_of_the_run(monkeypatch, tmp_path):
    asked = {
        "epochs": 3, "batch": 7, "learning_rate": 0.3, "weight_decay": 0.02, "label_smoothing": 0.1,
        "distill": 0.7, "patience": 0, "seed": 5,
    }  # fmt: skip
    seen = []

    def fine_tune(*arguments, task, sparsity):
        assert sparsity is None
        seen.append((*arguments, task))
        return []

    monkeypatch.setattr(prune, "fine_tune", fine_tune)
    monkeypatch.setattr(prune, "prepare", lambda *_: torch.nn.Linear(1, 1))
    here = Journey(SETTINGS.varied(**asked), lambda *_: None)
    here.data = SimpleNamespace(train="train", all_training="all")
    here.dense, here.judged_by, here.task = "teacher", "held out", "task"
    prune.tune(here, RunFolder(tmp_path, here.settings), Architecture())
    _, images, recipe, _, teacher, _, held_out, task = seen[0]
    assert (images, teacher, held_out, task) == ("all", "teacher", "held out", "task")
    assert here.settings.own("task").label_smoothing == asked.pop("label_smoothing")
    rate = asked.pop("learning_rate")
    assert recipe == Recipe(**asked, rate=rate)


def test_a_version_is_known_where_only_the_build_for_gpus_is_installed(monkeypatch):
    def version(package):
        if package == "onnxruntime":
            raise PackageNotFoundError(package)
        return "1.31"

    monkeypatch.setattr(origin, "version", version)
    assert origin.version_of("onnxruntime") == "1.31"
    assert origin.versions()["onnxruntime"] == "1.31"


def test_layers_that_keep_their_width_are_named_by_their_modules():
    assert groups_of(TINY, ["layer1.0.conv1", "linear"]) == {"layer1.0.conv1"}
    mobile = Network.load("mobilenet_v1_32")
    read_by = groups_of(mobile, ["blocks.1.depthwise"])
    assert read_by == groups_of(mobile, ["blocks.0.pointwise"])
    assert len(read_by) == 1, "a depthwise layer is as wide as what it reads"
    with pytest.raises(RunError, match=r"--keep-width 'layer1.0.con'.*nearest: layer1.0.conv"):
        groups_of(TINY, ["layer1.0.con"])


def test_a_method_that_removes_no_block_is_reproduced_without_depth():
    """In a comparison with --depth it shares the settings of the others."""
    settings = SETTINGS.varied(method="uniform", depth=True)
    assert "--depth" not in settings.options()
    assert "--depth" in SETTINGS.varied(depth=True).options()


@pytest.mark.parametrize("reconstruct", [True, False])
def test_dynamic_selection_begins_where_removed_blocks_were_taken_over(
    tmp_path, monkeypatch, reconstruct
):
    save_weights(models.build("digits_resnet", 10), tmp_path / "dense.safetensors")
    settings = Settings(
        model="digits_resnet", weights=str(tmp_path / "dense.safetensors"), data="digits",
        table="none is needed", speedup=1.5, criterion="dynamic", depth=True,
        reconstruct=reconstruct,
    )  # fmt: skip
    journey, begun = Journey(settings, lambda *_: None), []

    def briefly(traced, architecture, images, *_, **__):
        begun.append(traced)
        return select(traced, architecture, images, Phase(steps=1, interval=1))

    monkeypatch.setattr("pruner.criteria.dynamic.select", briefly)
    journey.pruned(Architecture(removed=("layer1.1",)))
    path = "layer1.0.conv2.weight"
    dense, before = (t.module.get_parameter(path) for t in (journey.trace, begun[0]))
    assert torch.equal(dense, before) is not reconstruct
