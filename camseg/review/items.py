"""An output folder -> the masks in it as a person is shown them: what is known of each, and what was said of it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from camseg.base.errors import InputError
from camseg.data.datasets import load_images
from camseg.masks.quality import UNUSUAL_AREA, unusual_areas
from camseg.runs.corrections import Correction, Corrections, Decision, corrected_place, stale_line
from camseg.runs.lineage import image_root
from camseg.runs.manifest import group_records, read_manifest
from camseg.runs.output import prediction_root
from camseg.runs.record import Record


@dataclass(frozen=True, kw_only=True)
class MaskItem:
    """The mask of one class in one image."""

    id: str
    """Stands for the image and class, whatever these are called: 16 hexadecimal digits."""
    record: Record
    """What the manifest says of it."""
    folder: Path
    """The output folder."""
    image: Path | None
    """The image file; None where it was not found."""
    reasons: tuple[str, ...]
    """What speaks against the mask: that of the record, and what the whole set tells."""
    decision: Decision | None = None
    """What a person said of it; None where nobody has looked, or not at this mask."""
    corrected: Path | None = None
    """The mask that a person put in its place."""
    line: Correction | None = None
    """The line that says so."""

    @property
    def mask(self) -> Path:
        """The machine's mask."""
        return self.folder / self.record.files["mask"]

    @property
    def place(self) -> str:
        """The mask's path without suffix, below the folder of masks: ``[<class>/]<path>``."""
        return corrected_place(self.record.files["mask"])

    def file(self, kind: str) -> Path | None:
        """A file of another kind, such as ``cam``; None where it was not written."""
        name = self.record.files.get(kind)
        return None if name is None else self.folder / name

    @property
    def judged_dice(self) -> float | None:
        """The machine's mask's Dice with the one that a person let stand: 1 where it was accepted, 0 where it was
        rejected; None where nobody has looked, or the line does not tell."""
        if self.decision in ("accepted", "rejected"):
            return float(self.decision == "accepted")
        if self.line is None or self.line.iou is None:
            return None
        return 2 * self.line.iou / (1 + self.line.iou)


@dataclass(frozen=True, kw_only=True)
class MaskItems:
    """All masks of an output folder, in the order of its manifest."""

    folder: Path
    """The output folder."""
    items: tuple[MaskItem, ...]
    """The masks."""
    remarks: tuple[str, ...] = ()
    """What a caller should know: images that were not found, corrections that do not count."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[MaskItem]:
        return iter(self.items)

    @cached_property
    def by_id(self) -> dict[str, MaskItem]:
        """The items by their ids."""
        return {item.id: item for item in self.items}


def item_id(record: Record) -> str:
    """Stands for an image and class."""
    return hashlib.sha256(f"{record.input}\0{record.class_name or ''}".encode(errors="surrogateescape")).hexdigest()[
        :16
    ]


def list_items(folder: Path | str, images: Path | str | None = None) -> MaskItems:
    """List the masks that ``label``, ``segment`` or ``refine`` wrote, without opening one.

    images: the folder or CSV of the images; default: as ``run.json`` says. Raises InputError where the folder holds no
    manifest with masks, OutputError for a damaged one.
    """
    folder = Path(folder)
    groups = group_records(read_manifest(folder, damaged_too=True))
    records = [record for group in groups.values() for record in group if not record.failed and "mask" in record.files]
    if not records:
        raise InputError(f"{folder} has no manifest of masks; camseg label, segment and refine write such folders")
    found = _images(folder, images)
    unusual = _unusual(records)
    corrections = Corrections(folder)
    items, spoken = [], []
    for place, record in enumerate(records):
        file = record.files["mask"]
        said = corrections.decide(
            input=record.input, class_name=record.class_name, file=file, place=corrected_place(file)
        )
        spoken.append(said)
        items.append(
            MaskItem(
                id=item_id(record),
                record=record,
                folder=folder,
                image=found.get(record.input),
                reasons=(*record.quality_reasons, *([UNUSUAL_AREA] if place in unusual else [])),
                decision=said.decision,
                corrected=said.file if said.drawn else None,
                line=None if said.stale else said.correction,
            )
        )
    stale = stale_line(spoken, folder)
    remarks = [stale] if stale else []
    if lost := sum(item.image is None for item in items):
        remarks.append(f"the images of {lost} masks were not found; name their folder with --images")
    return MaskItems(folder=folder, items=tuple(items), remarks=tuple(remarks))


def _images(folder: Path, images: Path | str | None) -> dict[str, Path]:
    """The image files by the manifest's names; those that ``run.json`` tells of may have been moved since."""
    root = image_root(prediction_root(folder)) if images is None else Path(images)
    if root is None or (images is None and not root.exists()):
        return {}
    return {sample.input: sample.path for sample in load_images(root).samples}


def _unusual(records: list[Record]) -> set[int]:
    """The places of masks whose area is out of line with the others of their class."""
    places: defaultdict[str | None, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        if record.area:
            places[record.class_name].append(place)
    found: set[int] = set()
    for own in places.values():
        odd = unusual_areas([records[place].area or 0 for place in own])
        found.update(place for place, is_odd in zip(own, odd, strict=True) if is_odd)
    return found
