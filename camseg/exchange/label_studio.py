"""Label Studio: tasks with predictions, the masks as brushes, and the labelling configuration."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from camseg import __version__
from camseg.base.arrays import Mask
from camseg.base.errors import ExchangeError
from camseg.base.files import write_text, writing
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.incoming import (
    Frame,
    Incoming,
    Shapes,
    ellipse_points,
    number,
    objects,
    opened,
    plain_name,
    read_data_url,
    read_json_bytes,
    text,
    turned,
    without_prefix,
)
from camseg.exchange.output import ExportReport, Numbers, finish_report, place_image, voc_palette
from camseg.exchange.rle import decode_label_studio, encode_label_studio
from camseg.exchange.settings import ExportSettings, ImportSettings

FROM, TO, IMAGE = "label", "image", "image"
"""What the configuration calls its brush, its picture, and the tasks' field with the address."""


def export_label_studio(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``tasks.json``, ``config.xml`` and ``images/``.

    Masks are predictions: they await review, as annotations would not. A task's score is that of its worst mask: the
    quality, else the class's probability. Images are found by the server's local files, at ``images_root``: by default
    the folder of images by its own name, so that the root of local files is the folder that it lies in.
    """
    report, numbers = ExportReport(), Numbers(settings, first=0)
    served: Path | None = None
    with writing(folder / "tasks.json") as file:
        file.write(b"[")
        for image in images:
            numbers.check(image)
            place_image(image, folder / "images" / image.name, settings.images)
            place = folder / "images" if settings.images != "none" else _home(image)
            served = served or place
            root = settings.images_root or _default_root(place, copied=settings.images != "none")
            address = f"/data/local-files/?d={quote('/'.join(filter(None, (root.strip('/'), image.name))))}"
            results = [_region(one, number) for number, one in enumerate(image.annotations)]
            prediction: dict[str, Any] = {"model_version": _version(image), "result": results}
            if (score := _score(image)) is not None:
                prediction["score"] = score
            known: dict[str, Any] = {"image": image.name}
            known["quality"] = _least([one.quality for one in image.annotations])
            known["hashes"] = dict(image.hashes)
            task = {"data": {IMAGE: address, "camseg": known}, "predictions": [prediction]}
            file.write((b"\n" if report.images == 0 else b",\n") + json.dumps(task, ensure_ascii=False).encode())
            report.count(image)
        file.write(b"\n]\n")
    write_text(folder / "config.xml", _config(settings.classes))
    if served is not None and not settings.images_root:
        copied = settings.images != "none"
        document_root = served.absolute().parents[1 if copied else 0]
        report.warnings.append(
            f"the server finds the images with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true, "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={document_root}, and a source storage of the kind local files "
            f"with the path {served.absolute()} in the project"
        )
    return finish_report(report, settings, reads_exif=True)


def _home(image: AnnotatedImage) -> Path:
    """The folder of images that an image's name starts from."""
    if image.path is None:
        return Path("images")
    return image.path.absolute().parents[image.name.count("/")]


def _default_root(place: Path, copied: bool) -> str:
    absolute = place.absolute()
    return "/".join(absolute.parts[-2:]) if copied else absolute.name


def _region(one: Annotation, number: int) -> dict[str, Any]:
    region: dict[str, Any] = {
        # The same each time, and no other's.
        "id": hashlib.sha256(f"{one.image}\n{one.class_name}\n{number}".encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": FROM,
        "to_name": TO,
        "original_width": one.width,
        "original_height": one.height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_label_studio(one.mask), "brushlabels": [one.class_name]},
    }
    score = one.quality if one.quality is not None else one.score
    return region if score is None else {**region, "score": round(score, 6)}


def _score(image: AnnotatedImage) -> float | None:
    return _least([one.score if one.quality is None else one.quality for one in image.annotations])


def _least(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(min(known), 6) if known else None


def _version(image: AnnotatedImage) -> str:
    made = sorted({one.provenance for one in image.annotations} - {""})
    return f"camseg {__version__}" + (f": {'; '.join(made)}" if made else "")


def _config(classes: tuple[str, ...]) -> str:
    colors = voc_palette(len(classes) + 1)[1:]
    labels = [
        f'    <Label value={quoteattr(name)} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in zip(classes, colors, strict=True)
    ]
    lines = [
        "<View>",
        f'  <Image name="{TO}" value="${IMAGE}" zoom="true" zoomControl="true"/>',
        f'  <BrushLabels name="{FROM}" toName="{TO}">',
        *labels,
        "  </BrushLabels>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def import_label_studio(file: Path, settings: ImportSettings) -> list[Incoming]:
    """The images of Label Studio's export as JSON, or of a zip with it.

    Of a task's annotations the newest that was not cancelled counts; tasks without one have not been looked at, and are
    left out. What a submitted annotation lacks is not in the image. Raises ExchangeError for a file that is none.
    """
    with opened(file, ".json", lambda name: name.endswith(".json")) as members:
        read = [(name, read_json_bytes(source.read(), name)) for name, source in members]
    tasks = [task for name, content in read for task in objects(content, "tasks", name)]
    if tasks and not any("annotations" in task for task in tasks):
        raise ExchangeError(f"{file}: expected tasks with annotations; export as JSON, not as JSON_MIN")
    found = []
    for task in tasks:
        annotations = objects(task.get("annotations") or [], "annotations", f"task {task.get('id')}")
        valid = [one for one in annotations if not one.get("was_cancelled")]
        if valid:
            newest = max(valid, key=lambda one: (str(one.get("updated_at") or one.get("created_at") or ""), _id(one)))
            found.append(_incoming(task, newest, settings))
    return found


def _id(annotation: Mapping[str, Any]) -> int:
    found = annotation.get("id")
    return found if isinstance(found, int) else 0


def _incoming(task: Mapping[str, Any], annotation: Mapping[str, Any], settings: ImportSettings) -> Incoming:
    data = _mapping(task.get("data"))
    own = _mapping(data.get("camseg"))
    address = data.get(IMAGE) or next((one for one in data.values() if isinstance(one, str)), "")
    names = [name for name in (own.get("image"), _address_name(address)) if isinstance(name, str) and name]
    names += [short for name in names[-1:] for short in without_prefix(name)]
    hashes = _mapping(own.get("hashes"))
    return Incoming(
        name=plain_name(names[0]) if names else f"task {task.get('id')}",
        others=tuple(map(plain_name, names[1:])),
        read=lambda frame: _read_image(frame, annotation, hashes, settings),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _address_name(address: Any) -> str:
    """The path of an image in its address: of local files, of an upload, or of a web server."""
    if not isinstance(address, str):
        return ""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d")
    except ValueError:
        return ""
    path = local[0] if local else unquote(parts.path)
    return path.rpartition("/")[2] if path.startswith("/data/upload/") else path


def _read_image(
    frame: Frame, annotation: Mapping[str, Any], hashes: Mapping[str, str | None], settings: ImportSettings
) -> AnnotatedImage:
    shapes = Shapes(frame=frame, exclusive=settings.exclusive)
    regions = objects(annotation.get("result") or [], "regions", "the annotation")
    # A tool without labels of its own writes the shape and its labels as two results of one id.
    labels = {one.get("id"): own for one in regions if (own := _labels(one)) and one.get("id") is not None}
    seen: set[Any] = set()
    for order, region in enumerate(regions):
        value = region.get("value")
        if not isinstance(value, dict) or not (kind := _kind(value)) or region.get("id") in seen:
            continue
        frame.check(region.get("original_width"), region.get("original_height"))
        if region.get("image_rotation") or 0:
            raise ExchangeError(
                f"its image was turned by {region['image_rotation']} degrees in Label Studio; turn it back there"
            )
        own = [text(label, "the label of a region") for label in _labels(region) or labels.get(region.get("id")) or ()]
        if region.get("id") is not None:
            seen.add(region.get("id"))
        if kind not in _READERS:
            for label in own or (None,):
                shapes.skip(kind, label)
        elif not own:
            raise ExchangeError(f"expected a label for each region; one of the kind {kind} has none")
        for label in own if kind in _READERS else ():
            shapes.add(label, _READERS[kind](value, frame), order)
    return shapes.image(
        hashes or None,
        seen=True,
        hashes=hashes,
        annotator=_annotator(annotation.get("completed_by")),
        seconds=_seconds(annotation.get("lead_time")),
        time=_time(annotation),
    )


def _labels(region: Mapping[str, Any]) -> list[Any]:
    value, kind = region.get("value"), region.get("type")
    if not isinstance(value, dict):
        return []
    found = value.get(kind) if isinstance(kind, str) and kind.endswith("labels") else value.get("labels")
    return found if isinstance(found, list) else []


def _kind(value: Mapping[str, Any]) -> str:
    """What a region's value describes, by what it holds; "" for what is about the whole image."""
    if "rle" in value:
        return "rle"
    if "imageDataURL" in value:
        return "bitmask"
    if "points" in value:
        return "polygon"
    if "vertices" in value:
        return "vector"
    if "radiusX" in value:
        return "ellipse"
    if "x" in value:
        return "rectangle" if "height" in value else "keypoint"
    return ""


def _brush(value: Mapping[str, Any], frame: Frame) -> Mask:
    if value.get("format") != "rle":
        raise ExchangeError(f"expected a brush of the format rle; got {str(value.get('format'))[:20]!r}")
    return decode_label_studio(value["rle"], frame.height, frame.width)


def _bitmask(value: Mapping[str, Any], frame: Frame) -> Mask:
    pixels = read_data_url(value["imageDataURL"], frame.height, frame.width)  # (H, W, 4), RGBA
    alpha = pixels[..., 3]
    return np.asarray((alpha >= 128) if (alpha < 255).any() else (pixels[..., :3].max(axis=2) >= 128))


def _outlined(outline: Callable[[Mapping[str, Any], Frame], Any]) -> Callable[[Mapping[str, Any], Frame], Mask]:
    """The mask of what has an outline, in pixels with corners between them."""

    def read(value: Mapping[str, Any], frame: Frame) -> Mask:
        shapes = Shapes(frame=frame)
        shapes.add_polygons("", [outline(value, frame)], "corners")
        return shapes.masks()[0]

    return read


def _polygon(value: Mapping[str, Any], frame: Frame) -> NDArray[np.float64]:
    shares = np.array([[number(one) for one in point] for point in value["points"]], np.float64)
    return shares * (frame.width / 100.0, frame.height / 100.0)


def _rectangle(value: Mapping[str, Any], frame: Frame) -> NDArray[np.float64]:
    left, top, width, height = (number(value[name]) / 100.0 for name in ("x", "y", "width", "height"))
    corners = np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]])
    # It is turned about its first corner.
    points = corners * (frame.width, frame.height)
    return turned(points, (points[0, 0], points[0, 1]), number(value.get("rotation") or 0))


def _ellipse(value: Mapping[str, Any], frame: Frame) -> NDArray[np.float64]:
    x, y, radius_x, radius_y = (number(value[name]) / 100.0 for name in ("x", "y", "radiusX", "radiusY"))
    width, height = frame.width, frame.height
    return ellipse_points(
        x * width, y * height, radius_x * width, radius_y * height, number(value.get("rotation") or 0)
    )


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], Frame], Mask]]] = {
    "rle": _brush,
    "bitmask": _bitmask,
    "polygon": _outlined(_polygon),
    "rectangle": _outlined(_rectangle),
    "ellipse": _outlined(_ellipse),
}
"""How each kind of region becomes a mask."""


def _annotator(value: Any) -> str | None:
    """Who did it: an address or a name where it is told, else the number."""
    if isinstance(value, dict):
        value = next((value[name] for name in ("email", "username", "id") if value.get(name)), None)
    return None if value is None or value == "" else str(value)


def _seconds(value: Any) -> float | None:
    seconds = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return float(value) if seconds else None


def _time(annotation: Mapping[str, Any]) -> str | None:
    found = annotation.get("updated_at") or annotation.get("created_at")
    return found if isinstance(found, str) else None
