"""Pictures with boxes: read from three layouts, refused where labels are wrong, augmented."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pruner import DataError
from pruner.data import load_data
from pruner.data.detection.boxes import LEAST_SHARE, Boxes
from pruner.data.detection.pictures import Picture, Pictures
from pruner.data.images import image_marks

SIZE = (40, 20)  # width, height


def boxes(*corners):
    return Boxes(
        torch.tensor(corners, dtype=torch.float32), torch.zeros(len(corners), dtype=torch.long)
    )


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)


def voc_label(path, objects, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    told = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{told}"
        "</annotation>"
    )


@pytest.fixture
def voc(tmp_path):
    """Two pictures to train, two held out, two to test: a cat each, and a dog in the first."""
    names = {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}
    for part, stems in names.items():
        listed = tmp_path / "ImageSets" / "Main" / f"{part}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(stems))
        for stem in stems:
            picture(tmp_path / "JPEGImages" / f"{stem}.jpg")
            voc_label(tmp_path / "Annotations" / f"{stem}.xml", [("cat", (10, 5, 30, 15))])
    voc_label(
        tmp_path / "Annotations" / "a.xml", [("cat", (10, 5, 30, 15)), ("dog", (0, 0, 20, 10))]
    )
    return tmp_path


@pytest.fixture
def yolo(tmp_path):
    for part in ("train", "val"):
        for stem in ("a", "b", "c"):
            picture(tmp_path / "images" / part / f"{stem}.png")
            label = tmp_path / "labels" / part / f"{stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    for part in ("train2017", "val2017"):
        for number in range(3):
            picture(tmp_path / "images" / part / f"{number}.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [
                {"id": n, "file_name": f"{n}.jpg", "width": SIZE[0], "height": SIZE[1]}
                for n in range(3)
            ],
            "annotations": [
                {"id": 9, "image_id": 0, "category_id": 18, "bbox": [10, 5, 20, 10]},
                {"id": 8, "image_id": 1, "category_id": 17, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            ],
            "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        }
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return tmp_path


def read(layout, folder, side=32):
    return load_data(layout, folder, image_size=side)


def test_voc_pictures_are_stretched_to_the_networks_size_and_boxes_with_them(voc):
    data = read("voc", voc)
    assert (data.class_names, data.shape) == (("cat", "dog"), (3, 32, 32))
    assert [len(part) for part in (data.train, data.held_out, data.test)] == [2, 2, 2]
    pixels, (first, _) = data.train.batch(torch.arange(2))
    assert pixels.shape == (2, 3, 32, 32)
    assert torch.allclose(pixels[0, :, 16, 16], torch.tensor([10, 200, 30]) / 255, atol=0.02)
    assert first.classes.tolist() == [0, 1]
    assert first.corners.tolist() == [[8, 8, 24, 24], [0, 0, 16, 16]], "×32/40 and ×32/20"


def test_yolo_text_files_are_read_and_val_is_the_test_set_where_there_is_no_test(yolo):
    data = read("yolo", yolo)
    assert [len(part) for part in (data.train, data.held_out, data.test)] == [2, 1, 3]
    _, (first, *_) = data.test.batch(torch.arange(3))
    assert (first.classes.tolist(), first.corners.tolist()) == ([1], [[8, 8, 24, 24]])


def test_coco_categories_are_numbered_in_order_and_crowds_are_left_out(coco):
    data = read("coco", coco)
    assert data.class_names == ("cat", "dog")
    _, targets = data.test.batch(torch.arange(3))
    assert [len(each) for each in targets] == [1, 0, 0]
    assert targets[0].classes.tolist() == [1], "18 is the second of 17 and 18"
    assert targets[0].corners.tolist() == [[8, 8, 24, 24]]


def test_a_box_without_area_is_left_out_and_that_is_said(voc):
    voc_label(voc / "Annotations" / "b.xml", [("cat", (5, 5, 5, 5)), ("cat", (1, 1, 9, 9))])
    data = read("voc", voc)
    assert data.notes == ("1 box without area is left out (b.jpg)",)
    _, targets = data.train.batch(torch.arange(2))
    assert len(targets[1]) == 1


def test_a_box_one_pixel_beyond_its_picture_is_clipped(voc):
    voc_label(voc / "Annotations" / "b.xml", [("cat", (30, 10, 41, 21))])
    _, targets = read("voc", voc, side=20).train.batch(torch.arange(2))
    assert targets[1].corners.tolist() == [[15, 10, 20, 20]]


def test_of_a_box_beyond_its_picture_s_corner_nothing_is_left(voc):
    outside = [("cat", (40, 20, 41, 21)), ("cat", (40.3, 5, 40.8, 9)), ("cat", (1, 1, 9, 9))]
    voc_label(voc / "Annotations" / "b.xml", outside)
    data = read("voc", voc)
    assert data.notes == ("2 boxes without area are left out (b.jpg)",)
    _, targets = data.train.batch(torch.arange(2))
    assert (targets[1].sides > 0).all()


def test_a_picture_that_is_to_be_turned_is_read_as_it_is_seen(yolo):
    upper_half_is_bright = Image.new("RGB", (20, 40), (9, 9, 9))
    upper_half_is_bright.paste((250, 250, 250), (0, 0, 20, 20))
    exif = upper_half_is_bright.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    for path in (yolo / "images" / "train").iterdir():
        upper_half_is_bright.save(path, exif=exif)
    pixels, _ = read("yolo", yolo).train.batch(torch.arange(1))
    left, right = pixels[0, :, 16, 4].max(), pixels[0, :, 16, 28].min()
    assert left < 0.1 < 0.9 < right


def test_a_picture_of_16_bits_is_refused(voc):
    Image.fromarray(np.zeros((20, 40), dtype=np.uint16)).save(voc / "JPEGImages" / "a.png")
    (voc / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.png has more than 8 bits a pixel"):
        read("voc", voc).train.batch(torch.arange(1))


def test_coco_files_that_number_classes_otherwise_are_refused(coco):
    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 17, "name": "dog"}, {"id": 18, "name": "cat"}]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="category 17 is dog, but cat in instances_train2017"):
        read("coco", coco)
    (coco / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"instances_train2014.json and instances_train2017.json"):
        read("coco", coco)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("names: cat", "a list of the classes"),
        ("names: {1: cat, 2: dog}", "their numbers from 0"),
        ("nc: 2", "found None"),
        ("names: [", "is no YAML"),
    ],
)
def test_classes_that_are_no_list_are_refused(yolo, named, told):
    (yolo / "data.yaml").write_text(named)
    with pytest.raises(DataError, match=told):
        read("yolo", yolo)


def test_names_by_number_and_a_labelling_tool_s_list_among_the_labels_are_read(yolo):
    (yolo / "data.yaml").write_text("names: {0: cat, 1: dog}")
    (yolo / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    assert read("yolo", yolo).class_names == ("cat", "dog")


def test_a_label_that_is_no_utf8_is_refused(yolo):
    (yolo / "labels" / "train" / "a.txt").write_bytes("0 0.5 0.5 0.1 0.1".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.txt is no text in UTF-8"):
        read("yolo", yolo)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([("cat", (10, 5, 60, 15))], r"b.xml: the box \(10, 5, 60, 15\) is outside its picture"),
        ([("cat", (30, 5, 10, 15))], r"b.xml: the box \(30, 5, 10, 15\) ends before it begins"),
        ([("cat", (float("nan"), 5, 10, 15))], "b.xml: a box has the corners"),
    ],
)
def test_a_box_that_cannot_be_is_refused_with_its_file(voc, wrong, told):
    voc_label(voc / "Annotations" / "b.xml", wrong)
    with pytest.raises(DataError, match=told):
        read("voc", voc)


def test_a_class_that_no_training_picture_shows_is_unknown(voc):
    voc_label(voc / "Annotations" / "e.xml", [("cot", (1, 1, 9, 9))])
    with pytest.raises(DataError, match=r"e.xml: class 'cot' is unknown; did you mean cat\?"):
        read("voc", voc)


def test_a_picture_without_a_label_and_a_label_without_a_picture_are_refused(voc):
    picture(voc / "JPEGImages" / "alone.jpg")
    with pytest.raises(DataError, match=r"alone\.jpg has no label; an empty one says"):
        read("voc", voc)
    (voc / "JPEGImages" / "alone.jpg").unlink()
    voc_label(voc / "Annotations" / "lost.xml", [])
    with pytest.raises(DataError, match=r"lost\.xml has no picture; remove the label"):
        read("voc", voc)


def test_a_list_that_names_a_missing_picture_is_refused(voc):
    (voc / "ImageSets" / "Main" / "val.txt").write_text("c\nd\nz\n")
    with pytest.raises(DataError, match=r"val\.txt lists z, but JPEGImages/ has no such picture"):
        read("voc", voc)


def test_a_broken_label_names_its_file_and_what_is_missing(voc):
    (voc / "Annotations" / "b.xml").write_text("<annotation><size>")
    with pytest.raises(DataError, match=r"b.xml is no Pascal VOC label"):
        read("voc", voc)
    (voc / "Annotations" / "b.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match="<size><width> is missing"):
        read("voc", voc)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("7 0.5 0.5 0.1 0.1", "line 1: class 7 is unknown; the classes are 0 to 1"),
        ("0 0.5 0.5 0.1", "line 1: expected `class x y width height`"),
        ("0 0.9 0.5 0.5 0.1", "is outside its picture"),
    ],
)
def test_a_wrong_line_of_a_yolo_file_is_told(yolo, line, told):
    (yolo / "labels" / "train" / "b.txt").write_text(line)
    with pytest.raises(DataError, match=told):
        read("yolo", yolo)


def test_an_empty_yolo_file_is_a_picture_without_objects(yolo):
    (yolo / "labels" / "val" / "a.txt").write_text("\n")
    _, targets = read("yolo", yolo).test.batch(torch.arange(1))
    assert len(targets[0]) == 0


def test_coco_annotations_of_unknown_pictures_and_categories_are_refused(coco):
    path = coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for change, told in (
        ({"image_id": 77}, "annotation 9 is of picture 77, which is not listed"),
        ({"category_id": 3}, "annotation 9: category 3 is unknown; the training file has 17, 18"),
        ({"bbox": [1, 2, 3]}, r"annotations\[0\] has the bbox \[1, 2, 3\]; expected four"),
        ({"bbox": None}, r"annotations\[0\] has the bbox None; expected four numbers"),
        ({"image_id": "7"}, r"annotations\[0\] has image_id '7'; expected a whole number"),
    ):
        broken = json.loads(json.dumps(content))
        broken["annotations"][0] |= change
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=told):
            read("coco", coco)


def test_a_folder_without_the_layout_says_what_is_missing(tmp_path):
    for layout, missing in (
        ("voc", "ImageSets/Main/train.txt"),
        ("yolo", "images/train/"),
        ("coco", "instances_train"),
    ):
        with pytest.raises(DataError, match=f"holds no {layout} data set: .*{missing}"):
            read(layout, tmp_path)


def test_a_picture_of_another_size_than_its_label_says_is_refused(voc):
    picture(voc / "JPEGImages" / "a.jpg", (10, 10))
    with pytest.raises(DataError, match=r"a.jpg has 10×10 pixels, but its label .* for 40×20"):
        read("voc", voc).train.batch(torch.arange(1))


def test_an_image_size_is_for_pictures_with_boxes_only():
    with pytest.raises(DataError, match="--image-size 64 is for voc, yolo, coco, shapes"):
        load_data("digits", image_size=64)


def test_shapes_are_the_same_pictures_whatever_the_seed_and_augmented_repeatably():
    one, other = (load_data("shapes", seed=seed, image_size=64) for seed in (0, 1))
    everything = torch.arange(len(one.test))
    assert torch.equal(one.test.batch(everything)[0], other.test.batch(everything)[0])
    assert image_marks(one)["train"] != image_marks(other)["train"]
    some = torch.arange(8)
    first, again, else_ = (one.train.batch(some, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(a.corners, b.corners) for a, b in zip(first[1], again[1], strict=True))
    assert not torch.equal(first[0], else_[0])


def test_augmented_boxes_lie_on_what_they_show():
    """Of a dark picture with one bright square, whatever is done to it."""
    pixels = np.full((3, 96, 96), 10, dtype=np.uint8)
    pixels[:, 24:56, 32:80] = 250
    shown = Picture(None, 96, 96, boxes((32, 24, 80, 56)), torch.from_numpy(pixels))
    images = Pictures([shown], side=64)
    for seed in range(40):
        (found,), (labelled,) = images.batch(torch.arange(1), seed)
        is_bright = found.mean(0) > (found.min() + found.max()) / 2
        for x1, y1, x2, y2 in labelled.corners.round().int().tolist():
            inside = is_bright[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            assert inside.float().mean() > 0.9, (seed, labelled.corners)


corner = st.floats(-50, 150, width=32)


@given(st.lists(st.tuples(corner, corner, st.floats(1, 90), st.floats(1, 90)), max_size=8))
def test_what_is_seen_of_boxes_lies_inside_and_shows_enough_of_them(drawn):
    given_boxes = Boxes(
        torch.tensor([(x, y, x + w, y + h) for x, y, w, h in drawn]).reshape(-1, 4),
        torch.arange(len(drawn)),
    )
    seen = given_boxes.seen_in(100, 80)
    assert (seen.corners >= 0).all()
    assert (seen.corners <= torch.tensor([100, 80, 100, 80])).all()
    whole = given_boxes.sides.prod(1)[seen.classes]
    assert (seen.sides.prod(1) >= LEAST_SHARE * whole - 1e-2).all()


@given(st.lists(st.tuples(corner, corner, st.floats(1, 90), st.floats(1, 90)), max_size=8))
def test_mirrored_twice_is_the_same(drawn):
    given_boxes = boxes(*[(x, y, x + w, y + h) for x, y, w, h in drawn] or [(0, 0, 1, 1)])
    again = given_boxes.mirrored(100.0).mirrored(100.0)
    assert torch.allclose(again.corners, given_boxes.corners, atol=1e-3)
