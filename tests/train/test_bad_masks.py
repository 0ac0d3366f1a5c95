"""Masks as they come: encodings, void, emptiness, other sizes, and folders that a killed command left behind."""

import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import DatasetError, OutputError
from camseg.data.images import write_image, write_mask
from camseg.data.truth import IGNORED
from camseg.runs.manifest import MANIFEST
from camseg.runs.run import RUN
from camseg.train.mask_batches import load_masks
from camseg.train.segmenter_plan import plan_segmenter_training, prepare_segmenter_training

SIDE = 32
OBJECT = np.zeros((SIDE, SIDE), bool)
OBJECT[8:20, 4:24] = True
VOID = np.zeros_like(OBJECT)
VOID[:4] = True
SMALL = {"model": "linknet+test_resnet", "weights": "none", "image_size": SIDE, "val_fraction": 0.25}


def quiet(items, _total, _title):
    return iter(items)


@pytest.fixture
def images(tmp_path, make_images):
    for number, image in enumerate(make_images(*[(SIDE, SIDE)] * 8)):
        write_image(tmp_path / f"images/{number}.png", image)
    return tmp_path / "images"


def loaded(images, masks, **changes):
    """Targets of all images in their order, and why others were left out: (targets (N, S, S, K), reasons)."""
    plan = plan_segmenter_training(images, changes={**SMALL, "masks": masks, **changes})
    prepared = prepare_segmenter_training(plan, images.parent / "run")
    targets, failures = {}, {}
    for part in (prepared.train, prepared.val):
        found, failed = load_masks(part, prepared.segmenter.preprocessing, quiet, "")
        names = [sample.name for sample in found.images.data.samples]
        targets |= dict(zip(names, found.targets, strict=True))
        failures |= {path.stem: reason for path, reason in failed.items()}
    return targets, failures, prepared


def picture(kind):
    """The object as a file may hold it."""
    white = np.where(OBJECT, np.uint8(255), np.uint8(0))
    if kind == "0 and 1":
        return PilImage.fromarray(OBJECT.astype(np.uint8))
    if kind == "palette":
        made = PilImage.fromarray(OBJECT.astype(np.uint8), "P")
        made.putpalette([0, 0, 0, 255, 255, 255])
        return made
    if kind == "RGBA":
        return PilImage.fromarray(np.dstack([np.full((SIDE, SIDE, 3), (200, 30, 30), np.uint8), white]))
    if kind == "RGB":
        return PilImage.fromarray(np.dstack([white] * 3))
    if kind == "one bit":
        return PilImage.fromarray(white).convert("1")
    return PilImage.fromarray(white)


KINDS = ("0 and 255", "0 and 1", "palette", "RGBA", "RGB", "one bit")


def test_every_encoding_is_the_same_mask(images, tmp_path):
    (tmp_path / "masks").mkdir()
    for number in range(8):
        picture(KINDS[number % len(KINDS)]).save(tmp_path / f"masks/{number}.png")
    targets, failures, _ = loaded(images, tmp_path / "masks")
    assert failures == {}
    for number in range(8):
        assert np.array_equal(targets[str(number)][..., 0], OBJECT), KINDS[number % len(KINDS)]


def test_void_pixels_teach_nothing_and_need_their_class_named(images, tmp_path):
    numbers = np.where(VOID, 255, OBJECT).astype(np.uint8)
    for number in range(8):
        write_image(tmp_path / f"masks/{number}.png", numbers if number else np.full_like(numbers, 255))
    _, failures, _ = loaded(images, tmp_path / "masks", mask_class="1")
    assert [*failures] == ["0"]  # white all over may be a mask of one object too
    assert "name 255 as void in --mask-classes" in failures["0"]
    names = {"rust": 1, "void": 255}
    targets, failures, _ = loaded(images, tmp_path / "masks", mask_class="rust", mask_classes=names)
    assert failures == {}
    assert np.array_equal(targets["1"][..., 0], np.where(VOID, IGNORED, OBJECT))
    assert (targets["0"] == IGNORED).all()  # all of it is void
    with pytest.raises(DatasetError, match=r"none of . images and masks can be read.*--mask-class"):
        loaded(images, tmp_path / "masks")


