"""Folders of true masks -> what is known of each image's pixels: one channel per class, or exclusive classes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import DatasetError, ImageError
from camseg.data.datasets import Sample
from camseg.data.images import by_relative_name, find_images, read_mask_and_void
from camseg.data.mask_settings import ANY, BACKGROUND_NAMES, VOID_NAMES, MaskClasses, MaskReading
from camseg.data.masks import to_mask
from camseg.data.stored import read_stored

IGNORED: Final = 255
"""Stands in a target where nothing is known: such pixels teach nothing and take part in no score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is known of an image's pixels."""

    target: NDArray[np.uint8]
    """(H, W, classes) of 0, 1 and ``IGNORED``; of exclusive classes (H, W, 1) of 0 for the background, the classes'
    numbers from 1, and ``IGNORED``."""
    weights: NDArray[np.float32]
    """(channels of the target,) in [0, 1]: how much each channel counts."""
    certain: NDArray[np.bool_]
    """(channels of the target,): whether it comes from people, as a mask or by a label."""


class MaskSource(ABC):
    """Where the masks of images come from."""

    root: Path
    """Their folder."""
    classes: tuple[str, ...]
    """In the order of the channels, or from 1 of the numbers."""
    multi_label: bool
    """Whether each class has a channel, and is independent of the others."""
    negative: tuple[str, ...]
    """Labels of images that hold no object."""

    @abstractmethod
    def knows(self, sample: Sample) -> bool:
        """Whether there is anything to learn of an image."""

    @abstractmethod
    def files(self, sample: Sample) -> tuple[Path, ...]:
        """The files that tell of it; none where its label does."""

    @abstractmethod
    def read(self, sample: Sample, height: int, width: int) -> Truth:
        """What is known of an image of that size; ImageError for files that cannot be read or have another size."""

    @abstractmethod
    def trust(self, sample: Sample) -> float:
        """How far what is known of an image can be trusted, in [0, 1]."""

    def certain(self, _sample: Sample) -> bool:
        """Whether all of it comes from people."""
        return True

    def labels(self, sample: Sample) -> tuple[str, ...] | None:
        """The labels of an image, as far as they are known."""
        return sample.labels

    def kinds(self, sample: Sample) -> tuple[str, ...] | None:
        """What an image's mask is of: its labels, or where they are not known what else tells."""
        return self.labels(sample)

    @abstractmethod
    def called(self, classes: tuple[str, ...]) -> "MaskSource":
        """The same masks of classes that are called otherwise."""

    def facts(self) -> dict[str, Any]:
        """What decides how its files are understood, JSON values only."""
        return {"classes": list(self.classes), "multi_label": self.multi_label}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueMasks(MaskSource):
    """Masks that people drew; ``find_true_masks`` finds them."""

    root: Path
    """Their folder."""
    classes: tuple[str, ...]
    multi_label: bool
    paths: Mapping[str, Mapping[str, Path]]
    """By class, or for one file with all classes by "", then by the image's name."""
    reading: MaskReading = field(default_factory=MaskReading)
    """How files of a single class are read."""
    numbers: MaskClasses | None = None
    """What the classes are called in files that hold all of them."""
    negative: tuple[str, ...] = ()
    """Labels of images that hold no object: they need no mask."""

    def called(self, classes: tuple[str, ...]) -> "TrueMasks":
        """The same under other names."""
        return replace(self, classes=classes)

    def replaced(self, files: Mapping[Path, Path | None]) -> "TrueMasks":
        """The same with other files in the place of some, by their absolute paths; None: their images are unknown.

        A file in the place of none is the mask of the image that would have it there.
        """
        unknown = {
            name
            for own in self.paths.values()
            for name, path in own.items()
            if files.get(path.absolute(), path) is None
        }
        paths = {
            kind: {name: files.get(path.absolute()) or path for name, path in own.items() if name not in unknown}
            for kind, own in self.paths.items()
        }
        for kind, own in self.paths.items():
            stems = {path.absolute().with_suffix("").as_posix(): name for name, path in own.items()}
            for folder in {stem.removesuffix(name) for stem, name in stems.items()}:
                for place, file in files.items():
                    stem = place.with_suffix("").as_posix()
                    if file is not None and stem.startswith(folder) and stem not in stems:
                        paths[kind].setdefault(stem.removeprefix(folder), file)
        return replace(self, paths=paths)

    def knows(self, sample: Sample) -> bool:
        """Whether there is a mask, or a label says that it would be empty."""
        return bool(self.files(sample)) or self._empty(sample)

    def files(self, sample: Sample) -> tuple[Path, ...]:
        """Its masks."""
        return tuple(paths[sample.name] for paths in self.paths.values() if sample.name in paths)

    def read(self, sample: Sample, height: int, width: int) -> Truth:
        """Its masks; classes without a file, where there are others, are not in the image."""
        channels = len(self.classes) if self.multi_label else 1
        target = np.zeros((height, width, channels), np.uint8)
        for place, paths in enumerate(self.paths.values()):
            if sample.name in paths:
                read = self._one(paths[sample.name])
                check_mask_size(paths[sample.name], read, height, width)
                target[..., place] = read
        return Truth(target=target, weights=np.ones(channels, np.float32), certain=np.ones(channels, np.bool_))

    def trust(self, _sample: Sample) -> float:
        """1: they are true."""
        return 1.0

    def facts(self) -> dict[str, Any]:
        """The classes, and how files are read."""
        reading = [self.reading.mask_class, repr(self.reading.mask_classes), repr(self.numbers)]
        return {**super().facts(), "reading": reading}

    def _empty(self, sample: Sample) -> bool:
        return bool(sample.labels) and set(sample.labels or ()) <= set(self.negative)

    def _one(self, path: Path) -> NDArray[np.uint8]:
        """(H, W) of 0, 1 or the classes' numbers, and IGNORED."""
        if self.numbers is None:
            mask, void = read_mask_and_void(path, self.reading)
            return np.where(void, np.uint8(IGNORED), mask.astype(np.uint8))
        stored = read_stored(path)
        found = np.zeros(stored.values.shape[:2], np.uint8)
        for number, name in enumerate(self.classes, start=1):
            mask, void = to_mask(stored, MaskReading(mask_class=name, mask_classes=self.numbers))
            found[mask] = number
            found[void] = IGNORED
        others = to_mask(stored, MaskReading(mask_class=ANY, mask_classes=self.numbers)).mask & (found == 0)
        if others.any():
            values = np.unique(stored.values[others].reshape(np.count_nonzero(others), -1), axis=0)[:5].tolist()
            raise ImageError(
                f"{path}: expected the mask classes {', '.join(self.numbers.names)}; it also has "
                f"{', '.join(str(value[0] if len(value) == 1 else value) for value in values)}; name those too"
            )
        return found


