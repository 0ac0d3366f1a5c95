"""What studies rest on: masks that are found or refused, and identities that tell two sets of images apart."""

from pathlib import Path

import numpy as np
import pytest

from camseg.base.errors import CheckpointError, EvaluationError, ImageError, InputError
from camseg.base.files import Found, sha256
from camseg.base.progress import silent
from camseg.data.datasets import load_training_data
from camseg.data.images import write_image, write_mask
from camseg.data.mask_settings import MaskReading
from camseg.studies import material
from camseg.studies.material import StudyImages, images_identity, read_study_images, starting_weights


@pytest.fixture
def data(tmp_path):
    """Two images without an object and two with one, and masks of all."""
    for label in ("clean", "scratch"):
        for index in range(2):
            write_image(tmp_path / f"images/{label}/{index}.png", np.zeros((8, 8, 3), np.uint8))
            write_mask(tmp_path / f"masks/{label}/{index}.png", np.full((8, 8), label == "scratch"))
    return tmp_path


def read(data, negative=(), reading=None):
    images = load_training_data(data / "images")
    return read_study_images(images, data / "masks", negative, ["full"], silent, "test", reading)


def test_masks_without_an_object_are_left_out(data):
    found = read(data)
    assert dict(found.masks) == {f"scratch/{index}": data / f"masks/scratch/{index}.png" for index in range(2)}
    assert [sample.name for sample in found.objects] == ["scratch/0", "scratch/1"]


def test_masks_that_are_missing_are_refused_but_of_negatives(data):
    (data / "masks/clean/1.png").unlink()
    with pytest.raises(EvaluationError, match=r"each of the 4 images .* 1 are missing, the first is clean/1"):
        read(data)
    assert len(read(data, negative=["clean"]).masks) == 2


def test_two_masks_of_one_image_are_refused(data):
    write_mask(data / "masks/scratch/0.tif", np.zeros((8, 8), bool))
    with pytest.raises(InputError, match=r"scratch/0\.png and .*scratch/0\.tif have the same name but for"):
        read(data)


def test_a_folder_of_masks_that_cannot_be_listed_is_refused(data, monkeypatch):
    files = tuple(sorted((data / "masks").rglob("*.png")))
    found = Found(root=data / "masks", files=files, failures=((data / "masks/dent", "Permission denied"),))
    monkeypatch.setattr(material, "find_images", lambda _root: found)
    with pytest.raises(EvaluationError, match="dent cannot be listed: Permission denied"):
        read(data)


def test_identities_tell_sets_apart(data):
    before, images = images_identity(read(data)), load_training_data(data / "images")
    assert images_identity(read(data)) == before
    assert images_identity(StudyImages(data=images), read(data)) != before
    assert images_identity(StudyImages(data=images)) != before
    # Two masks change places: the same contents, of other images.
    for name, filled in (("clean/1", True), ("scratch/1", False)):
        write_mask(data / f"masks/{name}.png", np.full((8, 8), filled))
    assert images_identity(read(data))["samples"] != before["samples"]
    write_image(data / "images/clean/0.png", np.ones((8, 8, 3), np.uint8))
    assert images_identity(StudyImages(data=images))["contents"] != before["contents"]


def test_what_trainings_start_from(make_classifier, tmp_path):
    assert [starting_weights(weights) for weights in (None, "none", "imagenet")] == ["none", "none", "imagenet"]
    make_classifier().save(tmp_path)
    file = str(tmp_path / "model.safetensors")
    assert starting_weights(file) == sha256(file)
    with pytest.raises(CheckpointError):
        starting_weights(str(Path(tmp_path, "nothing.safetensors")))


def test_one_class_of_the_masks_and_its_void(data):
    levels = np.zeros((8, 8), np.uint8)
    levels[1:3], levels[3], levels[5] = 4, 255, 6
    for index in range(2):
        write_image(data / f"masks/scratch/{index}.png", levels)
    with pytest.raises(ImageError, match="choose one by --mask-class N"):
        read(data)
    found = read(data, reading=MaskReading(mask_class=4))
    mask, void = found.truth("scratch/0")
    assert np.array_equal(mask, levels == 4)
    assert np.array_equal(void, levels == 255)
    assert images_identity(found) != images_identity(read(data, reading=MaskReading(mask_class=6)))
    with pytest.raises(EvaluationError, match="images are empty"):
        read(data, reading=MaskReading(mask_class=5))
    with pytest.raises(InputError, match="a mask class, but no masks"):
        read_study_images(found.data, None, (), ["full"], silent, "test", MaskReading(mask_class=4))
