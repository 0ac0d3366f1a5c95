"""DICOM segmentations: the masks of images that ``prepare dicom`` made, as objects that refer to their sources."""

import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from camseg import __version__
from camseg.base.arrays import Mask
from camseg.base.errors import ImageError, InputError, first_line
from camseg.base.extras import require
from camseg.base.files import find_files, write_bytes
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.output import ExportReport, FlatNames, Numbers, finish_report
from camseg.exchange.settings import ExportSettings
from camseg.prepare.dicom import is_dicom, pseudonym

_SERIES_NUMBER = 9001
"""Of the series that segmentations make, far from those of scanners."""


@dataclass(kw_only=True)
class _Series:
    """The images of one series, or of one object of several frames."""

    key: str
    first: str  # the name of its first image
    # The source and frame of each, and its masks by class, packed: images of several series may come by turns.
    images: list[tuple[Path, int | None, dict[str, bytes]]] = field(default_factory=list)
    by_person: set[str] = field(default_factory=set)
    counted: ExportReport = field(default_factory=ExportReport)

    def add(self, image: AnnotatedImage, path: Path, frame: int | None) -> None:
        """Add an image whose source is known."""
        self.images.append((path, frame, {name: _packed(mask) for name, mask in _by_class(image).items()}))
        self.by_person |= {one.class_name for one in image.annotations if one.by_person}
        self.counted.count(image)


def export_dicom_seg(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write a binary DICOM segmentation for each series, one segment per class that is in it: ``<first image>.dcm``.

    The sources are looked for below ``settings.sources``, by the instance that the manifest of ``prepare dicom`` names
    or its pseudonym; patient, study and geometry are taken from them. Their pixels are not copied. A series without an
    object gets none. Raises InputError where ``sources`` is not named or highdicom is not installed; images that were
    not prepared from DICOM, or whose source is not there, fail, and so do series of which no segmentation can be made.
    """
    pydicom, highdicom = (require(library, "dicom-seg", "DICOM SEG") for library in ("pydicom", "highdicom"))
    if settings.sources is None:
        raise InputError("the DICOM files that the images were made of are needed; name their folder as sources")
    report, numbers, flat = ExportReport(), Numbers(settings, 1, 65535, "a segmentation"), FlatNames()
    known = _instances(settings.sources, pydicom)
    found: dict[str, _Series] = {}
    for image in images:
        try:
            path, key, frame = _source_of(image, known)
            numbers.check(image)
        except ImageError as error:
            report.failed.append(str(error))
            continue
        found.setdefault(key, _Series(key=key, first=image.name)).add(image, path, frame)
    for series in found.values():
        if any(masks for _, _, masks in series.images):
            try:
                data = _segmentation(series, numbers, highdicom, pydicom)
            except InputError as error:
                report.failed.append(f"{error}; its series, {len(series.images)} images, was left out")
                continue
            write_bytes(folder / f"{flat(series.first)}.dcm", data)
        report.add(series.counted)
    report.warnings += [
        "segmentations carry the patient's name and IDs, as their sources do",
        "what masks show is written as a private code with the class's name, not as one of SNOMED CT",
    ]
    return finish_report(report, settings, reads_exif=True)


def _instances(sources: Path, pydicom: Any) -> dict[str, tuple[Path, str]]:
    """The files below a folder and what they belong to, by instance UID and by its pseudonym."""
    known: dict[str, tuple[Path, str]] = {}
    for path in find_files(sources, is_dicom, "DICOM files").files:
        tags = ["SOPInstanceUID", "SeriesInstanceUID", "NumberOfFrames"]
        try:
            data = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
        except Exception:  # of every kind; what is missing is said for each image
            continue
        unique = str(data.get("SOPInstanceUID") or "")
        if unique:
            several = int(data.get("NumberOfFrames") or 1) > 1
            place = path, unique if several else str(data.get("SeriesInstanceUID") or unique)
            known[unique] = known[pseudonym(unique)] = place
    return known


def _source_of(image: AnnotatedImage, known: Mapping[str, tuple[Path, str]]) -> tuple[Path, str, int | None]:
    source = image.source
    if source is None or source.instance is None or source.box is not None:
        raise ImageError(f"{image.name}: expected an image that camseg prepare dicom made; no manifest says so")
    if source.instance not in known:
        raise ImageError(f"{image.name}: its DICOM file {source.name} is not among the sources")
    path, key = known[source.instance]
    return path, key, source.frame


def _by_class(image: AnnotatedImage) -> dict[str, Mask]:
    """One mask for each class, of all its objects."""
    masks: dict[str, Mask] = {}
    for one in image.annotations:
        masks[one.class_name] = masks[one.class_name] | one.mask if one.class_name in masks else one.mask
    return masks


def _packed(mask: Mask) -> bytes:
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def _segmentation(series: _Series, numbers: Numbers, highdicom: Any, pydicom: Any) -> bytes:
    sources = {path: pydicom.dcmread(path, force=True) for path, _, _ in series.images}
    first = next(iter(sources.values()))
    for path, data in sources.items():
        if (data.Rows, data.Columns) != (first.Rows, first.Columns):
            raise InputError(f"{path}: expected images of one size in a series; it is {data.Columns} x {data.Rows}")
    shown = sorted({name for _, _, masks in series.images for name in masks}, key=lambda name: numbers[name])
    frames = int(first.get("NumberOfFrames") or 1)
    count = frames if frames > 1 else len(sources)
    pixels = np.zeros((count, int(first.Rows), int(first.Columns), len(shown)), np.uint8)
    order = {path: index for index, path in enumerate(sources)}
    for path, frame, masks in series.images:
        for name, packed in masks.items():
            bits = np.frombuffer(zlib.decompress(packed), np.uint8)
            place = (frame or 0) if frames > 1 else order[path]
            area = pixels.shape[1] * pixels.shape[2]
            if not 0 <= place < count or bits.size != -(-area // 8):
                raise InputError(f"{path}: expected a source of the size of its masks; it is {pixels.shape[1:3]}")
            pixels[place, :, :, shown.index(name)] = np.unpackbits(bits, count=area).reshape(pixels.shape[1:3])
    unique = [pydicom.uid.generate_uid(entropy_srcs=["camseg", series.key, kind, *shown]) for kind in ("series", "seg")]
    try:
        made = highdicom.seg.Segmentation(
            source_images=list(sources.values()),
            pixel_array=pixels,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _segment(number, name, name in series.by_person, highdicom) for number, name in enumerate(shown, 1)
            ],
            series_instance_uid=unique[0],
            series_number=_SERIES_NUMBER,
            sop_instance_uid=unique[1],
            instance_number=1,
            manufacturer="camseg",
            manufacturer_model_name="camseg",
            software_versions=__version__,
            device_serial_number="0",
            content_label="CAMSEG",
        )
    except Exception as error:  # what is wrong with a source, in the library's words
        raise InputError(f"{series.first}: no segmentation can be made of its series ({first_line(error)})") from None
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()


def _segment(number: int, name: str, by_person: bool, highdicom: Any) -> Any:
    """What a segment is: its class in words, and who made it."""
    kinds = highdicom.seg.SegmentAlgorithmTypeValues
    category = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    # Codes have 16 letters at most, and are ASCII.
    kind = highdicom.sr.CodedConcept(f"CLASS-{number}", "99CAMSEG", name[:64])
    family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    algorithm = highdicom.AlgorithmIdentificationSequence(name="camseg", version=__version__, family=family)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=kinds.SEMIAUTOMATIC if by_person else kinds.AUTOMATIC,
        algorithm_identification=algorithm,
    )
