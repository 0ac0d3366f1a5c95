"""Exports read by the heavy libraries of the tools themselves, and imports of what these wrote:
pip install 'camseg[test-exchange]'.

datumaro and label-studio-sdk want other versions of NumPy and Pillow than each other; those that are missing are
passed over, so that each may be installed alone.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.files import write_json
from camseg.data.images import read_mask, write_image, write_mask
from camseg.exchange.export import export_folder
from camseg.exchange.importing import import_corrections
from camseg.exchange.loading import list_folder
from camseg.exchange.settings import ExportInputs, ExportSettings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs


def shapes():
    """Masks with a hole, with many pieces, at the borders, and of one pixel; (30, 44) each."""
    y, x = np.mgrid[:30, :44]
    ring = (np.hypot(y - 14, x - 20) < 12) & (np.hypot(y - 12, x - 18) > 4)
    pieces = ((y // 3 + x // 4) % 3 == 0) & (y > 4)
    border = (y == 0) | (x == 43) | (y > 26)
    return {"ring": ring, "pieces": pieces, "border": border, "ü": (y == 29) & (x == 43)}


@pytest.fixture
def folder(tmp_path):
    """Masks of the class cat, in one image of a dog too, and their images."""
    for name, mask in shapes().items():
        write_image(tmp_path / f"images/{name}.png", np.full((30, 44, 3), 90, np.uint8))
        write_mask(tmp_path / f"masks/cat/{name}.png", mask)
    write_mask(tmp_path / "masks/dog/ring.png", ~shapes()["ring"])
    return tmp_path


EXPECTED = {(name, "cat"): mask for name, mask in shapes().items()} | {("ring", "dog"): ~shapes()["ring"]}


def export(folder, name, **settings):
    inputs = ExportInputs(image_folder=folder / "images")
    report = export_folder(folder / "masks", folder / "out", name, ExportSettings(**settings), inputs)
    assert report.failed == []
    return folder / "out"


def check(found):
    assert found.keys() == EXPECTED.keys()
    for key, mask in EXPECTED.items():
        assert np.array_equal(found[key], mask), key


@pytest.fixture
def machine(folder):
    """Other masks of the same images and classes, which a person corrects into those."""
    for name, kind in EXPECTED:
        write_mask(folder / f"machine/{kind}/{name}.png", np.roll(EXPECTED[name, kind], 3, axis=1))
    return folder / "machine"


def bring_in(machine, file, name, count=5):
    """What counts after an import that edits so many masks, by image and class, and what it left out."""
    images = machine.parent / "images"
    report = import_corrections(machine, file, name, inputs=ExportInputs(image_folder=images))
    assert (report.failed, report.stale, report.decisions) == ([], [], {"edited": count})
    annotations = (one for image in list_folder(machine, images) for one in image.annotations)
    return {(one.image.removesuffix(".png"), one.class_name): one.mask for one in annotations}, report.left_out


@pytest.mark.parametrize("kind", ["coco", "cvat"])
def test_what_datumaro_writes_comes_in(folder, machine, kind):
    datumaro = pytest.importorskip("datumaro", exc_type=ImportError)
    data = datumaro.Dataset.import_from(str(export(folder, "cvat") / "annotations.xml"), "cvat")
    data.export(str(folder / "theirs"), kind, save_media=False)
    (file,) = (folder / "theirs").rglob({"coco": "instances_*.json", "cvat": "*.xml"}[kind])
    check(bring_in(machine, file, kind)[0])


@pytest.mark.parametrize("encoded", ["theirs", "ours"])
def test_what_label_studio_submits_comes_in(folder, machine, encoded):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    tasks = json.loads((export(folder, "label-studio") / "tasks.json").read_text())
    for task in tasks:
        (prediction,) = task.pop("predictions")
        task["annotations"] = [{**prediction, "id": 1, "lead_time": 4.5, "completed_by": 7}]
        task["data"].pop("camseg")  # it is of other masks, and of none in other projects
        for region in prediction["result"] if encoded == "theirs" else ():
            (kind,) = region["value"]["brushlabels"]
            name = task["data"]["image"].rpartition("/")[2].removesuffix(".png").replace("%C3%BC", "ü")
            region["value"]["rle"] = brush.mask2rle(EXPECTED[name, kind].astype(np.uint8) * 255)
    write_json(folder / "tasks.json", tasks)
    check(bring_in(machine, folder / "tasks.json", "label-studio")[0])


def test_label_studios_converter_to_coco_comes_in(folder, machine):
    """It puts letters of its own in front of names."""
    converter = pytest.importorskip("label_studio_sdk.converter", exc_type=ImportError)
    size = {"original_width": 44, "original_height": 30, "image_rotation": 0}
    box = [[25, 10], [75, 10], [75, 50], [25, 50]]
    region = {"id": "a", "type": "polygonlabels", "from_name": "label", "to_name": "image", **size}
    value = {"points": box, "closed": True, "polygonlabels": ["cat"]}
    annotation = {"id": 1, "result": [{**region, "value": value}], "was_cancelled": False}
    write_json(folder / "tasks.json", [{"id": 1, "data": {"image": "ring.png"}, "annotations": [annotation]}])
    config = (
        '<View><Image name="image" value="$image"/>'
        '<PolygonLabels name="label" toName="image"><Label value="cat"/></PolygonLabels></View>'
    )
    made = converter.Converter(config, str(folder), download_resources=False)
    made.convert_to_coco(str(folder / "tasks.json"), str(folder / "theirs"), is_dir=False)
    inputs = ExportInputs(image_folder=folder / "images")
    report = import_corrections(machine, folder / "theirs/result.json", "coco", inputs=inputs)
    assert (report.failed, report.decisions) == ([], {"edited": 1})
    expected = np.zeros((30, 44), bool)
    expected[3:15, 11:33] = True
    assert np.array_equal(read_mask(machine / "corrected/cat/ring.png"), expected)


@pytest.mark.parametrize("geometry", ["mask", "polygon"])
def test_what_labelme_saves_comes_in(folder, machine, geometry):
    pytest.importorskip("labelme", exc_type=ImportError)
    label_file = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    from labelme.utils import img_arr_to_b64

    out = export(folder, "labelme", geometry=geometry)
    (folder / "saved").mkdir()
    for name in shapes():
        read = label_file.LabelFile(str(out / f"{name}.json"))
        assert read.other_data["camseg"]["hashes"], "what the program does not know it keeps"
        saved = []
        for shape in read.shapes:
            mask = shape["mask"]
            told = {} if mask is None else {"mask": img_arr_to_b64(mask.astype(np.uint8))}
            other = shape.pop("other_data")
            saved.append({**other, **shape, **told})
        others = {key: value for key, value in read.other_data.items() if key != "camseg"}  # of other masks
        read.save(
            filename=str(folder / f"saved/{name}.json"),
            shapes=saved,
            image_path=read.image_path,
            image_height=30,
            image_width=44,
            image_data=read.image_data,
            other_data=others,
            flags={},
        )
    check(bring_in(machine, folder / "saved", "labelme")[0])


def test_what_supervision_writes_comes_in(folder, machine):
    """It makes outlines through the centres of pixels, which lose the border, and of a single pixel none."""
    supervision = pytest.importorskip("supervision", exc_type=ImportError)
    out = export(folder, "coco")
    place = str(out / "annotations/instances_default.json")
    data = supervision.DetectionDataset.from_coco(str(out / "images"), place, force_masks=True)
    data.as_coco(annotations_path=str(folder / "theirs.json"))
    found, left_out = bring_in(machine, folder / "theirs.json", "coco", count=4)
    assert left_out == {"box without a mask": 1}
    for key in (("ring", "cat"), ("ring", "dog")):
        assert np.count_nonzero(found[key] & EXPECTED[key]) > 0.85 * np.count_nonzero(EXPECTED[key])


@pytest.mark.parametrize(("name", "kind"), [("coco", "coco"), ("cvat", "cvat"), ("voc", "voc_segmentation")])
def test_datumaro_reads(folder, name, kind):
    datumaro = pytest.importorskip("datumaro", exc_type=ImportError)
    out = export(folder, name)
    if name == "coco":  # it looks for the images of a part below its name
        (out / "images").rename(out / "default")
        (out / "images").mkdir()
        (out / "default").rename(out / "images/default")
    place = out / "annotations.xml" if name == "cvat" else out
    data = datumaro.Dataset.import_from(str(place), kind)
    labels = data.categories()[datumaro.AnnotationType.label]
    found = {}
    for item in data:
        for one in item.annotations:
            if one.type == datumaro.AnnotationType.mask and labels[one.label].name != "background":
                found[item.id.removesuffix(".png"), labels[one.label].name] = np.asarray(one.image) > 0
    check(found)


def test_label_studios_converter_and_its_checks_take_the_tasks(folder):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    from label_studio_sdk.label_interface import LabelInterface

    out = export(folder, "label-studio")
    interface = LabelInterface((out / "config.xml").read_text())
    found = {}
    for task in json.loads((out / "tasks.json").read_text()):
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction)
            for region in prediction["result"]:
                value = region["value"]
                words = brush.decode_rle(value["rle"])
                pixels = np.reshape(words, (region["original_height"], region["original_width"], 4))
                assert set(np.unique(pixels)) <= {0, 255}
                name = task["data"]["camseg"]["image"].removesuffix(".png")
                found[name, value["brushlabels"][0]] = pixels[..., 3] > 0
    check(found)


def test_label_studios_own_encoder_writes_the_same_bytes(folder):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    from camseg.exchange.rle import encode_label_studio

    for mask in EXPECTED.values():
        theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
        ours = encode_label_studio(mask)
        assert theirs[: len(ours)] == ours
        assert not any(theirs[len(ours) :]), "what it adds is padding"


@pytest.mark.parametrize("geometry", ["mask", "polygon"])
def test_labelme_reads(folder, geometry):
    pytest.importorskip("labelme", exc_type=ImportError)
    label_file = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    from labelme.utils import shape_to_mask

    out = export(folder, "labelme", geometry=geometry)
    found = {}
    for name in shapes():
        read = label_file.LabelFile(str(out / f"{name}.json"))
        assert PilImage.open(io.BytesIO(read.imageData)).size == (44, 30)
        for shape in read.shapes:
            if geometry == "polygon":
                mask = shape_to_mask((30, 44), shape["points"], "polygon")
            else:
                (left, top), (right, bottom) = np.array(shape["points"]).astype(int).tolist()
                mask = np.zeros((30, 44), bool)
                mask[top : bottom + 1, left : right + 1] = shape["mask"]
            before = found.get((name, shape["label"]), np.zeros((30, 44), bool))
            found[name, shape["label"]] = before | mask
    check(found)


def test_hugging_face_loads_images_and_masks(folder):
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    out = export(folder, "hf")
    data = datasets.load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(folder / "cache"))
    assert len(data) == 4
    found = {}
    for row, name in zip(data, sorted(shapes()), strict=True):
        assert row["image"].size == (44, 30)
        for number, label in enumerate(("cat", "dog"), start=1):
            if label in row["classes"]:
                found[name, label] = np.array(row["mask"]) == number
    check(found)


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_supervision_reads(folder, kind):
    supervision = pytest.importorskip("supervision", exc_type=ImportError)
    out = export(folder, kind)
    if kind == "coco":
        place = str(out / "annotations/instances_default.json")
        data = supervision.DetectionDataset.from_coco(str(out / "images"), place, force_masks=True)
    else:
        data = supervision.DetectionDataset.from_yolo(
            str(out / "images/train"), str(out / "labels/train"), str(out / "data.yaml"), force_masks=True
        )
    found = {}
    for path, _, detections in data:
        name = path.rpartition("/")[2].removesuffix(".png")
        for mask, number in zip(detections.mask, detections.class_id, strict=True):
            key = name, data.classes[number]
            found[key] = found.get(key, False) | np.asarray(mask)
    check(found)
