"""What exporters share: the report, names of files and classes, where images go, pictures of classes."""

import json
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import ImageError, InputError
from camseg.base.files import write_text, writing
from camseg.data.mask_settings import voc_color
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.polygons import At, Polygon, mask_to_polygons, polygons_to_mask
from camseg.exchange.settings import ExportSettings, Transfer


@dataclass(kw_only=True)
class ExportReport:
    """What was written, and what a reader of it should know."""

    images: int = 0
    """Images written, those without an object included."""
    masks: int = 0
    """Masks written, or objects where each part is one."""
    empty: int = 0
    """Images without an object."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Images that were left out, by the reason."""
    failed: list[str] = field(default_factory=list)
    """What went wrong, one line for each image."""
    warnings: list[str] = field(default_factory=list)
    """What the tool does with the files, and what they cannot hold."""
    classes: tuple[str, ...] = ()
    """In the order of their numbers."""
    polygon_iou: float | None = None
    """Of polygons: the mean IoU with the masks that they stand for; None where masks were written."""
    polygon_iou_worst: float | None = None
    """The least of them."""
    overlapping: int = 0
    """Images of which masks overlap, where the format holds one class per pixel."""
    turned: int = 0
    """Images that EXIF turns."""
    seconds: float = 0.0
    """From start to end."""

    def count(self, image: AnnotatedImage) -> None:
        """Count an image that has been written."""
        self.images += 1
        self.masks += len(image.annotations)
        self.empty += not image.annotations
        self.turned += image.turned

    def add(self, other: "ExportReport") -> None:
        """Count the images that another report counted."""
        self.images += other.images
        self.masks += other.masks
        self.empty += other.empty
        self.turned += other.turned


@dataclass
class PolygonLoss:
    """Polygons of masks, and how much of the masks they lose."""

    at: At
    tolerance: float
    total: float = 0.0
    count: int = 0
    worst: float = 1.0

    def polygons(self, mask: Mask) -> list[Polygon]:
        """One polygon of at least three points for each part."""
        found = mask_to_polygons(mask, self.at, self.tolerance)
        overlap = 1.0
        if self.tolerance > 0.0:
            drawn = polygons_to_mask(found, mask.shape[0], mask.shape[1], self.at)
            overlap = np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask)
        self.total, self.count, self.worst = self.total + overlap, self.count + 1, min(self.worst, overlap)
        return found

    def report(self, report: ExportReport) -> None:
        """Tell the report, if there were any."""
        if self.count:
            report.polygon_iou, report.polygon_iou_worst = self.total / self.count, self.worst


class Numbers:
    """Classes -> their numbers, in the order of the settings."""

    def __init__(self, settings: ExportSettings, first: int, most: int | None = None, tool: str = "") -> None:
        """``first``: the number of the first class; ``most``: how many classes the format holds.

        Raises InputError where there are more, or none.
        """
        if not settings.classes:
            raise InputError("expected the classes, whose order gives their numbers; none was named or found")
        if most is not None and len(settings.classes) > most:
            raise InputError(
                f"{tool} holds at most {most} classes; there are {len(settings.classes)}; choose some by --class"
            )
        self._numbers = {name: number for number, name in enumerate(settings.classes, start=first)}

    def check(self, image: AnnotatedImage) -> None:
        """Raise InputError where an image has a class that is not among the settings'."""
        for one in image.annotations:
            self[one.class_name]

    def __getitem__(self, name: str) -> int:
        """Raises InputError for a class that is not among the settings'."""
        if name not in self._numbers:
            raise InputError(f"the class {name!r} is none of {', '.join(self._numbers)}; name it among the classes")
        return self._numbers[name]


