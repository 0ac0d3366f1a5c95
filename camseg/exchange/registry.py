"""The formats that masks are written in and read from: the command line, the documentation and the tests walk these
registries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from camseg.base.registry import Method
from camseg.exchange.settings import Geometry


@dataclass(frozen=True, kw_only=True)
class Exporter(Method):
    """(annotated images, folder, settings) -> report; ``paper`` says where the format is described."""

    tools: str
    """What reads it."""
    holds: tuple[Geometry, ...]
    """What it holds; the first is the default."""
    extra: str = ""
    """The extra of camseg that it needs; "" for none."""
    for_people: bool = False
    """Whether people correct masks there, rather than train with them."""


EXPORTERS: Final[Mapping[str, Exporter]] = {
    "coco": Exporter(
        function="exchange.coco:export_coco",
        tools="pycocotools, Detectron2, MMDetection, FiftyOne, CVAT",
        holds=("mask", "polygon"),
        paper="cocodataset.org, format-data",
    ),
    "cvat": Exporter(
        function="exchange.cvat:export_cvat",
        tools="CVAT",
        holds=("mask", "polygon"),
        for_people=True,
        paper="docs.cvat.ai, CVAT for images 1.1",
    ),
    "label-studio": Exporter(
        function="exchange.label_studio:export_label_studio",
        tools="Label Studio",
        holds=("mask",),
        for_people=True,
        paper="labelstud.io, import pre-annotated data",
    ),
    "labelme": Exporter(
        function="exchange.labelme:export_labelme",
        tools="LabelMe, X-AnyLabeling",
        holds=("mask", "polygon"),
        for_people=True,
        paper="github.com/wkentaro/labelme",
    ),
    "voc": Exporter(
        function="exchange.pictures:export_voc",
        tools="Pascal VOC's readers, CVAT, FiftyOne",
        holds=("mask",),
        paper="Everingham et al., IJCV 2010",
    ),
    "yolo": Exporter(
        function="exchange.yolo:export_yolo",
        tools="Ultralytics YOLO, instances",
        holds=("polygon",),
        paper="docs.ultralytics.com/datasets/segment",
    ),
    "yolo-semantic": Exporter(
        function="exchange.pictures:export_yolo_semantic",
        tools="Ultralytics YOLO, semantic",
        holds=("mask",),
        paper="docs.ultralytics.com/datasets/semantic",
    ),
    "index-png": Exporter(
        function="exchange.pictures:export_index_png",
        tools="what reads one class picture per image, camseg itself",
        holds=("mask",),
        paper="this page",
    ),
    "nnunet": Exporter(
        function="exchange.nnunet:export_nnunet",
        tools="nnU-Net v2",
        holds=("mask",),
        paper="Isensee et al., Nature Methods 2021",
    ),
    "hf": Exporter(
        function="exchange.pictures:export_hf",
        tools="Hugging Face datasets",
        holds=("mask",),
        paper="huggingface.co/docs/datasets, image_dataset",
    ),
    "mmseg": Exporter(
        function="exchange.pictures:export_mmseg",
        tools="MMSegmentation",
        holds=("mask",),
        paper="mmsegmentation.readthedocs.io, prepare datasets",
    ),
    "nifti": Exporter(
        function="exchange.nifti:export_nifti",
        tools="ITK-SNAP, 3D Slicer and others that read volumes",
        holds=("mask",),
        extra="nifti",
        paper="nifti.nimh.nih.gov, NIfTI-1",
    ),
    "dicom-seg": Exporter(
        function="exchange.dicom_seg:export_dicom_seg",
        tools="3D Slicer, OHIF and other DICOM viewers",
        holds=("mask",),
        extra="dicom-seg",
        paper="DICOM PS3.3, A.51",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Importer(Method):
    """(file, settings) -> the images that it tells of; ``paper`` says where the format is described."""

    tools: str
    """What writes it."""
    takes: str
    """What may be given."""
    shapes: str
    """What becomes a mask."""


IMPORTERS: Final[Mapping[str, Importer]] = {
    "coco": Importer(
        function="exchange.coco:import_coco",
        tools="CVAT, Label Studio, FiftyOne, Roboflow and others",
        takes="a JSON, or a zip with annotations/instances_*.json",
        shapes="run lengths, compressed or not; polygons",
        paper="cocodataset.org, format-data",
    ),
    "cvat": Importer(
        function="exchange.cvat:import_cvat",
        tools="CVAT",
        takes="annotations.xml, or a zip with it",
        shapes="masks, polygons, boxes, ellipses",
        paper="docs.cvat.ai, CVAT for images 1.1",
    ),
    "label-studio": Importer(
        function="exchange.label_studio:import_label_studio",
        tools="Label Studio",
        takes="its export as JSON (not JSON_MIN)",
        shapes="brushes, polygons, bitmasks, rectangles, ellipses",
        paper="labelstud.io, export annotations",
    ),
    "labelme": Importer(
        function="exchange.labelme:import_labelme",
        tools="LabelMe, X-AnyLabeling",
        takes="a folder of JSON files",
        shapes="masks, polygons, rectangles, circles",
        paper="github.com/wkentaro/labelme",
    ),
    "png": Importer(
        function="exchange.png:import_png",
        tools="any editor",
        takes="a folder of masks named like their images, or of a folder of such for each class",
        shapes="masks that camseg reads",
        paper="this page",
    ),
}
