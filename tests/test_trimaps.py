import math

import cv2
import numpy as np
import pytest

from camseg.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.errors import InputError
from camseg.trimaps import Radius, mask_to_trimap, masks_to_trimap, parse_radius

OFF = {"open": 0, "close": 0, "dilate": 0, "erode": 0}


def draw(picture: str) -> np.ndarray:
    return np.array([[{".": 0, "?": 128, "#": 255}[pixel] for pixel in row] for row in picture.split()], np.uint8)


def disc(size: int, radius: float, center: tuple[float, float] | None = None) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    cy, cx = center or (size // 2, size // 2)
    return (y - cy) ** 2 + (x - cx) ** 2 <= radius**2


def blobs(seed: int, shape: tuple[int, int] = (60, 70)) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), 3)
    return noise > np.median(noise)


@pytest.mark.parametrize(
    ("text", "radius"),
    [
        ("5", Radius(value=5)),
        (5, Radius(value=5)),
        (" 2.5 ", Radius(value=2.5)),
        ("0", Radius(value=0)),
        ("10%", Radius(value=0.1, relative=True)),
        ("150%", Radius(value=1.5, relative=True)),
    ],
)
def test_radii(text, radius):
    assert parse_radius(text) == radius
    assert parse_radius(str(radius)) == radius


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "nan", "inf", "10 px", "10%%", None, True])
def test_no_radius(text):
    with pytest.raises(InputError, match="radius"):
        parse_radius(text)
    with pytest.raises(InputError, match="radius"):
        mask_to_trimap(np.ones((3, 3), bool), erode=text)


def test_the_band_by_hand():
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:6] = True
    assert np.array_equal(
        mask_to_trimap(mask, dilate=1, erode=1),
        draw(
            """.........
               ...???...
               ..?????..
               ..??#??..
               ..?????..
               ...???...
               ........."""
        ),
    )
    assert np.array_equal(mask_to_trimap(mask, dilate=1.5, erode=0)[1:6, 2:7], draw("????? ?###? ?###? ?###? ?????"))


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_radii_are_opencv_morphology_with_a_disc(seed, radius):
    mask = blobs(seed)
    kernel = disc(2 * radius + 1, radius).astype(np.uint8)

    def morphology(operation):
        return cv2.morphologyEx(mask.astype(np.uint8), operation, kernel) > 0

    band = mask_to_trimap(mask, dilate=radius, erode=radius)
    assert np.array_equal(band != BACKGROUND, morphology(cv2.MORPH_DILATE))
    assert np.array_equal(band == FOREGROUND, morphology(cv2.MORPH_ERODE))
    assert np.array_equal(mask_to_trimap(mask, **OFF | {"open": radius}) == FOREGROUND, morphology(cv2.MORPH_OPEN))
    assert np.array_equal(mask_to_trimap(mask, **OFF | {"close": radius}) == FOREGROUND, morphology(cv2.MORPH_CLOSE))


def test_opening_drops_specks_before_closing_joins_pieces():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 2:12] = mask[5:15, 15:28] = True
    mask[0, 0] = True
    cleaned = mask_to_trimap(mask, open=2, close=3, dilate=0, erode=0) == FOREGROUND
    assert not cleaned[0, 0]
    assert cleaned[10, 12:15].all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("name", OFF)
def test_a_relative_radius_is_a_share_of_the_diameter_of_the_same_area(name, share):
    mask = blobs(5)
    component = cv2.connectedComponents(mask.astype(np.uint8))[1] == 1  # one object
    pixels = max(1.0, share * math.sqrt(4 * component.sum() / math.pi))
    relative = mask_to_trimap(component, **OFF | {name: f"{100 * share:g}%"})
    absolute = mask_to_trimap(component, **OFF | {name: pixels})
    if (absolute == FOREGROUND).any():
        assert np.array_equal(relative, absolute)
    else:
        assert (relative == FOREGROUND).any()


def test_each_object_gets_a_band_of_its_own():
    large, small = np.zeros((2, 200, 200), bool)
    large[20:100, 20:100] = True
    small[140:150, 140:150] = True
    both = mask_to_trimap(large | small, dilate="20%", erode="10%")
    alone = [mask_to_trimap(each, dilate="20%", erode="10%") for each in (large, small)]
    assert np.array_equal(both, np.maximum(*alone))
    for trimap, side, row, last in ((alone[0], 80, 60, 99), (alone[1], 10, 145, 149)):
        diameter = side * math.sqrt(4 / math.pi)
        assert np.flatnonzero(trimap[row] != BACKGROUND).max() == last + math.floor(0.2 * diameter)
        assert np.flatnonzero(trimap[row] == FOREGROUND).max() == last - math.floor(0.1 * diameter)


