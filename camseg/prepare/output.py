"""Inputs -> PNG images, their masks and ``labels.csv``: the folder that every preparation writes, and its one loop.

``OUT/<name>.png`` are the images, ``OUT/masks/<name>.png`` their true masks where there are any, and
``OUT/labels.csv`` lists the images with what is known of them. Nothing else is written.
"""

import csv
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from threading import Event
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import InputError, OutputError, failure_line
from camseg.base.files import write_csv
from camseg.base.progress import Say
from camseg.data.images import write_image, write_mask
from camseg.prepare.settings import MASKS_FOLDER
from camseg.runs.loop import check_files_apart
from camseg.runs.output import check_empty, check_names
from camseg.runs.settings import FolderOptions

LABELS: Final = "labels.csv"


@dataclass(frozen=True, kw_only=True)
class PreparationInput:
    """One input file."""

    path: Path
    """The file."""
    name: str
    """Its path below the folder of inputs without suffix, or what else no other input's outputs begin with."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image to write, and its line of ``labels.csv``."""

    name: str
    """Its path below the output folder, without suffix."""
    image: NDArray[np.uint8]
    """Grey (H, W) or RGB (H, W, 3)."""
    group: str
    """The patient, volume or video."""
    source: str
    """The input that it was made of."""
    label: str = ""
    """The class; several are joined by ``;``; "" = none of the classes."""
    masks: Mapping[str, Mask] = field(default_factory=dict)
    """True masks (H, W) by their path below ``OUT/masks``, without suffix."""
    frame: int | None = None
    """Which frame or slice of the input it is, from 0; None where the input has one."""
    instance: str | None = None
    """The DICOM object that it shows, by its UID or a pseudonym for that."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom and right of the part of the input that it shows, the ends not included; None: all of it."""
    window: tuple[float, float] | None = None
    """The values of the input that are black and white; None where not two values say it."""


@dataclass(frozen=True)
class Skipped:
    """One image that was not made, though nothing failed."""

    reason: str


@dataclass(frozen=True)
class Noted:
    """What was decided for one input and its owner should know; said once, with how many inputs it is true of."""

    reason: str


Made: TypeAlias = Picture | Skipped | Noted
"""What a preparation yields for an input."""


@dataclass(kw_only=True)
class PreparationReport:
    """What became of the inputs."""

    planned: int = 0
    """Inputs that a dry run would take up."""
    done: int = 0
    """Inputs finished."""
    images: int = 0
    """Images written, those of inputs that failed later included."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many images were left out, by the reason."""
    noted: Counter[str] = field(default_factory=Counter)
    """For how many inputs something was decided that the caller should know, by what it is."""
    failed: list[str] = field(default_factory=list)
    """What went wrong, one line for each input that failed."""


AnyInput = TypeVar("AnyInput", bound=PreparationInput)


def write_pictures(
    title: str,
    inputs: Sequence[AnyInput],
    make: Callable[[AnyInput], Iterable[Made]],
    out: Path | str,
    *,
    root: Path,
    labelled: bool,
    options: FolderOptions | None = None,
    failures: Sequence[tuple[Path, str]] = (),
) -> PreparationReport:
    """Write what ``make`` makes of every input, then ``labels.csv`` with ``image[,label],group,source``.

    An input that fails, whatever the error, becomes a line of the report; images that it gave before stay, as do
    those of a run that is interrupted. The column ``label`` is left out where nothing is ``labelled``, for an empty
    cell would say that the image holds none of the classes. ``failures``: folders that could not be listed.

    Raises InputError when inputs and outputs would mix or two inputs write one file; OutputError when ``out`` holds
    other files.
    """
    options = options or FolderOptions()
    out = Path(out)
    check_files_apart([one.path for one in inputs], root, out)
    _check_names(inputs)
    check_empty(out, overwrite=options.overwrite)
    earlier = _written(out)
    if options.dry_run:
        return PreparationReport(planned=len(inputs))
    _remove(out, earlier)

    report = PreparationReport()
    for path, reason in failures:
        _note_failure(report, f"{path}: {reason}", options.say)
    rows: list[Picture] = []
    stop = Event()
    pool = ThreadPoolExecutor(options.workers, thread_name_prefix="camseg")
    try:
        results = pool.map(lambda one: _take(one, make, out, stop), inputs)
        for result in options.progress(results, len(inputs), title):
            rows += result.rows
            report.skipped += result.skipped
            report.noted += result.noted
            report.images += len(result.rows)
            report.done += result.error is None
            if result.error is not None:
                _note_failure(report, result.error, options.say)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        _write_labels(out / LABELS, rows, labelled)
    return report


