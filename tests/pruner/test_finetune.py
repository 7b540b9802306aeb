import resource
from contextlib import contextmanager
from types import SimpleNamespace

import onnx
import pytest
import torch
from pydantic import ValidationError

from pruner import ExportError, RunError
from pruner.data import load_data
from pruner.train.accuracy import accuracy, onnx_accuracy, recalibrate, score
from pruner.train.export import export_onnx, largest_difference
from pruner.train.finetune import Recipe, _optimizer, _set_rate, _Training, fine_tune
from pruner.train.tasks.classification import CLASSIFIED, Classification, ClassificationSettings
from pruner.train.weights import save_weights
from tests.toys import tiny_resnet

DATA = load_data("digits")
RECIPE = Recipe(epochs=2, batch=128, rate=0.1, seed=3)


SMOOTHED = Classification(ClassificationSettings(label_smoothing=0.1))


def trained(
    checkpoint=None, report=lambda *_: None, recipe=RECIPE, teacher=None, epochs=None,
    task=CLASSIFIED,
):  # fmt: skip
    torch.manual_seed(0)
    model = tiny_resnet()
    seen = fine_tune(model, DATA.train, recipe, checkpoint, teacher, report, task=task)
    if epochs is not None:
        epochs.extend(seen)
    return model


def same(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(torch.equal(x, y) for (_, x), (_, y) in pairs)


def test_a_few_epochs_teach_the_digits():
    model = trained(recipe=Recipe(epochs=8, batch=64, rate=0.1))
    assert accuracy(model, DATA.held_out) > 0.9


@pytest.mark.parametrize("at_step", [3, 11])
def test_interrupted_training_continues_to_the_same_weights(tmp_path, monkeypatch, at_step):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    in_one_go = []
    whole = trained(epochs=in_one_go)

    def interrupt(step, total, text):
        if step == at_step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "c.pt", interrupt)
    steps, epochs = [], []
    continued = trained(tmp_path / "c.pt", lambda step, *_: steps.append(step), epochs=epochs)
    assert steps[0] == at_step // 2 * 2 + 1
    assert same(whole, continued)
    assert [(e.number, e.loss, e.accuracy) for e in epochs] == [
        (e.number, e.loss, e.accuracy) for e in in_one_go
    ]


def test_every_epoch_says_what_it_saw_and_the_last_ones_saw_more_right():
    epochs = []
    trained(recipe=Recipe(epochs=5, batch=64, rate=0.1), epochs=epochs)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5]
    assert {epoch.steps for epoch in epochs} == {len(DATA.train) // 64}
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].accuracy > epochs[0].accuracy
    assert all(epoch.seconds > 0 and epoch.held_out is None for epoch in epochs)


def test_another_seed_trains_otherwise():
    assert not same(trained(), trained(recipe=Recipe(epochs=2, batch=128, rate=0.1, seed=4)))


def test_a_teacher_changes_what_is_learned():
    recipe = Recipe(epochs=1, distill=0.5)
    teacher = trained()
    assert not same(trained(recipe=recipe), trained(recipe=recipe, teacher=teacher))


def test_patience_ends_a_training_that_no_longer_improves_at_its_best_weights():
    hopeless = Recipe(epochs=30, batch=128, rate=1e-7, patience=2)
    model, steps = tiny_resnet(), []
    fine_tune(
        model, DATA.train, hopeless, report=lambda step, *_: steps.append(step),
        held_out=DATA.held_out,
    )  # fmt: skip
    each = len(DATA.train) // 128
    assert steps[-1] < 30 * each
    assert steps[-1] % each == 0


def test_patience_hands_back_the_best_epoch_and_not_the_last(monkeypatch):
    told = iter([0.5, 0.9, 0.2, 0.1])
    states = []

    def accuracy_of(model, images, fast, task):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(told)

    monkeypatch.setattr("pruner.train.finetune.accuracy", accuracy_of)
    model = tiny_resnet()
    fine_tune(model, DATA.train, Recipe(epochs=9, rate=0.1, patience=2), held_out=DATA.held_out)
    assert len(states) == 4
    assert all(torch.equal(model.state_dict()[name], value) for name, value in states[1].items())


