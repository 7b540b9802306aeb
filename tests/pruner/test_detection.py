"""The detection task: maps read as boxes, objects matched to predictions, loss, score, contract."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner import DataError, RunError, models
from pruner.data import load_data
from pruner.data.detection.boxes import Boxes
from pruner.data.own import from_datasets
from pruner.graph.trace import trace
from pruner.models.yolov3 import PER_MAP
from pruner.train.accuracy import details_of, judged
from pruner.train.finetune import Recipe, fine_tune
from pruner.train.tasks import TASKS
from pruner.train.tasks.detection import Detection, DetectionSettings, parsed, told
from pruner.train.tasks.yolo import (
    PUBLISHED,
    cluster,
    detect,
    match,
    own_anchors,
    read_maps,
)
from tests.commands import FACTORY

SIDE = 64
CLASSES = 3
CHANNELS = PER_MAP * (5 + CLASSES)
SHAPES = [(SIDE // stride, SIDE // stride) for stride in (32, 16, 8)]
ANCHORS = tuple((w * SIDE / 416, h * SIDE / 416) for w, h in PUBLISHED[3])
TASK = Detection(DetectionSettings(anchors=told(ANCHORS)))


def empty(images=1):
    """Maps in which nothing is seen."""
    return [torch.full((images, CHANNELS, h, w), -9.0) for h, w in SHAPES]


def seen(answer, targets):
    """Maps that say exactly what is there, by the task's own matching."""
    matched = match(SHAPES, ANCHORS, SIDE, targets)
    flat = [raw.clone() for raw in answer]
    bounds, before = [], 0
    for h, w in SHAPES:
        bounds.append((before, h, w))
        before += PER_MAP * h * w
    for image, prediction, corners, number in zip(*matched, strict=True):
        which = max(i for i, (start, _, _) in enumerate(bounds) if start <= prediction)
        start, h, w = bounds[which]
        anchor, cell = divmod(int(prediction) - start, h * w)
        y, x = divmod(cell, w)
        stride = SIDE / w
        size = corners[2:] - corners[:2]
        centre = (corners[:2] + corners[2:]) / 2 / stride - torch.tensor([x, y])
        wanted = torch.full((5 + CLASSES,), -9.0)
        wanted[:2] = centre.clamp(1e-4, 1 - 1e-4).logit()
        wanted[2:4] = (size / own_anchors(ANCHORS, len(SHAPES), which)[anchor]).log()
        wanted[4] = wanted[5 + number] = 9.0
        first = anchor * (5 + CLASSES)
        flat[which][image, first : first + 5 + CLASSES, y, x] = wanted
    return flat


def objects(*rows):
    """(class, x1, y1, x2, y2) each."""
    return Boxes(
        torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[0] for row in rows], dtype=torch.long),
    )


def test_a_map_of_zeros_is_anchors_in_the_middle_of_their_cells():
    answer = [torch.zeros(1, CHANNELS, h, w) for h, w in SHAPES]
    maps = read_maps(answer, ANCHORS, SIDE)
    assert maps.corners.shape == (1, PER_MAP * sum(h * w for h, w in SHAPES), 4)
    width, height = ANCHORS[6]  # the coarsest map's first
    expected = [16 - width / 2, 16 - height / 2, 16 + width / 2, 16 + height / 2]
    assert maps.corners[0, 0].tolist() == pytest.approx(expected)
    assert maps.corners[0, 1, 0] == pytest.approx(48 - width / 2), "x runs fastest"


def test_what_is_there_is_found_where_it_is():
    target = objects((0, 4, 4, 20, 24), (2, 30, 30, 60, 60))
    (found,) = TASK.found(seen(empty(), [target]))
    assert sorted(found.boxes.classes.tolist()) == [0, 2]
    order = found.boxes.classes.argsort()
    assert torch.allclose(found.boxes.corners[order], target.corners, atol=0.1)
    assert (found.scores > 0.99).all()


def test_an_object_goes_to_its_cell_and_to_the_anchors_of_its_shape():
    width, height = ANCHORS[7]
    target = objects((1, 32, 8, 32 + width, 8 + height))
    matched = match(SHAPES, ANCHORS, SIDE, [target])
    x, y = (32 + width / 2) // 32, (8 + height / 2) // 32
    assert int(1 * 4 + y * 2 + x) in matched.prediction.tolist(), "the second anchor of 2×2 cells"
    assert (matched.classes == 1).all()


def test_overlapping_boxes_of_one_class_are_one_and_of_two_classes_are_two():
    one, beside = (0, 10, 10, 40, 40), (0, 11, 11, 41, 41)
    both = seen(seen(empty(), [objects(one)]), [objects(beside)])
    maps = read_maps(both, ANCHORS, SIDE)
    assert len(detect(maps, SIDE, 0.5, 0.45, 100)[0].boxes) == 1
    other = seen(both, [objects((1, 12, 12, 54, 54))])
    maps = read_maps(other, ANCHORS, SIDE)
    assert set(detect(maps, SIDE, 0.5, 0.45, 100)[0].boxes.classes.tolist()) == {0, 1}


