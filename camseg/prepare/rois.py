"""Images and masks -> crops around the objects, and crops of the same place where there is none.

The regions of interest of Guan and Loew: each side of an object's box is padded by a random 10 to 30 % of the
box's size, and the negative example is the same region of the paired image, such as the other breast's.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import PCG64, Generator

from camseg.base.arrays import Image, Mask, check_same_size
from camseg.base.errors import DatasetError, ImageError, InputError
from camseg.base.files import by_name
from camseg.base.settings import to_json
from camseg.data.datasets import Dataset, Sample, load_images
from camseg.data.images import Window, by_relative_name, find_images, read_image, read_mask_and_void
from camseg.data.mask_settings import MaskReading
from camseg.prepare.output import Picture, Preparation, PreparationInput, PreparationReport, Skipped, write_pictures
from camseg.prepare.settings import RoiInputs, RoiSettings, check_class
from camseg.runs.settings import FolderOptions

POSITIVE = "positive"
"""The class of crops around objects where their image has no label."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts the box out of an array (H, W, ...)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    path: Path
    name: str
    sample: Sample | None  # None: listed as a pair alone
    mask: Path | None


@dataclass(frozen=True, kw_only=True)
class _Input(PreparationInput):
    label: str
    sample: Sample
    mask: Path | None
    group: str
    pair: _Pair | None


def prepare_rois(
    images: Path | str,
    masks: Path | str,
    out: Path | str,
    settings: RoiSettings | None = None,
    options: FolderOptions | None = None,
    *,
    reading: MaskReading | None = None,
) -> PreparationReport:
    """Write crops ``OUT/<class>/<path>_<number>.png``, their masks ``OUT/masks/...`` and ``OUT/labels.csv``.

    ``images``: a folder of class folders, an image, or a CSV ``image[,label][,pair][,group]``, where ``pair`` is the
    image, by its path from the CSV, that negative crops are taken from. Such a crop is left out where it would
    overlap an object of the pair's own mask, or leave the pair; without a mask the pair has no object, unless the CSV
    lists it as an image that needs one. ``masks``: a folder of masks at the images' paths; ``reading``: which of their
    classes counts, where they hold several. Where they give no class, nothing is taken as a negative.
    Crops around objects carry their image's label; images of the negative class, or with an empty label, give none.
    The group is the CSV's, else the image; an image and its pair are of one group.

    Raises InputError, DatasetError, OutputError.
    """
    settings, reading, options = settings or RoiSettings(), reading or MaskReading(), options or FolderOptions()
    dataset = load_images(images)
    found = find_images(masks)
    mask_files = by_relative_name(found)
    if len(dataset.samples) == 1 and Path(masks).is_file():
        mask_files = {dataset.samples[0].name: Path(masks)}
    pairs = _read_pairs(dataset, mask_files)
    groups = _groups(dataset.samples, pairs)
    by_name((sample.name, sample.path) for sample in dataset.samples)  # negatives are named after it
    inputs, left_out = [], []
    for sample in dataset.samples:
        if _is_empty(sample, settings):
            left_out.append(sample.path)
            continue
        label = check_class(_label(sample))
        mask, pair = mask_files.get(sample.name), pairs.get(sample.path)
        inputs.append(
            _Input(
                path=sample.path,
                # So begin the crops around objects; a class folder that the image lies in is not repeated.
                name=f"{label}/{sample.name.removeprefix(f'{label}/')}",
                label=label,
                sample=sample,
                mask=mask,
                group=groups[sample.path],
                pair=pair,
                reads=tuple(path for path in (mask, *((pair.path, pair.mask) if pair else ())) if path is not None),
                beside=(groups[sample.path], *(_facts(pair) if pair else ())),
            )
        )
    if settings.negative != RoiSettings.negative and not pairs and settings.negative not in dataset.classes:
        known = ", ".join(dataset.classes) or "none, for the images have no labels"
        options.say(f"note: no image has the negative class {settings.negative!r}; the classes are {known}")
    if all(one.mask is None for one in inputs):
        example = f", such as {inputs[0].sample.name}" if inputs else ""
        raise InputError(
            f"{masks} holds no mask of an image with an object: expected masks at the images' paths{example}"
        )
    return write_pictures(
        Preparation(
            command="prepare rois",
            root=dataset.root,
            settings=settings,
            beside={**to_json(RoiInputs(masks=Path(masks).absolute())), **to_json(reading)},
            labelled=True,
        ),
        inputs,
        lambda one: _crops(one, settings, reading),
        out,
        options=options,
        left_out=left_out,
        failures=(*dataset.failures, *found.failures),
    )


