import hashlib
import io
import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import CIFAR10

from pruner import DataError
from pruner.data import load_data
from pruner.data.images import Data, Joined, batches, image_marks, same_images
from pruner.data.memory import IMAGENET_MEAN, IMAGENET_STD, NORMALISATIONS
from pruner.data.own import from_datasets, require_repeatable
from tests.toys import food101_folder, imagenet_folder

DIGITS = load_data("digits")


def cifar_pixels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def write_torchvision_layout(folder, pixels):
    target = folder / "cifar-10-batches-py"
    target.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        part = pixels[i::6].reshape(-1, 3072)
        content = {"data": part, "labels": [i] * len(part)}
        (target / name).write_bytes(pickle.dumps(content))


@pytest.fixture
def published(monkeypatch):
    """Let the files of a folder be those that were published."""

    def publish(folder):
        def listed(files):
            read = (folder / CIFAR10.base_folder / name for name, _ in files)
            return [[path.name, hashlib.md5(path.read_bytes()).hexdigest()] for path in read]

        monkeypatch.setattr(CIFAR10, "train_list", listed(CIFAR10.train_list))
        monkeypatch.setattr(CIFAR10, "test_list", listed(CIFAR10.test_list))

    return publish


def write_parquet_layout(folder, pixels, labels):
    def png(image):
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": "x.png"}

    frame = pd.DataFrame({"img": [png(p) for p in pixels], "label": labels})
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "train-00000-of-00001.parquet")
    frame.iloc[:7].to_parquet(folder / "test-00000-of-00001.parquet")


def test_cifar10_reads_torchvisions_download_layout(tmp_path, published):
    pixels = cifar_pixels(6000)
    write_torchvision_layout(tmp_path, pixels)
    published(tmp_path)
    data = load_data("cifar10", tmp_path)
    assert (len(data.train), len(data.held_out), len(data.test)) == (0, 5000, 1000)
    assert torch.equal(data.test.pixels, torch.from_numpy(pixels[5::6]))


def test_cifar10_reads_parquet_in_the_hugging_face_layout(tmp_path):
    pixels = cifar_pixels(30)
    write_parquet_layout(tmp_path / "cifar10", pixels, list(range(10)) * 3)
    data = load_data("cifar10", tmp_path)
    assert torch.equal(data.test.pixels, torch.from_numpy(pixels[:7]))
    assert data.test.labels.tolist() == list(range(7))


def test_a_parquet_file_with_other_columns_is_refused(tmp_path):
    pd.DataFrame({"image": [1]}).to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match="no column img, label"):
        load_data("cifar10", tmp_path)