def class_regions(masks: MaskSource, truth: Truth, classes: Sequence[str]) -> list[Mask]:
    """Which pixels are known to be of each of some classes, bool (H, W) each: by masks of one class, which nobody told
    apart, the same for all of them; none of a class that the masks do not have."""
    regions = []
    for name in classes:
        known = masks.classes[0] if len(masks.classes) == 1 and name not in masks.classes else name
        if known not in masks.classes:
            regions.append(np.zeros(truth.target.shape[:2], np.bool_))
            continue
        place = masks.classes.index(known)
        regions.append(truth.target[..., place] == 1 if masks.multi_label else truth.target[..., 0] == place + 1)
    return regions


def check_mask_size(path: Path, mask: NDArray[Any], height: int, width: int) -> None:
    """ImageError for a mask of another size than its image."""
    if mask.shape[:2] != (height, width):
        raise ImageError(
            f"{path}: expected a mask of its image's size, {width}x{height}; it has {mask.shape[1]}x{mask.shape[0]}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MasksByLabel(MaskSource):
    """Masks of one object per image, told apart by what the image is labelled with: a channel for each class."""

    source: MaskSource
    """The masks, of one class."""
    root: Path
    classes: tuple[str, ...]
    negative: tuple[str, ...]

    multi_label = True

    def called(self, classes: tuple[str, ...]) -> "MasksByLabel":
        """The same, told apart as classes of other names: DatasetError, since the labels say which there are."""
        raise DatasetError(
            f"the images whose masks lie in {self.root} are labelled {', '.join(self.classes)}, and not "
            f"{', '.join(classes)}; give images of the same classes"
        )

    def knows(self, sample: Sample) -> bool:
        """Whether there is a mask, and something that says of what."""
        kinds = self.source.kinds(sample)
        return kinds is not None and {*kinds} <= {*self.classes, *self.negative} and self.source.knows(sample)

    def files(self, sample: Sample) -> tuple[Path, ...]:
        """Its masks."""
        return self.source.files(sample)

    def read(self, sample: Sample, height: int, width: int) -> Truth:
        """Its mask in the channel of what it is of. The others are empty: for certain where a label says so, else as
        far as the mask is known. Of several labels nothing says which of them the object's pixels are of."""
        truth = self.source.read(sample, height, width)
        shown, weight = truth.target[..., 0], truth.weights[0]
        kinds = [name for name in self.source.kinds(sample) or () if name in self.classes]
        labelled = self.labels(sample) is not None
        if labelled:
            empty, sure = np.zeros(shown.shape, np.uint8), np.float32(1.0)
        else:
            empty, sure = np.where(shown == IGNORED, np.uint8(IGNORED), np.uint8(0)), weight
        own = np.where(shown == 1, np.uint8(IGNORED), shown) if len(kinds) > 1 else shown
        channels = [own if name in kinds else empty for name in self.classes]
        weights = [weight if name in kinds else sure for name in self.classes]
        certain = [bool(truth.certain[0]) if name in kinds else labelled for name in self.classes]
        return Truth(
            target=np.stack(channels, axis=2),
            weights=np.array(weights, np.float32),
            certain=np.array(certain, np.bool_),
        )

    def trust(self, sample: Sample) -> float:
        """As the masks'."""
        return self.source.trust(sample)

    def certain(self, sample: Sample) -> bool:
        """As the masks'."""
        return self.source.certain(sample)

    def labels(self, sample: Sample) -> tuple[str, ...] | None:
        """As the masks'."""
        return self.source.labels(sample)

    def facts(self) -> dict[str, Any]:
        """The classes, and how the masks are understood."""
        return {**self.source.facts(), **super().facts(), "by_label": True}


def masks_by_label(source: MaskSource, samples: Sequence[Sample], classes: Sequence[str] | None = None) -> MasksByLabel:
    """Tell masks of one class apart by the labels of their images; ``classes``: those that there are, None for all
    labels but negative ones.

    Raises DatasetError where masks are told apart already, or no image has a label.
    """
    if len(source.classes) > 1:
        raise DatasetError(
            f"{source.root} holds masks of {', '.join(source.classes)} already, so that labels need not tell them "
            "apart; leave per class out"
        )
    labels = sorted({label for sample in samples for label in source.kinds(sample) or ()} - {*source.negative})
    if not labels:
        raise DatasetError(f"no image has a label that says what its mask in {source.root} is of; leave per class out")
    found = tuple(classes or labels)
    return MasksByLabel(source=source, root=source.root, classes=found, negative=source.negative)


def find_true_masks(
    masks: Path | str,
    samples: Sequence[Sample],
    *,
    name: str = "object",
    reading: MaskReading | None = None,
    numbers: MaskClasses | None = None,
    negative: Sequence[str] = (),
) -> TrueMasks:
    """Find the masks of images in a folder, by relative paths without suffix.

    ``MASKS/<path>`` are masks of one class, which ``name`` names; ``MASKS/<class>/<path>`` of one for each folder.
    With ``numbers`` each of the former holds all classes, as class numbers or colours, which exclude each other; those
    named as background or void are none. Images whose labels are all ``negative`` need none.

    Raises DatasetError where no image has a mask, or no class is left.
    """
    root = Path(masks)
    found = by_relative_name(find_images(root))
    names = {sample.name for sample in samples}
    direct = {key: path for key, path in found.items() if key in names}
    inner: dict[str, dict[str, Path]] = {}
    for key, path in found.items():
        folder, _, rest = key.partition("/")
        if rest in names:
            inner.setdefault(folder, {})[rest] = path
    drawn = TrueMasks(
        root=root,
        classes=(name,),
        multi_label=True,
        paths={name: direct},
        reading=reading or MaskReading(),
        negative=tuple(negative),
    )
    if not direct and not inner:
        first = next(iter(samples)).name if samples else "<path>"
        raise DatasetError(
            f"{root} holds no mask of the images: expected {first}.png, or <class>/{first}.png for each class; got "
            f"{', '.join(list(found)[:3])}"
        )
    if numbers is not None:
        others = {*BACKGROUND_NAMES, *VOID_NAMES}
        classes = tuple(one for one in numbers.names if one not in others)
        if not classes:
            raise DatasetError("expected mask classes beside background and void; got none")
        return replace(drawn, classes=classes, multi_label=False, paths={"": direct}, numbers=numbers)
    if sum(map(len, inner.values())) > len(direct):
        classes = tuple(sorted(inner))
        return replace(drawn, classes=classes, paths={one: inner[one] for one in classes})
    return drawn
