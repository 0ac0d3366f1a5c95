"""NIfTI volumes and label volumes -> slices and their masks.

Slices lie as radiologists look at them, as in DICOM: an axial one has the patient's front on top and the
right side on the left, a coronal one the head on top and the right side on the left, a sagittal one the head on
top and the front on the left. Voxels become pixels as they are; nothing is resampled.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask, quantise
from camseg.base.errors import ImageError, InputError, first_line
from camseg.base.extras import require
from camseg.base.files import by_name, find_files
from camseg.base.settings import to_json
from camseg.prepare.output import (
    Picture,
    Preparation,
    PreparationInput,
    PreparationReport,
    Skipped,
    source_name,
    write_pictures,
)
from camseg.prepare.settings import LabelClass, SliceInputs, SliceSettings
from camseg.prepare.windows import find_limits
from camseg.runs.settings import FolderOptions

SUFFIXES = (".nii", ".nii.gz")
AXES: Final[Mapping[str, int]] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of a volume in canonical orientation (right, anterior, superior) that a slice is perpendicular to."""


@dataclass(frozen=True, kw_only=True)
class _Volume(PreparationInput):
    labels: Path | None


def prepare_slices(
    volumes: Path | str,
    out: Path | str,
    settings: SliceSettings | None = None,
    *,
    labels: Path | str | None = None,
    options: FolderOptions | None = None,
) -> PreparationReport:
    """Write ``OUT/<volume>/<slice>.png`` and ``OUT/labels.csv``; with ``labels`` also ``OUT/masks/<volume>/...``.

    ``volumes``: a folder of NIfTI files, or one. ``labels``: label volumes of the same names, on the same grid. With
    several classes masks lie at ``OUT/masks/<class>/<volume>/<slice>.png``. Slices are counted from 0 from the
    patient's left, back or foot. The group is the volume.

    Label values that were asked for and are nowhere are said. Raises InputError, also when all of them are nowhere and
    when nibabel is not installed; OutputError.
    """
    settings, options = settings or SliceSettings(), options or FolderOptions()
    nibabel = require("nibabel", "nifti", "reading NIfTI")
    found = find_files(volumes, _is_nifti, "NIfTI volumes (.nii, .nii.gz)")
    label_files: dict[str, Path] = {}
    failures = found.failures
    if labels is not None:
        label_found = find_files(labels, _is_nifti, "NIfTI label volumes (.nii, .nii.gz)")
        label_files = by_name((source_name(path, label_found.root, SUFFIXES), path) for path in label_found.files)
        failures += label_found.failures
        if Path(labels).is_file() and len(found.files) == 1:
            label_files = {source_name(found.files[0], found.root, SUFFIXES): Path(labels)}
    inputs = []
    for path in found.files:
        name = source_name(path, found.root, SUFFIXES)
        label_file = label_files.get(name)
        inputs.append(
            _Volume(path=path, name=name, labels=label_file, reads=() if label_file is None else (label_file,))
        )
    if labels is None:
        _check_unlabelled(settings)
    elif all(one.labels is None for one in inputs):
        expected = f"expected names such as {inputs[0].path.name}" if inputs else "there is no volume"
        raise InputError(f"{labels} holds no label volume of any volume: {expected}")
    elif unused := sorted(set(label_files.values()) - {one.labels for one in inputs}):
        options.say(f"note: {len(unused)} label volumes are of no volume, such as {unused[0]}")

    def check() -> None:
        for line in _absent([one.labels for one in inputs if one.labels is not None], nibabel, settings.classes):
            options.say(f"note: {line}")

    return write_pictures(
        Preparation(
            command="prepare slices",
            root=found.root,
            settings=settings,
            beside=to_json(SliceInputs(labels=None if labels is None else Path(labels).absolute())),
            labelled=labels is not None,
        ),
        inputs,
        partial(_slices, nibabel=nibabel, settings=settings, labelled=labels is not None),
        out,
        options=options,
        failures=failures,
        check=check,
    )