def test_images_are_normalised_as_the_published_networks_expect(tmp_path):
    write_parquet_layout(tmp_path, np.zeros((10, 3, 32, 32), np.uint8), [0] * 10)
    x, _ = load_data("cifar10", tmp_path).test.batch(torch.tensor([0]))
    expected = [-m / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    assert x[0, :, 0, 0].tolist() == pytest.approx(expected)


def test_held_out_images_come_from_training_and_are_not_trained_on():
    data = load_data("digits")
    train = {p.numpy().tobytes() for p in data.train.pixels}
    assert len(data.train) + len(data.held_out) + len(data.test) == 1797
    assert not train & {p.numpy().tobytes() for p in data.held_out.pixels}


@given(order=st.permutations(range(20)))
def test_all_training_images_are_both_parts_in_the_order_asked_for(order):
    train, held_out = DIGITS.train, DIGITS.held_out
    assert len(DIGITS.all_training) == len(train) + len(held_out)
    indices = torch.tensor(order) + len(train) - 10  # ten of each part
    images, labels = DIGITS.all_training.batch(indices)
    assert torch.equal(labels, torch.cat([train.labels, held_out.labels])[indices])
    shown = torch.cat(
        [
            train.batch(torch.arange(len(train) - 10, len(train)))[0],
            held_out.batch(torch.arange(10))[0],
        ]
    )
    assert torch.equal(images, shown[torch.tensor(order)])


def test_another_seed_holds_out_others_but_never_touches_the_test_set():
    first, second = load_data("digits", seed=0), load_data("digits", seed=1)
    assert not torch.equal(first.held_out.pixels, second.held_out.pixels)
    assert torch.equal(first.test.pixels, second.test.pixels)


def test_augmentation_is_drawn_from_its_seed_alone():
    images = load_data("digits").train
    indices = torch.arange(32)
    (a, _), (b, _), (c, _) = (images.batch(indices, seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_augmentation_shifts_and_keeps_what_it_shows():
    images = load_data("digits").train
    plain, _ = images.batch(torch.tensor([0]))
    (shifted, _) = images.batch(torch.tensor([0]), seed=5)
    padded = torch.nn.functional.pad(plain, [1] * 4, value=float(plain.min()))
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).reshape(-1, 8, 8)
    assert any(torch.allclose(shifted[0, 0], window) for window in windows)


def test_batches_cover_the_images_once_in_order():
    images = load_data("digits").test
    labels = torch.cat([labels for _, labels in batches(images, 100)])
    assert torch.equal(labels, images.labels)


def test_imagenet_reads_one_folder_a_class(tmp_path):
    imagenet_folder(tmp_path, classes=3, train=12, val=3)
    data = load_data("imagenet", tmp_path)
    assert (len(data.train), len(data.held_out), len(data.test)) == (11, 1, 3)
    x, labels = data.test.batch(torch.arange(3))
    assert x.shape == (3, 3, 224, 224)
    assert labels.tolist() == [0, 1, 2]
    (a, _), (b, _) = (data.train.batch(torch.arange(2), seed=3) for _ in range(2))
    assert torch.equal(a, b)


def test_food101_reads_torchvisions_layout(tmp_path):
    food101_folder(tmp_path)
    data = load_data("food101", tmp_path)
    assert len(data.test) == 4
    assert data.test.batch(torch.tensor([3]))[1].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10", "holds no CIFAR-10.*Get it with"),
        ("imagenet", "holds no ImageNet: train/ is missing"),
        ("food101", "holds no Food-101.*Get it with"),
    ],
)
def test_missing_data_says_how_to_get_it(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        load_data(name, tmp_path)


def test_a_data_set_on_disk_needs_its_folder():
    with pytest.raises(DataError, match="cifar10 needs --data-dir"):
        load_data("cifar10")


def test_an_unknown_data_set_names_the_known_ones():
    with pytest.raises(DataError, match="Known: digits, cifar10, imagenet, food101"):
        load_data("mnist")


class Opened:
    """Unpickled, it would run what it likes; here it says so."""

    def __reduce__(self):
        return (pytest.fail, ("an unknown file was unpickled",))


@pytest.mark.parametrize("content", [b"broken", pickle.dumps(Opened()), None])
def test_what_is_not_the_published_file_is_named_and_never_unpickled(tmp_path, published, content):
    write_torchvision_layout(tmp_path, cifar_pixels(60))
    published(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match="data_batch_3 is missing, or its checksum differs"):
        load_data("cifar10", tmp_path)


def test_cifar10_is_normalised_as_the_published_weights_want_it_or_by_its_own_statistics(tmp_path):
    write_parquet_layout(tmp_path, cifar_pixels(30), list(range(10)) * 3)
    usual, own = (
        load_data("cifar10", tmp_path, **options).test
        for options in ({}, {"normalisation": "cifar10"})
    )
    x, _ = usual.batch(torch.arange(3))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(x * std + mean, usual.pixels[:3] / 255)
    y, _ = own.batch(torch.arange(3))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in NORMALISATIONS["cifar10"])
    torch.testing.assert_close(y * std + mean, usual.pixels[:3] / 255)
    with pytest.raises(DataError, match="is for cifar10; leave it out for digits"):
        load_data("digits", normalisation="cifar10")
    with pytest.raises(DataError, match="choose one of imagenet, cifar10"):
        load_data("cifar10", tmp_path, normalisation="mine")


def test_both_parts_of_a_joined_set_are_augmented_by_draws_of_their_own():
    images = DIGITS.train
    joined = Joined(images, images)
    x, _ = joined.batch(torch.tensor([0, len(images)]), seed=3)
    draws = [joined.batch(torch.tensor([0, len(images)]), seed)[0] for seed in range(20)]
    assert any(not torch.equal(first, second) for first, second in draws)
    torch.testing.assert_close(x, joined.batch(torch.tensor([0, len(images)]), seed=3)[0])


# -- a user's own --------------------------------------------------------------------------------


