"""CVAT for images 1.1: ``annotations.xml`` with masks or polygons, in a zip too, and the labels of a task."""

import re
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from camseg.base.errors import InputError
from camseg.base.files import write_json, writing
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.output import ExportReport, Numbers, PolygonLoss, finish_report, place_image, write_zip
from camseg.exchange.rle import encode_cvat
from camseg.exchange.settings import ExportSettings

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def export_cvat(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``annotations.xml``, ``annotations.zip`` with it, ``labels.json`` for the task's constructor, ``images/``.

    A mask's runs are those of its box, row by row, background first; polygons have points between pixels. Masks that
    a person drew have the source ``manual``, others ``auto``. Raises InputError for names that XML cannot hold.
    """
    report, numbers = ExportReport(), Numbers(settings, first=0)
    loss = PolygonLoss("corners", settings.tolerance) if settings.geometry == "polygon" else None
    kind = "mask" if loss is None else "polygon"
    labels = [{"name": _xml(name), "type": kind, "attributes": []} for name in settings.classes]
    with writing(folder / "annotations.xml") as file:
        file.write(_start(settings.classes, kind).encode())
        for number, image in enumerate(images):
            numbers.check(image)
            place_image(image, folder / "images" / image.name, settings.images)
            start = f'  <image id="{number}" name={_quoted(image.name)} width="{image.width}" height="{image.height}">'
            lines = [start]
            for order, one in enumerate(image.annotations):
                lines += _mask(one, order) if loss is None else _polygons(one, order, loss)
            file.write("\n".join([*lines, "  </image>\n"]).encode())
            report.count(image)
        file.write(b"</annotations>\n")
    write_zip(folder / "annotations.zip", [("annotations.xml", folder / "annotations.xml")])
    write_json(folder / "labels.json", labels)
    if loss is not None:
        loss.report(report)
    report.warnings += [
        "CVAT refuses the whole file where a task lacks one of its images; --only-images LIST leaves the others out",
        "an import takes the place of what a task holds; export that before, or import into a new task",
    ]
    return finish_report(report, settings, reads_exif=True)


def _start(classes: tuple[str, ...], kind: str) -> str:
    """The head of the file, with the labels that CVAT itself would write there."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>", "  <meta>"]
    lines += ["    <task>", "      <mode>annotation</mode>", "      <labels>"]
    for name in classes:
        inner = f"<name>{escape(_xml(name))}</name><type>{kind}</type><attributes></attributes>"
        lines.append(f"        <label>{inner}</label>")
    return "\n".join([*lines, "      </labels>", "    </task>", "  </meta>\n"])


def _mask(one: Annotation, order: int) -> list[str]:
    boxed = encode_cvat(one.mask)
    runs = ", ".join(map(str, boxed.runs))
    place = f'left="{boxed.left}" top="{boxed.top}" width="{boxed.width}" height="{boxed.height}"'
    return [f'    <mask {_common(one)} rle="{runs}" {place} z_order="{order}"></mask>']


def _polygons(one: Annotation, order: int, loss: PolygonLoss) -> list[str]:
    polygons = loss.polygons(one.mask)
    group = f' group_id="{order + 1}"' if len(polygons) > 1 else ""  # the parts of one mask
    lines = []
    for polygon in polygons:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon.tolist())
        lines.append(f'    <polygon {_common(one)} points="{points}" z_order="{order}"{group}></polygon>')
    return lines


def _common(one: Annotation) -> str:
    source = "manual" if one.decision == "edited" else "auto"
    return f'label={_quoted(one.class_name)} source="{source}" occluded="0"'


def _quoted(text: str) -> str:
    return quoteattr(_xml(text), {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})


def _xml(text: str) -> str:
    if found := _NO_XML.search(text):
        raise InputError(f"{text!r}: XML cannot hold the character {found[0]!r}; rename it")
    return text
