"""Images read once for all candidates, and ahead of the training steps."""

import pytest
import torch
from torch import nn

from pruner.data import Joined, load_data
from pruner.errors import DataError
from pruner.finetune import Recipe, fine_tune
from pruner.reading import ReadOnce, ahead
from tests.toys import imagenet_folder

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
    assert str(caught.value).startswith(f"{broken} is no image that can be read")
    assert "\n" not in str(caught.value)


def test_training_learns_the_same_with_readers_as_without(monkeypatch):
    def trained():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        fine_tune(model, DIGITS.train, Recipe(epochs=1, batch=256))
        return model.state_dict()

    alone = trained()
    monkeypatch.setattr("pruner.reading._readers", lambda images: 2)
    torch.testing.assert_close(trained(), alone, rtol=0, atol=0)
