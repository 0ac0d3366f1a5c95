from dataclasses import replace

import numpy as np
import pytest

from camseg.base.errors import DatasetError, ImageError
from camseg.data.datasets import load_images
from camseg.data.images import write_image, write_mask
from camseg.data.mask_settings import MaskReading, parse_mask_classes
from camseg.data.truth import IGNORED, class_regions, find_true_masks, masks_by_label

SQUARE = np.zeros((4, 6), bool)
SQUARE[1:3, 2:5] = True


@pytest.fixture
def samples(tmp_path):
    for name in ("clean/1", "dirty/1", "dirty/2"):
        write_image(tmp_path / f"images/{name}.png", np.zeros((4, 6, 3), np.uint8))
    return load_images(tmp_path / "images").samples


def test_masks_of_one_class(samples, tmp_path):
    write_mask(tmp_path / "masks/dirty/1.png", SQUARE)
    found = find_true_masks(tmp_path / "masks", samples, name="spot", negative=["clean"])
    assert (found.classes, found.multi_label) == (("spot",), True)
    assert [found.knows(sample) for sample in samples] == [True, True, False]
    truth = found.read(samples[1], 4, 6)
    assert np.array_equal(truth.target[..., 0], SQUARE)
    assert truth.weights.tolist() == [1]
    assert not found.read(samples[0], 4, 6).target.any()
    assert found.files(samples[0]) == ()
    assert found.files(samples[1]) == (tmp_path / "masks/dirty/1.png",)
    assert found.called(("other",)).read(samples[1], 4, 6).target.sum() == SQUARE.sum()
    with pytest.raises(ImageError, match="expected a mask of its image's size, 8x9; it has 6x4"):
        found.read(samples[1], 9, 8)


def test_masks_of_several_classes_lie_in_their_folders(samples, tmp_path):
    write_mask(tmp_path / "masks/dust/dirty/1.png", SQUARE)
    write_mask(tmp_path / "masks/hair/dirty/1.png", ~SQUARE)
    write_mask(tmp_path / "masks/hair/dirty/2.png", SQUARE)
    found = find_true_masks(tmp_path / "masks", samples)
    assert (found.classes, found.multi_label) == (("dust", "hair"), True)
    assert [found.knows(sample) for sample in samples] == [False, True, True]
    first, second = (found.read(sample, 4, 6).target for sample in samples[1:])
    assert np.array_equal(first[..., 0], SQUARE)
    assert np.array_equal(first[..., 1], ~SQUARE)
    assert not second[..., 0].any()  # it has a mask of the other class, so this one is not there


NUMBERS = parse_mask_classes({"background": 0, "dust": 3, "hair": 7, "void": 255})


def test_class_numbers_exclude_each_other(samples, tmp_path):
    numbers = np.zeros((4, 6), np.uint8)
    numbers[0], numbers[1], numbers[2] = 3, 7, 255
    write_image(tmp_path / "masks/dirty/1.png", numbers)
    found = find_true_masks(tmp_path / "masks", samples, numbers=NUMBERS)
    assert (found.classes, found.multi_label) == (("dust", "hair"), False)
    target = found.read(samples[1], 4, 6).target
    assert target.shape == (4, 6, 1)
    assert target[:, 0, 0].tolist() == [1, 2, IGNORED, 0]
    write_image(tmp_path / "masks/dirty/1.png", np.where(numbers == 0, 5, numbers).astype(np.uint8))
    with pytest.raises(ImageError, match="it also has 5; name those too"):
        found.read(samples[1], 4, 6)


def test_one_of_several_numbers(samples, tmp_path):
    numbers = np.zeros((4, 6), np.uint8)
    numbers[0], numbers[1], numbers[2] = 3, 7, 255
    write_image(tmp_path / "masks/dirty/1.png", numbers)
    reading = MaskReading(mask_class="hair", mask_classes=NUMBERS)
    found = find_true_masks(tmp_path / "masks", samples, reading=reading)
    assert found.read(samples[1], 4, 6).target[:, 0, 0].tolist() == [0, 1, IGNORED, 0]
    assert found.facts() != replace(found, reading=MaskReading()).facts()


