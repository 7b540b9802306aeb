"""Darknet's files: read, written, and run by a small interpreter of their own kind."""

import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruner import ExportError, ModelError, models
from pruner.graph.trace import trace
from pruner.train.darknet import configuration, convolutions, read_darknet, write_darknet
from pruner.train.tasks.yolo import PUBLISHED
from pruner.train.weights import load_weights

SIDE, CLASSES = 64, 3


def detector(name, seed=0):
    """With BatchNorms that have seen something."""
    torch.manual_seed(seed)
    model = models.build(name, CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.normal_(0.5, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def sections(text):
    found = []
    for line in text.splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        elif "=" in line:
            key, value = line.split("=")
            found[-1][1][key] = value
    return found


def interpreted(text, weights, images):
    """What a .cfg and a .weights say, read without a line of the project's code."""
    numbers = np.frombuffer(weights.read_bytes(), dtype="<f4", offset=20)
    at, layers, answers = 0, [], []

    def take(*shape):
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return torch.from_numpy(numbers[at - size : at].copy()).view(*shape)

    for kind, own in sections(text)[1:]:
        x = layers[-1] if layers else images
        if kind == "convolutional":
            n, k = int(own["filters"]), int(own["size"])
            if own.get("batch_normalize"):
                beta, gamma, mean, var = (take(n) for _ in range(4))
                weight = take(n, x.shape[1], k, k)
                x = F.conv2d(x, weight, None, int(own["stride"]), k // 2 * int(own["pad"]))
                x = F.batch_norm(x, mean, var, gamma, beta, eps=1e-5)
            else:
                bias = take(n)
                weight = take(n, x.shape[1], k, k)
                x = F.conv2d(x, weight, bias, int(own["stride"]), k // 2 * int(own["pad"]))
            x = F.leaky_relu(x, 0.1) if own["activation"] == "leaky" else x
        elif kind == "shortcut":
            assert int(own["from"]) < 0
            x = x + layers[int(own["from"])]
        elif kind == "route":
            x = torch.cat([layers[int(n)] for n in own["layers"].split(",")], dim=1)
        elif kind == "upsample":
            x = F.interpolate(x, scale_factor=int(own["stride"]))
        elif kind == "maxpool":
            size, stride = int(own["size"]), int(own["stride"])
            x = (
                F.max_pool2d(
                    F.pad(x, (0, size - stride, 0, size - stride), value=-1e9), size, stride
                )
                if stride < size
                else F.max_pool2d(x, size, stride)
            )
        elif kind == "yolo":
            answers.append(x)
        layers.append(x)
    assert at == len(numbers)
    return answers


@pytest.mark.parametrize("name", ["shapes_yolov3", "tiny_yolov3"])
def test_a_detector_that_was_written_runs_the_same_from_its_files(name, tmp_path):
    model = detector(name)
    traced = trace(model, (3, SIDE, SIDE), "detector")
    pairs = convolutions(model)
    maps = 3 if name == "shapes_yolov3" else 2
    text = configuration(traced.network, pairs, PUBLISHED[maps], CLASSES)
    write_darknet(pairs, tmp_path / "m.weights")
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        found = interpreted(text, tmp_path / "m.weights", images)
        for mine, theirs in zip(model(images), found, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)
    masks = [own["mask"] for kind, own in sections(text) if kind == "yolo"]
    assert masks == (["6,7,8", "3,4,5", "0,1,2"] if maps == 3 else ["3,4,5", "0,1,2"])


def test_what_is_written_is_read_again(tmp_path):
    model, other = detector("shapes_yolov3"), detector("shapes_yolov3", seed=1)
    write_darknet(convolutions(model), tmp_path / "m.weights")
    told = load_weights(other, tmp_path / "m.weights")
    assert told == f"Darknet weights of {len(convolutions(model))} convolutions"
    for name, values in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(values, other.state_dict()[name]), name


def test_files_of_older_versions_count_in_four_bytes(tmp_path):
    model, other = detector("shapes_yolov3"), detector("shapes_yolov3", seed=1)
    write_darknet(convolutions(model), tmp_path / "new.weights")
    content = (tmp_path / "new.weights").read_bytes()
    (tmp_path / "old.weights").write_bytes(struct.pack("<3iI", 0, 1, 0, 7) + content[20:])
    read_darknet(other, tmp_path / "old.weights")
    assert torch.equal(model.stem.conv.weight, other.stem.conv.weight)


def test_a_published_backbone_fills_the_first_convolutions(tmp_path):
    model, other = detector("shapes_yolov3"), detector("shapes_yolov3", seed=1)
    first = convolutions(model)[:5]
    file = tmp_path / "darknet9.conv.5"
    write_darknet(first, file)
    with pytest.raises(ModelError, match="ends in convolution 6 of"):
        load_weights(other, file)
    kept = other.fine.predict.weight.clone()
    told = load_weights(other, file, but_head=True)
    assert told.startswith("Darknet weights of the first 5 of")
    assert torch.equal(first[4][0].weight, convolutions(other)[4][0].weight)
    assert torch.equal(kept, other.fine.predict.weight)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content[:-4], "ends in convolution"),
        (lambda content: content[:-3], "not a Darknet weights file, or cut short"),
        (lambda content: content + bytes(8), "has .* 2 numbers more|numbers more than the model"),
        (lambda content: content[:10], "not a Darknet weights file"),
        (lambda content: content[:20] + b"\xff" * 4 + content[24:], "holds NaN or infinity"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, told):
    model = detector("shapes_yolov3")
    path = tmp_path / "m.weights"
    write_darknet(convolutions(model), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=told):
        read_darknet(model, path)


def test_a_model_that_darknet_cannot_hold_is_refused():
    with pytest.raises(ModelError, match="no weights of Linear"):
        convolutions(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.AvgPool2d(2), "Darknet knows no avg_pool"),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2), "Darknet knows no conv of this kind"),
        (nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), "Darknet knows no conv of this kind"),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3)), "Darknet knows no pad"),
        (nn.MaxPool2d(3, 2, padding=1), "Darknet knows no max_pool"),
    ],
)
def test_a_layer_that_darknet_does_not_know_is_refused(layer, told):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 24, 1))
    traced = trace(model, (3, 16, 16), "model")
    with pytest.raises(ExportError, match=told):
        configuration(traced.network, convolutions(model), PUBLISHED[2], CLASSES)


def test_weights_for_other_classes_start_a_training_without_their_heads(tmp_path):
    of_many = models.build("shapes_yolov3", 80)
    write_darknet(convolutions(of_many), tmp_path / "coco.weights")
    model = detector("shapes_yolov3")
    kept = model.coarse.predict.weight.clone()
    with pytest.raises(ModelError, match="numbers more than the model"):
        load_weights(model, tmp_path / "coco.weights")
    told = load_weights(model, tmp_path / "coco.weights", but_head=True)
    assert told.endswith("but for heads of 255 outputs")
    assert torch.equal(model.fine.widen.conv.weight, of_many.fine.widen.conv.weight)
    assert torch.equal(model.coarse.predict.weight, kept)
