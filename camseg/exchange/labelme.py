"""LabelMe and X-AnyLabeling: a JSON beside each image, with masks or polygons."""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from camseg.base.arrays import Mask
from camseg.base.errors import CamsegError, ExchangeError, InputError
from camseg.base.files import find_files, write_text
from camseg.data.images import encode_png, relative_name
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.incoming import (
    Frame,
    Incoming,
    Shapes,
    number,
    objects,
    plain_name,
    read_base64,
    read_json_bytes,
    text,
)
from camseg.exchange.output import ExportReport, Numbers, PolygonLoss, finish_report, place_image
from camseg.exchange.settings import ExportSettings, ImportSettings

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
        for group, one in enumerate(image.annotations, start=1):
            shapes += [_mask(one)] if loss is None else _polygons(one, group, loss)
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _way(image, target, settings),
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
            "camseg": {"image": image.name, "hashes": dict(image.hashes)},  # editors keep what they do not know
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


def import_labelme(file: Path, settings: ImportSettings) -> list[Incoming]:
    """The images of the JSON files of LabelMe or X-AnyLabeling below a folder, or of one of them.

    Points are the centres of pixels, and lines belong to the mask, as LabelMe draws them. X-AnyLabeling says with
    ``checked`` that a person looked. Raises InputError where there is no such file.
    """
    found = find_files(file, lambda path: path.suffix.lower() == ".json", "JSON files of LabelMe")
    incoming = (_incoming(path, relative_name(path, found.root), settings) for path in found.files)
    return [one for one in incoming if one is not None]


def _incoming(path: Path, name: str, settings: ImportSettings) -> Incoming | None:
    """The image that a JSON is of; None for one of another program. Damaged ones are told when they are read."""
    try:
        content = _read_file(path)
    except CamsegError:
        content = {"shapes": []}
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    way, own = content.get("imagePath"), content.get("camseg")
    others = [own.get("image")] if isinstance(own, dict) else []
    if isinstance(way, str):  # in the folder of the JSON, whatever folder it lay in then
        beside = PurePosixPath(name).parent / PurePosixPath(way.replace("\\", "/")).name
        others = [beside.as_posix(), *others]
    return Incoming(
        name=name,
        others=tuple(plain_name(one) for one in others if isinstance(one, str)),
        read=lambda frame: _read_image(frame, path, settings),
    )


def _read_file(path: Path) -> Any:
    try:
        return read_json_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read_image(frame: Frame, path: Path, settings: ImportSettings) -> AnnotatedImage:
    content = _read_file(path)
    frame.check(content.get("imageWidth"), content.get("imageHeight"))
    shapes = Shapes(frame=frame, exclusive=settings.exclusive)
    for shape in objects(content.get("shapes"), "shapes", str(path)):
        label, kind = text(shape.get("label"), "the label of a shape"), shape.get("shape_type") or "polygon"
        points = shape.get("points")
        if not isinstance(points, list):
            raise ExchangeError(f"expected points of a shape; got {str(points)[:40]!r}")
        if kind == "mask":
            shapes.add(label, _read_mask(shape, frame))
        elif kind in ("polygon", "rotation") or (kind == "rectangle" and len(points) > 2):
            shapes.add_polygons(label, [points], "centres")
        elif kind == "rectangle":
            (left, top), (right, bottom) = _two_points(points)
            shapes.add_polygons(label, [[(left, top), (right, top), (right, bottom), (left, bottom)]], "centres")
        elif kind == "circle":
            shapes.add(label, _circle(_two_points(points), frame))
        else:
            shapes.skip(str(kind), label)
    own = content.get("camseg")
    hashes = own.get("hashes") if isinstance(own, dict) and isinstance(own.get("hashes"), dict) else {}
    return shapes.image(hashes or None, hashes=hashes, seen=True if content.get("checked") is True else None)


def _two_points(points: list[Any]) -> list[tuple[float, float]]:
    if len(points) != 2 or not all(isinstance(one, list) and len(one) == 2 for one in points):
        raise ExchangeError(f"expected two points; got {str(points)[:40]!r}")
    return [(number(x), number(y)) for x, y in points]


def _read_mask(shape: Mapping[str, Any], frame: Frame) -> Mask:
    """The crop between inclusive corners, put where it lies."""
    (left, top), (right, bottom) = ((round(x), round(y)) for x, y in _two_points(shape["points"]))
    if not (0 <= left <= right < frame.width and 0 <= top <= bottom < frame.height):
        raise ExchangeError(
            f"expected a mask within {frame.width} x {frame.height}; got one from {left}, {top} to {right}, {bottom}"
        )
    crop = read_base64(shape.get("mask"), bottom - top + 1, right - left + 1)
    mask = np.zeros((frame.height, frame.width), np.bool_)
    mask[top : bottom + 1, left : right + 1] = (crop[..., :3].max(axis=2) > 0) & (crop[..., 3] > 0)
    return mask


def _circle(points: list[tuple[float, float]], frame: Frame) -> Mask:
    """The pixels whose centres lie within a circle, by its centre and a point on it."""
    (x, y), (edge_x, edge_y) = points
    rows, columns = np.ogrid[: frame.height, : frame.width]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= (edge_x - x) ** 2 + (edge_y - y) ** 2)