def find_boxes(mask: Mask, per: Literal["object", "image"] = "object", min_area: int = 1) -> list[Box]:
    """The box of each object of at least ``min_area`` pixels, or the one box around these, for a mask bool (H, W).

    Objects are 8-connected; they come in the order of their first pixels in reading order.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    numbers, first = np.unique(labels, return_index=True)
    boxes = []
    for number in numbers[np.argsort(first)]:
        left, top, width, height, area = (int(value) for value in stats[number])
        if number and area >= min_area:
            boxes.append(Box(top, left, top + height, left + width))
    if per == "image" and boxes:
        tops, lefts, bottoms, rights = zip(*boxes, strict=True)
        return [Box(min(tops), min(lefts), max(bottoms), max(rights))]
    return boxes


def pad_box(box: Box, shape: Sequence[int], shares: Iterable[float]) -> Box:
    """The box with its top, left, bottom and right moved out by shares of its height and width, inside (H, W)."""
    height, width = box.bottom - box.top, box.right - box.left
    top, left, bottom, right = (
        round(share * side) for share, side in zip(shares, (height, width, height, width), strict=True)
    )
    return Box(
        max(box.top - top, 0),
        max(box.left - left, 0),
        min(box.bottom + bottom, shape[0]),
        min(box.right + right, shape[1]),
    )


def _crops(one: _Input, settings: RoiSettings, reading: MaskReading) -> Iterator[Picture | Skipped]:
    """The crops around the objects of an image, and those of the same places of its pair."""
    _check_mask(one.sample, one.mask, settings)
    image, mask, _ = _read(one.path, one.mask, settings.window, reading)
    boxes = find_boxes(mask, settings.per, settings.min_area)
    if not mask.any():
        chosen = reading.mask_class
        yield Skipped("images whose mask is empty" if chosen is None else f"images without a pixel of class {chosen}")
        return
    if not boxes:
        yield Skipped("images without an object that is large enough")
        return
    low, high = settings.padding.low, settings.padding.high
    chance = _generator(settings.seed, one.sample.name)
    boxes = [pad_box(box, mask.shape, low + (high - low) * chance.random(4)) for box in boxes]
    ends = [f"_{number}" for number in range(1, len(boxes) + 1)] if settings.per == "object" else [""]
    for box, end in zip(boxes, ends, strict=True):
        yield _picture(one.name + end, one.label, image, mask, box, one.group, one.sample.name)
    if one.pair is None:
        return
    if one.pair.sample is not None:
        _check_mask(one.pair.sample, one.pair.mask, settings)
    image, mask, void = _read(one.pair.path, one.pair.mask, settings.window, reading)
    height, width = mask.shape
    for box, end in zip(boxes, ends, strict=True):
        # In a mirrored image columns count from the other edge, wherever a pair of another width has it.
        place = Box(box.top, width - box.right, box.bottom, width - box.left) if settings.mirror else box
        if place.left < 0 or place.right > width or place.bottom > height:
            yield Skipped("negatives that would leave the paired image")
        elif mask[place.slices].any() or void[place.slices].any():
            yield Skipped("negatives that would overlap an object of the paired image")
        else:
            name = f"{settings.negative}/{one.sample.name}{end}"
            yield _picture(name, settings.negative, image, mask, place, one.group, one.pair.name)


def _is_empty(sample: Sample, settings: RoiSettings) -> bool:
    """Whether its label says that an image has no object."""
    return sample.labels in ((), (settings.negative,))


def _check_mask(sample: Sample, mask: Path | None, settings: RoiSettings) -> None:
    if mask is None and not _is_empty(sample, settings):
        raise ImageError(
            f"{sample.path}: no mask at {sample.name}; an image without object has the class {settings.negative!r} "
            "or an empty label"
        )


def _picture(name: str, label: str, image: Image, mask: Mask, box: Box, group: str, source: str) -> Picture:
    crop = np.ascontiguousarray(image[box.slices])
    masks = {"": mask[box.slices]}
    return Picture(name=name, image=crop, group=group, source=source, label=label, masks=masks, box=box)


def _read(path: Path, mask_path: Path | None, window: Window, reading: MaskReading) -> tuple[Image, Mask, Mask]:
    """An image, its mask, and where that gives no class."""
    image = read_image(path, window)
    if mask_path is None:
        nothing = np.zeros(image.shape[:2], np.bool_)
        return image, nothing, nothing
    mask, void = read_mask_and_void(mask_path, reading)
    check_same_size(image, mask, f"{path} and its mask")
    return image, mask, void


def _generator(seed: int, name: str) -> Generator:
    """Random numbers of one image, whatever other images there are."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return Generator(PCG64(int.from_bytes(digest, "big")))


def _label(sample: Sample) -> str:
    if sample.labels is None:
        return POSITIVE
    if len(sample.labels) > 1:
        raise DatasetError(f"{sample.path}: expected one label, the class of its crops; got {';'.join(sample.labels)}")
    return sample.labels[0]


def _read_pairs(dataset: Dataset, masks: Mapping[str, Path]) -> dict[Path, _Pair]:
    """What the column ``pair`` of the CSV says, by the image's path; nothing for a folder."""
    if not dataset.root.is_file():
        return {}
    samples = {sample.path: sample for sample in dataset.samples}
    pairs = {}
    with dataset.root.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
        for row in reader:
            cell = (row.get("pair") or "").strip()
            if cell:
                path = dataset.root.parent / cell
                sample = samples.get(path)
                name = sample.name if sample else PurePath(cell).with_suffix("").as_posix()
                pair = _Pair(path=path, name=name, sample=sample, mask=masks.get(name))
                pairs[dataset.root.parent / row["image"].strip()] = pair
    return pairs


def _facts(pair: _Pair) -> tuple[str, ...]:
    """What decides, beside its files, which crops are taken from a pair."""
    return pair.name, "alone" if pair.sample is None else ";".join(pair.sample.labels or ())


def _groups(samples: Sequence[Sample], pairs: Mapping[Path, _Pair]) -> dict[Path, str]:
    """The group of every image, by its path: the CSV's, else the image's name; one for all that pairs join."""
    given = {sample.group for sample in samples}
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while above.get(key, key) != key:
            key = above[key]
        return key

    keys = {sample.path: sample.group or sample.name for sample in samples}
    for path, pair in pairs.items():
        joined = (top(keys[path]), top(keys.get(pair.path, pair.name)))
        first, second = sorted(joined, key=lambda key: (key not in given, key))
        above[second] = first
    return {path: top(key) for path, key in keys.items()}
