"""Images read once for all candidates, and ahead of the training steps."""

import multiprocessing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lookup_tables.architecture import Architecture
from pruner import DataError, models
from pruner.data import load_data
from pruner.data.images import Joined
from pruner.run.journey import Journey
from pruner.run.settings import Settings
from pruner.train.finetune import Recipe, fine_tune
from pruner.train.reading import ReadOnce, ahead, readers_for
from pruner.train.weights import save_weights
from tests.toys import imagenet_folder

READING = "pruner.train.reading"

DIGITS = load_data("digits")


class Counted:
    """Digits that tell how often they were read."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return len(DIGITS.train)

    def batch(self, indices, seed=None):
        self.read += 1
        return DIGITS.train.batch(indices, seed)


def test_what_was_read_once_is_the_same_and_not_read_again():
    source = Counted()
    images = ReadOnce(source)
    first, other = torch.arange(20), torch.arange(20, 40)
    for indices in (first, other, first, other):
        torch.testing.assert_close(images.batch(indices), DIGITS.train.batch(indices))
    assert source.read == 2
    assert len(images) == len(source)


def test_who_changes_a_batch_changes_it_for_nobody_else():
    images = ReadOnce(Counted())
    some = torch.arange(20)
    images.batch(some)[0].zero_()
    torch.testing.assert_close(images.batch(some), DIGITS.train.batch(some))


def test_no_more_is_kept_than_fits():
    source = Counted()
    images = ReadOnce(source, most_bytes=20 * 64 * 4)  # twenty digits
    for _ in range(2):
        for start in (0, 20):
            images.batch(torch.arange(start, start + 20))
    assert source.read == 3


def test_augmented_images_are_drawn_anew():
    images = ReadOnce(DIGITS.train)
    some = torch.arange(20)
    assert not torch.equal(images.batch(some, 1)[0], images.batch(some, 2)[0])


def draw(step):
    return torch.arange(4) + step, 100 + step


@pytest.mark.parametrize("readers", [0, 2])
def test_steps_get_their_own_batches_in_order_whoever_reads_them(readers, tmp_path):
    imagenet_folder(tmp_path, classes=2, train=12, val=2)
    data = load_data("imagenet", tmp_path)
    for images in (data.train, Joined(DIGITS.train, DIGITS.held_out)):
        found = list(ahead(images, draw, range(2, 5), readers))
        expected = [images.batch(*draw(step)) for step in range(2, 5)]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("readers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_in_one_line(readers, tmp_path):
    imagenet_folder(tmp_path, classes=2, train=12, val=2)
    broken = sorted((tmp_path / "train").rglob("*.*"))[3]
    broken.write_bytes(broken.read_bytes()[:100])
    data = load_data("imagenet", tmp_path)
    everything = Joined(data.train, data.held_out)
    with pytest.raises(DataError) as caught:
        list(ahead(everything, lambda step: (torch.arange(12), 0), range(1), readers))
    assert str(caught.value).startswith(f"{broken} cannot be read as an image")
    assert "\n" not in str(caught.value)


def test_training_learns_the_same_with_readers_as_without(monkeypatch):
    processes = []

    def trained(patience=0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        recipe = Recipe(epochs=3, batch=256, rate=1e-30 if patience else 0.1, patience=patience)
        fine_tune(
            model, DIGITS.train, recipe, held_out=DIGITS.held_out,
            report=lambda *_: processes.append(len(multiprocessing.active_children())),
        )  # fmt: skip
        return model.state_dict()

    alone = trained()
    assert max(processes) == 0
    monkeypatch.setattr("pruner.train.reading.readers_for", lambda *_: 2)
    torch.testing.assert_close(trained(), alone, rtol=0, atol=0)
    assert max(processes) == 2
    processes.clear()
    trained(patience=1)  # nothing is learned: it ends after two epochs of three
    assert len(processes) == 2 * (len(DIGITS.train) // 256)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("room", "processors", "expected"),
    [(1e12, 17, 8), (1e12, 4, 3), (1e12, 1, 1), (64 * 2**20, 17, 0)],
)
def test_readers_are_for_files_that_a_gpu_waits_for_and_as_many_as_fit(
    room, processors, expected, tmp_path, monkeypatch
):
    imagenet_folder(tmp_path, classes=2, train=12, val=2)
    files = load_data("imagenet", tmp_path).all_training

    def asked(images):
        return readers_for(images, lambda step: (torch.arange(128) % len(files), 0), range(3))

    monkeypatch.setattr(
        "pruner.train.reading.os.sched_getaffinity", lambda _: set(range(processors))
    )
    monkeypatch.setattr(
        "pruner.train.reading.shutil.disk_usage", lambda _: SimpleNamespace(free=room)
    )
    assert asked(files) == 0  # training on this processor is slower than reading
    monkeypatch.setattr(f"{READING}.processor", lambda: torch.device("cuda"))
    assert asked(files) == expected
    assert asked(DIGITS.all_training) == 0


def test_all_candidates_are_judged_by_images_that_were_read_once(tmp_path):
    save_weights(models.build("digits_resnet", 10), tmp_path / "dense.safetensors")
    settings = Settings(
        model="digits_resnet", weights=str(tmp_path / "dense.safetensors"), data="digits",
        table="none is needed", speedup=1.5, reconstruct=False,
    )  # fmt: skip
    journey = Journey(settings, lambda *_: None)
    train, held_out = Counted(), Counted()
    journey.data = replace(DIGITS, train=train, held_out=held_out)
    read = []
    for share in (2, 4):
        groups = journey.trace.network.groups
        architecture = Architecture(widths={g.name: g.width // share for g in groups})
        journey.score(architecture, 300)
        journey.cut(architecture)
        read.append((train.read, held_out.read))
    assert read[0] == read[1]
    assert min(read[0]) > 0
