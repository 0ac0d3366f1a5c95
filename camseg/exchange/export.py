"""Output folders and folders of masks -> folders for other tools: what ``camseg export`` does."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Final

from camseg.base.errors import CamsegError, InputError, OutputError, failure_line
from camseg.base.files import check_can_write, read_json, sha256, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.registry import choose
from camseg.base.settings import to_json
from camseg.data.mask_settings import MaskReading
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.exported import Exported, add_exported
from camseg.exchange.listed import ListedImage, ListedMask, read_listed
from camseg.exchange.loading import Listing, list_folder
from camseg.exchange.output import ExportReport, safe_name, split_pieces
from camseg.exchange.registry import EXPORTERS, IMPORTERS, Exporter
from camseg.exchange.settings import ExportInputs, ExportSettings
from camseg.runs.lineage import image_root
from camseg.runs.loop import check_files_apart
from camseg.runs.output import prediction_root
from camseg.runs.run import RUN

EXPORT: Final = "export.json"
"""What an export leaves beside its files: the format, the settings, and what a later one may take away."""


def export_folder(
    folder: Path | str,
    out: Path | str,
    name: str,
    settings: ExportSettings | None = None,
    inputs: ExportInputs | None = None,
    *,
    reading: MaskReading | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> ExportReport:
    """Write the masks of a folder into ``out`` in the format ``name``, one of those of ``camseg export``.

    folder: what ``label``, ``segment``, ``refine``, ``masks`` or ``prepare`` wrote, or any folder of masks whose images
    ``inputs`` name. A person's corrections take the place of the machine's masks; images with a rejected mask, or one
    that ``settings`` leave out, are left out whole, for else their other masks would say that nothing else is there.
    reading: how foreign masks are read; overwrite: take away what an earlier export wrote there; dry_run: write nothing
    and count what would be. One image is held at a time.

    Raises InputError for an unknown format and for settings that it cannot follow, where there is nothing to export or
    a library is missing; OutputError where ``out`` holds other files.
    """
    started = time.perf_counter()
    exporter = choose("format", name, EXPORTERS)
    settings, inputs, out = settings or ExportSettings(), inputs or ExportInputs(), Path(out)
    geometry = settings.geometry or exporter.holds[0]
    if geometry not in exporter.holds:
        raise InputError(f"{name} holds {exporter.holds[0]}s only; leave --geometry {geometry} out")
    if settings.tolerance > 0.0 and geometry == "mask":
        raise InputError(
            "a tolerance is for polygons, and masks lose nothing; leave it out, or choose --geometry polygon"
        )
    listing = list_folder(folder, inputs.image_folder, class_name=inputs.class_name, reading=reading)
    for remark in listing.remarks:
        say(f"note: {remark}")
    chosen, left_out = _chosen(listing, settings, say)
    classes = settings.classes or listing.classes
    if not classes:
        raise InputError(f"no mask in {folder} holds an object; there is nothing to export")
    settings = replace(
        settings, classes=classes, geometry=geometry, sources=_sources(folder, inputs, settings, exporter)
    )
    report = ExportReport(images=len(chosen), classes=classes)
    if not dry_run:
        files = [one.path for one in chosen if one.path is not None]
        if files:
            check_files_apart(files, Path(os.path.commonpath([path.absolute().parent for path in files])), out)
        _clear(out, overwrite)
        write_json(out / EXPORT, {"format": name, "finished": False})
        failed: list[str] = []
        shown: list[Exported] = []
        # People correct what was exported where there is a way back; only then it is written down.
        note = shown.append if name in IMPORTERS else None
        images = _images(progress(chosen, len(chosen), f"export {name}"), listing, settings, failed, name, note)
        report = exporter.load()(images, out, settings)
        report.failed[:0] = failed
        if note is not None:
            _note_exported(listing.folder, shown, report)
        names = sorted({path.name for path in out.iterdir()} - {EXPORT})
        facts = {"images": report.images, "masks": report.masks, "polygon_iou": report.polygon_iou}
        write_json(
            out / EXPORT, {"format": name, "finished": True, "settings": to_json(settings), **facts, "written": names}
        )
    elif not overwrite and out.exists() and any(out.iterdir()):
        raise _occupied(out)
    report.left_out = left_out
    report.seconds = time.perf_counter() - started
    for line in report.failed:
        say(f"failed: {line}")
    return report


def _chosen(listing: Listing, settings: ExportSettings, say: Say) -> tuple[list[ListedImage], Counter[str]]:
    """The images that the settings take, and why others are left out."""
    wanted = None if settings.only_images is None else _listed_names(settings.only_images)
    left_out: Counter[str] = Counter()
    chosen = []
    for image in listing.images:
        stem = PurePosixPath(image.name).with_suffix("").as_posix()
        if wanted is not None and not wanted.keys() & {image.name, stem}:
            left_out["not in the list of images"] += 1
            continue
        if wanted is not None:
            wanted[image.name if image.name in wanted else stem] = True
        masks = [one for one in image.masks if not settings.classes or one.class_name in settings.classes]
        reasons = (reason for one in masks if (reason := _why_not(one, settings)))
        reason = next(reasons, None)
        if settings.only and not masks:  # then nobody said anything of it
            reason = "without a mask of these classes"
        if reason is not None:
            left_out[reason] += 1
            continue
        chosen.append(replace(image, masks=tuple(masks)))
    unknown = [] if wanted is None else [name for name, found in wanted.items() if not found]
    if unknown:
        say(f"note: {len(unknown)} images of {settings.only_images} are not here, such as {unknown[0]}")
    if not chosen:
        words = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(f"no image is left to export: {words}")
    return chosen, left_out


def _why_not(mask: ListedMask, settings: ExportSettings) -> str | None:
    """Why an image with this mask is left out; None where it is not."""
    decision = mask.decision or "unseen"
    if settings.only and decision not in settings.only:
        return f"with a mask that is {decision}"
    if not settings.only and decision == "rejected":
        return "with a mask that was rejected"
    if settings.min_quality is not None and decision not in ("accepted", "edited", "empty"):
        if mask.quality is None:
            return "with a mask of unknown quality"
        if mask.quality < settings.min_quality:
            return "with a mask of less quality"
    return None


def _listed_names(path: Path) -> dict[str, bool]:
    """The names in a list of images, and whether each was found; none yet."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a UTF-8 text with an image on each line ({error})") from None
    names = [line.strip().replace("\\", "/").removeprefix("./") for line in lines]
    return {name: False for name in names if name}


