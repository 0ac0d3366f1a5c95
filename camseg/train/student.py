"""Maps and image labels -> what each pixel teaches: a folder that ``label`` wrote, as masks to learn from.

What is known decides. Pixels of images without an object are background for certain; of the others only those count
that the map is sure of, one way or the other; what a person corrected counts fully.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Cam, Mask, check_cam
from camseg.base.errors import DatasetError
from camseg.base.settings import to_json
from camseg.data.datasets import Sample
from camseg.data.images import read_cam, read_mask_and_void
from camseg.data.labels import as_classes
from camseg.data.truth import IGNORED, MaskSource, Truth, check_mask_size
from camseg.runs.corrections import Corrections, Decided
from camseg.runs.manifest import read_manifest
from camseg.runs.record import Record
from camseg.runs.run import RUN, read_run
from camseg.train.settings import StudentSettings

COMMANDS: Final = ("label", "segment")
"""Whose output folders a student learns from."""


def pixel_lessons(
    cam: Cam | None,
    settings: StudentSettings,
    *,
    mask: Mask | None = None,
    corrected: Mask | None = None,
    empty: bool = False,
    trust: float = 1.0,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """For each pixel of an image whether it is taught as object, and how much it counts: bool and float32 (H, W).

    ``corrected``, what a person drew, decides where it is given, and counts 1. ``empty``: the image is known to hold no
    object; every pixel is background and counts 1. Else pixels of the map (H, W) above the tight level are object, and
    those below the loose one background, both as shares of its maximum; they count ``trust``, and those between
    nothing, as do all of a map of zeros. With ``teach="masks"`` the mask decides, and each pixel counts ``trust``.
    ``cam`` or ``mask`` may be None where it does not decide; it then says the size, as far as none other does.

    The levels are those of Ahn and Kwak's confident areas ("Learning Pixel-level Semantic Affinity", CVPR 2018), as
    fixed shares of the maximum.
    """
    if corrected is not None:
        return corrected, np.ones(corrected.shape, np.float32)
    if empty:
        known = mask if mask is not None else cam
        assert known is not None
        return np.zeros(known.shape, np.bool_), np.ones(known.shape, np.float32)
    if settings.teach == "masks":
        assert mask is not None
        return mask, np.full(mask.shape, trust, np.float32)
    assert cam is not None
    top = float(check_cam(cam).max())
    # In double precision until the end, as in thresholds: a level of an 8-bit map then is exactly that level.
    above, below = cam > np.float32(settings.tight * top), cam < np.float32(settings.loose * top)
    weights = np.where(above | below, np.float32(trust), np.float32(0.0)) * np.float32(top > 0)
    return above, weights


def ramp(epoch: int, epochs: int) -> float:
    """How far the consistency loss has risen in ``epoch``, from 0: exp(-5 (1 - t)^2), t = epoch / epochs to 1.

    Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017), after Laine and Aila.
    """
    t = min(1.0, epoch / epochs)
    return math.exp(-5.0 * (1.0 - t) ** 2)


def better_part(trust: Sequence[float], certain: Sequence[bool], share: float) -> NDArray[np.int64]:
    """The indices of what is trusted most: all that is certain, and ``share`` of the rest, the most trusted first.

    Of equal ones the first are taken.
    """
    places = [place for place, sure in enumerate(certain) if not sure]
    kept = sorted(places, key=lambda place: (-trust[place], place))[: max(1, round(share * len(places)))]
    return np.array(sorted([place for place, sure in enumerate(certain) if sure] + kept), np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class PseudoMasks(MaskSource):
    """What ``label`` or ``segment`` made of images, as masks to learn from; ``find_pseudo_masks`` finds them."""

    root: Path
    """The output folder."""
    classes: tuple[str, ...]
    records: Mapping[str, Mapping[str, Record]]
    """By the image's name, then by the folder of its class, "" where there is none."""
    negative: tuple[str, ...]
    """Labels of images that hold no object."""
    settings: StudentSettings
    corrections: Corrections
    """What people said of the masks."""

    multi_label = True

    def called(self, classes: tuple[str, ...]) -> "PseudoMasks":
        """The same under other names."""
        return replace(self, classes=classes)

    def knows(self, sample: Sample) -> bool:
        """Whether the image has been labelled, by a person or by the command, and not all of it was rejected."""
        decided = self._decided(sample)
        if any(one.vouched for one in decided):
            return True
        rejected = bool(decided) and all(one.decision == "rejected" for one in decided)
        return sample.name in self.records and (not rejected or self._empty(sample, None))

    def files(self, sample: Sample) -> tuple[Path, ...]:
        """What decides on it: its maps, or masks, and corrections."""
        drawn = [one.file for one in self._decided(sample) if one.vouched and one.file is not None]
        kind = "mask" if self.settings.teach == "masks" else "cam"
        records = self.records.get(sample.name, {}).values()
        return (*drawn, *(self.root / record.files[kind] for record in records if kind in record.files))

    def read(self, sample: Sample, height: int, width: int) -> Truth:
        """What each of its pixels teaches."""
        target = np.full((height, width, len(self.classes)), IGNORED, np.uint8)
        weights, certain = np.zeros(len(self.classes), np.float32), np.zeros(len(self.classes), np.bool_)
        for channel, (folder, decided) in enumerate(zip(self._folders, self._decided(sample), strict=True)):
            record = self.records.get(sample.name, {}).get(folder)
            labels = self.labels(sample)
            # A class that the network was not asked for, of an image whose labels are not known, is not there.
            class_name = self.classes[channel] if folder else None
            empty = self._empty(sample, class_name) or (record is None and not labels)
            drawn = void = cam = mask = None
            if decided.decision == "empty":
                drawn = np.zeros((height, width), np.bool_)
            elif decided.vouched and decided.file is not None:
                drawn, void = read_mask_and_void(decided.file)
                check_mask_size(decided.file, drawn, height, width)
            elif empty:
                mask = np.zeros((height, width), np.bool_)
            elif record is None or decided.decision == "rejected":
                continue
            elif self.settings.teach == "masks":
                mask = read_mask_and_void(self.root / record.files["mask"]).mask
                check_mask_size(self.root / record.files["mask"], mask, height, width)
            else:
                cam = read_cam(self.root / record.files["cam"])
                check_mask_size(self.root / record.files["cam"], cam, height, width)
            trust = 1.0 if record is None else self._trust(record)
            taught, counts = pixel_lessons(cam, self.settings, mask=mask, corrected=drawn, empty=empty, trust=trust)
            weights[channel], certain[channel] = counts.max(), drawn is not None or self._empty(sample, class_name)
            known = counts > 0 if void is None else (counts > 0) & ~void
            target[..., channel] = np.where(known, taught.astype(np.uint8), np.uint8(IGNORED))
        return Truth(target=target, weights=weights, certain=certain)

    def trust(self, sample: Sample) -> float:
        """The least of its masks': 1 for what is certain, else their quality, their agreement or the score of their
        class, the first of these that is known."""
        sure = dict(zip(self._folders, self._sure(sample), strict=True))
        known = (
            next((one for one in (record.quality, record.agreement, record.score) if one is not None), 0.0)
            for folder, record in self.records.get(sample.name, {}).items()
            if not sure.get(folder, False)
        )
        return 1.0 if all(sure.values()) else float(min(known, default=0.0))

    def labels(self, sample: Sample) -> tuple[str, ...] | None:
        """Those that the image has now, as they are spelled here; else those that it had when it was labelled. Where
        masks tell classes apart, what is none of these classes, such as a patient's folder, is no label."""
        if sample.labels is not None:
            meant = as_classes(sample.labels, self._known)
            if all(label in meant for label in sample.labels):
                return tuple(dict.fromkeys(meant[label] for label in sample.labels))
            if self._folders == ("",):
                return sample.labels
        return next((one.labels for one in self.records.get(sample.name, {}).values()), None)

    def kinds(self, sample: Sample) -> tuple[str, ...] | None:
        """Its labels, or where they are not known the classes that it was labelled as."""
        labels = self.labels(sample)
        if labels is not None:
            return labels
        found = (record.class_name for record in self.records.get(sample.name, {}).values())
        return tuple(name for name in found if name is not None) or None

    def certain(self, sample: Sample) -> bool:
        """Whether a person's mask or label says all of it."""
        return all(self._sure(sample))

    def facts(self) -> dict[str, Any]:
        """The classes, and what pixels teach."""
        return {**super().facts(), "student": to_json(self.settings), "negative": list(self.negative)}

    def _sure(self, sample: Sample) -> list[bool]:
        """For each class, whether a person's mask or label says it."""
        decided = zip(self._folders, self._decided(sample), strict=True)
        return [
            one.vouched or self._empty(sample, channel_class if folder else None)
            for channel_class, (folder, one) in zip(self.classes, decided, strict=True)
        ]

    @cached_property  # looks at all records, and is asked for with every image
    def _known(self) -> tuple[str, ...]:
        """Every label that there is."""
        records = [record for own in self.records.values() for record in own.values()]
        named = {record.class_name for record in records if record.class_name}
        labelled = {label for record in records for label in record.labels or ()}
        folders = {folder for folder in self._folders if folder}
        return tuple(sorted({*folders, *named, *labelled, *self.negative}))

    @cached_property  # as above
    def _folders(self) -> tuple[str, ...]:
        per_class = any(folder for records in self.records.values() for folder in records)
        return self.classes if per_class else ("",)

    def _decided(self, sample: Sample) -> list[Decided]:
        """For each class, which mask counts."""
        found = []
        for folder in self._folders:
            record = self.records.get(sample.name, {}).get(folder)
            place = f"{folder}/{sample.name}" if folder else sample.name
            image, class_name, file = sample.input, folder or None, None
            if record is not None:
                image, class_name, file = record.input, record.class_name, record.files.get("mask")
            found.append(self.corrections.decide(input=image, class_name=class_name, file=file, place=place))
        return found

    def _empty(self, sample: Sample, class_name: str | None) -> bool:
        """Whether labels say that there is no object in an image, or none of a class."""
        labels = self.labels(sample)
        if labels is None:
            return False
        return set(labels) <= set(self.negative) or (class_name is not None and class_name not in labels)

    def _trust(self, record: Record) -> float:
        found = {"agreement": record.agreement, "quality": record.quality, "none": None}[self.settings.weigh_by]
        return 1.0 if found is None else float(found)