def test_a_right_answer_costs_next_to_nothing_and_scores_1():
    target = [objects((0, 4, 4, 20, 24)), objects((2, 30, 30, 60, 60), (1, 2, 40, 20, 60))]
    answer, task = seen(empty(2), target), TASK
    assert task.loss(answer, target) < 0.05 < task.loss(empty(2), target)
    assert task.batch_score(answer, target) == pytest.approx(1.0, abs=0.01)
    metric = task.metric()
    metric.update(answer, target)
    assert metric.compute() == pytest.approx(1.0)
    assert details_of(metric) == {"mAP@0.5:0.95": pytest.approx(1.0)}


def test_images_that_show_nothing_teach_that_nothing_is_there():
    nothing, task = [Boxes.none(), Boxes.none()], Detection()
    loud = [torch.zeros(2, CHANNELS, h, w, requires_grad=True) for h, w in SHAPES]
    loss = task.loss(loud, nothing)
    loss.backward()
    assert loss > 10
    assert loud[0].grad.view(2, PER_MAP, -1, 2, 2)[:, :, 4].min() > 0
    metric = task.metric()
    metric.update(empty(2), nothing)
    assert metric.compute() == 0.0


def test_distillation_is_least_where_student_and_teacher_agree():
    torch.manual_seed(0)
    teacher = [torch.randn(2, CHANNELS, h, w) for h, w in SHAPES]
    others = [[raw + 0.3 * k * torch.randn_like(raw) for raw in teacher] for k in (0, 1, 2)]
    near, away, farther = (float(TASK.distillation(other, teacher, 4.0)) for other in others)
    assert near < away < farther


