"""DICOM files -> images as a viewer shows them, under pseudonyms.

The stored values go through the modality transformation (rescale slope and intercept, or a table), then through
the values of interest (a table, or window centre and width), and are inverted for MONOCHROME1. Colours become RGB.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import quantise
from camseg.base.errors import ImageError
from camseg.base.files import find_files
from camseg.data.images import Window
from camseg.prepare.output import (
    Picture,
    PreparationInput,
    PreparationReport,
    Skipped,
    require,
    source_name,
    write_pictures,
)
from camseg.prepare.settings import DicomSettings
from camseg.prepare.windows import find_limits
from camseg.runs.settings import FolderOptions

SUFFIXES = (".dcm", ".dicom", ".ima")


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
    pydicom = require("pydicom", "dicom")
    pixels = require("pydicom.pixels", "dicom")
    found = find_files(folder, _is_dicom, "DICOM files")
    return write_pictures(
        "prepare dicom",
        [PreparationInput(path=path, name=source_name(path, found.root, SUFFIXES)) for path in found.files],
        partial(_images, pydicom=pydicom, pixels=pixels, settings=settings),
        out,
        root=found.root,
        labelled=False,
        options=options,
        failures=found.failures,
    )


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.name.upper() == "DICOMDIR":  # an index of files, without pixels
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _images(one: PreparationInput, pydicom: Any, pixels: Any, settings: DicomSettings) -> Iterator[Picture | Skipped]:
    # Files of old devices lack the preamble, so pydicom reads anything; a class is what all DICOM objects have.
    data = pydicom.dcmread(one.path, force=True)
    if "SOPClassUID" not in data and "DirectoryRecordSequence" not in data:
        raise ImageError(f"{one.path}: not a DICOM file, or its header is damaged")
    if "Rows" not in data:
        yield Skipped("DICOM objects that are no images, such as reports and plans")
        return
    if "PixelData" not in data:
        raise ImageError(f"{one.path}: its pixels are missing; the file may have been cut short")
    patient = str(data.get("PatientID") or "").strip()
    # Without an ID the study, else the file, is all that can be told apart.
    person = patient or str(data.get("StudyInstanceUID") or one.name)
    name = one.name if settings.keep_ids else _pseudonymous(one.name, patient, str(data.get("PatientName") or ""))
    group = person if settings.keep_ids else _pseudonym(person)
    count = int(data.get("NumberOfFrames") or 1)
    # Compressed pixels cannot do without the syntax; others are told apart by the header alone.
    decoder = pixels.get_decoder(data.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian))
    for index in range(count):
        values, facts = decoder.as_array(data, index=index)
        yield Picture(
            name=f"{name}/{index:04d}" if count > 1 else name,
            image=_show(values, str(facts["photometric_interpretation"]), data, index, pixels, settings.window),
            group=group,
            source=name,
        )


def _show(values: NDArray[Any], kind: str, data: Any, frame: int, pixels: Any, window: Window) -> NDArray[np.uint8]:
    """A decoded frame as 8-bit grey (H, W) or RGB (H, W, 3)."""
    if kind == "PALETTE COLOR":
        bits = int(data.RedPaletteColorLookupTableDescriptor[2])
        return quantise(pixels.apply_color_lut(values, data)[..., :3] / (2.0**bits - 1.0))
    if kind == "RGB":
        return quantise(values / (2.0 ** int(data.BitsStored) - 1.0))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"expected a photometric interpretation of grey, RGB, YBR_FULL or a palette; got {kind}")
    modality = _part(data, frame, "PixelValueTransformationSequence", ("RescaleSlope",))
    levels = pixels.apply_modality_lut(values, modality)
    shown = _windowed(levels, data, frame, pixels, window)
    return quantise(1.0 - shown if kind == "MONOCHROME1" else shown)


def _windowed(levels: NDArray[Any], data: Any, frame: int, pixels: Any, window: Window) -> NDArray[Any]:
    """Values of the modality in [0, 1]."""
    if window == "file":
        interest = _part(data, frame, "FrameVOILUTSequence", ("WindowCenter", "VOILUTSequence"))
        if interest.get("VOILUTSequence"):
            bits = int(interest.VOILUTSequence[0].LUTDescriptor[2])
            values: NDArray[Any] = pixels.apply_voi(np.rint(levels).astype(np.int32), interest)
            return values / (2.0**bits - 1.0)
        center, width = _first(interest.get("WindowCenter")), _first(interest.get("WindowWidth"))
        if center is not None and width is not None:
            return _interest(levels, center, width, str(interest.get("VOILUTFunction") or "LINEAR"))
    low, high = find_limits(levels, "percentile" if window == "file" else window)
    return (levels - low) / (high - low)


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


def _pseudonym(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _pseudonymous(path: str, patient: str, name: str) -> str:
    """The path with pseudonyms for those of its parts that hold the patient's ID or a part of the name."""
    # One or two letters or digits are in nearly every file name, and tell nothing.
    words = [word for word in (patient, *re.split(r"[\^=\s,]+", name)) if len(word) > 2]
    return "/".join(
        _pseudonym(part) if any(word.casefold() in part.casefold() for word in words) else part
        for part in path.split("/")
    )