def _images(
    chosen: Iterable[ListedImage],
    listing: Listing,
    settings: ExportSettings,
    failed: list[str],
    name: str,
    note: Callable[[Exported], None] | None,
) -> Iterator[AnnotatedImage]:
    """The images read one by one; those that cannot be are noted in ``failed``, the masks of the others by ``note``."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for one in chosen:
        try:
            safe_name(one.name)
            if one.path is None and settings.images != "none":
                raise InputError("the image was not found; name the folder of images, or leave images where they are")
            image = read_listed(one, listing.reading)
        except CamsegError as error:
            failed.append(failure_line(one.path or Path(one.name), error))
            continue
        if note is not None:
            hashes = {mask.class_name: None if mask.file is None else sha256(mask.file) for mask in one.masks}
            image = replace(image, hashes=hashes)
            for kind, found in hashes.items():
                line = Exported(format=name, input=one.name, class_name=kind, mask_sha256=found, time=now)
                note(replace(line, tolerance=settings.tolerance))
        yield split_pieces(image) if settings.pieces else image


def _note_exported(folder: Path, shown: list[Exported], report: ExportReport) -> None:
    """Write down which masks were exported, where that can be."""
    try:
        add_exported(folder, shown)
    except OSError as error:
        report.warnings.append(
            f"{folder} cannot be written to ({error.strerror}), so that an import will not know which masks these were"
        )


def _sources(folder: Path | str, inputs: ExportInputs, settings: ExportSettings, exporter: Exporter) -> Path | None:
    """Where the volumes or DICOM files lie that images were prepared from, if the format needs to know."""
    if settings.sources is not None or exporter.extra not in ("nifti", "dicom-seg"):
        return settings.sources
    images = inputs.image_folder or image_root(prediction_root(folder)) or Path(folder)
    place = (images if images.is_dir() else images.parent) / RUN
    run: Any = read_json(place, InputError) if place.is_file() else {}
    found = run.get("identity", {}).get("inputs") if isinstance(run, Mapping) else None
    return Path(found) if isinstance(found, str) and os.path.isabs(found) and Path(found).exists() else None


def _occupied(out: Path) -> OutputError:
    return OutputError(f"{out} holds other files; choose an empty --out, or --overwrite what an earlier export wrote")


def _clear(out: Path, overwrite: bool) -> None:
    """Make sure that ``out`` is empty; with ``overwrite`` what an earlier export wrote there is taken away."""
    check_can_write(out)
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite or not (out / EXPORT).is_file():
        raise _occupied(out)
    earlier = read_json(out / EXPORT, OutputError)
    if not isinstance(earlier, dict) or "format" not in earlier:
        raise _occupied(out)
    # A folder was empty before its export began, so what an interrupted one left is all its own.
    names = earlier.get("written") if earlier.get("finished") else [path.name for path in out.iterdir()]
    for name in names if isinstance(names, list) else []:
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name:
            continue
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (out / EXPORT).unlink(missing_ok=True)
    if left := sorted(path.name for path in out.iterdir()):
        raise OutputError(f"{out} holds {left[0]}, which no export wrote; move it, or choose another --out")
