"""nnU-Net v2: ``imagesTr``, ``labelsTr`` and ``dataset.json``."""

from collections.abc import Iterable
from pathlib import Path

from camseg.base.errors import CamsegError, InputError, failure_line
from camseg.base.files import write_json
from camseg.data.images import read_image, write_classes, write_image
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.output import ExportReport, FlatNames, Numbers, class_picture, finish_report
from camseg.exchange.settings import ExportSettings


def export_nnunet(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``imagesTr/<case>_0000.png`` in RGB, ``labelsTr/<case>.png`` and ``dataset.json``.

    nnU-Net wants all images in one format without loss, so they are written anew, upright and of 8 bits, whether
    copies or links are asked for. Cases lose their folders: ``a/b`` becomes ``a__b``. Classes are counted from 1.
    Raises InputError for a class called background, which nnU-Net has already, and for more than 254.
    """
    report, numbers, flat = ExportReport(), Numbers(settings, 1, 254, "an 8-bit label picture"), FlatNames()
    if "background" in settings.classes:
        raise InputError("nnU-Net calls what is no object background; rename that class, or choose others by --class")
    for image in images:
        case = flat(image.name)
        if settings.images != "none":
            assert image.path is not None
            try:
                write_image(folder / "imagesTr" / f"{case}_0000.png", read_image(image.path))
            except CamsegError as error:
                report.failed.append(failure_line(image.path, error))
                continue
        write_classes(folder / "labelsTr" / f"{case}.png", class_picture(image, numbers, report))
        report.count(image)
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, **{name: numbers[name] for name in settings.classes}},
        "numTraining": report.images,
        "file_ending": ".png",
    }
    write_json(folder / "dataset.json", content)
    report.warnings.append("nnU-Net looks for folders called DatasetNNN_NAME in its raw data; move this one there")
    return finish_report(report, settings, reads_exif=True)