class Shapes:
    """Images of one colour a class; `noisy` ones are drawn anew each time."""

    def __init__(self, count, classes=3, noisy=False, size=8):
        self.count, self.of, self.noisy, self.size = count, classes, noisy, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        image = torch.full((1, self.size, self.size), float(index % self.of))
        return image + (torch.rand(()) if self.noisy else 0), index % self.of


def test_imagenet_with_a_class_in_one_part_only_is_refused(tmp_path):
    imagenet_folder(tmp_path, classes=3, train=12, val=3)
    shutil.rmtree(tmp_path / "val" / "n00000001")
    with pytest.raises(DataError, match="n00000001 is in only one of them"):
        load_data("imagenet", tmp_path)


OWN = """
import torch
from torch.utils.data import TensorDataset

def images():
    pixels, labels = torch.rand(30, 1, 8, 8), torch.arange(30) % 4
    return TensorDataset(pixels[:20], labels[:20]), TensorDataset(pixels[20:], labels[20:])

def one():
    return images()[0]

def complete():
    from pruner.data import from_datasets
    return from_datasets("mine", *images())
"""


@pytest.mark.parametrize("function", ["images", "complete"])
def test_a_data_set_of_ones_own_comes_from_a_function(tmp_path, function):
    (tmp_path / "mine.py").write_text(OWN)
    data = load_data(f"{tmp_path / 'mine.py'}:{function}")
    assert (len(data.train), len(data.held_out), len(data.test)) == (18, 2, 10)
    assert (data.classes, data.shape) == (4, (1, 8, 8))
    pixels, labels = data.train.batch(torch.arange(5))
    assert pixels.shape == (5, 1, 8, 8)
    assert labels.shape == (5,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:one", "returned TensorDataset; expected"),
        ("mine.py:none", "has no function 'none'; --data expects file.py:function"),
        ("other.py:images", "no such Python file; --data expects file.py:function"),
    ],
)
def test_a_function_that_gives_no_data_set_is_refused(tmp_path, name, message):
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / name))


def test_augmentation_of_ones_own_repeats_by_its_seed_and_only_with_one():
    data = from_datasets("mine", Shapes(20), Shapes(5), Shapes(20, noisy=True))
    some = torch.arange(6)
    torch.testing.assert_close(data.train.batch(some, 3), data.train.batch(some, 3))
    assert not torch.equal(data.train.batch(some, 3)[0], data.train.batch(some, 4)[0])
    plain, labels = data.train.batch(some)
    assert torch.equal(plain[:, 0, 0, 0], labels.float())
    assert torch.equal(data.train.batch(some, 3)[1], labels)


@pytest.mark.parametrize(
    ("train", "test", "augmented", "message"),
    [
        (Shapes(20), Shapes(5, size=9), None, "images have different shapes"),
        (Shapes(20), Shapes(5), Shapes(19), "19 augmented images for 20 training images"),
        (Shapes(1), Shapes(5), None, "at least two pairs"),
        ([("a", 0)] * 4, Shapes(5), None, "float tensor"),
    ],
)
def test_data_sets_that_do_not_fit_together_are_refused(train, test, augmented, message):
    with pytest.raises(DataError, match=message):
        from_datasets("mine", train, test, augmented)


@given(count=st.integers(2, 60), seed=st.integers(0, 5))
def test_a_tenth_is_held_out_and_nothing_is_in_both_parts(count, seed):
    data = from_datasets("mine", Shapes(count), Shapes(5), seed=seed)
    held_out, rest = set(data.held_out.indices.tolist()), set(data.train.indices.tolist())
    assert len(held_out) == max(1, count // 10)
    assert held_out | rest == set(range(count))
    assert not held_out & rest


def test_classes_are_counted_without_reading_the_images_of_a_part():
    whole = Labelled([index % 4 for index in range(400)])
    data = from_datasets("mine", Subset(whole, range(300)), Subset(whole, range(300, 400)))
    assert data.classes == 4
    assert whole.read < 100
    few = [index for index in range(300) if index % 4 < 2]
    assert from_datasets("mine", Subset(whole, few), Subset(whole, few)).classes == 2


@pytest.mark.parametrize("targets", [[5] * 40, ["a", "b"] * 20, [1]])
def test_labels_beside_the_images_that_say_otherwise_are_not_believed(targets):
    whole = Labelled([index % 4 for index in range(40)])
    whole.targets = targets
    assert from_datasets("mine", whole, Shapes(5)).classes == 4


class Labelled(Shapes):
    """Keeps its labels beside the images, as torchvision's sets do; counts what is read."""

    def __init__(self, labels):
        super().__init__(len(labels))
        self.labels = self.targets = labels
        self.read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)[0], self.labels[index]


