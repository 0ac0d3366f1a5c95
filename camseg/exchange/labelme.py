"""LabelMe and X-AnyLabeling: a JSON beside each image, with masks or polygons."""

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from camseg.base.files import write_text
from camseg.data.images import encode_png
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.output import ExportReport, Numbers, PolygonLoss, finish_report, place_image
from camseg.exchange.settings import ExportSettings

VERSION = "5.5.0"
"""Of LabelMe's files, of which newer programs read older ones."""


def export_labelme(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``<path>.json`` for each image, beside the image.

    LabelMe draws masks; X-AnyLabeling edits polygons, whose points are the centres of pixels, one polygon for each
    part; those of one mask share a group. Where images stay where they are, the files lead to them.
    """
    report, numbers = ExportReport(), Numbers(settings, first=0)
    loss = PolygonLoss("centres", settings.tolerance) if settings.geometry == "polygon" else None
    for image in images:
        numbers.check(image)
        place_image(image, folder / image.name, settings.images)
        target = folder / f"{image.stem}.json"
        shapes: list[dict[str, Any]] = []
        for number, one in enumerate(image.annotations, start=1):
            shapes += [_mask(one)] if loss is None else _polygons(one, number, loss)
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _way(image, target, settings),
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        write_text(target, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
        report.count(image)
    if loss is not None:
        loss.report(report)
    else:
        report.warnings.append("X-AnyLabeling edits polygons, not masks; for it choose --geometry polygon")
    return finish_report(report, settings, reads_exif=True)


def _way(image: AnnotatedImage, target: Path, settings: ExportSettings) -> str:
    if settings.images != "none" or image.path is None:
        return PurePosixPath(image.name).name
    return Path(os.path.relpath(image.path.absolute(), target.absolute().parent)).as_posix()


def _shape(one: Annotation, kind: str, points: list[list[float]], group: int | None) -> dict[str, Any]:
    return {
        "label": one.class_name,
        "score": one.quality if one.quality is not None else one.score,
        "points": points,
        "group_id": group,
        "description": "",
        "difficult": False,
        "shape_type": kind,
        "flags": {},
        "attributes": {},
    }


def _mask(one: Annotation) -> dict[str, Any]:
    rows, columns = np.flatnonzero(one.mask.any(axis=1)), np.flatnonzero(one.mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    crop = one.mask[top : bottom + 1, left : right + 1].astype(np.uint8) * np.uint8(255)
    shape = _shape(one, "mask", [[float(left), float(top)], [float(right), float(bottom)]], None)
    return {**shape, "mask": base64.b64encode(encode_png(crop)).decode("ascii")}


def _polygons(one: Annotation, number: int, loss: PolygonLoss) -> list[dict[str, Any]]:
    polygons = loss.polygons(one.mask)
    group = number if len(polygons) > 1 else None
    return [_shape(one, "polygon", polygon.astype(float).tolist(), group) for polygon in polygons]
