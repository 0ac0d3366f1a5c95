"""Output folders and folders of masks -> annotated images, one after the other.

What is there is listed first, without a pixel; an image's masks are read when it is asked for. A person's masks take
the place of the machine's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from camseg.base.errors import InputError
from camseg.base.files import by_name
from camseg.data.datasets import Sample, load_images
from camseg.data.images import relative_name
from camseg.data.mask_settings import MaskReading
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.listed import ListedImage, ListedMask, read_listed, with_decision
from camseg.runs.corrections import (
    CORRECTIONS,
    Corrections,
    Decided,
    corrected_place,
    find_machine_masks,
    stale_line,
)
from camseg.runs.lineage import image_root, manifest_folder, records_by_file
from camseg.runs.manifest import group_records, read_manifest
from camseg.runs.output import prediction_root
from camseg.runs.record import Record, Source

OBJECT = "object"
"""What a mask shows where nothing tells."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds; iterated, it reads one image after the other."""

    folder: Path
    """Where the manifest and the corrections lie, or the folder of masks."""
    images: tuple[ListedImage, ...]
    """Sorted by name."""
    classes: tuple[str, ...]
    """Sorted; all that some mask shows."""
    reading: MaskReading
    """How masks are read."""
    remarks: tuple[str, ...] = ()
    """What a caller should know: corrections that do not count, masks without an image."""

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return (read_listed(one, self.reading) for one in self.images)


def list_folder(
    folder: Path | str,
    images: Path | str | None = None,
    *,
    class_name: str | None = None,
    reading: MaskReading | None = None,
) -> Listing:
    """List the masks of what ``label``, ``segment``, ``refine`` and others wrote, or of any folder of masks.

    images: the folder or CSV of the images; default: as ``run.json`` says. class_name: what masks show whose class no
    manifest and no folder names; reading: how foreign masks are read. Within an output folder a folder stands for the
    masks that lie there, foreign ones where the manifest says nothing of them. Raises InputError where there is no
    mask, no image, where the images are not to be found, or where a name may mean two of them; OutputError for a
    damaged manifest or ``corrections.jsonl``.
    """
    folder, reading = Path(folder), reading or MaskReading()
    if not folder.is_dir():
        raise InputError(f"expected the folder of a run, or of masks; {folder} is none")
    root = prediction_root(folder)
    place = manifest_folder(root)
    lines = {} if place is None else group_records(read_manifest(place, damaged_too=True))
    records = [record for group in lines.values() for record in group if not record.failed]
    inside = [] if place is None else _inside(root.absolute(), place, records)
    if not inside:
        place = None
    whole = _count(inside) == _count(records)
    records = records if whole else inside
    given = Path(images) if images is not None else image_root(root)
    found: _Found
    if place is not None and any("image" in record.files for record in records):  # prepared
        found = _Found(place, _of_prepared(place, records), whole=whole)
    elif place is not None and any("mask" in record.files for record in records):
        found = replace(_of_run(place, records, _samples(given, needed=images is not None), class_name), whole=whole)
    else:
        if given is None:
            raise InputError(f"{folder} does not tell of which images its masks are; name their folder as image folder")
        samples = _samples(given, needed=True)
        found = _of_files(root, samples, class_name)
    listed, remarks = _corrected(found)
    if not listed:
        raise InputError(
            f"no mask in {folder} belongs to an image; camseg label, segment and refine write such folders"
        )
    sources = _sources(given)
    listed = [
        replace(one, source=one.source or sources.get(one.path.absolute().with_suffix(""))) if one.path else one
        for one in listed
    ]
    shown = {mask.class_name for one in listed for mask in one.masks if not mask.empty and mask.decision != "empty"}
    lost = sum(one.path is None for one in listed)
    if lost:
        where = "no run.json tells where they lie" if given is None else f"they are not in {given}"
        remarks = (*remarks, f"{lost} images were not found, for {where}; name their folder as image folder")
    return Listing(
        folder=found.folder,
        images=tuple(sorted(listed, key=lambda one: one.name)),
        classes=tuple(sorted(shown)),
        reading=reading if place is None else MaskReading(),
        remarks=(*found.remarks, *remarks),
    )


@dataclass
class _Found:
    folder: Path
    images: dict[str, ListedImage]
    remarks: tuple[str, ...] = ()
    whole: bool = True
    """Whether it is all that the manifest tells of."""


def _inside(root: Path, place: Path, records: Iterable[Record]) -> list[Record]:
    """The records of images below ``root``, whole, and of other images with the masks that lie there."""

    def here(file: str) -> bool:
        return (place / file).is_relative_to(root)

    found = []
    for record in records:
        if "image" in record.files and here(record.files["image"]):
            found.append(record)
            continue
        files = {kind: file for kind, file in record.files.items() if here(file) or not _is_mask(kind)}
        if any(map(_is_mask, files)):
            found.append(replace(record, files=files))
    return found


def _is_mask(kind: str) -> bool:
    return kind == "mask" or kind.startswith("mask of ")


def _count(records: Iterable[Record]) -> int:
    """How many images and masks were written."""
    return sum(kind == "image" or _is_mask(kind) for record in records for kind in record.files)


def _samples(images: Path | None, needed: bool) -> tuple[Sample, ...]:
    """The images, of which ``run.json`` may tell though their folder has been moved since."""
    if images is None or (not needed and not images.exists()):
        return ()
    return load_images(images).samples


def _by_stem(samples: Iterable[Sample]) -> dict[str, Sample]:
    """The images by their names without suffix; raises InputError where two have one."""
    found = {sample.path: sample for sample in samples}
    return {name: found[path] for name, path in by_name((sample.name, sample.path) for sample in samples).items()}