def test_training_images_that_change_from_one_reading_to_the_next_are_refused():
    data = from_datasets("mine", Shapes(20, noisy=True), Shapes(5))
    with pytest.raises(DataError, match=r"differs from one reading to the next.*augmented train"):
        require_repeatable(data)
    require_repeatable(from_datasets("mine", Shapes(20), Shapes(5), Shapes(20, noisy=True)))
    require_repeatable(DIGITS)


def test_images_of_another_size_further_on_are_refused():
    images = [(torch.zeros(1, 8, 8 + (index > 5)), index % 3) for index in range(20)]
    data = from_datasets("mine", images, Shapes(5))
    with pytest.raises(DataError, match=r"images have different shapes: \(1, 8, 8\), \(1, 8, 9\)"):
        data.all_training.batch(torch.arange(20))


def test_a_parquet_file_that_was_cut_short_is_named(tmp_path):
    write_parquet_layout(tmp_path, cifar_pixels(30), list(range(10)) * 3)
    whole = tmp_path / "train-00000-of-00001.parquet"
    whole.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is broken"):
        load_data("cifar10", tmp_path)


def test_all_training_images_are_augmented_by_the_seed_of_the_step():
    some = torch.arange(len(DIGITS.train) - 8, len(DIGITS.train) + 8)  # of both parts
    first, again, other = (DIGITS.all_training.batch(some, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    for part in (slice(0, 8), slice(8, 16)):
        assert not torch.equal(first[part], other[part])
        assert not torch.equal(first[part], DIGITS.all_training.batch(some)[0][part])


def test_photographs_are_mirrored_in_half_of_the_cases(tmp_path):
    write_parquet_layout(tmp_path, cifar_pixels(300), list(range(10)) * 30)
    images = replace(load_data("cifar10", tmp_path).held_out, shift=0)
    some = torch.arange(200)
    plain, shown = images.batch(some)[0], images.batch(some, seed=1)[0]
    same = (plain == shown).flatten(1).all(1)
    mirrored = (plain.flip(3) == shown).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 60 < int(mirrored.sum()) < 140


def test_images_are_known_again_by_numbers_classes_and_contents():
    data = load_data("digits")
    marks = image_marks(data)
    assert marks["train"]["images"] == len(data.train)
    assert same_images(json.loads(json.dumps(marks)), marks)
    other = replace(data, train=data.train.subset(torch.arange(len(data.train)).flip(0)))
    assert not same_images(marks, image_marks(other))
    brighter = replace(data.train, mean=(0.1,))
    assert not same_images(marks, image_marks(replace(data, train=brighter)))
    fewer = replace(data, test=data.test.subset(torch.arange(10)))
    assert not same_images(marks, image_marks(fewer))


class Waiting:
    """Test images that must not be looked at yet."""

    def __len__(self):
        return 7

    def batch(self, indices, seed=None):
        raise AssertionError("the test set waits")


def test_marks_leave_the_test_set_alone():
    data = replace(load_data("digits"), test=Waiting())
    assert image_marks(data)["test"] == {"images": 7, "classes": [], "means": []}


class Boxes:
    """Images whose targets are lists of different lengths, as boxes are."""

    def __init__(self, first, count):
        self.numbers = range(first, first + count)

    def __len__(self):
        return len(self.numbers)

    def batch(self, indices, seed=None):
        chosen = [self.numbers[index] for index in indices.tolist()]
        return torch.tensor(chosen).float().view(-1, 1, 1, 1), [["box"] * n for n in chosen]


def test_targets_that_are_no_tensor_stay_with_their_images():
    joined = Joined(Boxes(0, 3), Boxes(3, 4))
    images, targets = joined.batch(torch.tensor([5, 0, 3, 1]))
    assert images.flatten().tolist() == [5, 0, 3, 1]
    assert [len(boxes) for boxes in targets] == [5, 0, 3, 1]
    marks = image_marks(Data("boxes", Boxes(1, 4), Boxes(5, 2), Boxes(0, 2), 2, (1, 1, 1)))
    assert marks["train"]["classes"][0] == "['box']"
    assert same_images(marks, marks)