def test_a_speck_leaves_the_band_of_the_large_object_beside_it_whole():
    large = disc(120, 30)
    beside = large.copy()
    beside[60, 94] = True
    alone = mask_to_trimap(large)
    assert alone[60, 94] == UNKNOWN
    changed = alone != mask_to_trimap(beside)
    assert changed.sum() == 1  # the speck itself is foreground now
    assert changed[60, 94]


@pytest.mark.parametrize("name", ["open", "erode"])
@pytest.mark.parametrize("share", ["10%", "50%", "300%"])
def test_relative_radii_never_lose_a_thin_object(name, share):
    mask = np.zeros((40, 60), bool)
    mask[3, 5:50] = True  # 1 pixel wide
    mask[10:12, 5:50] = True  # 2 pixels wide
    mask[20:25, 5:50] = True  # 5 pixels wide
    mask[38, 58] = True  # a single pixel
    kept = mask_to_trimap(mask, **OFF | {name: share}) == FOREGROUND
    assert not (kept & ~mask).any()
    assert np.array_equal(kept[:13], mask[:13])
    assert kept[22, 7:48].all()
    assert kept[38, 58]
    assert not (mask_to_trimap(mask, **OFF | {name: 2})[:13] == FOREGROUND).any()  # pixels are taken at their word


def test_the_defaults_give_every_kind_of_pixel():
    for radius in (0.5, 1, 2, 5, 20):
        trimap = mask_to_trimap(disc(101, radius))
        assert set(np.unique(trimap)) == {BACKGROUND, UNKNOWN, FOREGROUND}


@pytest.mark.parametrize("erode", [3, "20%"])
def test_erosion_does_not_eat_from_the_border(erode):
    mask = np.zeros((30, 40), bool)
    mask[:, :15] = True
    foreground = mask_to_trimap(mask, erode=erode) == FOREGROUND
    columns = foreground.any(axis=0)
    assert np.array_equal(foreground, np.broadcast_to(columns, mask.shape))
    assert columns[0]
    assert 5 < columns.sum() < 15


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 7)])
@pytest.mark.parametrize("radius", [0, 1, 100, 1e9, "10%", "1000%"])
def test_empty_and_full_masks(shape, radius):
    radii = dict.fromkeys(OFF, radius)
    assert (mask_to_trimap(np.zeros(shape, bool), **radii) == BACKGROUND).all()
    assert (mask_to_trimap(np.ones(shape, bool), **radii) == FOREGROUND).all()


def test_one_pixel_wide_images():
    mask = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]], bool)
    expected = draw("..??###??..")
    assert np.array_equal(mask_to_trimap(mask, dilate=1, erode=1), expected)
    assert np.array_equal(mask_to_trimap(mask.T, dilate=1, erode=1), expected.T)


def test_views_are_taken_as_they_are():
    mask = blobs(1)
    assert np.array_equal(mask_to_trimap(mask[::-2, ::-2]), mask_to_trimap(mask[::-2, ::-2].copy()))


def test_two_masks():
    inner, outer = np.array([[0, 0, 1, 1]], bool), np.array([[0, 1, 1, 1]], bool)
    trimap = masks_to_trimap(inner, outer)
    assert trimap.dtype == np.uint8
    assert trimap.tolist() == [[0, 128, 255, 255]]
    assert masks_to_trimap(outer, outer).tolist() == [[0, 255, 255, 255]]


def test_two_masks_that_do_not_nest():
    inner, outer = np.array([[1, 0, 1, 1]], bool), np.array([[0, 1, 1, 1]], bool)
    with pytest.raises(InputError, match="1 of its pixels lie outside"):
        masks_to_trimap(inner, outer)
    with pytest.raises(InputError, match="differ in size"):
        masks_to_trimap(inner, outer.T)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1), bool), np.zeros((0, 2), bool)])
def test_no_mask(mask):
    with pytest.raises(InputError):
        mask_to_trimap(mask)
    with pytest.raises(InputError):
        masks_to_trimap(mask, mask)
