"""DICOM files -> images as a viewer shows them, under pseudonyms.

The stored values go through the modality transformation (rescale slope and intercept, or a table), then through
the values of interest (a table, or window centre and width), and are inverted for MONOCHROME1. Colours become RGB.
Padding, the stored values that the file names as no part of the picture, takes no part in windows and is black.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import quantise
from camseg.base.errors import ImageError
from camseg.base.extras import require
from camseg.base.files import find_files
from camseg.data.images import Window
from camseg.prepare.output import (
    Made,
    Noted,
    Picture,
    Preparation,
    PreparationInput,
    PreparationReport,
    Skipped,
    source_name,
    write_pictures,
)
from camseg.prepare.settings import DicomSettings
from camseg.prepare.windows import find_common_limits
from camseg.runs.output import check_names
from camseg.runs.settings import FolderOptions

SUFFIXES = (".dcm", ".dicom", ".ima")
_STORED = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
"""Where a file's pixels may be; floats name their padding by the same words, as in FloatPixelPaddingValue."""


@dataclass(frozen=True, kw_only=True)
class _File(PreparationInput):
    place: str  # its path below the folder of inputs without suffix, which may hold a patient's name


def prepare_dicom(
    folder: Path | str,
    out: Path | str,
    settings: DicomSettings | None = None,
    options: FolderOptions | None = None,
) -> PreparationReport:
    """Write ``OUT/<path>.png``, of several frames ``OUT/<path>/<frame>.png``, and ``OUT/labels.csv``, without labels.

    ``folder``: DICOM files, told by their content or their suffix, or one file. The group is the patient, by the
    SHA-256 of the ID, as are folders and files whose names hold the ID or a part of the patient's name. Hashes are
    pseudonyms: who knows an ID can find its hash.

    Raises InputError, also when pydicom is not installed; OutputError.
    """
    settings = settings or DicomSettings()
    pydicom = require("pydicom", "dicom", "reading DICOM")
    pixels = require("pydicom.pixels", "dicom", "reading DICOM")
    found = find_files(folder, is_dicom, "DICOM files")
    names = {path: source_name(path, found.root, SUFFIXES) for path in found.files}
    check_names((name, path) for path, name in names.items())
    return write_pictures(
        Preparation(
            command="prepare dicom",
            root=found.root,
            settings=settings,
            labelled=False,
            private=not settings.keep_ids,
        ),
        [
            _File(
                path=path,
                name=name if settings.keep_ids else pseudonym(name),
                place=name,
                private=not settings.keep_ids,
            )
            for path, name in names.items()
        ],
        partial(_images, pydicom=pydicom, pixels=pixels, settings=settings),
        out,
        options=options,
        failures=found.failures,
    )


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its suffix or its content, and no index of files."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.name.upper() == "DICOMDIR":  # an index of files, without pixels
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _images(one: _File, pydicom: Any, pixels: Any, settings: DicomSettings) -> Iterator[Made]:
    # Files of old devices lack the preamble, so pydicom reads anything; a class is what all DICOM objects have.
    data = pydicom.dcmread(one.path, force=True)
    if "SOPClassUID" not in data and "DirectoryRecordSequence" not in data:
        raise ImageError(f"{one.path}: not a DICOM file, or its header is damaged")
    if "Rows" not in data:
        yield Skipped("DICOM objects that are no images, such as reports and plans")
        return
    if not any(keyword in data for keyword in _STORED):
        raise ImageError(f"{one.path}: its pixels are missing; the file may have been cut short")
    patient = str(data.get("PatientID") or "").strip()
    # Without an ID the study, else the file, is all that can be told apart.
    person = patient or str(data.get("StudyInstanceUID") or one.place)
    name = one.place if settings.keep_ids else _pseudonymous(one.place, patient, str(data.get("PatientName") or ""))
    group = person if settings.keep_ids else pseudonym(person)
    frames = _Frames(data, pixels, data.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian))
    for index in range(frames.count):
        image, limits = _show(frames, index, settings.window)
        yield Picture(
            name=f"{name}/{index:04d}" if frames.count > 1 else name,
            image=image,
            group=group,
            source=name,
            frame=index if frames.count > 1 else None,
            instance=_instance(data, settings),
            window=limits,
        )
    if frames.count > 1 and settings.window == "file" and "percentile" in frames.found:
        yield Noted("files of several frames state no window; each got one for all its frames, their percentiles")


def _instance(data: Any, settings: DicomSettings) -> str | None:
    """What tells the file from all others, wherever it lies, or a pseudonym for it."""
    unique = str(data.get("SOPInstanceUID") or "")
    return None if not unique else unique if settings.keep_ids else pseudonym(unique)


