"""Folders and CSV files -> samples with their labels."""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import DatasetError
from camseg.base.files import Found
from camseg.data.images import find_images, relative_name
from camseg.data.labels import MISSING, as_classes, near_pairs, spelled
from camseg.data.layouts import Part, check_classes, find_masks, part_of, without_images
from camseg.data.twins import twins


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One input image and what is known of it."""

    path: Path
    """The image file."""
    name: str
    """Relative path without suffix: the name that its outputs carry."""
    labels: tuple[str, ...] | None = None
    """The classes in the image; () = none of the classes; None = not known."""
    group: str | None = None
    """Samples of one group (a patient, a volume) never stand on both sides of a split."""
    part: Part | None = None
    """The part that the data set's own folders put it into: ``train/<class>/...``; None where they do not."""

    @property
    def input(self) -> str:
        """The name with the file's suffix: how manifests speak of the image, whatever folder it lies in."""
        return self.name + self.path.suffix


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples in the order of their names."""

    root: Path
    """The folder or CSV that it was read from."""
    samples: tuple[Sample, ...]
    """Sorted by name."""
    classes: tuple[str, ...]
    """Sorted; every label that occurs."""
    multi_label: bool
    """Whether an image may have several labels or none."""
    failures: tuple[tuple[Path, str], ...] = ()
    """Folders that could not be listed, with the reason."""
    passed_over: tuple[tuple[str, int], ...] = ()
    """Files that are no images by suffix, as in ``base.files.Found``; ``images.passed_over_line`` words them."""
    remarks: tuple[str, ...] = ()
    """Lines on how it was read where that may not be what was meant; ``remarks.data_remarks`` gives all lines."""

    def targets(self, classes: Sequence[str]) -> NDArray[Any]:
        """Class indices int64 (N,), or for a multi-label set float32 (N, classes) of 0 and 1.

        Raises DatasetError for a label outside ``classes``, a sample whose label is not known, or, in a set
        that is not multi-label, one with none or several.
        """
        index = {name: i for i, name in enumerate(classes)}
        for sample in self.samples:
            if sample.labels is None:
                raise DatasetError(f"{sample.path} has no label; put it into a class folder or a CSV with labels")
            if unknown := [label for label in sample.labels if label not in index]:
                raise DatasetError(f"{sample.path}: class {unknown[0]!r} is not one of {', '.join(classes)}")
            if not self.multi_label and len(sample.labels) != 1:
                raise DatasetError(
                    f"{sample.path}: expected one label, as the classes exclude each other; got "
                    f"{';'.join(sample.labels) or 'none'}"
                )
        if not self.multi_label:
            return np.array([index[label] for sample in self.samples for label in sample.labels or ()], np.int64)
        rows = np.zeros((len(self.samples), len(classes)), np.float32)
        for row, sample in zip(rows, self.samples, strict=True):
            row[[index[label] for label in sample.labels or ()]] = 1.0
        return rows


def load_training_data(data: Path | str, classes: Sequence[str] | None = None) -> Dataset:
    """Read labelled images: a folder of class folders, or a CSV ``image,label[,group]``.

    ``classes``: those that the labels must be of, as for a validation set. Folders of splits above the class folders
    (``train/<class>/...``, ``test/<class>/...``) are told from these, and go into ``Sample.part``.

    Raises DatasetError when there are fewer than two classes (one, for a multi-label set), images without a label,
    labels that differ only in case, spaces or hyphens, folders that cannot be classes, or other labels than
    ``classes``.
    """
    dataset = load_images(data)
    remarks = [*dataset.remarks]
    divided = any(sample.part is not None for sample in dataset.samples)
    if dataset.root.is_dir():
        remarks += check_classes(dataset.root, dataset.classes, "<split>" if divided else "")
        if bare := without_images(dataset.root, (sample.path for sample in dataset.samples)):
            remarks.append(
                f"no image is in {', '.join(str(dataset.root / name) for name in bare)}: no class comes of it"
            )
    if unlabelled := [sample for sample in dataset.samples if sample.labels is None]:
        below = f"{data}/<split>/<class>/<image>" if divided else "DATA/<class>/<image>"
        raise DatasetError(
            f"{len(unlabelled)} images have no label, the first is {unlabelled[0].path}; expected "
            f"{below}, or a CSV with the columns image,label"
        )
    if near := near_pairs(dataset.classes):
        raise DatasetError(
            f"{data}: the classes {' and '.join(map(repr, near[0]))} differ only in case, spaces or hyphens; give them "
            "one name"
        )
    needed = 1 if dataset.multi_label else 2
    if len(dataset.classes) < needed:
        deeper = any(sample.name.count("/") > 1 for sample in dataset.samples) and not divided
        hint = f"; if the class folders lie below, give {dataset.root / dataset.classes[0]}" if deeper else ""
        raise DatasetError(f"{data}: expected at least {needed} classes, got {list(dataset.classes)}{hint}")
    remarks += _label_remarks(dataset)
    if classes is not None:
        dataset, renamed = _with_classes(dataset, classes)
        remarks += renamed
        known = set(classes)
        for sample in dataset.samples:
            if other := next((label for label in sample.labels or () if label not in known), None):
                raise DatasetError(f"{sample.path}: class {other!r} is not one of {', '.join(classes)}")
        if absent := sorted(known - set(dataset.classes)):
            remarks.append(f"{data} holds no image of {', '.join(absent)}")
    return replace(dataset, remarks=(*remarks, *_twin_remarks(dataset)))


def load_images(images: Path | str, classes: Sequence[str] | None = None) -> Dataset:
    """Read a folder, an image file or a CSV, with the labels where they are known.

    In a folder an image's label is the first folder below the root, or the one below ``train``, ``val`` and ``test``;
    where ``classes`` are given (a classifier's), only if it is one of them, but for case, Unicode form, spaces and
    hyphens. Masks that lie beside their images are left out. In a CSV the label is the column ``label``: several are
    joined by ``;``, an empty cell means none of the classes, and either makes the set multi-label. Paths in a CSV are
    relative to its folder.

    Raises InputError or DatasetError when there is nothing to read or a label is unknown to ``classes``.
    """
    path = Path(images)
    table = path.suffix.lower() == ".csv" and path.is_file()
    dataset = _load_csv(path) if table else _load_folder(path)
    if classes is None:
        return dataset
    dataset, renamed = _with_classes(dataset, classes)
    if unknown := sorted(set(dataset.classes) - set(classes)):
        if table:
            raise DatasetError(f"{images}: the classifier has no class {unknown[0]!r}; it has {', '.join(classes)}")
        others = set(unknown)
        samples = tuple(
            replace(sample, labels=None) if others.intersection(sample.labels or ()) else sample
            for sample in dataset.samples
        )
        dataset = replace(dataset, samples=samples, classes=tuple(sorted(set(dataset.classes) - others)))
    return replace(dataset, remarks=(*dataset.remarks, *renamed))


def with_known_labels(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The images with their labels spelled as ``names`` are, and without those of images that have another one too."""
    meant = as_classes(dataset.classes, names)
    samples = []
    for sample in dataset.samples:
        known = sample.labels is not None and all(label in meant for label in sample.labels)
        labels = tuple(dict.fromkeys(meant[label] for label in sample.labels or ())) if known else None
        samples.append(replace(sample, labels=labels))
    return replace(dataset, samples=tuple(samples), classes=tuple(sorted(set(meant.values()))))


def samples_sha256(*datasets: Dataset) -> str:
    """One hash over the names, labels and groups of all samples, however they are divided, in hexadecimal."""
    samples = [sample for dataset in datasets for sample in dataset.samples]
    facts = sorted(json.dumps([sample.name, sample.labels, sample.group]) for sample in samples)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def image_places(dataset: Dataset) -> set[str]:
    """Where the image files really lie: the same file has one place, however it is reached."""
    return {os.path.realpath(sample.path) for sample in dataset.samples}


def _with_classes(dataset: Dataset, classes: Sequence[str]) -> tuple[Dataset, list[str]]:
    """The dataset with the labels spelled as the classes that they mean, and lines on those that were spelled else."""
    meant = as_classes(dataset.classes, classes)
    counts = Counter(label for sample in dataset.samples for label in sample.labels or ())
    renamed = [
        f"{counts[label]} {'image' if counts[label] == 1 else 'images'} labelled {label!r} counted as {name!r}"
        for label, name in sorted(meant.items())
        if label != spelled(name)
    ]
    samples = tuple(
        replace(
            sample, labels=sample.labels and tuple(dict.fromkeys(meant.get(label, label) for label in sample.labels))
        )
        for sample in dataset.samples
    )
    known = tuple(sorted({meant.get(label, label) for label in dataset.classes}))
    return replace(dataset, samples=samples, classes=known), renamed


def _label_remarks(dataset: Dataset) -> list[str]:
    """Lines on labels that may not have been meant."""
    lines = []
    count = len(dataset.samples)
    if dataset.multi_label:
        none = [sample for sample in dataset.samples if not sample.labels]
        several = [sample for sample in dataset.samples if len(sample.labels or ()) > 1]
        found = [
            f"{len(own)} of {count} images {'has' if len(own) == 1 else 'have'} {what}, such as {own[0].path}"
            for own, what in ((none, "no label"), (several, "several labels"))
            if own
        ]
        hint = "; such images show none of the classes: fill in their cells, or leave out rows of unknown label"
        lines.append(f"the set counts as multi-label: {', '.join(found)}{hint if none else ''}")
    if odd := [name for name in dataset.classes if name.casefold() in MISSING]:
        lines.append(f"the label {odd[0]!r} counts as a class, and looks like a missing value")
    grouped = sum(sample.group is not None for sample in dataset.samples)
    if 0 < grouped < count:
        lines.append(f"{count - grouped} of {count} images have no group; each counts as one of its own")
    return lines


def _twin_remarks(dataset: Dataset) -> list[str]:
    """Lines on images that are there more than once."""
    copies = twins([sample.path for sample in dataset.samples])
    if not copies:
        return []
    samples = dataset.samples
    first, second = (samples[place].path for place in copies[0][:2])
    lines = [
        f"{sum(map(len, copies))} images are the same as others, as copies or links, such as {second} and {first}; a "
        "split keeps the same ones on one side"
    ]
    torn = [places for places in copies if len({frozenset(samples[place].labels or ()) for place in places}) > 1]
    if torn:
        first, second = (samples[place].path for place in torn[0][:2])
        lines.append(f"{len(torn)} images are there under different labels, such as {first} and {second}")
    return lines


def _load_folder(root: Path) -> Dataset:
    found: Found = find_images(root)
    remarks: tuple[str, ...] = ()
    files = found.files
    if found.root == root:
        masks = find_masks(root, files)
        if images := tuple(path for path in files if path.relative_to(root).as_posix() not in masks.files):
            files, remarks = images, masks.remarks
    names = {path: relative_name(path, found.root) for path in files}
    folders = {name.partition("/")[0] for name in names.values() if "/" in name}
    divided = bool(folders) and all(part_of(name) for name in folders)
    samples: list[Sample] = []
    spellings: dict[str, set[str]] = {}
    for path, name in names.items():
        first, _, rest = name.partition("/")
        part = part_of(first) if divided else None
        if divided:
            first, _, rest = rest.partition("/")
        label = spelled(first) if rest else None
        if label is not None:
            spellings.setdefault(label, set()).add(first)
        samples.append(Sample(path=path, name=name, labels=None if label is None else (label,), part=part))
    remarks += tuple(
        f"{len(own)} folders are named {label!r} but for Unicode form or spaces, and count as one class"
        for label, own in sorted(spellings.items())
        if len(own) > 1
    )
    dataset = _dataset(found.root, samples, multi_label=False, failures=found.failures)
    return replace(dataset, passed_over=found.passed_over, remarks=remarks)


def _load_csv(path: Path) -> Dataset:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable UTF-8 CSV ({error})") from None
    if "image" not in columns:
        raise DatasetError(
            f"{path}: expected the columns image,label[,group]; got {_line(','.join(columns)) or 'nothing'}"
        )
    samples: list[Sample] = []
    lines: dict[Path, int] = {}
    for line, row in rows:
        image = (row["image"] or "").strip()
        file_path = path.parent / image
        if PurePath(image).name in ("", ".."):
            raise DatasetError(f"{path}: line {line} names no image")
        if lines.setdefault(file_path, line) != line:
            raise DatasetError(
                f"{path}: line {line} lists {_line(image)} again, after line {lines[file_path]}; "
                "join several labels by ';'"
            )
        if any(cell.strip() for cell in row.get(reader.restkey) or ()):
            raise DatasetError(f"{path}: line {line} has more cells than the header; quote a name that holds a comma")
        labels: tuple[str, ...] | None = None
        if "label" in columns:
            cell = row["label"] or ""
            labels = tuple(dict.fromkeys(spelled(part) for part in cell.split(";") if part.strip()))
        # Outputs mirror the listed path; what would lead out of the output folder is left out of it.
        parts = [part for part in PurePath(image).with_suffix("").parts if part not in ("..", PurePath(image).anchor)]
        name = "/".join(parts)
        samples.append(Sample(path=file_path, name=name, labels=labels, group=(row.get("group") or "").strip() or None))
    if not samples:
        raise DatasetError(f"{path}: no image listed below the header")
    multi_label = any(sample.labels is not None and len(sample.labels) != 1 for sample in samples)
    return _dataset(path, samples, multi_label=multi_label, failures=())


def _line(text: str) -> str:
    """What a CSV holds, for a message: on one line, and not too long."""
    words = " ".join(text.split())
    return words if len(words) <= 100 else f"{words[:97]}..."


def _dataset(root: Path, samples: list[Sample], multi_label: bool, failures: tuple[tuple[Path, str], ...]) -> Dataset:
    return Dataset(
        root=root,
        samples=tuple(sorted(samples, key=lambda sample: sample.name)),
        classes=tuple(sorted({label for sample in samples for label in sample.labels or ()})),
        multi_label=multi_label,
        failures=failures,
    )
