import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import InputError
from camseg.base.sizes import Size, parse_size
from camseg.refinement import trimaps
from camseg.refinement.trimaps import mask_to_trimap, masks_to_trimap, published_trimap, unusable

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
        ("5", Size(value=5)),
        (5, Size(value=5)),
        (" 2.5 ", Size(value=2.5)),
        ("0", Size(value=0)),
        ("10%", Size(value=0.1, relative=True)),
        ("150%", Size(value=1.5, relative=True)),
    ],
)
def test_radii(text, radius):
    assert parse_size(text) == radius
    assert parse_size(str(radius)) == radius


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "nan", "inf", "10 px", "10%%", None, True])
def test_no_radius(text):
    with pytest.raises(InputError, match="expected a size"):
        parse_size(text)
    with pytest.raises(InputError, match="expected a size"):
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


def test_opening_comes_before_closing_joins_pieces():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 2:12] = mask[5:15, 15:28] = True
    mask[0, 0] = True
    trimap = mask_to_trimap(mask, open=2, close=3, dilate=0, erode=0)
    assert trimap[0, 0] == UNKNOWN
    assert (trimap[10, 12:15] == FOREGROUND).all()


@pytest.mark.parametrize("radius", [2, "50%"])
def test_what_opening_takes_away_is_unknown_never_background(radius):
    mask = disc(61, 12)
    mask[30, 40:60] = True  # a stick, 1 pixel wide
    trimap = mask_to_trimap(mask, open=radius, dilate=0, erode=0)
    assert (trimap[30, 45:60] == UNKNOWN).all()
    assert trimap[30, 30] == FOREGROUND
    assert np.array_equal(trimap != BACKGROUND, mask)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("name", OFF)
def test_a_relative_radius_is_a_share_of_the_width_of_the_largest_disc_inside(name, share):
    mask = blobs(5)
    component = cv2.connectedComponents(mask.astype(np.uint8))[1] == 1  # one object
    pixels = max(1.0, share * (2 * ndimage.distance_transform_edt(component).max() - 1))
    relative = mask_to_trimap(component, **OFF | {name: f"{100 * share:g}%"})
    assert np.array_equal(relative, mask_to_trimap(component, **OFF | {name: pixels}))
    assert (relative == FOREGROUND).any()


def test_the_width_of_a_bar_is_its_shorter_side_and_not_its_area():
    mask = np.zeros((40, 240), bool)
    mask[10:31, 10:230] = True  # 21 pixels wide
    column = mask_to_trimap(mask, dilate="20%", erode="20%")[:, 120]
    assert np.array_equal(np.flatnonzero(column != BACKGROUND), np.arange(10 - 4, 31 + 4))
    assert np.array_equal(np.flatnonzero(column == FOREGROUND), np.arange(10 + 4, 31 - 4))


def test_an_object_of_many_pieces_gets_the_band_of_one_piece():
    piece = np.pad(np.ones((9, 9), bool), 6)
    assert np.array_equal(
        mask_to_trimap(np.tile(piece, (3, 4)), dilate="25%", erode="25%"),
        np.tile(mask_to_trimap(piece, dilate=2.25, erode=2.25), (3, 4)),
    )


def test_each_object_gets_a_band_of_its_own():
    large, small = np.zeros((2, 200, 200), bool)
    large[20:99, 20:99] = True
    small[140:151, 140:151] = True
    both = mask_to_trimap(large | small, dilate="20%", erode="10%")
    alone = [mask_to_trimap(each, dilate="20%", erode="10%") for each in (large, small)]
    assert np.array_equal(both, np.maximum(*alone))
    for trimap, side, row, last in ((alone[0], 79, 60, 98), (alone[1], 11, 145, 150)):
        assert np.flatnonzero(trimap[row] != BACKGROUND).max() == last + math.floor(0.2 * side)
        assert np.flatnonzero(trimap[row] == FOREGROUND).max() == last - math.floor(0.1 * side)


@pytest.mark.parametrize("call_cost", [0, 10**9], ids=["one by one", "all of a size at once"])
@pytest.mark.parametrize("name", ["open", "dilate", "erode"])
def test_many_objects_are_as_each_alone(monkeypatch, name, call_cost):
    monkeypatch.setattr(trimaps, "_CALL_COST", call_cost)
    mask = ndimage.gaussian_filter(np.random.default_rng(2).random((90, 120)), 1.5) > 0.54
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    assert count > 20
    radii = OFF | {name: "45%"}
    alone = [mask_to_trimap(labels == label, **radii) for label in range(1, count + 1)]
    assert np.array_equal(mask_to_trimap(mask, **radii), np.max(alone, axis=0))