def test_masks_of_other_images(samples, tmp_path):
    write_mask(tmp_path / "masks/elsewhere/9.png", SQUARE)
    with pytest.raises(DatasetError, match=r"holds no mask of the images: expected clean/1\.png, or <class>/clean/1"):
        find_true_masks(tmp_path / "masks", samples)
    write_mask(tmp_path / "masks/dirty/1.png", SQUARE)
    with pytest.raises(DatasetError, match="beside background and void; got none"):
        find_true_masks(tmp_path / "masks", samples, numbers=parse_mask_classes({"background": 0, "void": 255}))


def test_labels_tell_masks_of_one_class_apart(samples, tmp_path):
    clean, first, second = samples
    write_mask(tmp_path / "masks/dirty/1.png", SQUARE)
    source = find_true_masks(tmp_path / "masks", samples, negative=["clean"])
    found = masks_by_label(source, [*samples, replace(second, labels=("dusty",))])
    assert (found.classes, found.multi_label, found.negative) == (("dirty", "dusty"), True, ("clean",))
    truth = found.read(first, 4, 6)
    assert np.array_equal(truth.target[..., 0], SQUARE)
    assert not truth.target[..., 1].any()  # it is labelled otherwise
    assert not found.read(clean, 4, 6).target.any()
    both = found.read(replace(first, labels=("dirty", "dusty")), 4, 6).target
    assert (both[SQUARE] == IGNORED).all()  # of one of the two
    assert (both[~SQUARE] == 0).all()
    assert [found.knows(one) for one in (clean, first, second)] == [True, True, False]
    for labels in (None, ("other",)):
        assert not found.knows(replace(first, labels=labels))
    assert found.facts() != source.facts()
    with pytest.raises(DatasetError, match="holds masks of dirty, dusty already"):
        masks_by_label(found, samples)
    with pytest.raises(DatasetError, match="no image has a label that says what its mask"):
        masks_by_label(source, [replace(first, labels=None)])
    with pytest.raises(DatasetError, match="are labelled dirty, dusty, and not rust"):
        found.called(("rust",))


def test_regions_of_classes(samples, tmp_path):
    write_mask(tmp_path / "masks/dirty/1.png", SQUARE)
    source = find_true_masks(tmp_path / "masks", samples)
    truth = source.read(samples[1], 4, 6)
    assert all(np.array_equal(one, SQUARE) for one in class_regions(source, truth, ["a", "b"]))
    apart = masks_by_label(source, samples)
    regions = class_regions(apart, apart.read(samples[1], 4, 6), ["clean", "dirty", "rust"])
    assert [bool(one.any()) for one in regions] == [False, True, False]


def test_masks_that_only_a_person_drew_join_the_others(samples, tmp_path):
    write_mask(tmp_path / "masks/dust/dirty/1.png", SQUARE)
    write_mask(tmp_path / "masks/dust/dirty/2.png", SQUARE)
    write_mask(tmp_path / "masks/hair/dirty/2.png", SQUARE)
    write_mask(tmp_path / "drawn.png", ~SQUARE)
    found = find_true_masks(tmp_path / "masks", samples)
    assert not found.read(samples[1], 4, 6).target[..., 1].any()
    drawn = found.replaced({tmp_path / "masks/hair/dirty/1.png": tmp_path / "drawn.png"})
    assert np.array_equal(drawn.read(samples[1], 4, 6).target[..., 1], ~SQUARE)
    assert np.array_equal(drawn.read(samples[1], 4, 6).target[..., 0], SQUARE)
    assert np.array_equal(drawn.read(samples[2], 4, 6).target[..., 1], SQUARE)
    rejected = found.replaced({tmp_path / "masks/hair/dirty/1.png": None})
    assert not rejected.read(samples[1], 4, 6).target[..., 1].any()
