"""What studies rest on: labelled images and their true masks, runs of the same classes, weights to start from."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from camseg.base.arrays import check_same_size
from camseg.base.errors import DatasetError, EvaluationError, InputError
from camseg.base.files import contents_sha256, sha256
from camseg.base.progress import Progress
from camseg.base.settings import to_json
from camseg.classify.checkpoint import AnyClassifier
from camseg.data.datasets import Dataset, Sample, image_places
from camseg.data.images import by_relative_name, find_images, read_image, read_mask_and_void
from camseg.data.mask_settings import MaskReading
from camseg.data.masks import MaskAndVoid
from camseg.measure.metrics import bootstrap_interval
from camseg.models.weights import read_weights
from camseg.train.plan import trained_on

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StudyImages:
    """Images of one class each, and the true masks of those with an object."""

    data: Dataset
    """The images."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """By the images' names; masks without an object are left out."""
    reading: MaskReading = field(default_factory=MaskReading)
    """Which class of the masks counts."""

    @property
    def objects(self) -> list[Sample]:
        """The images with an object."""
        return [sample for sample in self.data.samples if sample.name in self.masks]

    def truth(self, name: str) -> MaskAndVoid:
        """The true mask of an image with an object, and the pixels that take part in no score."""
        return read_mask_and_void(self.masks[name], self.reading)

    def lenders(self, part: Dataset) -> list[str]:
        """The names of a part's images with an object."""
        return [sample.name for sample in part.samples if sample.name in self.masks]

    def interval(self, values: Mapping[str, float]) -> tuple[float, float]:
        """The mean's 95 % bootstrap interval, of values by image; whole groups are drawn where there are any."""
        groups = {sample.name: sample.group or sample.name for sample in self.data.samples}
        return bootstrap_interval(list(values.values()), groups=[groups[name] for name in values])


def read_study_images(
    data: Dataset,
    masks: Path | str | None,
    negative: Collection[str],
    windows: Collection[str],
    progress: Progress,
    title: str,
    reading: MaskReading | None = None,
) -> StudyImages:
    """Read every image in each window, and its mask: what cannot be used is refused before any work.

    masks: a folder of true masks by the images' relative names, or None; a ``negative`` class needs none; reading:
    which class of them counts, where they hold several.

    Raises ImageError for files that cannot be read; EvaluationError for masks that are missing, of another size, two
    of one name, or all empty.
    """
    reading = reading or MaskReading()
    if masks is None and reading.mask_class is not None:
        raise InputError("a mask class, but no masks that hold it; give masks, or leave it out")
    files = {} if masks is None else _find_masks(data, Path(masks), negative)
    objects = {}
    for sample in progress(data.samples, len(data.samples), f"reading {title} images"):
        image, *_ = [read_image(sample.path, window) for window in windows]
        if sample.name not in files:
            continue
        mask = read_mask_and_void(files[sample.name], reading).mask
        try:
            check_same_size(image, mask, f"the image {sample.name} and its true mask")
        except InputError as error:
            raise EvaluationError(str(error)) from None
        if mask.any():
            objects[sample.name] = files[sample.name]
    if masks is not None and not objects:
        raise EvaluationError(f"expected masks with objects in {masks}; those of all {title} images are empty")
    return StudyImages(data=data, masks=objects, reading=reading)


def _find_masks(data: Dataset, folder: Path, negative: Collection[str]) -> dict[str, Path]:
    found = find_images(folder)
    if found.failures:
        place, reason = found.failures[0]
        raise EvaluationError(f"the folder of true masks {place} cannot be listed: {reason}")
    masks = by_relative_name(found)
    needed = [sample.name for sample in data.samples if own_class(sample) not in negative]
    if missing := [name for name in needed if name not in masks]:
        raise EvaluationError(
            f"expected a true mask in {folder} for each of the {len(needed)} images that may hold an object; "
            f"{len(missing)} are missing, the first is {missing[0]}; add them, or leave masks out; the images of "
            "negative classes need none"
        )
    return masks


def images_identity(*parts: StudyImages) -> dict[str, Any]:
    """Hashes of names, labels and groups, and of contents, and how masks are read: what calls of one folder share."""
    samples = [
        [[one.name, one.labels, one.group, one.name in part.masks] for one in part.data.samples] for part in parts
    ]
    files = [path for part in parts for path in (*(one.path for one in part.data.samples), *part.masks.values())]
    facts = {"samples": digest(samples), "contents": contents_sha256(files)[:12]}
    # All parts read their masks alike; those without any say nothing of it.
    return {**facts, **next((to_json(part.reading) for part in parts if part.masks), {})}


def digest(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def check_exclusive(data: Dataset) -> None:
    """Raise DatasetError for images with several labels, or none."""
    if data.multi_label:
        raise DatasetError(f"{data.root}: expected images with one class each; some have several, or none")


def own_class(sample: Sample) -> str:
    """An image's one class."""
    (name,) = sample.labels or ()
    return name


def in_batches(items: Sequence[T], size: int, progress: Progress, title: str) -> Iterator[Sequence[T]]:
    """Samples, or what is asked of them, in their order, ``size`` at once."""
    starts = range(0, len(items), size)
    return progress((items[start : start + size] for start in starts), len(starts), title)


def check_run(name: str, classifier: AnyClassifier, data: Dataset) -> None:
    """Raise InputError for a classifier of other classes than the data's, or of independent ones."""
    if classifier.multi_label or set(classifier.classes) != set(data.classes):
        kind = "independent classes" if classifier.multi_label else "the classes"
        raise InputError(
            f"run {name} tells {kind} {', '.join(classifier.classes)} apart, and {data.root} holds "
            f"{', '.join(data.classes)}; choose a run of the images' own classes, one for each image"
        )


def acquaintance(name: str, classifier: AnyClassifier, images: Dataset, title: str) -> str | None:
    """A sentence on a classifier that has met images on which it is judged, or may have; None where it has not."""
    parts = [part for member in classifier.members if (part := trained_on(member)) is not None]
    if len(parts) < len(classifier.members):
        return f"What {name} was trained on cannot be told; it may have learned from {title}."
    places = image_places(images)
    learned, validated = (len(places & set().union(*sets)) for sets in zip(*parts, strict=True))
    if not learned and not validated:
        return None
    return f"{name} learned from {learned} and was validated on {validated} of the {len(places)} {title}."


def starting_weights(weights: str | None) -> str:
    """What decides where trainings start: ``imagenet``, ``none``, or the hash of a weights file.

    Raises CheckpointError for a file that cannot be read.
    """
    if weights in (None, "none", "imagenet"):
        return weights or "none"
    read_weights(weights)
    return sha256(weights)