def _check_unlabelled(settings: SliceSettings) -> None:
    """Raise InputError for what only label volumes give a meaning."""
    for name in ("classes", "negative", "min_area"):
        if getattr(settings, name) != getattr(SliceSettings(), name):
            word = "class" if name == "classes" else name.replace("_", "-")
            raise InputError(f"--{word} is about label volumes, and there are none; name them by --labels")


def _absent(files: Iterable[Path], nibabel: Any, classes: Sequence[LabelClass]) -> list[str]:
    """In words, which label values that classes name are in none of the files; InputError when all of them are.

    Files are read until every value is found; those that cannot be read fail later, one by one.
    """
    wanted = {value for one in classes for value in one.values}
    missing, found, read = set(wanted), set[int](), 0
    for path in files:
        if not missing:
            return []
        try:
            values = np.unique(_whole_numbers(path, nibabel)[1])
        except Exception:  # what libraries raise on damaged files is of every kind
            continue
        read += 1
        found.update(int(value) for value in values)
        missing -= found
    if not read or not missing:
        return []
    held = f"they hold {_listed(found - {0})}" if found - {0} else "they hold nothing but 0"
    lines = [
        f"no label volume holds the value{'s' * (len(gone) > 1)} {_listed(gone)} of class {one.name!r}; {held}"
        for one in classes
        if (gone := missing & set(one.values))
    ]
    # A class of no values takes all but 0.
    if missing == wanted and all(one.values for one in classes):
        raise InputError(f"{lines[0]}; choose among these by --class NAME=VALUES")
    return lines