def _of_run(place: Path, records: Sequence[Record], samples: Sequence[Sample], class_name: str | None) -> _Found:
    by_input = {sample.input: sample for sample in samples}
    # Where suffixes are others by now, as after a conversion, the rest of the name tells.
    renamed = {_stem(record) for record in records if record.input not in by_input}
    by_stem = _by_stem([sample for sample in samples if sample.name in renamed])
    images: dict[str, ListedImage] = {}
    for record in records:
        sample = by_input.get(record.input) or by_stem.get(_stem(record))
        if "mask" not in record.files:
            if sample is not None and not record.files:  # none of the classes was found in it
                images.setdefault(record.input, ListedImage(name=record.input, path=sample.path))
            continue
        label = record.labels[0] if record.labels and len(record.labels) == 1 else None
        mask = ListedMask(
            class_name=record.class_name or class_name or label or OBJECT,
            file=place / record.files["mask"],
            score=record.score,
            quality=getattr(record, "quality", None),
            provenance=_methods(record),
            empty=record.empty is not None or record.area == 0,
            told=record.class_name is not None,
        )
        _add(images, record.input, None if sample is None else sample.path, mask)
    return _Found(place, images)


def _stem(record: Record) -> str:
    return PurePosixPath(record.input).with_suffix("").as_posix()


def _of_prepared(place: Path, records: Iterable[Record]) -> dict[str, ListedImage]:
    """The true masks beside images that ``prepare`` wrote."""
    images: dict[str, ListedImage] = {}
    for record in records:
        if "image" not in record.files:
            continue
        alone = record.labels[0] if record.labels and len(record.labels) == 1 else OBJECT
        image = ListedImage(name=record.files["image"], path=place / record.files["image"], source=record.source)
        images[image.name] = image
        for kind, file in record.files.items():
            if _is_mask(kind):
                mask = ListedMask(
                    class_name=kind.removeprefix("mask of ") if kind != "mask" else alone,
                    file=place / file,
                    provenance="true mask",
                    empty=record.area == 0,
                )
                _add(images, image.name, image.path, mask)
    return images


def _of_files(root: Path, given: Sequence[Sample], class_name: str | None) -> _Found:
    """Masks by their names: that of their image, or that below a folder of the class's name."""
    files = find_machine_masks(root).files
    samples = _by_stem(given)
    images = {sample.input: ListedImage(name=sample.input, path=sample.path) for sample in given}
    unused = 0
    for path in files:
        name = relative_name(path, root)
        first, _, rest = name.partition("/")
        if (sample := samples.get(name)) is not None:
            label = sample.labels[0] if sample.labels and len(sample.labels) == 1 else None
            mask = ListedMask(class_name=class_name or label or OBJECT, file=path, told=False)
        elif (sample := samples.get(rest)) is not None:
            mask = ListedMask(class_name=first, file=path)
        else:
            unused += 1
            continue
        _add(images, sample.input, sample.path, mask)
    without = sum(not image.masks for image in images.values())
    remarks = []
    if unused:
        remarks.append(f"{unused} masks in {root} are of no image and are left out")
    if without:
        remarks.append(f"{without} images have no mask in {root} and are left out")
    return _Found(root, {name: image for name, image in images.items() if image.masks}, tuple(remarks))


def _add(images: dict[str, ListedImage], name: str, path: Path | None, mask: ListedMask) -> None:
    """Add a mask to its image's; a later line of the same class replaces the earlier one."""
    image = images.get(name) or ListedImage(name=name, path=path)
    others = (one for one in image.masks if one.class_name != mask.class_name)
    masks = sorted((*others, mask), key=lambda one: one.class_name)
    images[name] = replace(image, masks=tuple(masks))


def _methods(record: Record) -> str:
    chosen = (record.method, record.propagation, record.threshold, record.refiner if not record.fallback else None)
    return ", ".join(one for one in chosen if one and one != "none")


def _corrected(found: _Found) -> tuple[list[ListedImage], tuple[str, ...]]:
    """The images with what people said of their masks and drew in their place; and which of that does not count."""
    images = dict(found.images)
    corrections = Corrections(found.folder)
    decisions: list[Decided] = []
    for name, image in found.images.items():
        masks: dict[str, ListedMask] = {}
        for mask in image.masks:
            assert mask.file is not None
            file = mask.file.relative_to(found.folder).as_posix()
            decided = corrections.decide(input=name, class_name=mask.class_name, file=file, place=corrected_place(file))
            decisions.append(decided)
            after = with_decision(mask, decided)
            masks[after.class_name] = after
        images[name] = replace(image, masks=tuple(masks[one] for one in sorted(masks)))
    for line in corrections.added() if found.whole else ():  # classes that only a person saw
        known, drawn = images.get(line.input), line.corrected
        taken = known is not None and line.class_name in (None, *(mask.class_name for mask in known.masks))
        if known is not None and drawn is not None and not taken:
            mask = ListedMask(class_name=line.class_name or OBJECT, file=None)
            decided = Decided(file=found.folder / drawn, decision=line.decision, correction=line)
            _add(images, line.input, known.path, with_decision(mask, decided))
    stale = stale_line(decisions, found.folder)
    remarks = [stale] if stale else []
    unknown = [line.input for line in corrections.latest() if line.input not in images] if found.whole else []
    if unknown:
        remarks.append(
            f"{len(unknown)} corrections in {found.folder / CORRECTIONS} are of images that are not there, such as "
            f"{unknown[0]}"
        )
    return list(images.values()), tuple(remarks)


def _sources(images: Path | None) -> dict[Path, Source]:
    """Where prepared images were taken from, by their absolute paths without suffix."""
    if images is None:
        return {}
    folder = images if images.is_dir() else images.parent
    if not folder.is_dir():
        return {}
    return {path: record.source for path, record in records_by_file(folder).items() if record.source is not None}
