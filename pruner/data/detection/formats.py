"""Detection data sets as people have them: Pascal VOC folders, YOLO text files, COCO JSON.

Every loader returns pictures with boxes and the classes' names. What is held out of the training
images are those of `val`, where there is a `test` too; else a tenth of `train`, and `val` is the
test set. Raises DataError naming the file for: a picture without a label or a label without a
picture (COCO lists its pictures: others are not read), a class that is not named, a box outside its
picture or beyond it by more than a pixel. A box without area (BCCD has two) is left out, and
`Data.notes` says how many were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from xml.etree import ElementTree

import torch
import yaml
from PIL import ExifTags, Image

from pruner import DataError
from pruner.data.detection.boxes import Boxes
from pruner.data.detection.pictures import Picture, Pictures, held_out
from pruner.data.images import Data

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
BEYOND = 1.0  # pixels that a box may leave its picture: people count from 0 and from 1
TURNED = (5, 6, 7, 8)  # EXIF orientations whose width is the file's height
LEAST_VARIETY = 2  # pictures of a part
WHOLE_NUMBERS = ("id", "image_id", "category_id", "width", "height")  # of a COCO file


@dataclass
class _Reader:
    """Collects one data set's pictures; knows its classes and what was left out."""

    name: str
    classes: list[str]
    without_area: list[str] = field(default_factory=list)  # files of such boxes

    def number(self, word: str, where: str) -> int:
        """The class of that name."""
        if word not in self.classes:
            near = get_close_matches(word, self.classes, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise DataError(
                f"{where}: class {word!r} is unknown; {hint}the classes are "
                f"{', '.join(self.classes)}"
            )
        return self.classes.index(word)

    def picture(
        self,
        file: Path,
        size: tuple[int, int],
        objects: Iterable[tuple[int, Sequence[float]]],
        where: str,
    ) -> Picture:
        """A picture of these (class, corners); corners are checked, and clipped by a pixel."""
        width, height = size
        if not (width > 0 and height > 0):
            raise DataError(f"{where}: the picture's size is {width}×{height}; expected pixels")
        kept: list[Sequence[float]] = []
        classes: list[int] = []
        for number, corners in objects:
            x1, y1, x2, y2 = corners
            if not all(math.isfinite(value) for value in corners):
                raise DataError(f"{where}: a box has the corners {_told(corners)}")
            inside = min(x1, y1) >= -BEYOND and x2 <= width + BEYOND and y2 <= height + BEYOND
            if not inside or x2 < x1 or y2 < y1:
                what = "is outside its picture" if not inside else "ends before it begins"
                raise DataError(
                    f"{where}: the box {_told(corners)} {what} of {width}×{height} pixels; mend "
                    "the label: corners are x1, y1, x2, y2 in pixels from the upper left"
                )
            x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
            if x2 <= x1 or y2 <= y1:
                self.without_area.append(file.name)
                continue
            kept.append((x1, y1, x2, y2))
            classes.append(number)
        boxes = Boxes(
            torch.tensor(kept, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(classes, dtype=torch.int64),
        )
        return Picture(file, width, height, boxes)

    def data(self, parts: dict[str, list[Picture]], side: int, seed: int) -> Data:
        """The three parts; `parts` by the names train, val and test."""
        for part, found in parts.items():
            if len(found) < LEAST_VARIETY:
                raise DataError(f"{self.name}: {part} has {len(found)} pictures; expected more")
        train = Pictures(parts["train"], side)
        if "test" in parts and "val" in parts:
            rest, held, test = train, Pictures(parts["val"], side), parts["test"]
        else:
            rest, held = held_out(train, seed)
            test = parts["test"] if "test" in parts else parts["val"]
        return Data(
            self.name,
            rest,
            held,
            Pictures(test, side),
            classes=len(self.classes),
            shape=(3, side, side),
            class_names=tuple(self.classes),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterable[str]:
        if self.without_area:
            some = ", ".join(sorted(set(self.without_area))[:3])
            count = len(self.without_area)
            what = "box without area is" if count == 1 else "boxes without area are"
            yield f"{count} {what} left out ({some})"


# -- Pascal VOC --------------------------------------------------------------------------------


def voc(folder: Path, seed: int, side: int) -> Data:
    """Pascal VOC: JPEGImages/, Annotations/*.xml, ImageSets/Main/{train,val,test}.txt.

    Classes are the lines of `labels.txt`, where there is one, else all that training pictures show,
    by name. Objects marked difficult count like others. Everingham et al. 2010, "The Pascal Visual
    Object Classes (VOC) Challenge"; corners count from 1 there, and from 0 in most sets of others:
    they are taken as they are.
    """
    lists = {part: folder / "ImageSets" / "Main" / f"{part}.txt" for part in _PARTS}
    present = _require_parts("voc", folder, lists, "ImageSets/Main/train.txt")
    labels = {path.stem: path for path in sorted((folder / "Annotations").glob("*.xml"))}
    files = _by_stem(folder / "JPEGImages")
    _require_pairs(folder, files, labels)
    listed = {part: _names_in(path) for part, path in present.items()}
    for part, names in listed.items():
        for name in names:
            if name not in files:
                raise DataError(
                    f"{present[part]} lists {name}, but JPEGImages/ has no such picture; remove "
                    "the line or restore the file"
                )
    read = {name: _voc_label(labels[name]) for names in listed.values() for name in names}
    reader = _Reader("voc", _voc_classes(folder, (read[name] for name in listed["train"])))
    parts = {
        part: [
            reader.picture(
                files[name],
                read[name].size,
                [
                    (reader.number(word, str(labels[name])), corners)
                    for word, corners in read[name].objects
                ],
                str(labels[name]),
            )
            for name in names
        ]
        for part, names in listed.items()
    }
    return reader.data(parts, side, seed)


@dataclass(frozen=True)
class _Labelled:
    """What an XML file says of a picture."""

    size: tuple[int, int]
    objects: list[tuple[str, tuple[float, float, float, float]]]


def _voc_label(path: Path) -> _Labelled:
    try:
        root = ElementTree.parse(path).getroot()
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        objects = [
            (
                _text(each, "name").strip(),
                (
                    float(_text(each, "bndbox/xmin")),
                    float(_text(each, "bndbox/ymin")),
                    float(_text(each, "bndbox/xmax")),
                    float(_text(each, "bndbox/ymax")),
                ),
            )
            for each in root.iter("object")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is no Pascal VOC label: {error}") from None
    return _Labelled(size, objects)


def _text(root: ElementTree.Element, path: str) -> str:
    found = root.findtext(path)
    if found is None:
        raise ValueError(f"<{path.replace('/', '><')}> is missing")
    return found


def _voc_classes(folder: Path, training: Iterable[_Labelled]) -> list[str]:
    named = folder / "labels.txt"
    if named.exists():
        return _names_in(named)
    return sorted({word for label in training for word, _ in label.objects})


# -- YOLO --------------------------------------------------------------------------------------


def yolo(folder: Path, seed: int, side: int) -> Data:
    """YOLO text files: images/{train,val,test}/ and labels/{train,val,test}/, one file a picture.

    A line is `class x y width height`, the class counted from 0 and the box's centre and sides as
    shares of the picture. An empty file is a picture without objects. Classes are `names` in
    data.yaml, or the lines of classes.txt.
    """
    places = {part: folder / "images" / part for part in _PARTS}
    present = _require_parts("yolo", folder, places, "images/train/")
    reader = _Reader("yolo", _yolo_classes(folder))
    parts = {}
    for part, place in present.items():
        files = _by_stem(place)
        beside = sorted((folder / "labels" / part).glob("*.txt"))
        labels = {path.stem: path for path in beside if path.name != "classes.txt"}  # LabelImg's
        _require_pairs(folder, files, labels)
        parts[part] = [_yolo_picture(reader, files[name], labels[name]) for name in files]
    return reader.data(parts, side, seed)


def _yolo_picture(reader: _Reader, file: Path, label: Path) -> Picture:
    width, height = _size_of(file)
    objects = []
    for number, line in enumerate(_text_of(label).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{label}, line {number}"
        try:
            word, *shares = line.split()
            which, (x, y, w, h) = int(word), map(float, shares)
        except ValueError:
            raise DataError(
                f"{where}: expected `class x y width height`, found {line.strip()!r}"
            ) from None
        if not 0 <= which < len(reader.classes):
            raise DataError(
                f"{where}: class {which} is unknown; the classes are 0 to "
                f"{len(reader.classes) - 1} ({', '.join(reader.classes)})"
            )
        corners = ((x - w / 2) * width, (y - h / 2) * height)
        objects.append((which, (*corners, corners[0] + w * width, corners[1] + h * height)))
    return reader.picture(file, (width, height), objects, str(label))


def _yolo_classes(folder: Path) -> list[str]:
    listed, described = folder / "classes.txt", folder / "data.yaml"
    if described.exists():
        try:
            content = yaml.safe_load(_text_of(described))
        except yaml.YAMLError as error:
            raise DataError(f"{described} is no YAML: {error}") from None
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
            names = [names[number] for number in range(len(names))]
        if not isinstance(names, list) or not names:
            raise DataError(
                f"{described}: expected `names:`, a list of the classes, or their numbers from 0 "
                f"with a name each; found {names!r}"
            )
        return [str(name) for name in names]
    if listed.exists():
        return _names_in(listed)
    raise DataError(f"{folder} names no classes: it has neither data.yaml nor classes.txt")


# -- COCO --------------------------------------------------------------------------------------


def coco(folder: Path, seed: int, side: int) -> Data:
    """COCO: annotations/instances_{train,val,test}*.json, each with a folder of pictures beside.

    The pictures of instances_train2017.json are in train2017/ or images/train2017/. Boxes are x, y,
    width and height in pixels. A picture without objects needs no entry among the annotations;
    objects marked `iscrowd` are left out. Lin et al. 2014, arXiv 1405.0312.
    """
    files = {part: _first(folder / "annotations", f"instances_{part}*.json") for part in _PARTS}
    present = _require_parts("coco", folder, files, "annotations/instances_train….json")
    described = {part: _json(path) for part, path in present.items()}
    classes = _categories(described["train"])
    order = sorted(classes)
    for part, content in described.items():
        for number, name in _categories(content).items():
            if classes.get(number, name) != name:
                raise DataError(
                    f"{present[part]}: category {number} is {name}, but {classes[number]} in "
                    f"{present['train'].name}; export both with the same categories"
                )
    reader = _Reader("coco", [classes[number] for number in order])
    parts = {
        part: _coco_pictures(reader, folder, present[part], described[part], order)
        for part in present
    }
    return reader.data(parts, side, seed)


def _categories(described: dict) -> dict[int, str]:
    return {row["id"]: str(row["name"]) for row in described["categories"]}


def _coco_pictures(
    reader: _Reader, folder: Path, path: Path, described: dict, order: list[int]
) -> list[Picture]:
    place = path.stem.removeprefix("instances_")
    beside = [folder / place, folder / "images" / place, folder / "images"]
    pictures = next((each for each in beside if each.is_dir()), beside[0])
    objects: dict[int, list] = {row["id"]: [] for row in described["images"]}
    for row in described["annotations"]:
        where = f"{path}: annotation {row.get('id')}"
        if row["image_id"] not in objects:
            raise DataError(f"{where} is of picture {row['image_id']}, which is not listed")
        if row["category_id"] not in order:
            raise DataError(
                f"{where}: category {row['category_id']} is unknown; the training file has "
                f"{', '.join(map(str, order))}"
            )
        if not row.get("iscrowd"):
            x, y, w, h = row["bbox"]
            objects[row["image_id"]].append((order.index(row["category_id"]), (x, y, x + w, y + h)))
    found = []
    for row in described["images"]:
        file = pictures / row["file_name"]
        if not file.is_file():
            raise DataError(f"{path} lists {row['file_name']}, but {file} does not exist")
        size = row["width"], row["height"]
        found.append(reader.picture(file, size, objects[row["id"]], f"{path}: {row['file_name']}"))
    return found


def _json(path: Path) -> dict:
    """A COCO file with the parts and fields that are read here."""
    needed = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    try:
        content = json.loads(_text_of(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from None
    for part, fields in needed.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path} has no list of {part}")
        for number, row in enumerate(rows):
            if wrong := _wrong_in(row, fields):
                raise DataError(f"{path}: {part}[{number}] {wrong}")
    return content


def _wrong_in(row: object, fields: Sequence[str]) -> str | None:
    """What is wrong with an entry of a COCO file; None where nothing is."""
    if not isinstance(row, dict):
        return "is no object with fields"
    for name in fields:
        if name not in row:
            return f"has no {name}"
        if name in WHOLE_NUMBERS and not isinstance(row[name], int):
            return f"has {name} {row[name]!r}; expected a whole number"
        if name == "bbox" and not _are_four_numbers(row[name]):
            return f"has the bbox {row[name]!r}; expected four numbers: x, y, width, height"
    return None


def _are_four_numbers(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)


# -- what they share ---------------------------------------------------------------------------

_PARTS = ("train", "val", "test")


def _require_parts(
    name: str, folder: Path, places: Mapping[str, Path | None], expected: str
) -> dict[str, Path]:
    """The parts that exist; raises DataError unless one trains and one tests."""
    present = {part: place for part, place in places.items() if place and place.exists()}
    if "train" not in present:
        raise DataError(f"{folder} holds no {name} data set: {expected} is missing")
    if len(present) == 1:
        raise DataError(f"{folder} has neither val nor test beside train; one of them is needed")
    return present


def _require_pairs(folder: Path, files: dict[str, Path], labels: dict[str, Path]) -> None:
    """Raise DataError unless each picture has a label and each label a picture."""
    for has, lacks, other in (
        (files, labels, "label; an empty one says that it shows nothing"),
        (labels, files, "picture; remove the label or restore the picture"),
    ):
        if alone := [has[stem] for stem in has if stem not in lacks]:
            more = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
            raise DataError(f"{alone[0]} has no {other}{more}")


def _by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix, in order."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise DataError(f"{path} and {found[path.stem].name} would share a label")
            found[path.stem] = path
    return found


def _names_in(path: Path) -> list[str]:
    """The lines that are not empty."""
    return [line.strip() for line in _text_of(path).splitlines() if line.strip()]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; save it as such") from None


def _size_of(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
            return opened.size[::-1] if turned else opened.size
    except (OSError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}); restore it") from None


def _first(folder: Path, pattern: str) -> Path | None:
    """The one file of that pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        told = " and ".join(path.name for path in found)
        raise DataError(f"{folder} holds {told}; keep the one that is meant there")
    return found[0] if found else None


def _told(corners: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in corners) + ")"