class FlatNames:
    """Paths -> names without folders, each its own: ``a/b.png`` becomes ``a__b``, and another such name ``a__b-2``."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def __call__(self, name: str) -> str:
        """The flat name of an image, without suffix; ask once for each."""
        flat = wanted = "__".join(safe_name(name).with_suffix("").parts)
        number = 2
        while flat.casefold() in self._used:
            flat, number = f"{wanted}-{number}", number + 1
        self._used.add(flat.casefold())
        return flat


def safe_name(name: str) -> PurePosixPath:
    """An image's name as a path; raises ImageError where it would lead out of the folder or is no UTF-8."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\\" in name or "\0" in name:
        raise ImageError(f"{name}: expected a path below the folder of images, with / between")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{name!a}: the file name is no UTF-8; rename it") from None
    return path


def place_image(image: AnnotatedImage, target: Path, how: Transfer) -> None:
    """Copy or link an image's file to ``target``, or do neither. Raises ImageError where it was not found."""
    if how == "none":
        return
    if image.path is None:
        raise ImageError(f"{image.name}: the image was not found; name the folder of images, or export none")
    target.parent.mkdir(parents=True, exist_ok=True)
    if how == "copy":
        with image.path.open("rb") as source, writing(target) as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    try:
        os.symlink(image.path.absolute(), temporary / "link")
        os.replace(temporary / "link", target)
    except OSError as error:
        raise InputError(f"{target}: links cannot be made here ({error.strerror}); copy images instead") from None
    finally:
        with suppress(OSError):
            (temporary / "link").unlink()
        temporary.rmdir()


def split_pieces(image: AnnotatedImage) -> AnnotatedImage:
    """The image with each connected part of a mask, corners counted, as an object of its own."""
    return replace(image, annotations=tuple(part for one in image.annotations for part in _pieces(one)))


def _pieces(annotation: Annotation) -> Iterator[Annotation]:
    count, labels = cv2.connectedComponents(annotation.mask.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        yield replace(annotation, mask=labels == number)


def class_picture(image: AnnotatedImage, numbers: Numbers, report: ExportReport, wide: bool = False) -> NDArray[Any]:
    """One picture of all masks, uint8 or ``wide`` uint16 (H, W): each pixel its class's number, 0 where there is none.

    Where masks overlap the smaller lies on top, so that it stays to be seen; the report tells of it.
    """
    picture = np.zeros((image.height, image.width), np.uint16 if wide else np.uint8)
    hidden = False
    for one in sorted(image.annotations, key=lambda one: -one.area):
        hidden = hidden or bool((picture[one.mask] > 0).any())
        picture[one.mask] = numbers[one.class_name]
    report.overlapping += hidden
    return picture


def finish_report(report: ExportReport, settings: ExportSettings, *, reads_exif: bool = False) -> ExportReport:
    """The report with its classes, and with what was counted while images went through as warnings.

    ``reads_exif``: whether the format's tools show images as they are to be seen.
    """
    report.classes = settings.classes
    if report.overlapping:
        report.warnings.append(
            f"in {report.overlapping} images masks of several classes overlap; a pixel holds one class, so the smaller "
            "mask lies on top"
        )
    if report.turned and not reads_exif:
        report.warnings.append(
            f"{report.turned} images are turned by EXIF, and their masks are as they are seen; programs that ignore "
            "EXIF need them saved upright"
        )
    return report


def voc_palette(count: int = 256) -> list[tuple[int, int, int]]:
    """Pascal VOC's colours of class numbers from 0 on, RGB."""
    colors = (int(voc_color(number)[1:], 16) for number in range(count))
    return [(color >> 16, color >> 8 & 255, color & 255) for color in colors]


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write a mapping of texts, numbers and mappings of them as YAML, of which JSON's texts and numbers are a part."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            inner = [f"  {name}: {json.dumps(one, ensure_ascii=False)}" for name, one in value.items()]
            lines += [f"{key}:", *inner]
        else:
            lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    write_text(path, "\n".join(lines) + "\n")


def write_zip(path: Path, files: Sequence[tuple[str, Path]]) -> None:
    """Write files into a zip by the names that they shall have there; equal files give equal bytes."""
    with writing(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as inside:
                shutil.copyfileobj(source, inside, 1 << 20)