def test_an_interrupted_training_with_patience_continues_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    recipe = Recipe(epochs=4, batch=128, rate=0.1, patience=1)

    def train(checkpoint, report=lambda *_: None):
        torch.manual_seed(0)
        model = tiny_resnet()
        fine_tune(model, DATA.train, recipe, checkpoint, None, report, DATA.held_out)
        return model

    def interrupt(step, total, text):
        if step == 13:
            raise KeyboardInterrupt

    whole = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "c.pt", interrupt)
    assert same(whole, train(tmp_path / "c.pt"))


def test_patience_needs_images_to_judge_by():
    with pytest.raises(RunError, match="held-out images"):
        fine_tune(tiny_resnet(), DATA.train, Recipe(patience=1))


def test_a_checkpoint_of_another_recipe_is_refused_by_what_it_was(tmp_path):
    trained(tmp_path / "c.pt")
    with pytest.raises(RunError, match=r"label_smoothing 0\.0.*now .*label_smoothing 0\.1"):
        trained(tmp_path / "c.pt", task=SMOOTHED)


def test_a_checkpoint_begun_from_other_weights_is_refused(tmp_path):
    def train(begun_from):
        fine_tune(
            tiny_resnet(), DATA.train, RECIPE, tmp_path / "c.pt", begun_from=begun_from
        )  # fmt: skip

    train("weights 1234")
    train("weights 1234")
    with pytest.raises(RunError, match=r"weights 1234; now .*weights 5678"):
        train("weights 5678")


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": -0.1}])
def test_a_recipe_that_teaches_nothing_is_refused(wrong):
    with pytest.raises(RunError, match="expected"):
        Recipe(**wrong)


def test_label_smoothing_changes_what_is_learned():
    assert not same(trained(), trained(task=SMOOTHED))


def test_smoothing_everything_away_is_refused():
    with pytest.raises(ValidationError, match="less than 1"):
        ClassificationSettings(label_smoothing=1.0)


def test_recalibration_restores_statistics_that_were_lost():
    model = trained(recipe=Recipe(epochs=6, batch=64, rate=0.1))
    before = accuracy(model, DATA.held_out)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
    assert accuracy(model, DATA.held_out) < before - 0.2
    recalibrate(model, DATA.train, 500)
    assert accuracy(model, DATA.held_out) > before - 0.05


def test_a_score_is_the_accuracy_with_statistics_of_the_images_that_are_judged():
    model = trained(recipe=Recipe(epochs=6, batch=64, rate=0.1))
    right = accuracy(model, DATA.held_out)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
    lost, found = accuracy(model, DATA.held_out), score(model, DATA.held_out)
    assert lost < right - 0.2
    assert found > right - 0.05
    recalibrate(model, DATA.held_out, 200)
    assert score(model, DATA.held_out, 200) == pytest.approx(
        accuracy(model, DATA.held_out, 200), abs=0.011
    )


def test_a_score_leaves_the_model_as_it_is():
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = accuracy(model, DATA.held_out)
    score(model, DATA.held_out)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert accuracy(model, DATA.held_out) == expected


def test_recalibration_leaves_weights_and_momentum_alone():
    model = trained()
    weights = [p.detach().clone() for p in model.parameters()]
    recalibrate(model, DATA.train, 200)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert model.bn1.momentum == 0.1


def test_the_exported_file_computes_the_same_and_is_as_accurate(tmp_path):
    model = trained()
    difference = export_onnx(model, (1, 8, 8), tmp_path / "m.onnx")
    assert difference < 1e-4
    one_image = 1 / len(DATA.test)  # two classes as likely to the last digit
    accuracies = onnx_accuracy(tmp_path / "m.onnx", DATA.test), accuracy(model, DATA.test)
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1.01 * one_image)


