"""``export_folder`` and every format: what each tool's own library, or plain arithmetic, reads back is the mask."""

import base64
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import InputError, OutputError
from camseg.base.files import write_text
from camseg.data.images import read_image, read_mask, write_image, write_mask
from camseg.exchange.annotation import AnnotatedImage, Annotation
from camseg.exchange.export import export_folder
from camseg.exchange.output import FlatNames
from camseg.exchange.polygons import polygons_to_mask
from camseg.exchange.registry import EXPORTERS
from camseg.exchange.rle import decode_label_studio
from camseg.exchange.settings import ExportInputs, ExportSettings
from camseg.prepare.settings import DicomSettings, SliceSettings
from camseg.prepare.slices import prepare_slices
from camseg.runs.manifest import read_manifest
from camseg.runs.record import Record, to_line

PLAIN = [name for name in EXPORTERS if name not in ("nifti", "dicom-seg")]


def shapes():
    """Masks that formats have lost something of: holes, pieces, borders, a pixel; (30, 44) each."""
    y, x = np.mgrid[:30, :44]
    ring = (np.hypot(y - 14, x - 20) < 12) & (np.hypot(y - 12, x - 18) > 4)
    pieces = ((y // 3 + x // 4) % 3 == 0) & (y > 4)
    border = (y == 0) | (x == 43) | (y > 26)
    pixel = (y == 29) & (x == 43)
    return {"ring.png": ring, "a/pieces.jpg": pieces, "b/pieces.jpg": ~pieces, "bord er.png": border, "ü#1.png": pixel}


@pytest.fixture
def folder(tmp_path):
    """Masks of the class cat, one image with a dog too and one with nothing, and their images."""
    for number, (name, mask) in enumerate(shapes().items()):
        write_image(tmp_path / "images" / name, np.full((30, 44, 3), 40 * number, np.uint8))
        write_mask((tmp_path / "masks/cat" / name).with_suffix(".png"), mask)
    write_mask(tmp_path / "masks/dog/ring.png", ~shapes()["ring.png"])
    write_image(tmp_path / "images/none.png", np.zeros((30, 44, 3), np.uint8))
    write_mask(tmp_path / "masks/cat/none.png", np.zeros((30, 44), bool))
    return tmp_path


EXPECTED = {(name, "cat"): mask for name, mask in shapes().items()} | {("ring.png", "dog"): ~shapes()["ring.png"]}


def export(folder, name, out="out", **settings):
    settings = ExportSettings(**settings)
    report = export_folder(folder / "masks", folder / out, name, settings, ExportInputs(image_folder=folder / "images"))
    assert report.failed == []
    return report


def check(found, expected=EXPECTED):
    assert found.keys() == expected.keys()
    for key, mask in expected.items():
        assert np.array_equal(found[key], mask), key


def union(masks):
    return np.any(list(masks), axis=0)


@pytest.mark.parametrize("name", PLAIN)
def test_every_format_counts_what_it_wrote_and_copies_the_images(folder, name):
    report = export(folder, name)
    assert (report.images, report.masks, report.empty, report.classes) == (6, 6, 1, ("cat", "dog"))
    written = [path for path in (folder / "out").rglob("*.png") if "mask" not in str(path).lower()]
    copied = {path.read_bytes() for path in [*written, *(folder / "out").rglob("*.jpg")]}
    originals = {path.read_bytes() for path in (folder / "images").rglob("*.*")}
    assert name == "nnunet" or originals <= copied
    assert not list((folder / "out").rglob(".*")), "no temporary file is left"


@pytest.mark.parametrize("name", PLAIN)
def test_equal_masks_give_equal_bytes(folder, name):
    export(folder, name, "one/out")
    export(folder, name, "two/out")
    files = sorted(path.relative_to(folder / "one") for path in (folder / "one").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(folder / "two") for path in (folder / "two").rglob("*") if path.is_file())
    for file in files:
        if file.name != "dataset.py":  # which says where it lies
            assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes(), file


# Each tool's own reading


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools', of NumPy 2
@pytest.mark.parametrize("geometry", ["mask", "polygon"])
def test_pycocotools_reads_coco(folder, geometry, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    report = export(folder, "coco", geometry=geometry)
    data = coco.COCO(folder / "out/annotations/instances_default.json")
    capsys.readouterr()
    names = {one["id"]: one["name"] for one in data.dataset["categories"]}
    files = {one["id"]: one["file_name"] for one in data.dataset["images"]}
    assert names == {1: "cat", 2: "dog"}
    found = {(files[one["image_id"]], names[one["category_id"]]): data.annToMask(one) > 0 for one in data.anns.values()}
    if geometry == "mask":
        check(found)
        assert all(one["area"] == data.annToMask(one).sum() and one["iscrowd"] == 0 for one in data.anns.values())
        boxes = [data.anns[number]["bbox"] for number in data.anns]
        assert boxes == [coco.maskUtils.toBbox(one["segmentation"]).tolist() for one in data.anns.values()]
    else:  # it rounds its edges, and unites polygons: none is lost but for that
        assert report.polygon_iou == 1.0
        for key, mask in EXPECTED.items():
            assert np.count_nonzero(found[key] ^ mask) <= 0.02 * mask.size, key
    with zipfile.ZipFile(folder / "out/annotations.zip") as archive:
        assert archive.namelist() == ["annotations/instances_default.json"]


def test_cvats_own_decoder_reads_its_masks(folder):
    masks = pytest.importorskip("cvat_sdk.masks")
    export(folder, "cvat", images="none")
    found = {}
    root = ElementTree.parse(folder / "out/annotations.xml").getroot()
    assert [one.get("name") for one in root.iter("image")] == sorted([*shapes(), "none.png"])
    for image in root.iter("image"):
        for one in image.iter("mask"):
            runs = [int(run) for run in one.get("rle").split(",")]
            left, top, width, height = (int(one.get(word)) for word in ("left", "top", "width", "height"))
            points = [*runs, left, top, left + width - 1, top + height - 1]
            name = image.get("name"), one.get("label")
            assert points == masks.encode_mask(EXPECTED[name])
            size = {f"image_{side}": int(image.get(side)) for side in ("width", "height")}
            found[name] = masks.decode_mask(points, **size)
            assert (one.get("source"), one.get("occluded")) == ("auto", "0")
    check(found)
    assert json.loads((folder / "out/labels.json").read_text())[1] == {"name": "dog", "type": "mask", "attributes": []}


def test_cvats_polygons_paint_their_masks(folder):
    export(folder, "cvat", geometry="polygon", images="none")
    found = {}
    for image in ElementTree.parse(folder / "out/annotations.xml").getroot().iter("image"):
        for label in {one.get("label") for one in image.iter("polygon")}:
            own = [one.get("points") for one in image.iter("polygon") if one.get("label") == label]
            polygons = [np.array([point.split(",") for point in text.split(";")], float) for text in own]
            found[image.get("name"), label] = polygons_to_mask(polygons, 30, 44, "corners")
    check(found)


def test_label_studios_tasks_hold_the_masks_as_predictions(folder):
    report = export(folder, "label-studio", images="none")
    tasks = json.loads((folder / "out/tasks.json").read_text())
    found = {}
    for task in tasks:
        assert "annotations" not in task  # which would count as done
        address = task["data"]["image"]
        assert address.startswith("/data/local-files/?d=images/")
        assert "#" not in address
        name = unquote(address.partition("=")[2]).removeprefix("images/")
        for region in task["predictions"][0]["result"]:
            value = region["value"]
            (label,) = value["brushlabels"]
            assert (region["type"], value["format"], region["image_rotation"]) == ("brushlabels", "rle", 0)
            mask = decode_label_studio(value["rle"], region["original_height"], region["original_width"])
            found[name, label] = mask
    check(found)
    config = ElementTree.parse(folder / "out/config.xml").getroot()
    assert [one.get("value") for one in config.iter("Label")] == ["cat", "dog"]
    brush = next(config.iter("BrushLabels"))
    region = tasks[-1]["predictions"][0]["result"][0]
    assert (region["from_name"], region["to_name"]) == (brush.get("name"), brush.get("toName"))
    assert next(config.iter("Image")).get("value") == "$image"
    assert f"DOCUMENT_ROOT={folder}," in report.warnings[0]


def test_label_studios_addresses_lead_to_the_copies_or_where_one_says(folder):
    export(folder, "label-studio")
    export(folder, "label-studio", "other", images_root="/disk/photos/")
    for out, start in (("out", "out/images"), ("other", "disk/photos")):
        addresses = [task["data"]["image"] for task in json.loads((folder / out / "tasks.json").read_text())]
        assert f"/data/local-files/?d={start}/a/pieces.jpg" in addresses


def read_labelme(out):
    for path in sorted(out.rglob("*.json")):
        if path.name != "export.json":
            content = json.loads(path.read_text())
            assert content["imageData"] is None
            yield path, content


def test_labelmes_masks_are_crops_between_inclusive_corners(folder):
    export(folder, "labelme")
    found = {}
    for path, content in read_labelme(folder / "out"):
        assert (content["imageHeight"], content["imageWidth"]) == (30, 44)
        image = path.parent / content["imagePath"]
        assert image.is_file()
        for shape in content["shapes"]:
            assert shape["shape_type"] == "mask"
            (left, top), (right, bottom) = np.array(shape["points"]).astype(int).tolist()
            mask = np.zeros((30, 44), bool)
            crop = np.array(PilImage.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            mask[top : bottom + 1, left : right + 1] = crop > 0
            found[image.relative_to(folder / "out").as_posix(), shape["label"]] = mask
    check(found)


def test_labelmes_files_lead_to_images_that_stay(folder):
    export(folder, "labelme", images="none")
    ways = {path.parent / content["imagePath"] for path, content in read_labelme(folder / "out")}
    assert {way.resolve() for way in ways} == set((folder / "images").rglob("*.*"))


def test_polygons_for_x_anylabeling_paint_their_masks_and_have_scores(folder):
    report = export(folder, "labelme", geometry="polygon")
    found = {}
    for path, content in read_labelme(folder / "out"):
        for shape in content["shapes"]:
            assert shape["shape_type"] == "polygon"
            assert "score" in shape
            canvas = np.zeros((30, 44), np.uint8)
            cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], 1)
            name = (path.parent / content["imagePath"]).relative_to(folder / "out").as_posix()
            found.setdefault((name, shape["label"]), []).append(canvas > 0)
    check({name: union(masks) for name, masks in found.items()})
    assert report.polygon_iou == report.polygon_iou_worst == 1.0


def numbered(path):
    return np.array(PilImage.open(path))


def test_vocs_pictures_have_its_palette_and_flat_names(folder):
    export(folder, "voc")
    out = folder / "out"
    names = (out / "ImageSets/Segmentation/train.txt").read_text().splitlines()
    assert sorted(names) == ["a__pieces", "b__pieces", "bord er", "none", "ring", "ü#1"]
    with PilImage.open(out / "SegmentationClass/ring.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        assert picture.getpalette()[-3:] == [224, 224, 192]
    assert np.array_equal(numbered(out / "SegmentationClass/a__pieces.png") == 1, EXPECTED["a/pieces.jpg", "cat"])
    assert np.array_equal(numbered(out / "SegmentationClass/ring.png"), np.where(shapes()["ring.png"], 1, 2))
    assert (out / "JPEGImages/b__pieces.jpg").read_bytes() == (folder / "images/b/pieces.jpg").read_bytes()
    assert (out / "labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::", "cat:128,0,0::", "dog:0,128,0::"
    ]  # fmt: skip
    assert read_mask(out / "SegmentationClass/ring.png", "2").sum() == EXPECTED["ring.png", "dog"].sum()


@pytest.mark.parametrize(
    ("name", "place"),
    [("index-png", "masks"), ("mmseg", "ann_dir/train"), ("yolo-semantic", "masks/train"), ("hf", "train/masks")],
)
def test_class_pictures_lie_at_their_images_paths(folder, name, place):
    export(folder, name)
    for (image, label), mask in EXPECTED.items():
        picture = numbered((folder / "out" / place / image).with_suffix(".png"))
        assert picture.dtype == np.uint8
        assert np.array_equal(picture == ("cat", "dog").index(label) + 1, mask)
    assert not numbered(folder / "out" / place / "none.png").any()


def test_camseg_reads_its_index_pictures_by_their_table(folder):
    export(folder, "index-png")
    mask = read_mask(folder / "out/masks/ring.png", "dog", folder / "out/classes.csv")
    assert np.array_equal(mask, EXPECTED["ring.png", "dog"])


@pytest.mark.parametrize("way", ["down", "near"])
def test_yolos_polygons_paint_their_masks_with_holes(folder, way):
    report = export(folder, "yolo")
    assert report.polygon_iou == 1.0
    found = {}
    for path in (folder / "out/labels/train").rglob("*.txt"):
        (image,) = (folder / "out/images/train").glob(
            f"{path.relative_to(folder / 'out/labels/train').with_suffix('')}.*"
        )
        for line in path.read_text().splitlines():
            number, *shares = line.split()
            points = np.array(shares, np.float32).reshape(-1, 2)
            assert ((points >= 0) & (points <= 1)).all()
            points = points * np.array([44, 30], np.float32)
            canvas = np.zeros((30, 44), np.uint8)
            cv2.fillPoly(canvas, [(points if way == "down" else np.rint(points)).astype(np.int32)], 1)
            name = image.relative_to(folder / "out/images/train").as_posix()
            found.setdefault((name, ("cat", "dog")[int(number)]), []).append(canvas > 0)
    check({name: union(masks) for name, masks in found.items()})
    assert (folder / "out/labels/train/none.txt").read_text() == ""
    assert '  1: "dog"' in (folder / "out/data.yaml").read_text().splitlines()


def test_yolo_leaves_folders_called_images_out_of_names(tmp_path):
    """Ultralytics finds labels by putting another word in the place of the last ``images`` of a path."""
    write_image(tmp_path / "images/x/images/a.png", np.zeros((30, 44, 3), np.uint8))
    write_mask(tmp_path / "masks/x/images/a.png", shapes()["ring.png"])
    export(tmp_path, "yolo")
    assert (tmp_path / "out/images/train/x__images__a.png").is_file()
    assert (tmp_path / "out/labels/train/x__images__a.txt").is_file()


def test_nnunet_gets_upright_rgb_and_consecutive_labels(folder):
    exif = PilImage.Exif()
    exif[0x0112] = 6
    stored = np.random.default_rng(0).integers(0, 256, (44, 30, 3), np.uint8)
    PilImage.fromarray(stored).save(folder / "images/a/pieces.jpg", exif=exif)
    export(folder, "nnunet")
    image = read_image(folder / "out/imagesTr/a__pieces_0000.png")
    assert np.array_equal(image, read_image(folder / "images/a/pieces.jpg"))
    assert image.shape == (30, 44, 3)
    content = json.loads((folder / "out/dataset.json").read_text())
    assert content["labels"] == {"background": 0, "cat": 1, "dog": 2}
    assert (content["numTraining"], content["file_ending"]) == (6, ".png")
    assert len(list((folder / "out/labelsTr").iterdir())) == len(list((folder / "out/imagesTr").iterdir())) == 6


def test_hugging_faces_lines_lead_to_images_and_masks(folder):
    export(folder, "hf")
    lines = [json.loads(line) for line in (folder / "out/train/metadata.jsonl").read_text().splitlines()]
    assert [line["classes"] for line in lines if line["file_name"] == "images/ring.png"] == [["cat", "dog"]]
    for line in lines:
        assert (folder / "out/train" / line["file_name"]).is_file()
        assert (folder / "out/train" / line["mask_file_name"]).is_file()


# Medical images


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("turned", [False, True])
def test_slices_go_back_into_their_volume(tmp_path, axis, turned):
    nibabel = pytest.importorskip("nibabel")
    labels = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    affine = np.array([[0, 0, 2.0, 5], [-3, 0, 0, 9], [0, 1, 0, 0], [0, 0, 0, 1]]) if turned else np.eye(4)
    image = nibabel.Nifti1Image(np.random.default_rng(1).normal(size=labels.shape).astype(np.float32), affine)
    for place, one in (("volumes", image), ("labels", nibabel.Nifti1Image(labels, affine))):
        (tmp_path / place / "p").mkdir(parents=True)
        nibabel.save(one, tmp_path / place / "p/case.nii.gz")
    settings = SliceSettings(axis=axis, classes=("a=1", "b=2"), skip_empty=False, window="percentile")
    prepare_slices(tmp_path / "volumes", tmp_path / "slices", settings, labels=tmp_path / "labels")
    report = export_folder(tmp_path / "slices", tmp_path / "out", "nifti")
    assert (report.failed, report.classes) == ([], ("a", "b"))
    back = nibabel.load(tmp_path / "out/p/case.nii.gz")
    assert np.array_equal(back.affine, affine)
    assert np.array_equal(np.asanyarray(back.dataobj), labels)


def test_slices_that_are_left_out_hold_no_object_and_are_told(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    labels = np.ones((4, 4, 3), np.uint8)
    for place in ("volumes", "labels"):
        (tmp_path / place).mkdir()
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / place / "a.nii")
    settings = SliceSettings(classes=("a",), skip_empty=False)
    prepare_slices(tmp_path / "volumes", tmp_path / "slices", settings, labels=tmp_path / "labels")
    write_text(tmp_path / "list.txt", "a/000.png\n")
    settings = ExportSettings(only_images=tmp_path / "list.txt")
    report = export_folder(tmp_path / "slices", tmp_path / "out", "nifti", settings)
    assert "2 slices of 1 volumes" in report.warnings[0]
    assert np.asanyarray(nibabel.load(tmp_path / "out/a.nii.gz").dataobj).sum(axis=(0, 1)).tolist() == [16, 0, 0]


def test_what_was_cut_from_no_volume_cannot_become_one(folder):
    pytest.importorskip("nibabel")
    with pytest.raises(InputError, match="as sources"):
        export(folder, "nifti")


def make_dicom_run(root, keep_ids):
    """Two slices of a series, prepared, and masks of them as ``label`` would write them."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    from camseg.prepare.dicom import prepare_dicom

    (root / "scans").mkdir()
    for index in range(2):
        data = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{data.SOPInstanceUID}.{index}"
        data.ImagePositionPatient = [-100, -100, 5.0 * index]
        data.save_as(root / "scans" / f"{index}.dcm")
    prepare_dicom(root / "scans", root / "images", DicomSettings(keep_ids=keep_ids))
    names = sorted(path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*.png"))
    masks = [np.zeros((128, 128), bool) for _ in names]
    masks[0][10:40, 20:30] = True
    masks[1][50:, 100:] = True
    for name, mask in zip(names, masks, strict=True):
        write_mask(root / "masks" / name, mask)
    return dict(zip(names, masks, strict=True))


@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.filterwarnings("ignore")  # the sample's values are not all valid
def test_segmentations_refer_to_the_dicom_files_they_came_from(tmp_path, keep_ids):
    highdicom = pytest.importorskip("highdicom")
    masks = make_dicom_run(tmp_path, keep_ids)
    report = export_folder(
        tmp_path / "masks",
        tmp_path / "out",
        "dicom-seg",
        ExportSettings(sources=tmp_path / "scans"),
        ExportInputs(image_folder=tmp_path / "images", class_name="lesion"),
    )
    assert (report.images, report.failed) == (2, [])
    (file,) = (tmp_path / "out").glob("*.dcm")
    read = highdicom.seg.segread(file)
    assert [one.SegmentLabel for one in read.SegmentSequence] == ["lesion"]
    assert read.PatientID == "1CT1"
    unique = sorted(path.name for path in (tmp_path / "scans").iterdir())
    pydicom = pytest.importorskip("pydicom")
    uids = [pydicom.dcmread(tmp_path / "scans" / name).SOPInstanceUID for name in unique]
    pixels = read.get_pixels_by_source_instance(source_sop_instance_uids=uids)
    found = {pixels[index, :, :, 0].astype(bool).tobytes() for index in range(2)}
    assert found == {mask.tobytes() for mask in masks.values()}


@pytest.mark.filterwarnings("ignore")  # the sample's values are not all valid
def test_series_whose_images_come_by_turns_get_one_segmentation_each(tmp_path):
    highdicom, pydicom = (pytest.importorskip(name) for name in ("highdicom", "pydicom"))
    from pydicom.data import get_testdata_file

    from camseg.prepare.dicom import prepare_dicom

    (tmp_path / "scans").mkdir()
    for index, series in enumerate(["A", "B", "A", "C", "B", "C"]):
        data = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index}"
        data.SeriesInstanceUID = f"1.2.{ord(series)}"
        data.ImagePositionPatient = [-100, -100, 5.0 * index]
        if index == 5:  # no segmentation is of images of several sizes
            data.PixelData, data.Rows = data.PixelData[: len(data.PixelData) // 2], 64
        data.save_as(tmp_path / "scans" / f"{index}.dcm")
    prepare_dicom(tmp_path / "scans", tmp_path / "images", DicomSettings(keep_ids=True))
    images = {record.source.instance: record.files["image"] for record in read_manifest(tmp_path / "images")}
    for index in range(6):  # names by which the series are mixed
        mask = np.zeros((64 if index == 5 else 128, 128), bool)
        mask[10:20, 20 + index : 30], mask[40:42, 5:9] = True, True
        file = images[f"1.2.3.{index}"]
        write_mask(tmp_path / "masks" / file, mask)
    report = export_folder(
        tmp_path / "masks",
        tmp_path / "out",
        "dicom-seg",
        ExportSettings(sources=tmp_path / "scans", pieces=True),
        ExportInputs(image_folder=tmp_path / "images", class_name="lesion"),
    )
    assert (report.images, report.masks) == (4, 8)
    (failed,) = report.failed
    assert "images of one size in a series; it is 128 x 64; its series, 2 images, was left out" in failed
    read = [highdicom.seg.segread(file) for file in (tmp_path / "out").glob("*.dcm")]
    assert len({one.SOPInstanceUID for one in read}) == 2
    for one in read:
        uids = [data.ReferencedSOPInstanceUID for data in one.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
        pixels = one.get_pixels_by_source_instance(source_sop_instance_uids=uids)
        expected = [100 - 10 * int(uid[-1]) + 8 for uid in uids]
        assert pixels.sum(axis=(1, 2, 3)).tolist() == expected


# What is exported


@pytest.fixture
def decided(tmp_path):
    """A run with a mask of each decision, and qualities; the image of two classes has one that was rejected."""
    lines = []
    for number, name in enumerate(["accepted", "edited", "rejected", "empty", "unseen", "two"]):
        write_image(tmp_path / "images" / f"{name}.png", np.zeros((30, 44, 3), np.uint8))
        for kind in ("cat", "dog")[: 1 + (name == "two")]:
            file = f"masks/{kind}/{name}.png"
            write_mask(tmp_path / "run" / file, shapes()["ring.png"])
            record = Record(input=f"{name}.png", name=name, class_name=kind, files={"mask": file}, score=0.1 * number)
            lines.append(to_line(record))
    write_text(tmp_path / "run/manifest.jsonl", "".join(lines))
    decisions = {"accepted": "cat", "edited": "cat", "rejected": "cat", "empty": "cat", "two": "dog"}
    rows = [
        {
            "input": f"{name}.png", "class": kind, "decision": "rejected" if name == "two" else name, "tool": "review",
            "time": "2026-01-01", "corrected": f"corrected/{kind}/{name}.png" if name in ("edited", "empty") else None,
        }
        for name, kind in decisions.items()
    ]  # fmt: skip
    write_text(tmp_path / "run/corrections.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_mask(tmp_path / "run/corrected/cat/edited.png", ~shapes()["ring.png"])
    write_mask(tmp_path / "run/corrected/cat/empty.png", np.zeros((30, 44), bool))

    def run(**settings):
        inputs = ExportInputs(image_folder=tmp_path / "images")
        report = export_folder(tmp_path / "run", tmp_path / "out", "index-png", ExportSettings(**settings), inputs)
        found = {path.stem: numbered(path) for path in (tmp_path / "out/masks").iterdir()}
        return report, found

    return run


def test_corrections_win_and_rejected_images_stay_out(decided):
    report, found = decided()
    assert sorted(found) == ["accepted", "edited", "empty", "unseen"]
    assert report.left_out == {"with a mask that was rejected": 2}
    assert np.array_equal(found["edited"] == 1, ~shapes()["ring.png"])
    assert not found["empty"].any()


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (("accepted",), ["accepted"]),
        (("accepted", "edited", "empty"), ["accepted", "edited", "empty"]),
        (("rejected",), ["rejected"]),
        (("unseen", "rejected"), ["rejected", "two", "unseen"]),
    ],
)
def test_only_takes_images_all_of_whose_masks_are_so(decided, only, expected):
    _, found = decided(only=only)
    assert sorted(found) == expected


def test_classes_give_the_numbers_and_leave_others_out(decided):
    report, found = decided(classes=("dog", "cat"), only=("accepted",))
    assert report.classes == ("dog", "cat")
    assert set(np.unique(found["accepted"])) == {0, 2}


def test_an_image_without_a_mask_of_the_classes_is_nothing_that_a_person_said(decided):
    with pytest.raises(InputError, match="5 without a mask of these classes"):
        decided(classes=("dog",), only=("edited",))


def test_a_least_quality_asks_only_for_what_no_person_has_seen(tmp_path, decided, monkeypatch):
    """The manifest's quality is another room's; here it stands for the score."""
    from camseg.exchange import loading

    mask_of = loading.ListedMask

    def with_quality(**given):
        return mask_of(**{**given, "quality": given.get("score")})

    monkeypatch.setattr(loading, "ListedMask", with_quality)
    report, found = decided(min_quality=0.35)
    assert sorted(found) == ["accepted", "edited", "empty", "unseen"]  # unseen has 0.4, accepted 0.0
    assert report.left_out == {"with a mask that was rejected": 2}


def test_unknown_qualities_are_left_out(decided):
    report, found = decided(min_quality=0.5)
    assert sorted(found) == ["accepted", "edited", "empty"]
    assert report.left_out["with a mask of unknown quality"] == 2


def test_a_list_takes_its_images_by_path_with_or_without_suffix(folder):
    write_text(folder / "list.txt", "\ufeffa/pieces.jpg\n\n./ring\nb\\pieces.jpg\ngone.png\n")
    said = []
    settings = ExportSettings(only_images=folder / "list.txt", images="none")
    inputs = ExportInputs(image_folder=folder / "images")
    report = export_folder(folder / "masks", folder / "out", "cvat", settings, inputs, say=said.append)
    assert (report.images, report.left_out) == (3, {"not in the list of images": 3})
    assert "1 images" in said[0]
    assert "gone.png" in said[0]
    assert any("--only-images" in line for line in report.warnings)


def test_pieces_become_objects_of_their_own(folder):
    report = export(folder, "coco", pieces=True)
    count = sum(cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in EXPECTED.values())
    assert report.masks == count > len(EXPECTED)


def test_a_tolerance_reports_what_polygons_lost(folder):
    report = export(folder, "cvat", geometry="polygon", tolerance=2.0, images="none")
    assert 0.3 < report.polygon_iou_worst < report.polygon_iou < 1.0


def test_smaller_masks_lie_on_top_where_a_pixel_holds_one_class(folder):
    write_mask(folder / "masks/dog/a/pieces.png", np.ones((30, 44), bool))
    report = export(folder, "index-png")
    picture = numbered(folder / "out/masks/a/pieces.png")
    assert np.array_equal(picture, np.where(shapes()["a/pieces.jpg"], 1, 2))
    assert any(line.startswith("in 1 images masks") for line in report.warnings)


def test_turned_images_are_told_where_tools_ignore_exif(folder):
    exif = PilImage.Exif()
    exif[0x0112] = 6
    PilImage.fromarray(np.zeros((44, 30, 3), np.uint8)).save(folder / "images/a/pieces.jpg", exif=exif)
    for name, told in (("voc", True), ("cvat", False)):
        report = export(folder, name, name)
        assert any("turned by EXIF" in line for line in report.warnings) == told
    assert "1 images are turned" in export(folder, "coco").warnings[0]


def test_links_lead_to_the_images(folder):
    export(folder, "coco", images="link")
    link = folder / "out/images/ring.png"
    assert link.is_symlink()
    assert link.resolve() == folder / "images/ring.png"


# What is refused


def test_an_output_that_holds_other_files_is_kept(folder):
    write_text(folder / "out/mine.txt", "mine")
    with pytest.raises(OutputError, match="holds other files"):
        export(folder, "coco")
    with pytest.raises(OutputError, match="holds other files"):
        export_folder(
            folder / "masks",
            folder / "out",
            "coco",
            inputs=ExportInputs(image_folder=folder / "images"),
            overwrite=True,
        )
    assert (folder / "out/mine.txt").read_text() == "mine"


def test_overwriting_takes_away_what_an_export_wrote_and_nothing_else(folder):
    inputs = ExportInputs(image_folder=folder / "images")
    export(folder, "voc")
    with pytest.raises(OutputError):
        export(folder, "coco")
    export_folder(folder / "masks", folder / "out", "coco", inputs=inputs, overwrite=True)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "annotations", "annotations.zip", "export.json", "images"
    ]  # fmt: skip
    (folder / "out/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        export_folder(folder / "masks", folder / "out", "voc", inputs=inputs, overwrite=True)
    assert (folder / "out/mine.txt").exists()


def test_an_interrupted_export_can_be_overwritten(folder, monkeypatch):
    inputs = ExportInputs(image_folder=folder / "images")

    def broken(items, total, title):
        yield from list(items)[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_folder(folder / "masks", folder / "out", "labelme", inputs=inputs, progress=broken)
    export_folder(folder / "masks", folder / "out", "voc", inputs=inputs, overwrite=True)
    assert not list((folder / "out").glob("*.jpg"))


def test_a_dry_run_counts_and_writes_nothing(folder):
    inputs = ExportInputs(image_folder=folder / "images")
    report = export_folder(folder / "masks", folder / "out", "voc", inputs=inputs, dry_run=True)
    assert report.images == 6
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cocoa", {}, "unknown format 'cocoa'"),
        ("voc", {"geometry": "polygon"}, "voc holds masks only"),
        ("yolo", {"geometry": "mask"}, "yolo holds polygons only"),
        ("coco", {"tolerance": 1.0}, "choose --geometry polygon"),
        ("coco", {"only": ("accepted",)}, "no image is left"),
    ],
)
def test_settings_that_a_format_cannot_follow_are_refused(folder, name, settings, message):
    with pytest.raises(InputError, match=message):
        export(folder, name, **settings)
    assert not (folder / "out").exists()


def test_names_that_lead_out_of_the_folder_fail(folder, tmp_path):
    write_mask(tmp_path / "run/masks/a.png", shapes()["ring.png"])
    line = Record(input="../../a.png", name="a", class_name="cat", files={"mask": "masks/a.png"})
    good = Record(input="b.png", name="b", class_name="cat", files={"mask": "masks/a.png"})
    write_text(tmp_path / "run/manifest.jsonl", to_line(line) + to_line(good))
    report = export_folder(tmp_path / "run", tmp_path / "deep/out", "labelme", ExportSettings(images="none"))
    assert len(report.failed) == 1
    assert "below the folder of images" in report.failed[0]
    assert not (tmp_path / "a.json").exists()


def test_an_image_that_fails_is_told_and_the_rest_written(folder):
    (folder / "images/ring.png").write_bytes(b"not a picture")
    report = export_folder(
        folder / "masks", folder / "out", "coco", inputs=ExportInputs(image_folder=folder / "images")
    )
    assert (report.images, len(report.failed)) == (5, 1)
    assert "ring.png" in report.failed[0]


def test_flat_names_never_meet():
    flat = FlatNames()
    assert [flat(name) for name in ("a/b.png", "a__b.png", "A/b.jpg", "c.png")] == ["a__b", "a__b-2", "A__b-3", "c"]


# Sizes


def annotated(count, classes, size=(24, 32)):
    for number in range(count):
        mask = np.zeros(size, bool)
        mask[number % size[0], : 1 + number % size[1]] = True
        name = f"{number:05}.png"
        one = Annotation(
            image=name, width=size[1], height=size[0], class_name=classes[number % len(classes)], mask=mask
        )
        yield AnnotatedImage(name=name, width=size[1], height=size[0], annotations=(one,))


def test_a_thousand_classes(tmp_path):
    classes = tuple(f"class {number:04}" for number in range(1000))
    for name, exporter in EXPORTERS.items():
        if name in ("nifti", "dicom-seg"):
            continue
        settings = ExportSettings(classes=classes, images="none")
        if name in ("voc", "mmseg", "yolo-semantic", "nnunet"):
            with pytest.raises(InputError, match="at most 254 classes"):
                exporter.load()(annotated(3, classes), tmp_path / name, settings)
            continue
        report = exporter.load()(annotated(1000, classes), tmp_path / name, settings)
        assert (report.images, len(report.classes)) == (1000, 1000)
    picture = numbered(tmp_path / "index-png/masks/00999.png")
    assert picture.max() == 1000
    assert '"id": 1000, "name": "class 0999"' in (tmp_path / "coco/annotations/instances_default.json").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools', of NumPy 2
def test_eleven_megapixels_with_thousands_of_pieces(tmp_path, capsys):
    coco, cvat = pytest.importorskip("pycocotools.coco"), pytest.importorskip("cvat_sdk.masks")
    random = np.random.default_rng(0)
    noise = cv2.GaussianBlur(random.standard_normal((2800, 3930)).astype(np.float32), (0, 0), 6)
    mask = noise > 0.02
    one = Annotation(image="a.png", width=3930, height=2800, class_name="cat", mask=mask)
    image = AnnotatedImage(name="a.png", width=3930, height=2800, annotations=(one,))
    settings = ExportSettings(classes=("cat",), images="none")
    for name in ("coco", "cvat", "label-studio", "yolo"):
        EXPORTERS[name].load()([image], tmp_path / name, settings)
    data = coco.COCO(tmp_path / "coco/annotations/instances_default.json")
    capsys.readouterr()
    assert np.array_equal(data.annToMask(data.anns[1]) > 0, mask)
    found = next(ElementTree.parse(tmp_path / "cvat/annotations.xml").getroot().iter("mask"))
    left, top, width, height = (int(found.get(word)) for word in ("left", "top", "width", "height"))
    points = [*map(int, found.get("rle").split(",")), left, top, left + width - 1, top + height - 1]
    assert np.array_equal(cvat.decode_mask(points, image_width=3930, image_height=2800), mask)
    (task,) = json.loads((tmp_path / "label-studio/tasks.json").read_text())
    rle = task["predictions"][0]["result"][0]["value"]["rle"]
    assert np.array_equal(decode_label_studio(rle, 2800, 3930), mask)
    canvas = np.zeros(mask.shape, np.uint8)
    for line in (tmp_path / "yolo/labels/train/a.txt").read_text().splitlines():
        points = np.array(line.split()[1:], np.float64).reshape(-1, 2) * (3930, 2800)
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
    assert np.array_equal(canvas > 0, mask)


def test_exports_of_masks_load_no_torch(folder):
    code = (
        "import sys, camseg; from pathlib import Path; root = Path(sys.argv[1]);"
        "camseg.export_folder(root / 'masks', root / 'out', 'coco', None,"
        " camseg.ExportInputs(image_folder=root / 'images')); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["False"]


# The command


def test_the_command_says_what_it_wrote(folder, call):
    arguments = [folder / "masks", "--image-folder", folder / "images", "--format", "yolo", "--out", folder / "out"]
    code, out, err = call("export", *arguments, "--tolerance", "1", "--class", "dog", "--class", "cat")
    assert (code, out) == (0, "")
    assert "wrote 6 images and 6 masks (1 images without an object)" in err
    assert "IoU of the polygons with the masks: 0." in err
    assert '  0: "dog"' in (folder / "out/data.yaml").read_text()


def test_the_command_gives_json_and_1_where_images_failed(folder, call):
    (folder / "images/ring.png").write_bytes(b"no picture")
    arguments = [folder / "masks", "--image-folder", folder / "images", "--format", "coco", "--out", folder / "out"]
    code, out, _ = call("export", *arguments, "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["images"], found["masks"], found["classes"]) == (5, 4, ["cat", "dog"])
    assert "ring.png" in found["failed"][0]


def test_the_command_refuses_in_one_line(folder, call, monkeypatch):
    monkeypatch.delenv("CAMSEG_TRACEBACK", raising=False)
    code, out, err = call("export", folder / "masks", "--format", "cocoa", "--out", folder / "out")
    assert (code, out) == (2, "")
    assert "unknown format 'cocoa'; choose among coco, cvat" in " ".join(err.split())


def test_what_label_wrote_is_exported_and_found_again(tmp_path, make_images, tiny_classifier, call):
    tiny_classifier.save(tmp_path / "run")
    for number, image in enumerate(make_images((40, 60), (50, 30), (33, 47))):
        write_image(tmp_path / f"photos/{number}/ä.png", image)
    options = ["--scales", "1", "--refiner", "none", "--propagation", "none", "--target", "cat", "--target", "dog"]
    run = ["--classifier", tmp_path / "run", "--device", "cpu", "--workers", "1"]
    assert call("label", tmp_path / "photos", *run, *options, "--out", tmp_path / "out")[0] == 0
    assert call("export", tmp_path / "out", "--format", "index-png", "--out", tmp_path / "index")[0] == 0
    for number in range(3):
        picture = numbered(tmp_path / f"index/masks/{number}/ä.png")
        cat, dog = (read_mask(tmp_path / f"out/masks/{name}/{number}/ä.png") for name in ("cat", "dog"))
        assert np.array_equal(picture > 0, cat | dog)
        assert np.array_equal(picture[cat & ~dog], np.full(np.count_nonzero(cat & ~dog), 1))
        assert (tmp_path / f"index/images/{number}/ä.png").is_file()
