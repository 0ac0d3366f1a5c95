"""An output folder -> one HTML file that tells what its masks are worth, with JSON and CSV beside it."""

import base64
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from camseg.base.arrays import Image, Mask
from camseg.base.errors import CamsegError, InputError, OutputError
from camseg.base.files import check_can_write, read_json, write_csv, write_json, write_text
from camseg.base.progress import Progress, silent
from camseg.data.images import by_relative_name, find_images, read_header, read_image, read_mask, read_mask_and_void
from camseg.data.mask_settings import MaskReading
from camseg.measure.metrics import dice, known_pixels, mask_counts
from camseg.measure.overlays import overlay_mask
from camseg.measure.risk import risk_coverage
from camseg.review.findings import COLUMNS, MaskRow, Report
from camseg.review.items import MaskItem, list_items
from camseg.review.report_page import report_page
from camseg.review.settings import ReportSettings
from camseg.runs.run import read_run

FEWEST: Final = 5
"""Masks of known Dice that make a curve."""


def report_folder(
    folder: Path | str,
    out: Path | str,
    settings: ReportSettings | None = None,
    *,
    images: Path | str | None = None,
    masks: Path | str | None = None,
    reading: MaskReading | None = None,
    progress: Progress = silent,
) -> Report:
    """Write ``out`` (a name that ends in .html), and JSON and CSV of its name beside it.

    folder: what ``label``, ``segment`` or ``refine`` wrote; images: where the images lie, default as ``run.json`` says;
    masks: a folder of true masks, of the same relative paths as those of the folder; reading: how they are read.
    Raises InputError where there is no mask or ``out`` is no such name; OutputError for a damaged manifest, and where
    JSON or CSV would take the place of a file that is of no report, such as ``run.json``.
    """
    settings, out = settings or ReportSettings(), Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"expected the name of an HTML file, as in report.html; got {out}")
    check_can_write(out.parent)
    _check_beside(out)
    items = list_items(folder, images)
    truths = {} if masks is None else by_relative_name(find_images(masks))
    rows, remarks = [], list(items.remarks)
    for item in progress(items, len(items), "measuring"):
        try:
            rows.append(_row(item, truths.get(item.place), reading))
        except CamsegError as error:
            remarks.append(str(error))
            rows.append(MaskRow(item=item, share=None, dice=None, dice_from=None))
    if masks is not None and not any(item.place in truths for item in items):
        raise InputError(f"no mask in {masks} has the name of one in {folder}, such as {items.items[0].place}")
    chosen, at_random = choose_shown(rows, settings)
    shown = {}
    for row in progress(chosen, len(chosen), "drawing"):
        try:
            shown[row.item.id] = _picture(row.item, settings.picture)
        except CamsegError as error:
            remarks.append(str(error))
    known = [(row.item.record.quality, row.dice) for row in rows if row.item.record.area]
    both = [(quality, score) for quality, score in known if quality is not None and score is not None]
    run = read_run(items.folder)
    network, pictures = _network(run)
    found = Report(
        items=items,
        rows=tuple(rows),
        shown=shown,
        at_random=at_random,
        risk=risk_coverage(*zip(*both, strict=True)) if len(both) >= FEWEST else None,
        judged=len(both),
        run=run,
        network=network,
        pictures=pictures,
        remarks=tuple(dict.fromkeys(remarks)),
    )
    values = found.to_dict()
    write_json(out.with_suffix(".json"), values)
    cells = (
        ["; ".join(one) if isinstance(one := row[column], list) else one for column in COLUMNS]
        for row in values["masks"]
    )
    write_csv(out.with_suffix(".csv"), COLUMNS, cells)
    write_text(out, report_page(found))
    return found


def choose_shown(rows: Sequence[MaskRow], settings: ReportSettings) -> tuple[list[MaskRow], frozenset[str]]:
    """The masks that get a picture, the worst by their quality first, and which of them were drawn at random.

    Unknown qualities count as worse than any known one.
    """
    ordered = sorted(rows, key=lambda row: -1.0 if (known := row.item.record.quality) is None else known)
    worst, others = ordered[: settings.worst], ordered[settings.worst :]
    drawn = random.Random(settings.seed).sample(others, min(settings.random, len(others)))
    return [*worst, *drawn], frozenset(row.item.id for row in drawn)


def _check_beside(out: Path) -> None:
    """Raise OutputError where a file beside ``out`` would be lost."""
    told, table = out.with_suffix(".json"), out.with_suffix(".csv")
    for path, is_report in ((told, _is_report), (table, _is_table)):
        if path.exists() and not is_report(path):
            raise OutputError(f"{path} would be written beside {out.name}, and is of no report; choose another --out")


def _is_report(path: Path) -> bool:
    try:
        values = read_json(path, OutputError)
    except OutputError:
        return False
    return isinstance(values, dict) and {"masks", "risk_coverage"} <= values.keys()


def _is_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().strip() == ",".join(COLUMNS)
    except (OSError, ValueError):
        return False


def _row(item: MaskItem, truth: Path | None, reading: MaskReading | None) -> MaskRow:
    header = read_header(item.mask)
    share = None if item.record.area is None else item.record.area / (header.height * header.width)
    score, source = item.judged_dice, "correction"
    if truth is not None:
        expected, void = read_mask_and_void(truth, reading)
        found = read_mask(item.mask)
        if found.shape != expected.shape:
            raise InputError(f"{truth}: expected a true mask of the size of {item.mask}, {found.shape[::-1]}")
        score = float(dice(mask_counts(known_pixels(found, void), known_pixels(expected, void))))
        source = "true mask"
    return MaskRow(item=item, share=share, dice=score, dice_from=None if score is None else source)


def _picture(item: MaskItem, side: int) -> str:
    """The image with the mask that counts, small, as a data URI."""
    mask = read_mask(item.corrected or item.mask)
    # 16 bits are shown as far as the image uses them.
    image = np.zeros((*mask.shape, 3), np.uint8) if item.image is None else read_image(item.image, "percentile")
    if image.shape[:2] != mask.shape:
        raise InputError(f"{item.image}: expected an image of the size of its mask {item.mask}")
    shrunk = min(1.0, side / max(mask.shape))
    size = max(1, round(mask.shape[1] * shrunk)), max(1, round(mask.shape[0] * shrunk))
    small: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cover: Mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > (
        0.5 if shrunk == 1 else 0.4
    )
    _, encoded = cv2.imencode(".jpg", overlay_mask(small, cover)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return _data_uri("image/jpeg", encoded.tobytes())


def _network(run: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, dict[str, str]]:
    """The metrics and plots of the network that made the masks, where its run is at hand."""
    settings = run["settings"]
    place = settings.get("classifier") or settings.get("segmenter")
    if not isinstance(place, str) or not (Path(place) / "metrics.json").is_file():
        return None, {}
    metrics = read_json(Path(place) / "metrics.json", InputError)
    plots = {"training": "curves.png", "reliability of its probabilities": "reliability.png"}
    found = {
        title: _data_uri("image/png", (Path(place) / name).read_bytes())
        for title, name in plots.items()
        if (Path(place) / name).is_file()
    }
    return (metrics if isinstance(metrics, dict) else None), found


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
