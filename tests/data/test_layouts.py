import time
from pathlib import Path

import numpy as np
import pytest

from camseg.base.errors import DatasetError
from camseg.data import layouts
from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import write_image
from camseg.data.layouts import part_of, split_folders
from camseg.data.splits import own_parts


@pytest.fixture
def fill(tmp_path):
    """Write a photograph, or where ``mask`` a mask, for each name; no two are equal."""
    random = np.random.default_rng(0)

    def write(*names, mask=False):
        for name in names:
            pixels = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
            if mask:
                pixels = (random.random((12, 12)) < 0.5).astype(np.uint8) * np.uint8(255)
            write_image(tmp_path / name, pixels)
        return tmp_path

    return write


def facts(dataset):
    return {sample.name: (sample.labels or ("",))[0] for sample in dataset.samples}


def test_names_of_parts():
    for name, part in {
        "Train": "train",
        "training_set": "train",
        "VAL": "val",
        "valid": "val",
        "test images": "test",
    }.items():
        assert part_of(name) == part
    for name in ("trainer", "trains", "ok", "fold1", "contest"):
        assert part_of(name) is None
    assert split_folders(["train", "val"])
    assert split_folders(["fold_1", "fold_2"])
    assert not split_folders(["train", "car", "plane"])
    assert not split_folders(["ok", "nok"])
    assert not split_folders([])


def test_a_set_that_comes_divided(fill):
    root = fill(
        *(f"{part}/{label}/{i}.png" for part in ("train", "val", "test") for label in ("nok", "ok") for i in (1, 2))
    )
    dataset = load_training_data(root)
    assert dataset.classes == ("nok", "ok")
    assert facts(dataset)["val/ok/1"] == "ok"
    parts = own_parts(dataset)
    assert {part: len(held.samples) for part, held in parts.items()} == {"train": 4, "val": 4, "test": 4}
    assert all(sample.name.startswith("val/") for sample in parts["val"].samples)
    assert facts(load_images(root, ["nok", "other"]))["test/nok/1"] == "nok"
    (root / "test/ok/1.png").write_bytes((root / "train/nok/1.png").read_bytes())
    with pytest.raises(DatasetError, match=r"1 images of .*test are copies of images in .*train"):
        own_parts(load_training_data(root))


def test_mvtec(fill):
    fill("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/scratch/000.png", "test/bent/000.png")
    root = fill("ground_truth/scratch/000_mask.png", "ground_truth/bent/000_mask.png", mask=True)
    dataset = load_training_data(root)
    assert facts(dataset) == {
        "train/good/000": "good",
        "train/good/001": "good",
        "test/good/000": "good",
        "test/scratch/000": "scratch",
        "test/bent/000": "bent",
    }
    assert dataset.remarks == ("2 files in folders ground_truth are masks of others, and left out",)
    assert own_parts(dataset) is None  # no defect to learn from in train


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/1.png", "val/2.png"), "2 images have no label.*<split>/<class>/<image>"),
        (("train/ok/1.png", "test/ok/1.png", "extra/ok/1.png"), r"\(extra, test, train\) look like splits"),
        (("fold1/ok/1.png", "fold2/ok/1.png"), r"\(fold1, fold2\) look like splits"),
        (("train/images/1.png", "test/images/1.png"), r"\(images\) hold images"),
        (("images/1.png", "masks/1.png"), r"\(images\) hold images and what belongs to them, not classes"),
        (("Images/a/1.png", "labels/a/1.png"), r"\(Images\) hold images"),
    ],
)
def test_folders_that_cannot_be_classes(fill, names, message):
    with pytest.raises(DatasetError, match=message):
        load_training_data(fill(*names))


def test_one_class_named_like_a_split_is_said(fill):
    dataset = load_training_data(fill("train/1.png", "car/2.png", "plane/3.png"))
    assert dataset.classes == ("car", "plane", "train")
    (line,) = dataset.remarks
    assert "train counts as a class, in spite of its name" in line


def test_folders_that_systems_write_are_no_classes(fill):
    root = fill(
        "ok/1.png", "bad/2.png", "@eaDir/1.png", "__MACOSX/ok/1.png", ".ipynb_checkpoints/1.png", "ok/@eaDir/9.png"
    )
    dataset = load_training_data(root)
    assert facts(dataset) == {"ok/1": "ok", "bad/2": "bad"}
    assert dataset.passed_over == (("@eaDir", 2), ("__MACOSX", 1))


def test_masks_beside_images(fill):
    fill("benign/b (1).png", "benign/b (2).png", "normal/n (1).png", "normal/n_mask.png", "normal/label.png")
    root = fill(
        "benign/b (1)_mask.png", "benign/b (2)_mask.png", "benign/b (2)_mask_1.png", "normal/n (1)_mask.png", mask=True
    )
    dataset = load_training_data(root)
    assert set(facts(dataset)) == {"benign/b (1)", "benign/b (2)", "normal/n (1)", "normal/n_mask", "normal/label"}
    assert dataset.remarks == (
        "4 files look like masks of the images beside them and are left out, as benign/b (1)_mask.png",
    )
    assert set(facts(load_images(root))) == set(facts(dataset))


@pytest.mark.parametrize("mask", ["x_GT.png", "x_label.bmp", "mask_x.png", "x.png", "x-segmentation.png"])
def test_masks_of_other_names_are_told_by_their_pixels(fill, mask):
    fill("bad/x.jpg", "ok/z.jpg")
    root = fill(f"bad/{mask}", mask=True)
    assert facts(load_training_data(root)) == {"bad/x": "bad", "ok/z": "ok"}
    if "mask" not in mask:
        fill(f"bad/{mask}")
        assert len(load_training_data(root).samples) == 3


def test_folders_of_masks_within_classes(fill):
    fill("covid/images/1.png", "covid/images/2.png", "normal/images/1.png", "other/1.png")
    root = fill("covid/masks/1.png", "covid/masks/2.png", "normal/masks/1.png", "other/masks/1.png", mask=True)
    assert set(facts(load_training_data(root))) == {"covid/images/1", "covid/images/2", "normal/images/1", "other/1"}


def test_a_folder_of_masks_beside_classes(fill):
    fill("benign/1.png", "malignant/2.png", "mask/3.png")
    assert load_training_data(fill()).classes == ("benign", "malignant", "mask")  # faces with masks, say
    root = fill("masks/1.png", "masks/2.png", mask=True)
    assert load_training_data(root).classes == ("benign", "malignant", "mask")
    assert set(facts(load_images(root / "masks"))) == {"1", "2"}  # named by themselves


def test_folders_that_give_no_class(fill):
    root = fill("good/1.png", "bad/1.png")
    (root / "phone").mkdir()
    (root / "phone/1.unknown").touch()
    (line,) = load_training_data(root).remarks
    assert line == f"no image is in {root / 'phone'}: no class comes of it"


def test_class_folders_one_level_further_down(fill):
    root = fill("Dataset/good/1.png", "Dataset/bad/1.png")
    with pytest.raises(DatasetError, match=r"at least 2 classes, got \['Dataset'\]; .* give .*Dataset$"):
        load_training_data(root)


def test_many_folders_of_masks_take_no_longer_each_than_few():
    def seconds(count):
        files = [Path(f"/in/{n:04}/{kind}/{i}.jpg") for n in range(count) for kind in ("images", "masks") for i in "ab"]
        clock = time.process_time()
        assert len(layouts.find_masks(Path("/in"), files).files) == 2 * count
        return time.process_time() - clock

    few, many = (min(seconds(count) for _ in range(3)) for count in (200, 1600))
    assert many < 20 * few  # not 64 times