def is_labelled_folder(masks: Path | str) -> bool:
    """Whether a folder is one that ``label`` or ``segment`` wrote."""
    return Path(masks, RUN).is_file() and read_run(Path(masks)).get("command") in COMMANDS


def find_pseudo_masks(
    folder: Path | str,
    settings: StudentSettings,
    *,
    name: str = "object",
    negative: Sequence[str] = (),
) -> PseudoMasks:
    """Read the manifest of a folder that ``label`` or ``segment`` wrote; images that it does not list are not known.

    ``name``: of the class, where the folder has none per class and names none itself; ``negative``: labels of images
    without an object, beside those that the folder's run names. Raises DatasetError for a folder with nothing in it, or
    without the maps that the levels are of.
    """
    root, run = Path(folder), read_run(Path(folder))
    labels = tuple(dict.fromkeys([*run["settings"].get("negative", ()), *negative]))
    records: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for record in read_manifest(root):
        if not record.failed:
            records[record.name][_class_folder(record)] = record
    found = [record for own in records.values() for record in own.values()]
    if not found:
        raise DatasetError(f"{root} lists no image that was finished; label some first")
    lacking = [record for record in found if record.files and "cam" not in record.files]
    if settings.teach == "levels" and lacking:
        raise DatasetError(
            f"{root} holds no map of {lacking[0].input}, and levels are of maps; repeat the command with --save cams, "
            "or learn from its masks with --teach masks"
        )
    folders = sorted({folder for own in records.values() for folder in own} - {""})
    seen = sorted({record.class_name for record in found if record.class_name} - set(labels))
    classes = tuple(one for one in folders if one not in labels) or ((seen[0],) if len(seen) == 1 else (name,))
    return PseudoMasks(
        root=root,
        classes=classes,
        records=dict(records),
        negative=labels,
        settings=settings,
        corrections=Corrections(root),
    )


def _class_folder(record: Record) -> str:
    """The folder per class that a record's files lie in; "" where there is none."""
    file = record.files.get("mask", "")
    inner = f"masks/{record.class_name}/{record.name}.png"
    return record.class_name if record.class_name and file == inner else ""