def test_a_relative_closing_joins_pieces_by_the_width_of_the_widest():
    mask = np.zeros((31, 60), bool)
    mask[5:26, 5:26] = mask[5:26, 31:52] = True  # 21 pixels wide, 5 apart
    assert (mask_to_trimap(mask, close="15%", dilate=0, erode=0)[15, 26:31] == FOREGROUND).all()
    assert (mask_to_trimap(mask, close="9%", dilate=0, erode=0)[15, 26:31] == BACKGROUND).all()


@pytest.mark.parametrize("radii", [{}, {"close": "30%", "open": "10%"}, {"dilate": 7, "erode": 3, "close": 4}])
def test_a_large_photo_around_the_object_changes_nothing(radii):
    mask = np.pad(blobs(4, (40, 50)), 200)
    expected = mask_to_trimap(mask, **radii)
    photo = mask_to_trimap(np.pad(mask, 300), **radii)
    assert np.array_equal(photo[300:-300, 300:-300], expected)
    assert not photo[:300].any()
    assert (expected != BACKGROUND)[200:240, 200:250].any()


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


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("radius", [3, "25%"])
def test_an_object_cut_by_the_border_is_treated_as_the_whole_one(name, radius):
    whole = disc(81, 20) | disc(81, 9, (40, 66))
    whole[37:44, 50:54] = False
    whole = np.delete(whole, 40, axis=0)  # the mirror lies between two rows
    radii = OFF | {name: radius}
    assert np.array_equal(mask_to_trimap(whole[40:], **radii), mask_to_trimap(whole, **radii)[40:])


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


def test_what_a_map_is_sure_of_is_foreground_however_much_is_eroded():
    cam = np.array([[0.1, 0.3, 0.7, 0.9, 0.7, 0.5, 0.1, 0.1, 0.3, 0.9]])
    mask = np.array([[0, 0, 1, 1, 1, 1, 0, 0, 0, 0]], bool)
    radii = OFF | {"erode": 2}
    assert mask_to_trimap(mask, **radii, sure=cam > 0.8).tolist() == [[0, 0, 128, 255, 128, 128, 0, 0, 0, 0]]
    with pytest.raises(InputError, match="differ in size"):
        mask_to_trimap(mask, sure=mask.T)
    with pytest.raises(InputError, match="expected a mask"):
        mask_to_trimap(mask, sure=cam)


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


@pytest.mark.parametrize("name", OFF)
def test_no_percent_is_no_pixel(name):
    mask = blobs(6)
    assert np.array_equal(mask_to_trimap(mask, **OFF | {name: "0%"}), mask_to_trimap(mask, **OFF))


def test_the_published_recipe_at_its_own_size_is_opencv_morphology():
    mask = blobs(3, (1024, 1024)) | (np.random.default_rng(0).random((1024, 1024)) < 0.001)
    small, large = (disc(2 * radius + 1, radius).astype(np.uint8) for radius in (7, 15))
    cleaned = cv2.morphologyEx(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, small), cv2.MORPH_CLOSE, small)
    expected = 128 * cv2.dilate(cleaned, large) + 127 * cv2.erode(cleaned, large)
    assert np.array_equal(published_trimap(mask), expected)
    assert set(np.unique(expected)) == {BACKGROUND, UNKNOWN, FOREGROUND}


def test_the_published_recipe_reaches_in_pixels_of_1024():
    mask = np.zeros((256, 512), bool)
    mask[100:200, 100:300] = True
    trimap = published_trimap(mask)
    assert trimap.shape == mask.shape
    # Rows 400 to 799 of 1024 become 385 to 814 and 415 to 784, of which row k samples number 4 k + 2.
    assert np.array_equal(np.flatnonzero(trimap[:, 200] == FOREGROUND), np.arange(104, 196))
    assert np.array_equal(np.flatnonzero(trimap[:, 200] != BACKGROUND), np.arange(96, 204))
    assert unusable(trimap) is None
    thin = np.zeros((1024, 1024), bool)
    thin[500:520, 100:900] = True
    assert unusable(published_trimap(thin)) == "eroded away"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0, 128, 255], None),
        ([0], "empty mask"),
        ([255], "full mask"),
        ([0, 255], "no band"),
        ([0, 128], "eroded away"),
        ([128], "eroded away"),
        ([128, 255], "dilated over all"),
    ],
)
def test_why_a_trimap_is_unusable(values, reason):
    assert unusable(np.array([values], np.uint8)) == reason


def test_reasons_from_masks():
    mask = disc(21, 5)
    assert unusable(mask_to_trimap(mask)) is None
    assert unusable(mask_to_trimap(mask, erode=6)) == "eroded away"
    assert unusable(mask_to_trimap(mask, dilate=30)) == "dilated over all"
    assert unusable(mask_to_trimap(mask, **OFF)) == "no band"
    assert unusable(mask_to_trimap(~np.zeros((5, 5), bool))) == "full mask"
    assert unusable(mask_to_trimap(np.zeros((5, 5), bool))) == "empty mask"
    with pytest.raises(InputError):
        unusable(mask)