class _Frames:
    """The frames of a file, decoded one at a time."""

    def __init__(self, data: Any, pixels: Any, syntax: str) -> None:
        self.data, self.pixels = data, pixels
        self.count = int(data.get("NumberOfFrames") or 1)
        # Compressed pixels cannot do without the syntax; others are told apart by the header alone.
        self.decoder = pixels.get_decoder(syntax)
        self.found: dict[Window, tuple[float, float]] = {}

    def stored(self, index: int) -> tuple[NDArray[Any], str]:
        """The stored values (H, W) or (H, W, 3) and what they are: the photometric interpretation."""
        values, facts = self.decoder.as_array(self.data, index=index)
        return values, str(facts["photometric_interpretation"])

    def levels(self, values: NDArray[Any], index: int) -> NDArray[Any]:
        """Stored values as those of the modality."""
        modality = _part(self.data, index, "PixelValueTransformationSequence", ("RescaleSlope",))
        levels: NDArray[Any] = self.pixels.apply_modality_lut(values, modality)
        return levels

    def limits(self, window: Window) -> tuple[float, float]:
        """LOW and HIGH of a window over all frames, padding left out."""
        if window not in self.found:
            parts = (self._picture(index) for index in range(self.count))
            self.found[window] = find_common_limits(parts, window)
        return self.found[window]

    def _picture(self, index: int) -> NDArray[Any]:
        values, _ = self.stored(index)
        return self.levels(values, index)[~self.is_padding(values)]

    def is_padding(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where stored values are PixelPaddingValue, or from there to PixelPaddingRangeLimit."""
        if self.padding is None:
            return np.zeros(values.shape, np.bool_)
        low, high = self.padding
        return np.asarray((values >= low) & (values <= high))

    @cached_property
    def padding(self) -> tuple[float, float] | None:
        """The least and the greatest stored value of padding, if the file names any."""
        kind = next(keyword for keyword in _STORED if keyword in self.data).removesuffix("PixelData")
        value, limit = (self._named(f"{kind}PixelPadding{word}") for word in ("Value", "RangeLimit"))
        if value is None:
            return None
        return min(value, value if limit is None else limit), max(value, value if limit is None else limit)

    def _named(self, keyword: str) -> float | None:
        """A stored value that the header names."""
        value = self.data.get(keyword)
        if isinstance(value, bytes):  # of a type that the header does not say
            value = int.from_bytes(value, "little") if value else None
        number = _first(value)
        if number is None or "Float" in keyword:
            return number
        # Signed values may be written as unsigned ones of the same bits.
        bits = int(self.data.BitsStored)
        wrapped = int(number) % 2**bits
        signed = int(self.data.get("PixelRepresentation") or 0) == 1
        return wrapped - 2**bits if signed and wrapped >= 2 ** (bits - 1) else wrapped


def _show(frames: _Frames, index: int, window: Window) -> tuple[NDArray[np.uint8], tuple[float, float] | None]:
    """A frame as 8-bit grey (H, W) or RGB (H, W, 3), and the values that are black and white, where two say it."""
    data, pixels = frames.data, frames.pixels
    values, kind = frames.stored(index)
    if kind == "PALETTE COLOR":
        bits = int(data.RedPaletteColorLookupTableDescriptor[2])
        return quantise(pixels.apply_color_lut(values, data)[..., :3] / (2.0**bits - 1.0)), None
    if kind == "RGB":
        return quantise(values / (2.0 ** int(data.BitsStored) - 1.0)), None
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"expected a photometric interpretation of grey, RGB, YBR_FULL or a palette; got {kind}")
    shown, limits = _windowed(frames, frames.levels(values, index), index, window)
    shown = np.where(frames.is_padding(values), 0.0, 1.0 - shown if kind == "MONOCHROME1" else shown)
    return quantise(np.nan_to_num(shown, nan=0.0, posinf=1.0, neginf=0.0)), limits


def _windowed(
    frames: _Frames, levels: NDArray[Any], index: int, window: Window
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """Values of the modality in [0, 1], and which of them are 0 and 1 where two say it."""
    if window == "file":
        interest = _part(frames.data, index, "FrameVOILUTSequence", ("WindowCenter", "VOILUTSequence"))
        if interest.get("VOILUTSequence"):
            bits = int(interest.VOILUTSequence[0].LUTDescriptor[2])
            values: NDArray[Any] = frames.pixels.apply_voi(np.rint(levels).astype(np.int32), interest)
            return values / (2.0**bits - 1.0), None
        center, width = _first(interest.get("WindowCenter")), _first(interest.get("WindowWidth"))
        if center is not None and width is not None:
            function = str(interest.get("VOILUTFunction") or "LINEAR")
            shown = _interest(levels, center, width, function)
            straight = function != "SIGMOID"
            return shown, (center - width / 2, center + width / 2) if straight else None
    limits = frames.limits("percentile" if window == "file" else window)
    return (levels - limits[0]) / (limits[1] - limits[0]), limits


def _interest(levels: NDArray[Any], center: float, width: float, function: str) -> NDArray[Any]:
    """Window centre and width applied as DICOM PS3.3, C.11.2.1 defines their three functions; [0, 1] when clipped."""
    if width <= 0.0 or (width < 1.0 and function == "LINEAR"):
        raise ImageError(f"the file's window has a width of {width:g}; choose the window percentile or LOW,HIGH")
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (levels - center) / width))
    if function == "LINEAR_EXACT":
        return (levels - center) / width + 0.5
    if width == 1.0:  # a threshold
        return (levels > center - 0.5).astype(np.float64)
    return (levels - (center - 0.5)) / (width - 1.0) + 0.5


def _part(data: Any, frame: int, macro: str, keywords: tuple[str, ...]) -> Any:
    """What holds one of the keywords: the frame's own functional group, that of all frames, or the file itself."""
    own = list(data.get("PerFrameFunctionalGroupsSequence") or ())[frame : frame + 1]
    for group in (*own, *(data.get("SharedFunctionalGroupsSequence") or ())):
        for part in group.get(macro) or ():
            if any(keyword in part for keyword in keywords):
                return part
    return data


def _first(value: Any) -> float | None:
    """A number, or the first of several views' numbers."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None


def pseudonym(text: str) -> str:
    """What stands for an ID: the start of its SHA-256."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _pseudonymous(path: str, patient: str, name: str) -> str:
    """The path with pseudonyms for those of its parts that hold the patient's ID or a part of the name."""
    # One or two letters or digits are in nearly every file name, and tell nothing.
    words = [word for word in (patient, *re.split(r"[\^=\s,]+", name)) if len(word) > 2]
    return "/".join(
        pseudonym(part) if any(word.casefold() in part.casefold() for word in words) else part
        for part in path.split("/")
    )
