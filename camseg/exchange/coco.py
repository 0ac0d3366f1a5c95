"""COCO: ``annotations/instances_default.json`` with run lengths or polygons, and the same in a zip for CVAT."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from camseg.base.files import writing
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.output import ExportReport, Numbers, PolygonLoss, finish_report, place_image, write_zip
from camseg.exchange.rle import encode_coco
from camseg.exchange.settings import ExportSettings

INSTANCES = "annotations/instances_default.json"


def export_coco(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``annotations/instances_default.json``, ``annotations.zip`` with it, and ``images/``.

    Categories are counted from 1; a mask is one annotation with ``bbox``, ``area``, ``iscrowd`` 0 and compressed run
    lengths, or polygons whose points lie between pixels. Scores, qualities and decisions stand beside them.
    """
    report, numbers = ExportReport(), Numbers(settings, first=1)
    loss = PolygonLoss("corners", settings.tolerance) if settings.geometry == "polygon" else None
    path = folder / INSTANCES
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file, tempfile.TemporaryFile(dir=path.parent) as later:
        categories = [{"id": numbers[name], "name": name, "supercategory": ""} for name in settings.classes]
        start = {"info": {"description": "camseg"}, "licenses": [], "categories": categories}
        file.write(json.dumps(start, ensure_ascii=False)[:-1].encode() + b', "images": [')
        for image in images:
            place_image(image, folder / "images" / image.name, settings.images)
            number = report.images + 1
            described = {"id": number, "width": image.width, "height": image.height, "file_name": image.name}
            _write_item(file, described, first=report.images == 0)
            for count, one in enumerate(image.annotations, start=report.masks):
                item = {"id": count + 1, "image_id": number, "category_id": numbers[one.class_name]}
                _write_item(later, {**item, **_shape(one, loss)}, first=count == 0)
            report.count(image)
        file.write(b'\n], "annotations": [')
        later.seek(0)
        shutil.copyfileobj(later, file, 1 << 20)
        file.write(b"\n]}\n")
    write_zip(folder / "annotations.zip", [(INSTANCES, path)])
    if loss is not None:
        loss.report(report)
    return finish_report(report, settings)


def _write_item(file: BinaryIO | Any, item: dict[str, Any], first: bool) -> None:
    file.write((b"\n" if first else b",\n") + json.dumps(item, ensure_ascii=False).encode())


def _shape(one: Annotation, loss: PolygonLoss | None) -> dict[str, Any]:
    rows, columns = np.flatnonzero(one.mask.any(axis=1)), np.flatnonzero(one.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    segmentation: Any = {"size": [one.height, one.width], "counts": encode_coco(one.mask)}
    if loss is not None:
        segmentation = [polygon.ravel().tolist() for polygon in loss.polygons(one.mask)]
    known = {"score": one.score, "quality": one.quality, "decision": one.decision}
    extra = {name: value for name, value in known.items() if value is not None}
    return {"segmentation": segmentation, "area": one.area, "bbox": box, "iscrowd": 0, **extra}
