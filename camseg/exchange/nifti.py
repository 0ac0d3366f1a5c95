"""NIfTI: masks of slices that ``prepare slices`` cut, put back into label volumes on the grid of their sources."""

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import ImageError, InputError
from camseg.base.extras import require
from camseg.base.files import find_files, write_bytes, write_csv
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.output import ExportReport, Numbers, class_picture, finish_report, safe_name
from camseg.exchange.settings import ExportSettings
from camseg.prepare.output import source_name
from camseg.prepare.slices import AXES, SUFFIXES
from camseg.runs.record import Source


def export_nifti(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``<volume>.nii.gz`` with class numbers from 1, and ``classes.csv``.

    Each has the shape, the affine and the orientation of its source, which is looked for below ``settings.sources``.
    Slices that are not among the images hold no object. Volumes are written one by one, so that one is in memory.
    Raises InputError where ``sources`` is not named or nibabel is not installed; images that are no slices, or of
    volumes that are not there, fail.
    """
    nibabel = require("nibabel", "nifti", "writing NIfTI")
    if settings.sources is None:
        raise InputError("the volumes that the slices were cut from are needed; name their folder as sources")
    report, numbers = ExportReport(), Numbers(settings, 1, 65534, "a label volume")
    found = find_files(settings.sources, lambda path: path.name.lower().endswith(SUFFIXES), "NIfTI volumes")
    volumes = {source_name(path, found.root, SUFFIXES): path for path in found.files}
    open_volume: _LabelVolume | None = None
    missing: dict[str, int] = {}
    for image in images:
        try:
            source = _slice_of(image, volumes)
            if open_volume is None or open_volume.name != source.name:
                if open_volume is not None:
                    open_volume.write(missing)
                open_volume = _LabelVolume(source.name, volumes[source.name], folder, nibabel, len(settings.classes))
            open_volume.put(source, class_picture(image, numbers, report, wide=True))
        except ImageError as error:
            report.failed.append(str(error))
            continue
        report.count(image)
    if open_volume is not None:
        open_volume.write(missing)
    if missing:
        report.warnings.append(
            f"{sum(missing.values())} slices of {len(missing)} volumes are not among the images; they hold no object"
        )
    rows = [("background", 0), *((name, numbers[name]) for name in settings.classes)]
    write_csv(folder / "classes.csv", ("name", "value"), rows)
    return finish_report(report, settings, reads_exif=True)


def _slice_of(image: AnnotatedImage, volumes: dict[str, Path]) -> Source:
    source = image.source
    if source is None or source.axis is None or source.frame is None or source.box is not None:
        raise ImageError(f"{image.name}: expected a slice that camseg prepare slices cut; no manifest says so")
    if source.name not in volumes:
        raise ImageError(f"{image.name}: its volume {source.name} is not among the sources")
    return source


class _LabelVolume:
    """A label volume that is being filled, in canonical orientation."""

    def __init__(self, name: str, path: Path, folder: Path, nibabel: Any, classes: int) -> None:
        self.name, self._path, self._nibabel = name, path, nibabel
        self._target = folder / f"{safe_name(name)}.nii.gz"
        try:
            self._source = nibabel.load(path)
        except Exception as error:  # of every kind, as files may hold anything
            raise ImageError(f"{path}: cannot be read ({error})") from None
        to_source = nibabel.orientations.io_orientation(self._source.affine)
        canonical = nibabel.orientations.axcodes2ornt("RAS")
        self._turn = nibabel.orientations.ornt_transform(canonical, to_source)
        shape = self._source.shape[:3]
        kind = np.uint8 if classes <= 255 else np.uint16
        turned = tuple(shape[int(axis)] for axis in np.argsort(to_source[:, 0]))
        self._labels: NDArray[Any] = np.zeros(turned, kind)
        self._filled: set[tuple[str, int]] = set()
        if self._target.is_file():  # begun before, and left for another volume
            earlier = nibabel.as_closest_canonical(nibabel.load(self._target))
            self._labels[...] = np.asanyarray(earlier.dataobj)

    def put(self, source: Source, picture: NDArray[Any]) -> None:
        """Put a slice's class numbers (H, W) back; slices show both of their axes the other way."""
        assert source.axis is not None
        assert source.frame is not None
        axis = AXES[source.axis]
        place: list[Any] = [slice(None)] * 3
        place[axis] = source.frame
        part = picture.T[::-1, ::-1]
        if not 0 <= source.frame < self._labels.shape[axis] or self._labels[tuple(place)].shape != part.shape:
            raise ImageError(
                f"{self._path}: expected the volume that the slices were cut from; slice {source.frame} along the "
                f"{source.axis} axis does not fit its shape {self._labels.shape}"
            )
        self._labels[tuple(place)] = part
        self._filled.add((source.axis, source.frame))

    def write(self, missing: dict[str, int]) -> None:
        """Write the volume as its source lies; ``missing`` gets the number of slices that were not put back."""
        labels = self._nibabel.orientations.apply_orientation(self._labels, self._turn)
        header = self._source.header.copy()
        header.set_data_dtype(labels.dtype)
        header.set_slope_inter(1.0, 0.0)
        image = type(self._source)(labels, self._source.affine, header)
        # Without a time in its head, so that equal labels give equal bytes.
        write_bytes(self._target, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
        for axis in {axis for axis, _ in self._filled}:
            count = self._labels.shape[AXES[axis]] - sum(one == axis for one, _ in self._filled)
            if count:
                missing[self.name] = count