@given(st.integers(1, 6), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_anchors_of_k_means_are_sorted_and_read_back_from_words(clusters, seed):
    random = torch.Generator().manual_seed(seed)
    sides = 4 + 60 * torch.rand(80, 2, generator=random)
    found = cluster(sides, 3 * clusters, seed=seed)
    assert parsed(told(found)) == found
    assert [w * h for w, h in found] == sorted(w * h for w, h in found)


def test_two_kinds_of_boxes_are_two_anchors():
    sides = torch.tensor([[10.0, 10.0]] * 30 + [[50.0, 20.0]] * 10 + [[11.0, 10.0], [50.0, 21.0]])
    assert cluster(sides, 2) == ((10, 10), (50, 20))


@pytest.mark.parametrize(
    ("anchors", "why"),
    [
        ("10x13", "expected 3 anchors a map"),
        ("10x13,a,3x4", "expected widths and heights"),
        ("30x30,10x10,20x20", "begin with the smallest"),
        ("0x1,1x1,2x2", "all above 0"),
    ],
)
def test_anchors_that_cannot_be_are_refused(anchors, why):
    with pytest.raises(ValueError, match=why):
        DetectionSettings(anchors=anchors)


class _Maps(torch.nn.Module):
    """Answers with given maps, whatever it sees."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, x):
        return [torch.zeros(len(x), *shape) for shape in self.shapes]


@pytest.mark.parametrize(
    ("side", "shapes", "why"),
    [
        (100, [], "images of 100×100: .* --image-size 96 is one"),
        (64, [(18, 2, 2), (18, 4, 4)], r"maps have 18 channels, but 3 classes .* = 24"),
        (64, [(24, 4, 4), (24, 2, 2)], "maps are 4×4, 2×2 .* expected 2×2, 4×4: coarse to fine"),
        (64, [(24, 4, 4)], "maps are 4×4 for images of 64×64; expected 2×2"),
        (64, [(24, 2, 4)], "maps are 2×4 for images of 64×64; expected 2×2"),
        (64, [], "maps are none for images of 64×64; expected 2×2"),
        (64, [(24, 2, 2)], "--anchors: none are published for 1 maps"),
        (64, [(24,)], "detection expects raw maps"),
    ],
)
def test_a_model_or_size_that_does_not_fit_is_refused(side, shapes, why):
    data = load_data("shapes", image_size=side)
    with pytest.raises(DataError, match=why):
        Detection().check(_Maps(*shapes), data.shape, data)


def test_data_without_boxes_are_refused(tmp_path):
    pixels, labels = torch.rand(30, 3, 32, 32), torch.arange(30) % 3
    images = torch.utils.data.TensorDataset(pixels, labels)
    classified = from_datasets("pictures", images, images)
    with pytest.raises(DataError, match="pictures has no boxes; --task detection needs"):
        Detection().check(_Maps(), classified.shape, classified)


def test_the_anchors_are_those_of_the_model_s_number_of_maps():
    both = Detection(DetectionSettings(anchors="1x1,2x2,3x3/1x1,2x2,3x3,4x4,5x5,6x6"))
    assert len(both.anchors(1)) == 3
    assert len(both.anchors(2)) == 6
    with pytest.raises(ValueError, match="3 maps need 9, found 3, 6"):
        both.anchors(3)
    with pytest.raises(ValueError, match="two sets are for one number of maps"):
        DetectionSettings(anchors="1x1,2x2,3x3/4x4,5x5,6x6")


@pytest.mark.parametrize("count", [0, 1, 16, 64])
def test_a_batch_pushes_objectness_alike_however_much_it_shows(count):
    """At the start of a training, of 16 images with so many objects in all."""
    every = [objects(*[(0, 8, 8, 24, 24)] * (count // 16 + (i < count % 16))) for i in range(16)]
    start = [torch.zeros(16, CHANNELS, h, w) for h, w in SHAPES]
    for raw in start:
        raw.view(16, PER_MAP, 5 + CLASSES, *raw.shape[2:])[:, :, 4] = -4.6
    assert TASK.loss(start, every) < 20


def test_what_cannot_be_a_box_still_has_a_loss():
    teacher = [torch.randn(1, CHANNELS, h, w) for h, w in SHAPES]
    student = [torch.full((1, CHANNELS, h, w), -40.0) for h, w in SHAPES]
    assert TASK.distillation(student, teacher, 1.0).isfinite()
    assert TASK.loss(student, [objects((0, 8, 8, 24, 24))]).isfinite()


@pytest.mark.parametrize("name", ["yolov3", "tiny_yolov3", "shapes_yolov3"])
def test_the_detectors_are_traced_at_the_size_that_is_asked_for(name):
    with torch.device("meta"):
        built = models.build(name, CLASSES)
    network = trace(built, (3, SIDE, SIDE), models.short_name(name, CLASSES, (3, SIDE, SIDE)))
    assert network.network.input_shape == (3, SIDE, SIDE)
    assert network.network.name.startswith(name)
    assert network.network.name.endswith("_64")
    residual = {"yolov3": 23, "tiny_yolov3": 0, "shapes_yolov3": 7}
    assert len(network.network.shortcuts) == residual[name]


def test_a_detector_learns_what_it_is_shown():
    data, task = load_data("shapes", image_size=SIDE), Detection()
    torch.manual_seed(0)
    model = models.build("shapes_yolov3", CLASSES)
    few = data.train.part(range(8))
    before = judged(model, few, task=task).compute()
    epochs = fine_tune(model, _Plain(few), Recipe(epochs=12, batch=8, rate=0.02), task=task)
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    assert epochs[-1].accuracy > epochs[0].accuracy
    assert before < 0.1


class _Plain:
    """The same images without augmentation."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def batch(self, indices, seed=None):
        return self.images.batch(indices)


OWN_TASK = """
import torch
from lookup_tables.registry import OwnSettings

class Share:
    def __init__(self):
        self.right = self.seen = 0
    def update(self, answer, targets):
        self.right += int((answer.argmax(1) == targets).sum()); self.seen += len(targets)
    def compute(self):
        return self.right / self.seen

class Own:
    settings, metric_name = OwnSettings(), "share of my classes"
    def loss(self, answer, targets):
        return torch.nn.functional.cross_entropy(answer, targets)
    training_loss = loss
    def distillation(self, answer, teacher, temperature):
        return (answer - teacher).square().mean()
    def metric(self):
        return Share()
    def batch_score(self, answer, targets):
        return 0.0
    def as_answer(self, outputs):
        return outputs[0]
    def check(self, model, shape, data):
        pass

def task():
    return Own()

def nothing():
    return 3
"""


def test_a_task_of_ones_own_judges_a_model(workshop, tmp_path, pruner, capsys):
    file = tmp_path / "mine.py"
    file.write_text(OWN_TASK)
    judge = ["evaluate", "--model", FACTORY, "--data", "digits"]
    judge += ["--weights", workshop / "dense.safetensors", "--no-onnx"]
    assert pruner(*judge, "--json") == 0
    usual = json.loads(capsys.readouterr().out)["accuracy"]
    assert pruner(*judge, "--task", f"{file}:task", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == usual
    assert pruner(*judge, "--task", f"{file}:nothing") == 1
    assert "returned int, which has no method loss" in capsys.readouterr().err
    assert pruner(*judge, "--task", "segmentation") == 1
    assert "Your own: --task file.py:function" in capsys.readouterr().err


def test_an_unknown_task_is_refused_with_those_that_are_known():
    with pytest.raises(RunError, match="choose one of classification, detection"):
        TASKS.choose("segmentation", RunError)