def _listed(values: Iterable[int], shown: int = 10) -> str:
    words = [str(value) for value in sorted(values)]
    return ", ".join(words[:shown]) + (f", ... ({len(words)} values)" if len(words) > shown else "")


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _slices(one: _Volume, nibabel: Any, settings: SliceSettings, labelled: bool) -> Iterator[Picture | Skipped]:
    volume = _load(one.path, nibabel)
    values = _one_volume(one.path, _read(one.path, volume), settings.channel)
    masks = _read_masks(one, volume, values.shape, nibabel, settings) if labelled else {}
    low, high = find_limits(values, settings.window)
    count = values.shape[AXES[settings.axis]]
    for index in range(count):
        pixels = _cut(values, settings.axis, index)
        # What is not a number, such as the outside of a registered volume, is dark.
        pixels = np.nan_to_num((pixels - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
        image = np.ascontiguousarray(quantise(pixels))
        cuts = {name: _cut(mask, settings.axis, index) for name, mask in masks.items()}
        areas = {name: np.count_nonzero(mask) for name, mask in cuts.items()}
        if any(0 < area < settings.min_area for area in areas.values()):
            yield Skipped("slices with an object smaller than the least area")
            continue
        if settings.skip_empty and image.min() == image.max():
            yield Skipped("empty slices")
            continue
        name = f"{one.name}/{index:0{max(3, len(str(count - 1)))}d}"
        label = ";".join(name for name, area in areas.items() if area)
        alone = len(settings.classes) == 1
        yield Picture(
            name=name,
            image=image,
            group=one.name,
            source=one.name,
            frame=index,
            axis=settings.axis,
            window=(low, high),
            label=label or (settings.negative if alone else ""),
            masks={"" if alone else key: mask for key, mask in cuts.items()},
        )


def _load(path: Path, nibabel: Any) -> Any:
    """A volume in canonical orientation, not yet in memory if it is stored so."""
    try:
        image = nibabel.load(path)
    except Exception as error:  # of every kind, some of which say neither what was expected nor what came
        words = f"expected a NIfTI volume (.nii, .nii.gz); the file is damaged or of another kind ({first_line(error)})"
        raise ImageError(f"{path}: {words}") from None
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        raise ImageError(f"{path}: expected a volume; it holds a {type(image).__name__}")
    if len(image.shape) < 3:
        raise ImageError(
            f"{path}: expected a volume (X, Y, Z) of 3 dimensions; it has {len(image.shape)} dimensions, "
            f"{_shape(image.shape)}; save a flat picture as PNG, which needs no preparation"
        )
    if image.get_data_dtype().kind not in "iufb":
        raise ImageError(f"{path}: expected one number per voxel; it holds {image.get_data_dtype()}, as for colours")
    # Checked before memory is taken for them; one byte stands for at most 1032 where they are compressed.
    held = path.stat().st_size * (1032 if path.name.lower().endswith(".gz") else 1)
    if math.prod(image.shape) * image.get_data_dtype().itemsize > held:
        raise ImageError(f"{path}: its voxels cannot be read ({_shape(image.shape)} of them); it may be cut short")
    return nibabel.as_closest_canonical(image)


def _read(path: Path, volume: Any) -> NDArray[np.float32]:
    try:
        values: NDArray[np.float32] = volume.get_fdata(dtype=np.float32)
    except Exception as error:  # of every kind
        raise ImageError(f"{path}: its voxels cannot be read ({first_line(error)}); it may be cut short") from None
    return values


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _one_volume(path: Path, values: NDArray[Any], channel: int | None) -> NDArray[Any]:
    """The 3D volume (X, Y, Z) of a 3D or 4D array."""
    while values.ndim > 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3 and channel:
        raise ImageError(f"{path}: expected a 4D file, to take channel {channel} of; it is 3D, {_shape(values.shape)}")
    if values.ndim == 4 and (channel is not None or values.shape[3] == 1):
        if not 0 <= (channel or 0) < values.shape[3]:
            raise ImageError(f"{path}: expected a channel from 0 to {values.shape[3] - 1}; got {channel}")
        values = values[..., channel or 0]
    if values.ndim != 3 or values.size == 0:
        hint = f"; choose a channel from 0 to {values.shape[3] - 1}" if values.ndim == 4 else ""
        raise ImageError(f"{path}: expected a 3D volume; its shape is {values.shape}{hint}")
    return values


def _whole_numbers(path: Path, nibabel: Any) -> tuple[Any, NDArray[Any]]:
    """A label volume and its values (X, Y, Z)."""
    labels = _load(path, nibabel)
    values = _one_volume(path, np.asanyarray(labels.dataobj), None)
    whole = np.rint(values)
    if not np.array_equal(whole, values):
        raise ImageError(f"{path}: expected whole numbers as labels; it holds others")
    return labels, whole


def _read_masks(
    one: _Volume, volume: Any, shape: tuple[int, ...], nibabel: Any, settings: SliceSettings
) -> dict[str, Mask]:
    """The mask (X, Y, Z) of every class."""
    if one.labels is None:
        raise ImageError(f"{one.path}: no label volume of the same name")
    labels, whole = _whole_numbers(one.labels, nibabel)
    if whole.shape != shape:
        raise ImageError(f"{one.path} and its labels differ in size: {shape} and {whole.shape}")
    # A hundredth of a voxel's edge is what headers in single precision may differ by.
    edge = np.abs(volume.affine[:3, :3]).max()
    if np.abs(volume.affine - labels.affine).max() > 0.01 * edge:
        raise ImageError(f"{one.path} and its labels {one.labels} lie elsewhere in space, by their headers' affines")
    return {one.name: np.isin(whole, one.values) if one.values else whole != 0 for one in settings.classes}


def _cut(volume: NDArray[Any], axis: str, index: int) -> NDArray[Any]:
    """A slice (H, W) of a canonical volume (X, Y, Z): both of its axes point the other way in an image."""
    cut: NDArray[Any] = np.take(volume, index, axis=AXES[axis])
    return cut[::-1, ::-1].T