def test_an_export_that_differs_is_not_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr("pruner.train.export.largest_difference", lambda *_: float("nan"))
    with pytest.raises(ExportError, match=r"differs from PyTorch by nan .* so m\.onnx"):
        export_onnx(tiny_resnet(), (1, 8, 8), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_wrong_file_is_seen_as_different(tmp_path):
    export_onnx(tiny_resnet(), (1, 8, 8), tmp_path / "m.onnx")
    assert largest_difference(tiny_resnet(), tmp_path / "m.onnx", (1, 8, 8)) > 0.01


def rates(recipe, total, steps_each):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    seen = []
    for step in range(total):
        _set_rate(optimizer, recipe, step, total, steps_each)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_the_rate_climbs_to_its_highest_and_then_falls_to_nothing_as_a_cosine():
    seen = rates(Recipe(rate=0.4, warm_up=0.1), 100, 50)
    assert seen[:10] == pytest.approx([0.04 * k for k in range(1, 11)])
    assert seen[10] == pytest.approx(0.4)
    assert seen[10:] == sorted(seen[10:], reverse=True)
    assert seen[55] == pytest.approx(0.2)
    assert seen[-1] < 0.001


def test_the_teachers_share_of_the_loss_is_the_divergence_of_softened_outputs():
    recipe = Recipe(distill=0.25, temperature=2.0)
    outputs, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    training = SimpleNamespace(recipe=recipe, run_teacher=lambda x: targets, task=Classification())
    found = _Training._loss(training, outputs, None, torch.tensor([0]))
    p, q = torch.softmax(targets[0] / 2, 0), torch.softmax(outputs[0] / 2, 0)
    divergence = float((p * (p / q).log()).sum())
    own = float(-torch.log_softmax(outputs[0], 0)[0])
    assert float(found) == pytest.approx(0.75 * own + 0.25 * 4 * divergence)


def test_weights_decay_and_scales_and_biases_do_not():
    groups = _optimizer(tiny_resnet(), Recipe(weight_decay=0.01)).param_groups
    decayed = {p.dim() for group in groups if group["weight_decay"] for p in group["params"]}
    spared = {p.dim() for group in groups if not group["weight_decay"] for p in group["params"]}
    assert decayed == {2, 4}
    assert spared == {1}


def test_every_step_draws_other_images_and_another_augmentation():
    class Watched:
        def __init__(self):
            self.asked = []

        def __len__(self):
            return len(DATA.train)

        def batch(self, indices, seed=None):
            self.asked.append((tuple(indices.tolist()), seed))
            return DATA.train.batch(indices, seed)

    images = Watched()
    fine_tune(tiny_resnet(), images, RECIPE)
    seeds = [seed for _, seed in images.asked]
    assert None not in seeds
    assert len(set(images.asked)) == len(set(seeds)) == 2 * (len(DATA.train) // 128)


@contextmanager
def room_for(size):
    """Files may grow to `size` bytes, as on a disk that is full after them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_neither_the_former_checkpoint_nor_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    checkpoint, weights = tmp_path / "c.pt", tmp_path / "w.safetensors"
    save_weights(tiny_resnet(), weights)

    def interrupt(step, total, text):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint, interrupt)
    before = checkpoint.read_bytes(), weights.read_bytes()
    with room_for(1000):
        with pytest.raises(OSError, match="too large"):
            trained(checkpoint)
        with pytest.raises(OSError, match="too large"):
            save_weights(tiny_resnet(), weights)
    assert (checkpoint.read_bytes(), weights.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pt", "w.safetensors"]
    assert same(trained(checkpoint), trained())


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"PK half a file")
    with pytest.raises(RunError, match=r"c\.pt is damaged; delete it"):
        trained(tmp_path / "c.pt")


def test_a_file_of_another_kind_is_not_taken_for_a_checkpoint_and_stays(tmp_path):
    torch.save(tiny_resnet().state_dict(), tmp_path / "c.pt")
    with pytest.raises(RunError, match=r"c\.pt is not a training's checkpoint.* Move it away"):
        trained(tmp_path / "c.pt")


def test_a_few_images_more_than_a_batch_count_as_much_as_the_others():
    model, other = tiny_resnet(), tiny_resnet()
    other.load_state_dict(model.state_dict())
    recalibrate(model, DATA.train, 251)  # two batches; a single image must not be half of it
    recalibrate(other, DATA.train, 250)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        if a.is_floating_point():
            assert torch.allclose(a, b, rtol=0.1, atol=0.02)


def test_an_export_for_several_images_at_once_is_as_accurate(tmp_path):
    model = trained()
    export_onnx(model, (1, 8, 8), tmp_path / "m.onnx", batch=4)
    found = onnx_accuracy(tmp_path / "m.onnx", DATA.test, 41)  # the last batch holds one
    assert found == pytest.approx(accuracy(model, DATA.test, 41), abs=1.01 / 41)


def test_an_export_in_half_precision_reads_and_answers_in_it(tmp_path):
    model = trained()
    difference = export_onnx(model, (1, 8, 8), tmp_path / "m.onnx", precision="fp16")
    assert 0 < difference < 0.03
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = {entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT16}
    found = onnx_accuracy(tmp_path / "m.onnx", DATA.test, 100)
    assert found == pytest.approx(accuracy(model, DATA.test, 100), abs=0.03)
