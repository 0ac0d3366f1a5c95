"""Label Studio: tasks with predictions, the masks as brushes, and the labelling configuration."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from camseg import __version__
from camseg.base.files import write_text, writing
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.output import ExportReport, Numbers, finish_report, place_image, voc_palette
from camseg.exchange.rle import encode_label_studio
from camseg.exchange.settings import ExportSettings

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
            known = {"image": image.name, "quality": _least([one.quality for one in image.annotations])}
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