def test_colours_need_their_class_named(images, tmp_path):
    painted = np.zeros((SIDE, SIDE, 3), np.uint8)
    painted[OBJECT], painted[24:] = (255, 0, 0), (0, 255, 0)
    for number in range(8):
        write_image(tmp_path / f"masks/{number}.png", painted)
    names = {"background": "#000000", "rust": "#FF0000", "dent": "#00FF00"}
    targets, failures, prepared = loaded(images, tmp_path / "masks", mask_classes=names)
    assert failures == {}
    assert (prepared.segmenter.classes, prepared.segmenter.multi_label) == (("rust", "dent"), False)
    assert np.array_equal(targets["3"][..., 0] == 1, OBJECT)
    assert (targets["3"][24:, :, 0] == 2).all()
    alone, _, _ = loaded(images, tmp_path / "masks", mask_classes=names, mask_class="dent")
    assert np.array_equal(alone["3"][..., 0] == 1, (painted == (0, 255, 0)).all(axis=2))
    with pytest.raises(DatasetError, match=r"none of . images and masks can be read.*#FF0000"):
        loaded(images, tmp_path / "masks")


def test_masks_of_other_sizes_fail_alone_and_empty_ones_do_not(images, tmp_path):
    for number in range(8):
        mask = OBJECT if number % 2 else np.zeros_like(OBJECT)
        write_mask(tmp_path / f"masks/{number}.png", mask[: SIDE // 2] if number == 5 else mask)
    (tmp_path / "masks/7.png").write_bytes(b"no picture")
    targets, failures, _ = loaded(images, tmp_path / "masks")
    assert sorted(failures) == ["5", "7"]
    assert "expected a mask of its image's size, 32x32; it has 32x16" in failures["5"]
    assert sorted(targets) == ["0", "1", "2", "3", "4", "6"]
    assert not targets["2"].any()
    assert targets["3"].sum() == OBJECT.sum()


def test_four_classes_in_their_folders(images, tmp_path):
    for number in range(8):
        write_mask(tmp_path / f"masks/{'abcd'[number % 4]}/{number}.png", OBJECT)
    targets, failures, prepared = loaded(images, tmp_path / "masks")
    assert (prepared.segmenter.classes, failures) == (("a", "b", "c", "d"), {})
    assert [int(one) for one in targets["6"].sum(axis=(0, 1))] == [0, 0, int(OBJECT.sum()), 0]


@pytest.fixture
def labelled(images, tmp_path, make_segmenter, call):
    """What a command leaves that was killed: five of eight images, the last line cut short."""
    make_segmenter().save(tmp_path / "teacher")
    out = tmp_path / "out"
    code, _, err = call("segment", images, "-s", tmp_path / "teacher", "--save", "cams", "-o", out)
    assert code == 0, err
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    (out / MANIFEST).write_text("".join(lines[:5]) + lines[5][:20])
    return out


def test_a_folder_labelled_halfway_teaches_what_is_there(labelled, images, tmp_path, call):
    targets, failures, prepared = loaded(images, labelled)
    assert len(targets) in (4, 5)  # the last input's lines may not all be there
    assert failures == {}
    (line,) = [line for line in prepared.remarks if "left out" in line]
    assert f"{8 - len(targets)} of 8 images of" in line
    assert "the same command finishes it" in line
    assert call("segment", images, "-s", tmp_path / "teacher", "--save", "cams", "-o", labelled)[0] == 0
    assert len(loaded(images, labelled)[0]) == 8


def test_a_folder_labelled_halfway_that_holds_nothing_or_lost_something(labelled, images):
    name = loaded(images, labelled)[2].train.data.samples[0].name
    (labelled / f"masks/{name}.png").unlink()
    assert [*loaded(images, labelled)[1]] == [name]
    (labelled / MANIFEST).unlink()
    with pytest.raises(DatasetError, match="lists no image that was finished; label some first"):
        loaded(images, labelled)
    (labelled / RUN).write_text("{")
    with pytest.raises(OutputError, match=r"run\.json"):
        loaded(images, labelled)
