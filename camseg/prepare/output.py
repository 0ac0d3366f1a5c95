"""Inputs -> PNG images, their masks and ``labels.csv``: the folder that every preparation writes, and its one loop.

``OUT/<name>.png`` are the images, ``OUT/masks/<name>.png`` their true masks where there are any, and
``OUT/labels.csv`` lists the images with what is known of them. ``manifest.jsonl`` says where each was taken from, and
``run.json`` with which settings, as in every output folder.
"""

import csv
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import InputError, OtherSettingsError, OutputError, failure_line
from camseg.base.files import contents_sha256, read_json, write_csv
from camseg.base.settings import to_json
from camseg.data.images import write_image, write_mask
from camseg.prepare.settings import MASKS_FOLDER
from camseg.runs.loop import check_files_apart
from camseg.runs.manifest import group_records, has_changed, read_manifest
from camseg.runs.output import Output, check_names, check_output
from camseg.runs.record import Record, Source
from camseg.runs.run import RUN, Run
from camseg.runs.settings import FolderOptions

LABELS: Final = "labels.csv"


@dataclass(frozen=True, kw_only=True)
class PreparationInput:
    """One input file."""

    path: Path
    """The file."""
    name: str
    """Its path below the folder of inputs without suffix, or what else no other input's outputs begin with."""
    reads: tuple[Path, ...] = ()
    """What is read beside the file, such as its mask; where one changes, the input is done again."""
    beside: tuple[str, ...] = ()
    """What else decides what is made of it, such as its group; where that changes, the input is done again."""
    private: bool = False
    """Whether the manifest calls it by its name alone, since the file's path may hold what shall not be told."""

    @property
    def beside_sha256(self) -> str | None:
        """Over ``beside`` and the names of the files that are read; None where only the file itself is."""
        if not self.reads and not self.beside:
            return None
        files = [str(path.absolute()) for path in (self.path, *self.reads)]
        facts = "\0".join([*files, "", *self.beside])
        return hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()


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
    """The input that it was made of, as ``labels.csv`` has it."""
    label: str = ""
    """The class; several are joined by ``;``; "" = none of the classes."""
    masks: Mapping[str, Mask] = field(default_factory=dict)
    """True masks (H, W) by the folder below ``OUT/masks`` that they lie in, "" for that folder itself."""
    frame: int | None = None
    """Which frame or slice of the source it is, from 0; None where that has one."""
    axis: str | None = None
    """What a slice is: axial, coronal or sagittal."""
    instance: str | None = None
    """The DICOM object that it shows, by its UID or a pseudonym for that."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom and right of the part of the source that it shows, the ends not included; None: all of it."""
    window: tuple[float, float] | None = None
    """The values of the source that are black and white; None where not two values say it."""


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
    kept: int = 0
    """Inputs that an earlier run had finished."""
    images: int = 0
    """Images that ``labels.csv`` lists, those of inputs that failed later included."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many images were left out, by the reason."""
    noted: Counter[str] = field(default_factory=Counter)
    """For how many inputs something was decided that the caller should know, by what it is."""
    failed: list[str] = field(default_factory=list)
    """What went wrong, one line for each input that failed."""


AnyInput = TypeVar("AnyInput", bound=PreparationInput)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Which preparation it is, and what decides what it writes."""

    command: str
    """``prepare rois``, ``prepare slices``, ..."""
    root: Path
    """The folder or file of the inputs."""
    settings: Any
    """The settings, of a settings class."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for beside them, as JSON values: options by their names."""
    labelled: bool
    """Whether the images' classes are known."""
    private: bool = False
    """Whether the inputs' folder is not to be told."""

    @property
    def run(self) -> Run:
        """What ``run.json`` says of it."""
        asked = {**to_json(self.settings), **self.beside}
        inputs = str(self.root.resolve())
        inputs = hashlib.sha256(os.fsencode(inputs)).hexdigest() if self.private else inputs
        return Run(command=self.command, settings=asked, identity={"inputs": inputs, **asked})


