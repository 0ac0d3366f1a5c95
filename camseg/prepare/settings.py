"""What a preparation makes of its inputs: the options of each, and the texts that stand for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer

from camseg.base.errors import InputError
from camseg.base.settings import Option, checked, settings

MASKS_FOLDER: Final = "masks"
"""The folder of true masks below the output folder."""


def check_class(name: str) -> str:
    """Return a class name that can be a folder and a cell of ``labels.csv``; raise InputError for others."""
    reserved = ("", ".", "..", MASKS_FOLDER)
    if name != name.strip() or name.casefold() in reserved or any(mark in name for mark in "/\\;"):
        expected = f"a class name without / \\ ; or spaces around it, and not {MASKS_FOLDER}"
        raise InputError(f"expected {expected}; got {name!r}")
    return name


def _check_window(window: str) -> str:
    # Here, for it loads what reads images, and the command line's help has no need of that.
    from camseg.data.images import check_window

    return check_window(window)


def _check_dicom_window(window: str) -> str:
    return window if window == "file" else _check_window(window)


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How far a box is moved out on each side, at random between two shares of its size; ``str`` gives its text back.

    Raises InputError unless 0 <= low <= high and both are finite.
    """

    low: float
    """Least share of the box's height or width."""
    high: float
    """Greatest share."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high < float("inf"):
            raise InputError(f"expected the least padding, at least 0, then the greatest, not less; got {self}")

    def __str__(self) -> str:
        return f"{100 * self.low:g},{100 * self.high:g}"


def parse_padding(text: str | Padding) -> Padding:
    """The padding that ``10,30`` stands for, both in percent; raises InputError."""
    if isinstance(text, Padding):
        return text
    try:
        low, high = (float(part) / 100 for part in text.split(","))
    except (AttributeError, ValueError):
        raise InputError(f"expected two percentages, such as 10,30; got {text!r}") from None
    return Padding(low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class LabelClass:
    """A class of label volumes; ``str`` gives its text back. Raises InputError, as ``check_class`` does."""

    name: str
    """The class."""
    values: tuple[int, ...] = ()
    """The label values of its object; () = all but 0."""

    def __post_init__(self) -> None:
        check_class(self.name)

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.values))}" if self.values else self.name


def parse_label_class(text: str | LabelClass) -> LabelClass:
    """The class that ``NAME`` or ``NAME=VALUES``, such as ``tumour=1,4``, stands for; raises InputError."""
    if isinstance(text, LabelClass):
        return text
    try:
        name, equals, values = text.partition("=")
        return LabelClass(name=name, values=tuple(int(value) for value in values.split(",")) if equals else ())
    except InputError:
        raise
    except (AttributeError, ValueError):
        raise InputError(f"expected NAME or NAME=VALUES, such as tumour=1,4; got {text!r}") from None


PaddingText: TypeAlias = Annotated[
    Padding, BeforeValidator(checked(parse_padding)), PlainSerializer(str), Option(metavar="LOW,HIGH")
]
"""A field of settings that takes a padding or its text."""
LabelClassText: TypeAlias = Annotated[LabelClass, BeforeValidator(checked(parse_label_class)), PlainSerializer(str)]
"""A field of settings that takes a class of label volumes or its text."""
ClassName: TypeAlias = Annotated[str, BeforeValidator(checked(check_class)), Option(metavar="NAME")]
"""A field of settings that takes the name of a class."""
LeastArea: TypeAlias = Annotated[int, Field(ge=1), Option(metavar="PIXELS")]
"""A field of settings that takes the pixels which an object needs."""


@settings
class RoiSettings:
    """What is cut out around objects."""

    per: Literal["object", "image"] = "object"
    """A crop around each object, an 8-connected piece of the mask, or one around all objects of an image."""
    padding: PaddingText = Padding(low=0.1, high=0.3)
    """Random padding per side, in percent of the box's height or width: the least and the greatest."""
    min_area: LeastArea = 1
    """Least area of an object; smaller ones get no crop."""
    negative: ClassName = "negative"
    """Class of the crops from paired images; images of this class have no object, and need no mask."""
    mirror: bool = False
    """Take the mirrored place of the paired image, as when it shows the other side of the body."""
    window: Annotated[str, BeforeValidator(checked(_check_window)), Option(metavar="full|percentile|LOW,HIGH")] = "full"
    """How 16-bit and float images become 8-bit."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of the random padding, which depends on this and the image's name alone."""


@settings
class RoiInputs:
    """What crops are cut by beside the images."""

    masks: Annotated[Path, Option(metavar="MASKS")]
    """Folder of masks at the images' paths."""


@settings
class SliceInputs:
    """What slices are labelled by beside the volumes."""

    labels: Annotated[Path | None, Option(metavar="LABELS")] = None
    """Label volumes of the same names."""


@settings
class SliceSettings:
    """How volumes are cut."""

    classes: Annotated[
        tuple[LabelClassText, ...],
        Field(min_length=1),
        Option(flags=("--class",), metavar="NAME[=VALUES]"),
    ] = (LabelClass(name="positive"),)
    """Class whose object has these label values, such as tumour=1,4; a name alone: all values but 0. With several
    classes, a slice may show several."""
    negative: ClassName = "negative"
    """Label of slices without the class, where there is one class; with several, they have an empty label."""
    min_area: LeastArea = 1
    """Least area of an object; slices that show less of a class, but some, are left out: they are neither."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """What the slices are."""
    window: Annotated[str, BeforeValidator(checked(_check_window)), Option(metavar="percentile|full|LOW,HIGH")] = (
        "percentile"
    )
    """Which values become black and white: percentile (0.5 to 99.5) or full (least to greatest), both of the whole
    volume, or LOW,HIGH."""
    channel: Annotated[int, Field(ge=0)] | None = None
    """Which volume of 4D files, from 0; default: there is only one."""
    skip_empty: bool = False
    """Leave out slices of a single grey."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.classes]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"expected each class once, such as {twice[0]}=1,4; got {twice[0]!r} again")
        if self.negative in names:
            raise InputError(f"expected classes of other names than the negative one, {self.negative!r}")
        if len(names) > 1 and self.negative != "negative":
            raise InputError(
                f"expected a negative class beside one class alone; there are {', '.join(names)}, and slices without "
                "any have an empty label; leave the negative one out"
            )


@settings
class DicomSettings:
    """How DICOM files become images."""

    window: Annotated[
        str, BeforeValidator(checked(_check_dicom_window)), Option(metavar="file|percentile|full|LOW,HIGH")
    ] = "file"
    """Which values become black and white: file (what the file says, else percentile), percentile (0.5 to 99.5) or full
    (least to greatest), both of all frames of the file without padding, or LOW,HIGH in the modality's units, such as
    Hounsfield's."""
    keep_ids: bool = False
    """Write patients' IDs and file names as they are, not as hashes."""


@settings
class FrameSettings:
    """Which frames are taken."""

    every: Annotated[int, Field(ge=1), Option(metavar="N")] = 1
    """Take every N-th frame, from the first on."""
    fps: Annotated[float, Field(gt=0)] | None = None
    """Instead, take so many frames per second; all, where the video has no more."""

    def __post_init__(self) -> None:
        if self.fps is not None and self.every != 1:
            raise InputError(f"expected frames per second, or every n-th frame; got both, {self.fps} and {self.every}")
