"""COCO: ``annotations/instances_default.json`` with run lengths or polygons, and the same in a zip for CVAT."""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from camseg.base.errors import ExchangeError
from camseg.base.files import writing
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.incoming import (
    Frame,
    Incoming,
    Shapes,
    objects,
    opened,
    plain_name,
    read_json_bytes,
    text,
    without_prefix,
)
from camseg.exchange.output import ExportReport, Numbers, PolygonLoss, finish_report, place_image, write_zip
from camseg.exchange.rle import decode_coco, encode_coco
from camseg.exchange.settings import ExportSettings, ImportSettings

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


def import_coco(file: Path, settings: ImportSettings) -> list[Incoming]:
    """The images of a COCO JSON, or of all ``annotations/instances_*.json`` in a zip, as CVAT gives it.

    Annotations of one category in an image are one mask. Categories without an annotation in an image are not in it.
    Raises ExchangeError for a file that is none.
    """
    found: list[Incoming] = []
    with opened(file, ".json", _is_instances) as members:
        for name, source in members:
            found += _incoming(name, read_json_bytes(source.read(), name), settings)
    return found


def _is_instances(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return folder.rpartition("/")[2] in ("annotations", "") and last.startswith("instances") and last.endswith(".json")


def _incoming(name: str, content: Any, settings: ImportSettings) -> list[Incoming]:
    if not isinstance(content, dict) or not {"images", "categories", "annotations"} <= content.keys():
        raise ExchangeError(f"{name}: expected COCO's images, categories and annotations; this is another JSON")
    categories = objects(content["categories"], "categories", name)
    classes = {one.get("id"): text(one.get("name"), "the name of a category") for one in categories}
    by_image: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for one in objects(content["annotations"], "annotations", name):
        by_image[one.get("image_id")].append(one)
    images = objects(content["images"], "images", name)
    if lost := by_image.keys() - {one.get("id") for one in images}:
        raise ExchangeError(f"{name}: annotations belong to an image with the id {next(iter(lost))!r}; there is none")

    def one_image(image: Mapping[str, Any]) -> Incoming:
        own = by_image[image.get("id")]
        name = plain_name(text(image.get("file_name"), "the file name of an image"))
        return Incoming(
            name=name,
            others=without_prefix(name),
            read=lambda frame: _read_image(frame, image, own, classes, settings),
        )

    return [one_image(image) for image in images]


def _read_image(
    frame: Frame,
    image: Mapping[str, Any],
    annotations: Iterable[Mapping[str, Any]],
    classes: Mapping[Any, str],
    settings: ImportSettings,
) -> AnnotatedImage:
    frame.check(image.get("width"), image.get("height"))
    shapes = Shapes(frame=frame, exclusive=settings.exclusive)
    for one in annotations:
        if one.get("category_id") not in classes:
            raise ExchangeError(f"expected a category of the file; got the id {one.get('category_id')!r}")
        label, segmentation = classes[one["category_id"]], one.get("segmentation")
        if isinstance(segmentation, dict):
            frame.check(*reversed(segmentation.get("size") or (None, None)))
            shapes.add(label, decode_coco(segmentation.get("counts") or (), frame.height, frame.width))
        elif isinstance(segmentation, list) and segmentation:
            # Each is united with the others, as in pycocotools; the even-odd rule holds within one.
            for points in segmentation:
                shapes.add_polygons(label, [np.reshape(points, (-1, 2))], "corners")
        else:
            shapes.skip("box without a mask", label)
    return shapes.image(classes.values())