def write_pictures(
    preparation: Preparation,
    inputs: Sequence[AnyInput],
    make: Callable[[AnyInput], Iterable[Made]],
    out: Path | str,
    *,
    options: FolderOptions | None = None,
    left_out: Iterable[Path] = (),
    failures: Sequence[tuple[Path, str]] = (),
    check: Callable[[], object] = lambda: None,
) -> PreparationReport:
    """Write what ``make`` makes of every input, then ``labels.csv`` with ``image[,label],group,source``.

    An input that fails, whatever the error, becomes a line of the report; images that it gave before stay, as do
    those of a run that is interrupted. The column ``label`` is left out where nothing is labelled, for an empty
    cell would say that the image holds none of the classes. ``left_out``: files that were found, of which nothing is
    made; ``failures``: folders that could not be listed; ``check`` looks into the inputs before the first is done, and
    may refuse them.

    A run of equal settings is continued: inputs that failed or have changed are done again, and what a file gave by
    another name, or before it was left out, is removed. One of other settings is replaced while it is unfinished.
    Raises InputError when inputs and outputs would mix or two inputs write one file; OutputError when ``out`` holds
    other files, a finished run of other settings, or a ``labels.csv`` that somebody changed.
    """
    options = options or FolderOptions()
    out = Path(out)
    check_files_apart([one.path for one in inputs], preparation.root, out)
    _check_names(inputs)
    overwrite = options.overwrite
    if not overwrite and (reason := _why_replaceable(out, preparation.run)):
        options.say(f"{out} is written anew: {reason}")
        overwrite = True
    _check_folder(out, preparation.run, overwrite)
    earlier = {} if overwrite else group_records(read_manifest(out))
    kept = {one.name for one in inputs if _is_finished(out, earlier.get(one.name, []), one)}
    todo = [one for one in inputs if one.name not in kept]
    known = {_below(path, preparation.root) for path in (*(one.path for one in inputs), *left_out)}
    names = {one.name for one in inputs}
    outdated = {name for name, group in earlier.items() if name not in names and group[0].input in known}
    if (todo or outdated) and not overwrite:
        _check_unedited(out, (record for group in earlier.values() for record in group))
    if options.dry_run:
        check()
        return PreparationReport(planned=len(todo), kept=len(kept))
    report = PreparationReport(kept=len(kept))
    if not todo and not outdated and not failures and (out / LABELS).is_file():
        report.images = sum(record.source is not None for name in kept for record in earlier[name])
        return report

    output = Output(out, preparation.run, overwrite=overwrite)
    if overwrite:
        (out / LABELS).unlink(missing_ok=True)
    records = {one.name: earlier.get(one.name, []) for one in inputs}
    started = time.perf_counter()
    stop = Event()
    pool = ThreadPoolExecutor(options.workers, thread_name_prefix="camseg")
    try:
        check()
        for path, reason in failures:
            line = f"{path}: {reason}"
            report.failed.append(line)
            options.say(f"failed: {line}")
            if not preparation.private:
                records[str(path)] = [Record(input=str(path), name=str(path), status="failed", error=line)]
                output.add(records[str(path)])
        results = pool.map(lambda one: _take(one, make, out, stop, preparation), todo)
        for one, result in zip(todo, options.progress(results, len(todo), preparation.command), strict=False):
            records[one.name] = result.records
            output.add(result.records)
            report.skipped += result.skipped
            report.noted += result.noted
            report.done += result.error is None
            if result.error is not None:
                report.failed.append(result.error)
                options.say(f"failed: {result.error}")
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        listed = [record for group in records.values() for record in group if record.source is not None]
        report.images = len(listed)
        output.forget(outdated)
        write_csv(out / LABELS, *_table(listed, preparation.labelled))
        output.close(list(records), {"total": time.perf_counter() - started})
    return report


