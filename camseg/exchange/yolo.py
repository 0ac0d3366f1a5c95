"""Ultralytics YOLO: a text of polygons for each image."""

from collections.abc import Iterable
from pathlib import Path

from camseg.base.files import write_text
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.output import ExportReport, FlatNames, Numbers, PolygonLoss, finish_report, place_image, write_yaml
from camseg.exchange.pictures import NO_SPLIT, yolo_name
from camseg.exchange.settings import ExportSettings

_INSIDE = 0.25
"""How far right of and below a pixel's start its points lie: rounded down or to the nearest, both give the pixel."""


def export_yolo(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``images/train``, ``labels/train/<path>.txt`` and ``data.yaml``.

    A line holds a class, counted from 0, and the points of one connected part, as shares of width and height. Points
    are pixels, holes are joined to the outline by seams: drawn as Ultralytics and OpenCV draw them, rounded down or to
    the nearest, they give the mask back. Images without an object have an empty text.
    """
    report, numbers, flat = ExportReport(), Numbers(settings, first=0), FlatNames()
    loss = PolygonLoss("centres", settings.tolerance)
    for image in images:
        name = yolo_name(image, flat)
        place_image(image, folder / "images" / "train" / name, settings.images)
        lines = []
        for one in image.annotations:
            for polygon in loss.polygons(one.mask):
                shares = (polygon + _INSIDE) / (image.width, image.height)
                points = " ".join(f"{x:.7f} {y:.7f}" for x, y in shares.tolist())
                lines.append(f"{numbers[one.class_name]} {points}\n")
        write_text((folder / "labels" / "train" / name).with_suffix(".txt"), "".join(lines))
        report.count(image)
    names = {numbers[name]: name for name in settings.classes}
    write_yaml(folder / "data.yaml", {"train": "images/train", "val": "images/train", "names": names})
    loss.report(report)
    report.warnings.append(NO_SPLIT)
    return finish_report(report, settings, reads_exif=True)
