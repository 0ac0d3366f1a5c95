"""Class pictures beside images: VOC, plain index PNG, MMSegmentation, Ultralytics' semantic form, Hugging Face."""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from camseg.base.files import write_csv, write_text, writing
from camseg.data.images import write_classes
from camseg.exchange.annotation import AnnotatedImage
from camseg.exchange.output import (
    ExportReport,
    FlatNames,
    Numbers,
    class_picture,
    finish_report,
    place_image,
    voc_palette,
    write_yaml,
)
from camseg.exchange.settings import ExportSettings

_BYTE: Final = 254
"""Classes that a byte holds beside the background, 0, and what belongs to no class, 255."""
_WORD: Final = 65534


def export_voc(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write Pascal VOC: ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation/train.txt``, ``labelmap.txt``.

    Class pictures have VOC's palette, the background is 0, and 255 is left for what belongs to no class. Names lose
    their folders: ``a/b`` becomes ``a__b``. Raises InputError for more than 254 classes.
    """
    report, numbers, flat = ExportReport(), Numbers(settings, 1, _BYTE, "VOC"), FlatNames()
    palette = voc_palette()
    with writing(folder / "ImageSets" / "Segmentation" / "train.txt") as file:
        for image in images:
            name = flat(image.name)
            place_image(image, folder / "JPEGImages" / f"{name}{_suffix(image)}", settings.images)
            picture = class_picture(image, numbers, report)
            write_classes(folder / "SegmentationClass" / f"{name}.png", picture, palette)
            file.write(f"{name}\n".encode())
            report.count(image)
    rows = ["# label:color_rgb:parts:actions"]
    for name, color in zip(("background", *settings.classes), palette, strict=False):
        rows.append(f"{name}:{','.join(map(str, color))}::")
    write_text(folder / "labelmap.txt", "\n".join(rows) + "\n")
    return finish_report(report, settings)


def export_index_png(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write ``masks/<path>.png`` with class numbers from 1, ``classes.csv`` with what they mean, and ``images/``.

    The pictures are of 8 bits, of 16 where there are more than 254 classes. ``--mask-classes classes.csv`` reads them.
    """
    report, numbers = ExportReport(), Numbers(settings, 1, _WORD, "a class picture")
    wide = len(settings.classes) > _BYTE
    for image in images:
        place_image(image, folder / "images" / image.name, settings.images)
        write_classes(folder / "masks" / f"{image.stem}.png", class_picture(image, numbers, report, wide))
        report.count(image)
    rows = [("background", 0), *((name, numbers[name]) for name in settings.classes)]
    write_csv(folder / "classes.csv", ("name", "value"), rows)
    return finish_report(report, settings)


def export_mmseg(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write MMSegmentation's ``img_dir/train``, ``ann_dir/train`` and ``dataset.py``, a config that others import.

    The background is class 0, and 255 is ignored. Raises InputError for more than 254 classes.
    """
    report, numbers = ExportReport(), Numbers(settings, 1, _BYTE, "MMSegmentation")
    palette = voc_palette(len(settings.classes) + 1)
    suffixes: set[str] = set()
    for image in images:
        suffixes.add(_suffix(image))
        place_image(image, folder / "img_dir" / "train" / image.name, settings.images)
        write_classes(
            folder / "ann_dir" / "train" / f"{image.stem}.png", class_picture(image, numbers, report), palette
        )
        report.count(image)
    common = sorted(suffixes)
    lines = [
        "dataset_type = 'BaseSegDataset'",
        f"data_root = {str(folder.absolute())!r}",
        f"metainfo = dict(classes={('background', *settings.classes)!r}, palette={[list(one) for one in palette]!r})",
        "train_dataset = dict(",
        "    type=dataset_type,",
        "    data_root=data_root,",
        "    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),",
        f"    img_suffix={(common[0] if common else '.png')!r},",
        "    seg_map_suffix='.png',",
        "    reduce_zero_label=False,",
        "    metainfo=metainfo,",
        ")",
    ]
    write_text(folder / "dataset.py", "\n".join(lines) + "\n")
    if len(common) > 1:
        report.warnings.append(
            f"MMSegmentation reads images of one suffix, here {common[0]}, and there are {', '.join(common)}; save all "
            "as one"
        )
    return finish_report(report, settings, reads_exif=True)


def export_yolo_semantic(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write Ultralytics' semantic form: ``images/train``, ``masks/train`` and ``data.yaml`` with ``masks_dir``.

    Class 0 is the background, and 255 is ignored. Raises InputError for more than 254 classes.
    """
    report, numbers, flat = ExportReport(), Numbers(settings, 1, _BYTE, "Ultralytics' semantic form"), FlatNames()
    for image in images:
        name = yolo_name(image, flat)
        place_image(image, folder / "images" / "train" / name, settings.images)
        picture = class_picture(image, numbers, report)
        write_classes((folder / "masks" / "train" / name).with_suffix(".png"), picture)
        report.count(image)
    names = dict(enumerate(("background", *settings.classes)))
    places = {"train": "images/train", "val": "images/train", "masks_dir": "masks"}
    write_yaml(folder / "data.yaml", {**places, "names": names})
    report.warnings.append(NO_SPLIT)
    return finish_report(report, settings, reads_exif=True)


NO_SPLIT: Final = "data.yaml names the same images for training and for validation; move some to images/val"


def yolo_name(image: AnnotatedImage, flat: FlatNames) -> str:
    """An image's path below ``images/train``: its own, but without folders where one is called images.

    Ultralytics finds labels by putting another word in the place of the last ``images`` in a path.
    """
    folders = {part.casefold() for part in PurePosixPath(image.name).parts[:-1]}
    clear = not folders & {"images", "masks", "labels"}
    return image.name if clear else f"{flat(image.name)}{_suffix(image)}"


def export_hf(images: Iterable[AnnotatedImage], folder: Path, settings: ExportSettings) -> ExportReport:
    """Write Hugging Face's image folder: ``train/metadata.jsonl``, ``train/images``, ``train/masks``, ``classes.csv``.

    Each line names an image, its class picture and what is in it, so that ``load_dataset("imagefolder", data_dir=...)``
    gives the columns ``image``, ``mask``, ``classes`` and ``quality``. More than 254 classes make pictures of 16 bits.
    """
    report, numbers = ExportReport(), Numbers(settings, 1, _WORD, "a class picture")
    wide = len(settings.classes) > _BYTE
    with writing(folder / "train" / "metadata.jsonl") as file:
        for image in images:
            names = {"file_name": f"images/{image.name}", "mask_file_name": f"masks/{image.stem}.png"}
            place_image(image, folder / "train" / names["file_name"], settings.images)
            write_classes(folder / "train" / names["mask_file_name"], class_picture(image, numbers, report, wide))
            qualities = [one.quality for one in image.annotations if one.quality is not None]
            known = {
                "classes": [one.class_name for one in image.annotations],
                "quality": min(qualities) if qualities else None,
            }
            file.write(json.dumps({**names, **known}, ensure_ascii=False).encode() + b"\n")
            report.count(image)
    rows = [("background", 0), *((name, numbers[name]) for name in settings.classes)]
    write_csv(folder / "classes.csv", ("name", "value"), rows)
    if settings.images == "none":
        report.warnings.append("metadata.jsonl names images that are not there; put them into train/images")
    return finish_report(report, settings, reads_exif=True)


def _suffix(image: AnnotatedImage) -> str:
    return PurePosixPath(image.name).suffix
