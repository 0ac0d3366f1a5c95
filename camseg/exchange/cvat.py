"""CVAT for images 1.1: ``annotations.xml`` with masks or polygons, in a zip too, and the labels of a task."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import ExchangeError, InputError
from camseg.base.files import write_json, writing
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.incoming import (
    Frame,
    Incoming,
    Shapes,
    ellipse_points,
    number,
    opened,
    plain_name,
    text,
    turned,
)
from camseg.exchange.output import ExportReport, Numbers, PolygonLoss, finish_report, place_image, write_zip
from camseg.exchange.rle import BoxedRuns, decode_cvat, encode_cvat
from camseg.exchange.settings import ExportSettings, ImportSettings
from camseg.runs.corrections import Decision

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


def import_cvat(file: Path, settings: ImportSettings) -> list[Incoming]:
    """The images of CVAT for images 1.1: ``annotations.xml``, or a zip with it.

    Shapes of one label in an image are one mask; a higher ``z_order`` lies further up. Shapes whose ``source`` is
    ``manual`` were drawn by a person. Labels of the task that an image has no shape of are not in it. Raises
    ExchangeError for a file that is none, and for XML with entities or a document type.
    """
    with opened(file, ".xml", lambda name: name.rpartition("/")[2] == "annotations.xml") as members:
        return [one for name, source in members for one in _images_of(name, source, settings)]


def _images_of(name: str, source: BinaryIO, settings: ImportSettings) -> list[Incoming]:
    import defusedxml
    from defusedxml.ElementTree import ParseError, iterparse

    labels: list[str] = []
    found: list[tuple[Mapping[str, str], list[tuple[str, Mapping[str, str]]]]] = []
    root = ""
    try:
        depth = 0
        for event, element in iterparse(source, events=("start", "end"), forbid_dtd=True):
            depth += 1 if event == "start" else -1
            if event == "start":
                root = root or element.tag
                if root != "annotations" or depth > 100:
                    raise ExchangeError(f"{name}: expected annotations of CVAT for images 1.1; this is another XML")
            elif element.tag == "track":
                raise ExchangeError(f"{name}: expected CVAT for images 1.1; these are tracks of a video")
            elif element.tag == "label" and (word := element.findtext("name")):
                labels.append(word)
            elif element.tag == "image":
                found.append((dict(element.attrib), [(one.tag, dict(one.attrib)) for one in element]))
                element.clear()
    except ParseError as error:
        raise ExchangeError(f"{name}: not valid XML ({error})") from None
    except defusedxml.DefusedXmlException:
        raise ExchangeError(f"{name}: expected annotations; this XML declares entities or a document type") from None
    classes = tuple(dict.fromkeys(labels))

    def one_image(image: Mapping[str, str], shapes: list[tuple[str, Mapping[str, str]]]) -> Incoming:
        return Incoming(
            name=plain_name(text(image.get("name"), "the name of an image")),
            read=lambda frame: _read_image(frame, image, shapes, classes, settings),
        )

    return [one_image(*one) for one in found]


def _read_image(
    frame: Frame,
    image: Mapping[str, str],
    found: Iterable[tuple[str, Mapping[str, str]]],
    classes: tuple[str, ...],
    settings: ImportSettings,
) -> AnnotatedImage:
    frame.check(*(None if image.get(side) is None else number(image.get(side)) for side in ("width", "height")))
    shapes = Shapes(frame=frame, exclusive=settings.exclusive)
    for kind, shape in found:
        label = text(shape.get("label"), "the label of a shape")
        decision: Decision | None = "edited" if shape.get("source") == "manual" else None
        order = number(shape.get("z_order", 0))
        if kind == "mask":
            shapes.add(label, _read_mask(shape, frame), order, decision)
        elif kind in ("polygon", "box", "ellipse"):
            shapes.add_polygons(label, [_OUTLINES[kind](shape)], "corners", order, decision)
        elif kind != "tag":
            shapes.skip(kind, label)
    return shapes.image(classes or None)


def _read_mask(shape: Mapping[str, str], frame: Frame) -> NDArray[np.bool_]:
    left, top, width, height = (int(number(shape.get(side))) for side in ("left", "top", "width", "height"))
    try:
        runs = tuple(int(run) for run in shape.get("rle", "").split(","))
    except ValueError:
        raise ExchangeError("expected whole numbers as lengths of runs") from None
    return decode_cvat(BoxedRuns(runs=runs, left=left, top=top, width=width, height=height), frame.height, frame.width)


def _polygon(shape: Mapping[str, str]) -> list[list[float]]:
    return [[number(value) for value in point.split(",")] for point in shape.get("points", "").split(";")]


def _box(shape: Mapping[str, str]) -> NDArray[np.float64]:
    left, top, right, bottom = (number(shape.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return turned(corners, ((left + right) / 2, (top + bottom) / 2), number(shape.get("rotation", 0)))


def _ellipse(shape: Mapping[str, str]) -> NDArray[np.float64]:
    x, y, radius_x, radius_y = (number(shape.get(name)) for name in ("cx", "cy", "rx", "ry"))
    return ellipse_points(x, y, radius_x, radius_y, number(shape.get("rotation", 0)))


_OUTLINES: Mapping[str, Any] = {"polygon": _polygon, "box": _box, "ellipse": _ellipse}
"""The points of each kind of shape that has an outline."""
