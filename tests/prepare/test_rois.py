"""Crops around masks: their places, sizes, classes and groups."""

import csv
import json
import os

import numpy as np
import pytest

from camseg.base.errors import DatasetError, InputError
from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import read_image, read_mask, write_image, write_mask
from camseg.data.splits import split
from camseg.prepare.rois import Box, find_boxes, pad_box, prepare_rois
from camseg.prepare.settings import Padding, RoiSettings
from camseg.runs.manifest import read_manifest
from camseg.runs.settings import FolderOptions


def ramp(height=40, width=60, seed=0):
    """An image whose pixels tell where they come from: red the row, green the column, blue the image."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = np.arange(height)[:, None], np.arange(width), seed
    return image


def blocks(*boxes, shape=(40, 60)):
    mask = np.zeros(shape, np.bool_)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def data(tmp_path):
    """Folders in which images and masks are put, and a function that puts them."""

    def put(name, mask=None, image=None, seed=0):
        write_image(tmp_path / "images" / f"{name}.png", ramp(seed=seed) if image is None else image)
        if mask is not None:
            write_mask(tmp_path / "masks" / f"{name}.png", mask)

    put.images, put.masks, put.out = tmp_path / "images", tmp_path / "masks", tmp_path / "out"
    return put


def table(data, *lines):
    path = data.images / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def place(image):
    """The box of the source that a crop of a ramp shows."""
    return Box(*image[0, 0, :2].tolist(), *(image[-1, -1, :2] + 1).tolist())


def test_each_object_gets_a_box_in_reading_order():
    mask = blocks((20, 5, 22, 9), (3, 40, 6, 50), (3, 10, 4, 12))
    mask[22, 9] = True  # joined by its corner
    small, wide, joined = Box(3, 10, 4, 12), Box(3, 40, 6, 50), Box(20, 5, 23, 10)
    assert find_boxes(mask) == [small, wide, joined]
    assert find_boxes(mask, min_area=3) == [wide, joined]
    assert find_boxes(mask, "image", min_area=3) == [Box(3, 5, 23, 50)]
    assert find_boxes(np.zeros((3, 4), np.bool_), "image") == []
    assert find_boxes(np.ones((3, 4), np.bool_)) == [Box(0, 0, 3, 4)]


def test_padding_is_a_share_of_the_boxs_own_size_and_stops_at_the_border():
    assert pad_box(Box(20, 20, 30, 40), (40, 60), (0.1, 0.2, 0.3, 0.15)) == Box(19, 16, 33, 43)
    assert pad_box(Box(1, 1, 39, 60), (40, 60), (0.3, 0.3, 0.3, 0.3)) == Box(0, 0, 40, 60)


def test_crops_and_their_masks_are_cut_from_one_place(data):
    mask = blocks((10, 10, 20, 30), (30, 50, 34, 58))
    data("tumour/deep/a", mask)
    data("none/b")
    report = prepare_rois(data.images, data.masks, data.out, RoiSettings(negative="none"))
    assert (report.done, report.images, report.failed) == (1, 2, [])
    dataset = load_images(data.out / "labels.csv")
    assert [(sample.name, sample.labels, sample.group) for sample in dataset.samples] == [
        ("tumour/deep/a_1", ("tumour",), "tumour/deep/a"),
        ("tumour/deep/a_2", ("tumour",), "tumour/deep/a"),
    ]
    for sample, box in zip(dataset.samples, (Box(10, 10, 20, 30), Box(30, 50, 34, 58)), strict=True):
        crop = read_image(sample.path)
        found = place(crop)
        assert np.array_equal(crop, ramp()[found.slices])
        assert np.array_equal(read_mask(data.out / "masks" / f"{sample.name}.png"), mask[found.slices])
        height, width = box.bottom - box.top, box.right - box.left
        paddings = (box.top - found.top, found.bottom - box.bottom, box.left - found.left)
        for padding, side in zip(paddings, (height, height, width), strict=True):
            assert round(0.1 * side) <= padding <= round(0.3 * side)


def test_padding_is_random_in_its_range_and_depends_on_seed_and_name_alone(data):
    mask = blocks((15, 20, 25, 40))
    for number in range(30):
        data(f"t/{number:02}", mask)
    prepare_rois(data.images, data.masks, data.out)
    crops = {path.name: place(read_image(path)) for path in (data.out / "t").iterdir()}
    tops = {15 - box.top for box in crops.values()}
    assert tops == {1, 2, 3}
    assert {box.right - 40 for box in crops.values()} == {2, 3, 4, 5, 6}
    again = data.out.with_name("again")
    data("t/more", mask)
    (data.images / "t/00.png").unlink()
    prepare_rois(data.images, data.masks, again, options=FolderOptions(workers=3))
    assert all(place(read_image(again / "t" / name)) == box for name, box in crops.items() if name != "00_1.png")
    other = data.out.with_name("other")
    prepare_rois(data.images, data.masks, other, RoiSettings(seed=1))
    assert sum(place(read_image(other / "t" / name)) != box for name, box in crops.items() if name != "00_1.png") > 20


def test_negatives_come_from_the_same_place_of_the_pair_and_share_its_group(data):
    mask = blocks((10, 10, 20, 30))
    data("left", mask)
    data("right", seed=7)
    data("p2", blocks((30, 2, 34, 8)), seed=9)
    listed = table(data, "image,label,pair", "left.png,malignant,right.png", "p2.png,malignant,")
    report = prepare_rois(listed, data.masks, data.out)
    assert (report.images, report.skipped) == (3, {})
    positive, negative = read_image(data.out / "malignant/left_1.png"), read_image(data.out / "negative/left_1.png")
    assert place(positive) == place(negative)
    assert (positive[0, 0, 2], negative[0, 0, 2]) == (0, 7)
    assert not read_mask(data.out / "masks/negative/left_1.png").any()
    dataset = load_training_data(data.out / "labels.csv")
    assert {sample.name: sample.group for sample in dataset.samples} == {
        "malignant/left_1": "left",
        "malignant/p2_1": "p2",
        "negative/left_1": "left",
    }


def test_the_mirrored_place_counts_columns_from_the_other_edge(data):
    data("left", blocks((10, 10, 20, 30)))
    data("right", image=ramp(40, 50))
    listed = table(data, "image,label,pair", "left.png,m,right.png")
    prepare_rois(listed, data.masks, data.out, RoiSettings(mirror=True))
    box = place(read_image(data.out / "m/left_1.png"))
    assert place(read_image(data.out / "negative/left_1.png")) == Box(
        box.top, 50 - box.right, box.bottom, 50 - box.left
    )


def test_negatives_that_overlap_an_object_or_leave_the_pair_are_dropped(data):
    data("a", blocks((10, 10, 20, 30)))
    data("b", blocks((19, 29, 25, 35)))
    data("c", blocks((30, 40, 38, 58)))
    data("small", image=ramp(35, 60))
    listed = table(data, "image,label,pair", "a.png,m,b.png", "b.png,m,a.png", "c.png,m,small.png")
    report = prepare_rois(listed, data.masks, data.out)
    assert report.images == 3
    assert dict(report.skipped) == {
        "negatives that would overlap an object of the paired image": 2,
        "negatives that would leave the paired image": 1,
    }
    assert not (data.out / "negative").exists()


def test_a_pair_whose_label_says_that_it_has_an_object_needs_a_mask(data):
    for name in "abcd":
        data(name, blocks((10, 10, 20, 30)))
    for name in ("lost", "clean", "empty", "unlisted"):
        data(name)
    listed = table(
        data,
        "image,label,pair",
        "a.png,m,lost.png",
        "b.png,m,clean.png",
        "c.png,m,empty.png",
        "d.png,m,unlisted.png",
        "lost.png,m,",
        "clean.png,negative,",
        "empty.png,,",
    )
    report = prepare_rois(listed, data.masks, data.out)
    assert sorted(path.name for path in (data.out / "negative").iterdir()) == ["b_1.png", "c_1.png", "d_1.png"]
    assert (report.done, len(report.failed)) == (3, 2)  # the image lost, and the one that it is the pair of
    assert all("lost.png: no mask at lost" in line for line in report.failed)
    # Without labels an image needs its mask in any case.
    listed = table(data, "image,pair", "a.png,clean.png", "clean.png,")
    report = prepare_rois(listed, data.masks, data.out.with_name("bare"))
    assert len(report.failed) == 2
    assert not (data.out.with_name("bare") / "negative").exists()


def test_images_that_pairs_join_are_one_group(data):
    for name in "abcd":
        data(name, blocks((10, 10, 20, 30)))
    listed = table(
        data,
        "image,label,pair,group",
        "a.png,m,b.png,",
        "b.png,m,a.png,",
        "c.png,m,d.png,patient",
        "d.png,m,free.png,patient",
    )
    data("free")
    prepare_rois(listed, data.masks, data.out)
    groups = {sample.name: sample.group for sample in load_images(data.out / "labels.csv").samples}
    assert groups == {
        "m/a_1": "a",
        "m/b_1": "a",
        "m/c_1": "patient",
        "m/d_1": "patient",
        "negative/d_1": "patient",
    }


def test_crops_split_by_group_for_training(data):
    lines = ["image,label,pair"]
    for number in range(8):
        data(f"{number}", blocks((10, 10, 20, 30)))
        data(f"{number}n")
        lines.append(f"{number}.png,m,{number}n.png")
    prepare_rois(table(data, *lines), data.masks, data.out)
    train, val = split(load_training_data(data.out / "labels.csv"), 0.25, 0)
    assert not {sample.group for sample in train.samples} & {sample.group for sample in val.samples}


def test_one_crop_per_image_keeps_the_images_name(data):
    data("t/a", blocks((10, 10, 12, 14), (20, 30, 24, 40), (0, 0, 1, 1)))
    prepare_rois(
        data.images, data.masks, data.out, RoiSettings(per="image", padding=Padding(low=0, high=0), min_area=2)
    )
    assert place(read_image(data.out / "t/a.png")) == Box(10, 10, 24, 40)


def test_16_bit_images_go_through_the_window(data):
    write_mask(data.masks / "a.png", blocks((2, 2, 4, 4), shape=(8, 8)))
    import cv2

    data.images.mkdir()
    cv2.imwrite(str(data.images / "a.png"), np.full((8, 8), 1500, np.uint16))
    prepare_rois(data.images, data.masks, data.out, RoiSettings(window="1000,2000"))
    assert set(read_image(data.out / "positive/a_1.png").ravel()) == {128}


def test_what_is_wrong_with_one_image_leaves_the_others(data):
    data("t/good", blocks((10, 10, 20, 30)))
    data("t/empty", blocks())
    data("t/maskless")
    data("t/size", blocks((1, 1, 2, 2), shape=(10, 10)))
    data("t/corrupt", blocks((1, 1, 2, 2)))
    (data.images / "t/corrupt.png").write_bytes(b"junk")
    report = prepare_rois(data.images, data.masks, data.out)
    assert (report.done, report.images) == (2, 1)
    assert dict(report.skipped) == {"images whose mask is empty": 1}
    corrupt, maskless, size = report.failed
    assert "corrupt.png: not an image" in corrupt
    assert "maskless.png: no mask at t/maskless" in maskless
    assert "size.png and its mask differ in size" in size


def test_a_class_of_numbered_masks_is_chosen_and_void_gives_no_negative(data, call):
    numbers = np.zeros((40, 60), np.uint8)
    numbers[2:6, 2:8], numbers[10:20, 10:30] = 3, 7
    data("left")
    data("right", seed=7)
    data("clean", seed=9)
    write_image(data.masks / "left.png", numbers)
    void = np.zeros((40, 60), np.uint8)
    void[30, 2:9], void[12, 35] = 3, 255
    write_image(data.masks / "right.png", void)
    listed = table(data, "image,label,pair", "left.png,m,right.png", "right.png,,")
    arguments = ("prepare", "rois", listed, "--masks", data.masks, "--out", data.out, "--padding", "0,0", "--mirror")
    code, _, err = call(*arguments)
    assert code == 1
    assert "--mask-class" in err
    code, _, err = call(*arguments, "--mask-class", "7")
    assert (code, "1 negatives that would overlap" in err) == (0, True)
    assert place(read_image(data.out / "m/left_1.png")) == Box(10, 10, 20, 30)
    assert read_mask(data.out / "masks/m/left_1.png").all()
    code, _, err = call(*arguments, "--mask-class", "9", "--overwrite")
    assert (code, "1 images without a pixel of class 9" in err, "nothing was written" in err) == (1, True, True)


def test_a_negative_class_that_no_image_has_is_said(data):
    data("t/a", blocks((10, 10, 20, 30)))
    heard = []
    prepare_rois(data.images, data.masks, data.out, RoiSettings(negative="clear"), FolderOptions(say=heard.append))
    assert heard == ["note: no image has the negative class 'clear'; the classes are t"]


def test_the_manifest_says_where_crops_were_cut(data):
    data("left", blocks((10, 10, 20, 30)))
    data("right", seed=7)
    listed = table(data, "image,label,pair", "left.png,m,right.png")
    prepare_rois(listed, data.masks, data.out, RoiSettings(padding=Padding(low=0, high=0), mirror=True))
    crop, negative = read_manifest(data.out)
    assert (crop.input, crop.labels, crop.area, crop.source.name) == ("left.png", ("m",), 200, "left")
    assert (crop.source.box, negative.source.box) == ((10, 10, 20, 30), (10, 30, 20, 50))
    assert (negative.source.name, negative.source.group, negative.area) == ("right", "left", 0)
    assert negative.files == {"image": "negative/left_1.png", "mask": "masks/negative/left_1.png"}


def test_a_changed_mask_makes_its_crops_anew(data):
    for name in ("t/a", "t/b"):
        data(name, blocks((10, 10, 20, 30)))
    zero = RoiSettings(padding=Padding(low=0, high=0))
    prepare_rois(data.images, data.masks, data.out, zero)
    write_mask(data.masks / "t/a.png", blocks((12, 12, 20, 30)))
    report = prepare_rois(data.images, data.masks, data.out, zero)
    assert (report.done, report.kept, report.images) == (1, 1, 2)
    assert place(read_image(data.out / "t/a_1.png")) == Box(12, 12, 20, 30)


@pytest.fixture
def rerun(data):
    """Crops by a table that is written anew, as the labels.csv and the images that are there afterwards."""
    data("left", blocks((10, 10, 20, 30)))
    data("other", blocks((10, 10, 20, 30)))
    for number, name in enumerate(("right", "third")):
        data(name, seed=7 + number)
    long_ago = 1e9
    for path in (*data.images.iterdir(), *data.masks.iterdir()):
        os.utime(path, (long_ago, long_ago))

    def go(*lines):
        listed = table(data, "image,label,pair,group", "other.png,m,,", *lines)
        report = prepare_rois(listed, data.masks, data.out, RoiSettings(padding=Padding(low=0, high=0)))
        with (data.out / "labels.csv").open() as file:
            rows = {row["image"]: (row["label"], row["group"]) for row in csv.DictReader(file)}
        assert report.failed == []
        assert rows.keys() == {str(path.relative_to(data.out)) for path in data.out.rglob("*_1.png")} - {
            f"masks/{name}" for name in rows
        }
        return report, rows

    return go


def test_another_group_pair_or_label_in_the_table_makes_crops_anew(data, rerun):
    other = {"m/other_1.png": ("m", "other")}
    both = {"m/left_1.png": ("m", "A"), "negative/left_1.png": ("negative", "A")}
    assert rerun("left.png,m,right.png,A")[1] == other | both
    report, _ = rerun("left.png,m,right.png,A")
    assert (report.done, report.kept) == (0, 2)
    report, rows = rerun("left.png,m,right.png,B")
    assert (report.done, report.kept) == (1, 1)
    assert {group for _, group in rows.values()} == {"other", "B"}
    # A file as old as the others, which times do not give away.
    assert read_image(data.out / "negative/left_1.png")[0, 0, 2] == 7
    assert rerun("left.png,m,third.png,B")[0].done == 1
    assert read_image(data.out / "negative/left_1.png")[0, 0, 2] == 8
    assert rerun("left.png,m,,B")[1] == other | {"m/left_1.png": ("m", "B")}
    relabelled = {"k/left_1.png": ("k", "B"), "negative/left_1.png": ("negative", "B")}
    assert rerun("left.png,m,right.png,B")[0].done == 1
    assert rerun("left.png,k,right.png,B")[1] == other | relabelled
    report, rows = rerun("left.png,,right.png,B")
    assert (report.done, rows) == (0, other)
    assert {record.name for record in read_manifest(data.out)} == {"m/other"}


def test_unusable_inputs_are_refused(data, tmp_path):
    data("t/a", blocks((10, 10, 20, 30)))
    write_mask(tmp_path / "elsewhere/x.png", blocks((1, 1, 2, 2)))
    with pytest.raises(InputError, match="holds no mask of an image"):
        prepare_rois(data.images, tmp_path / "elsewhere", data.out)
    with pytest.raises(DatasetError, match="one label"):
        prepare_rois(table(data, "image,label", "t/a.png,x;y"), data.masks, data.out)
    with pytest.raises(InputError, match="class name"):
        prepare_rois(table(data, "image,label", "t/a.png,../x"), data.masks, data.out)
    write_image(data.masks / "t/a.bmp", np.zeros((40, 60), np.uint8))
    with pytest.raises(InputError, match="same name"):
        prepare_rois(data.images, data.masks, data.out)
    assert not data.out.exists()


def test_two_images_whose_crops_would_have_one_name_are_refused(data):
    data("m/a", blocks((1, 1, 3, 3)))
    data("a", blocks((1, 1, 3, 3)))
    with pytest.raises(InputError, match="same output"):
        prepare_rois(table(data, "image,label", "m/a.png,m", "a.png,m"), data.masks, data.out)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "30,10"},
        {"padding": "-10,10"},
        {"padding": "10"},
        {"padding": (0.1, 0.3)},
        {"min_area": 0},
        {"window": "x"},
        {"per": "x"},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(InputError):
        RoiSettings(**settings)


def test_a_single_image_and_its_mask(data, tmp_path):
    data("a", blocks((10, 10, 20, 30)))
    write_mask(tmp_path / "truth.png", blocks((10, 10, 20, 30)))
    prepare_rois(data.images / "a.png", tmp_path / "truth.png", data.out)
    assert (data.out / "positive/a_1.png").is_file()


def test_the_command_reports_and_exits_with_1_when_an_image_failed(data, call):
    data("t/a", blocks((10, 10, 20, 30)))
    arguments = (data.images, "--masks", data.masks, "--out", data.out, "--padding", "0,0")
    assert call("prepare", "rois", *arguments, "--dry-run")[0] == 0
    assert not data.out.exists()
    assert call("prepare", "rois", *arguments)[0] == 0
    assert place(read_image(data.out / "t/a_1.png")) == Box(10, 10, 20, 30)
    assert "1 were there already" in call("prepare", "rois", *arguments)[2]
    data("t/b")
    code, out, err = call("prepare", "rois", *arguments, "--overwrite", "--json")
    result = json.loads(out)
    assert code == 1
    assert (result["images"], result["done"], result["labels"]) == (1, 1, str(data.out / "labels.csv"))
    assert result["failed"][0] in err
    assert call("prepare", "rois", *arguments, "--padding", "10")[0] == 2