def source_name(path: Path, root: Path, suffixes: Iterable[str]) -> str:
    """The path below ``root`` with ``/`` between, without whichever of the suffixes it ends in."""
    name = path.relative_to(root).as_posix()
    ending = max((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(ending)]


@dataclass(kw_only=True)
class _Result:
    records: list[Record] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    error: str | None = None


def _take(
    one: AnyInput, make: Callable[[AnyInput], Iterable[Made]], out: Path, stop: Event, preparation: Preparation
) -> _Result:
    """Write what one input gives, and say what became of it: a line for each picture, one more where it failed."""
    result, shaded = _Result(), False
    told = one.name if one.private else _below(one.path, preparation.root)
    about = Record(input=told, name=one.name, input_sha256=contents_sha256([one.path, *one.reads]))
    try:
        for made in make(one):
            if stop.is_set():
                break
            if isinstance(made, Skipped):
                result.skipped[made.reason] += 1
            elif isinstance(made, Noted):
                result.noted[made.reason] += 1
            else:
                files = _write(made, out)
                shaded = shaded or bool(made.image.min() != made.image.max())
                result.records.append(_record(made, files, about, one, preparation.labelled))
        if result.records and not shaded:
            result.noted["inputs gave images of a single grey alone; another window may show more"] += 1
    except Exception as error:  # what libraries raise on damaged files is of every kind
        result.error = failure_line(one.path, error)
        line = result.error.replace(str(one.path), one.name) if one.private else result.error
        result.records.append(replace(about, status="failed", error=line))
    if not result.records:  # all was left out
        result.records.append(about)
    return result


def _below(path: Path, root: Path) -> str:
    folder = root if root.is_dir() else root.parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _write(picture: Picture, out: Path) -> dict[str, str]:
    """Write a picture and its masks; the files by their kinds, as paths below ``out``."""
    try:
        picture.name.encode()
    except UnicodeEncodeError:
        raise InputError("the file name is no UTF-8, which labels.csv is; rename it") from None
    files = {"image": f"{picture.name}.png"}
    write_image(out / files["image"], picture.image)
    for folder, mask in picture.masks.items():
        kind = f"mask of {folder}" if folder else "mask"
        files[kind] = "/".join(filter(None, (MASKS_FOLDER, folder, f"{picture.name}.png")))
        write_mask(out / files[kind], mask)
    return files


def _record(picture: Picture, files: dict[str, str], about: Record, one: PreparationInput, labelled: bool) -> Record:
    """The manifest's line of a picture."""
    return replace(
        about,
        labels=tuple(filter(None, picture.label.split(";"))) if labelled else None,
        files=files,
        area=int(np.count_nonzero(picture.masks[""])) if "" in picture.masks else None,
        source=Source(
            name=picture.source,
            frame=picture.frame,
            axis=picture.axis,
            instance=picture.instance,
            box=picture.box,
            window=picture.window,
            group=picture.group,
            beside_sha256=one.beside_sha256,
        ),
    )


def _table(records: Iterable[Record], labelled: bool) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and rows of ``labels.csv``."""
    rows = []
    for record in records:
        if record.source is None:
            continue
        image = record.files["image"]
        # Readers strip cells; ./ keeps the space that a folder's name may begin with.
        image = f"./{image}" if image[0].isspace() else image
        label = (";".join(record.labels or ()),) if labelled else ()
        rows.append((image, *label, record.source.group, record.source.name))
    return ("image", *(("label",) if labelled else ()), "group", "source"), rows


def _check_names(inputs: Sequence[PreparationInput]) -> None:
    """Raise InputError when two inputs would write one file, or one among the masks."""
    check_names((one.name, one.path) for one in inputs)
    for one in inputs:
        if one.name.partition("/")[0].casefold() == MASKS_FOLDER:
            raise InputError(f"{one.path} would be written among the masks; rename what is called {MASKS_FOLDER}")


def _is_finished(out: Path, records: Sequence[Record], one: PreparationInput) -> bool:
    """Whether an earlier run finished an input, whose files still are as they were."""
    return (
        bool(records)
        and not any(record.failed for record in records)
        and all((out / file).is_file() for record in records for file in record.files.values())
        and all(record.source is None or record.source.beside_sha256 == one.beside_sha256 for record in records)
        and not has_changed(out, records, [one.path, *one.reads])
    )


def _why_replaceable(out: Path, run: Run) -> str | None:
    """In words, why what a preparation left in a folder need not be kept; None where it is to be kept or continued."""
    earlier = _earlier_command(out)
    if earlier is None:
        return None
    records = read_manifest(out, damaged_too=True)
    try:
        check_output(out, run)
    except OtherSettingsError:
        unfinished = any(record.failed for record in records) or not (out / LABELS).is_file()
        if unfinished and _is_unedited(out, records):
            return "the run of other settings in it was not finished"
    except OutputError:
        pass
    else:
        return None
    return None if any(record.files for record in records) else "the earlier run wrote no image"


def _earlier_command(out: Path) -> str | None:
    """Which preparation wrote a folder."""
    try:
        run = read_json(out / RUN, OutputError)
    except OutputError:
        return None
    command = run.get("command") if isinstance(run, dict) else None
    return command if isinstance(command, str) and command.startswith("prepare ") else None


def _check_folder(out: Path, run: Run, overwrite: bool) -> None:
    """Raise OutputError when the folder holds what is not to be lost."""
    check_output(out, run, overwrite=overwrite)
    if overwrite and (out / LABELS).is_file() and _earlier_command(out) is None:
        raise OutputError(f"{out / LABELS} was not written by camseg prepare; choose another --out")


def _check_unedited(out: Path, records: Iterable[Record]) -> None:
    """Raise OutputError when somebody changed ``labels.csv``, which would be written anew."""
    if not _is_unedited(out, records):
        raise OutputError(
            f"{out / LABELS} was changed since it was written, and would be written anew; move it, choose another "
            "--out, or --overwrite"
        )


def _is_unedited(out: Path, records: Iterable[Record]) -> bool:
    """Whether all that ``labels.csv`` says is of the manifest; a run that was killed may not have added the rest."""
    try:
        with (out / LABELS).open(newline="", encoding="utf-8") as file:
            header, *rows = (tuple(row) for row in csv.reader(file))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, csv.Error):
        return False
    columns, known = _table(records, labelled="label" in header)
    return header == columns and set(rows) <= set(known)
