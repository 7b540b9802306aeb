"""Exported networks in INT8, and when two of them are the same."""

from collections import Counter

import onnx
import pytest
import torch

from pruner import ExportError
from pruner.data import load_data
from pruner.train.accuracy import onnx_accuracy
from pruner.train.export import export_onnx, opened
from pruner.train.finetune import Recipe, fine_tune
from pruner.train.quantise import Calibration, quantise_onnx, require_alike_in_int8
from tests.toys import tiny_resnet

DATA = load_data("digits")


class Watched:
    """Images, and which of them were looked at."""

    def __init__(self, images):
        self.images, self.seen = images, []

    def __len__(self):
        return len(self.images)

    def batch(self, indices, seed=None):
        self.seen += indices.tolist()
        return self.images.batch(indices, seed)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    model = tiny_resnet()
    fine_tune(model, DATA.train, Recipe(epochs=3, batch=64, rate=0.1))
    for batch in (1, 4):
        export_onnx(model.eval(), (1, 8, 8), folder / f"{batch}.onnx", batch)
    return folder


@pytest.mark.parametrize("calibration", Calibration.__args__)
def test_every_calibration_keeps_what_the_network_knows(plain, tmp_path, calibration):
    quantise_onnx(plain / "1.onnx", tmp_path / "q.onnx", DATA.train, 64, calibration)
    before = onnx_accuracy(plain / "1.onnx", DATA.held_out)
    assert onnx_accuracy(tmp_path / "q.onnx", DATA.held_out) > before - 0.05
    model = onnx.load(tmp_path / "q.onnx")
    assert Counter(node.op_type for node in model.graph.node)["QuantizeLinear"] > 5
    assert {entry.domain for entry in model.opset_import} == {n.domain for n in model.graph.node}


def test_images_are_taken_from_all_parts_of_a_set_in_whole_batches(plain, tmp_path):
    images = Watched(DATA.train)
    quantise_onnx(plain / "4.onnx", tmp_path / "q.onnx", images, 10, "minmax")
    assert len(images.seen) == 12
    assert images.seen == sorted(images.seen)
    assert (images.seen[0], images.seen[-1]) == (0, len(DATA.train) - 1)


def test_a_file_that_answers_otherwise_is_not_handed_out(plain, tmp_path):
    quantise_onnx(plain / "1.onnx", tmp_path / "q.onnx", DATA.train, 64, "minmax")
    other = tmp_path / "other.onnx"
    export_onnx(tiny_resnet().eval(), (1, 8, 8), other)
    assert opened(other).get_inputs()[0].shape == [1, 1, 8, 8]
    alike = (tmp_path / "q.onnx", None, DATA.held_out, "model.onnx")
    require_alike_in_int8(plain / "1.onnx", *alike)
    with pytest.raises(ExportError, match=r"other.onnx differs from q.onnx by \d+% of its answers"):
        require_alike_in_int8(other, *alike)