def source_name(path: Path, root: Path, suffixes: Iterable[str]) -> str:
    """The path below ``root`` with ``/`` between, without whichever of the suffixes it ends in."""
    name = path.relative_to(root).as_posix()
    ending = max((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(ending)]


def require(module: str, extra: str) -> Any:
    """Import an optional library; raise InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise InputError(f"this needs {library} ({error}); install it with: pip install 'camseg[{extra}]'") from None


@dataclass(kw_only=True)
class _Result:
    rows: list[Picture] = field(default_factory=list)  # without their pixels
    skipped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    error: str | None = None


_NO_PIXELS = np.zeros((0, 0), np.uint8)


def _take(one: AnyInput, make: Callable[[AnyInput], Iterable[Made]], out: Path, stop: Event) -> _Result:
    result, shaded = _Result(), False
    try:
        for made in make(one):
            if stop.is_set():
                break
            if isinstance(made, Skipped):
                result.skipped[made.reason] += 1
                continue
            if isinstance(made, Noted):
                result.noted[made.reason] += 1
                continue
            _check_encodable(made.name)
            write_image(out / f"{made.name}.png", made.image)
            shaded = shaded or bool(made.image.min() != made.image.max())
            for name, mask in made.masks.items():
                write_mask(out / MASKS_FOLDER / f"{name}.png", mask)
            result.rows.append(replace(made, image=_NO_PIXELS, masks=dict.fromkeys(made.masks, _NO_PIXELS)))
        if result.rows and not shaded:
            result.noted["inputs gave images of a single grey alone; another window may show more"] += 1
    except Exception as error:  # what libraries raise on damaged files is of every kind
        result.error = failure_line(one.path, error)
    return result


def _check_encodable(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError("the file name is no UTF-8, which labels.csv is; rename it") from None


def _note_failure(report: PreparationReport, error: str, say: Say) -> None:
    report.failed.append(error)
    say(f"failed: {error}")


def _write_labels(path: Path, pictures: Iterable[Picture], labelled: bool) -> None:
    columns = ("image", "label", "group", "source") if labelled else ("image", "group", "source")
    rows = []
    for one in pictures:
        # Readers strip cells; ./ keeps the space that a folder's name may begin with.
        image = f"./{one.name}.png" if one.name[0].isspace() else f"{one.name}.png"
        rows.append((image, one.label, one.group, one.source) if labelled else (image, one.group, one.source))
    write_csv(path, columns, rows)


def _check_names(inputs: Sequence[PreparationInput]) -> None:
    """Raise InputError when two inputs would write one file, or one among the masks."""
    check_names((one.name, one.path) for one in inputs)
    for one in inputs:
        if one.name.partition("/")[0].casefold() == MASKS_FOLDER:
            raise InputError(f"{one.path} would be written among the masks; rename what is called {MASKS_FOLDER}")


def _written(out: Path) -> list[str]:
    """The images that an earlier run wrote to ``out``; raises OutputError for a table that is none of its own."""
    try:
        with (out / LABELS).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{out / LABELS} cannot be read ({error}); choose another --out") from None
    if rows and not {"image", "group", "source"} <= rows[0].keys():
        raise OutputError(f"{out / LABELS} was not written by camseg prepare; choose another --out")
    images = [PurePath(row["image"] or "") for row in rows]
    return [image.as_posix() for image in images if not image.is_absolute() and ".." not in image.parts]


def _remove(out: Path, images: Iterable[str]) -> None:
    """Delete the images and their masks, which lie at their names below ``masks`` or a class's folder there."""
    folders = [out, out / MASKS_FOLDER, *(path for path in (out / MASKS_FOLDER).glob("*") if path.is_dir())]
    for image in images:
        for folder in folders:
            if (folder / image).is_file() and image.endswith(".png"):
                (folder / image).unlink()
