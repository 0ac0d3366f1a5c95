import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from camseg.base.errors import InputError
from camseg.base.sizes import Size, parse_size
from camseg.masks.cleaning import clean, drop_islands, fill_holes, keep_largest, smooth
from camseg.masks.settings import CleaningSettings


def draw(picture: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in picture.split()])


def blobs(seed: int, shape: tuple[int, int] = (60, 70), sigma: float = 1.5) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma) > 0.5


@pytest.mark.parametrize(
    ("text", "size", "pixels"),
    [
        ("50", Size(value=50), 50),
        (50, Size(value=50), 50),
        (" 2.5 ", Size(value=2.5), 2.5),
        ("0.1%", Size(value=0.001, relative=True), 0.2),
        ("29%", Size(value=0.29, relative=True), 58),
    ],
)
def test_sizes(text, size, pixels):
    parsed = parse_size(text)
    assert parsed == size
    assert parse_size(str(parsed)) == size
    assert parsed.of(200) == pixels


@pytest.mark.parametrize("text", ["", "%", "-1", "nan", "inf", "10 px", None])
def test_no_size(text):
    with pytest.raises(InputError, match="size"):
        parse_size(text)


HOLES = draw(
    """.........
       .#######.
       .#.##..#.
       .####..#.
       .#######.
       .....#.#.
       .....#.#."""
)


def test_holes():
    filled = HOLES.copy()
    filled[1:5, 1:8] = True
    assert np.array_equal(fill_holes(HOLES), filled)  # what opens to the border is no hole
    small = HOLES.copy()
    small[2, 2] = True
    for area in (1, 3.9):
        assert np.array_equal(fill_holes(HOLES, area), small)
    assert np.array_equal(fill_holes(HOLES, 4), filled)
    assert np.array_equal(fill_holes(HOLES, 0), HOLES)


def test_holes_are_4_connected():
    ring = draw(".#. #.# .#.")  # 8-connected, and yet closed
    assert np.array_equal(fill_holes(ring), draw(".#. ### .#."))
    leaky = draw("### #.# ##.")  # the corner does not let the hole out
    assert fill_holes(leaky)[1, 1]


def test_an_object_inside_a_hole_is_no_hole():
    target = np.ones((7, 7), bool)
    target[1:6, 1:6] = False
    target[3, 3] = True
    assert fill_holes(target).all()
    assert np.array_equal(fill_holes(target, 23), target)  # 25 pixels less the one in the middle
    assert fill_holes(target, 24).all()


@pytest.mark.parametrize("seed", range(4))
def test_all_holes_are_those_of_scipy(seed):
    mask = blobs(seed)
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_islands():
    mask = draw(
        """##...#
           ##...#
           ......
           #.#..#
           .#...."""
    )  # 4, 2, 3 (by its corners) and 1 pixels
    assert np.array_equal(drop_islands(mask, 1), mask)
    assert np.array_equal(drop_islands(mask, 2), draw("##...# ##...# ...... #.#... .#...."))
    assert np.array_equal(drop_islands(mask, 2.5), draw("##.... ##.... ...... #.#... .#...."))
    assert np.array_equal(drop_islands(mask, 4), draw("##.... ##.... ...... ...... ......"))
    assert not drop_islands(mask, 5).any()


def test_the_largest():
    mask = draw("##...# ##...# ...... #.#..# .#....")
    assert np.array_equal(keep_largest(mask), draw("##.... ##.... ...... ...... ......"))
    assert np.array_equal(keep_largest(mask, 2), draw("##.... ##.... ...... #.#... .#...."))
    assert np.array_equal(keep_largest(mask, 3), draw("##...# ##...# ...... #.#... .#...."))
    for count in (4, 100):
        assert np.array_equal(keep_largest(mask, count), mask)


def test_of_equal_objects_the_first_in_reading_order_stays():
    mask = draw(
        """.....#
           #..#.#
           #..#.."""
    )
    assert np.array_equal(keep_largest(mask, 1), draw(".....# .....# ......"))
    assert np.array_equal(keep_largest(mask, 2), draw(".....# #....# #....."))
    # Turned by half a turn another one is the first.
    assert np.array_equal(
        keep_largest(mask[::-1, ::-1], 1), draw("..#..# ..#..# ......") & draw("..#... ..#... ......")
    )


@pytest.mark.parametrize("seed", range(3))
def test_equal_objects_of_any_shape(seed):
    mask = np.random.default_rng(seed).random((24, 30)) < 0.2
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    found = sorted((-np.count_nonzero(labels == n), np.flatnonzero(labels == n)[0], n) for n in range(1, count + 1))
    for kept in (1, 5, count // 2):
        assert np.array_equal(keep_largest(mask, kept), np.isin(labels, [n for *_, n in found[:kept]]))


def test_smoothing_by_hand():
    mask = draw(
        """........
           .####...
           .####.#.
           .#.##...
           .####..."""
    )
    # Of the five pixels of a disc of radius 1 three decide; below the border the image is mirrored.
    assert np.array_equal(smooth(mask, 1), draw("........ .####... .####... .####... .####..."))
    assert np.array_equal(smooth(mask, 0), mask)
    assert np.array_equal(smooth(mask, 0.9), mask)


@pytest.mark.parametrize("radius", [1, 1.5, 2.9, 6, 12])
def test_smoothing_is_a_median_over_a_disc(radius):
    mask = blobs(1)
    y, x = np.mgrid[-12:13, -12:13]
    footprint = y**2 + x**2 <= radius**2
    expected = ndimage.median_filter(mask.astype(np.uint8), footprint=footprint, mode="reflect") > 0
    assert np.array_equal(smooth(mask, radius), expected)


def test_smoothing_keeps_what_touches_the_border():
    half = np.zeros((20, 30), bool)
    half[:, :11] = True
    for radius in (1, 3, 8):
        assert np.array_equal(smooth(half, radius), half)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (6, 7)])
def test_empty_full_and_thin_images(shape):
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    steps = (fill_holes, keep_largest, lambda mask: drop_islands(mask, 1), lambda mask: smooth(mask, 1e9))
    for step in steps:
        assert not step(empty).any()
        assert step(full).all()
        assert step(full).dtype == bool
        assert step(full).shape == shape


def test_views_are_taken_as_they_are_and_inputs_stay():
    mask = blobs(2)
    before = mask.copy()
    settings = CleaningSettings(smooth="2", fill_holes="all", min_area="9", keep=3)
    assert np.array_equal(clean(mask[::-2, ::-2], settings), clean(mask[::-2, ::-2].copy(), settings))
    assert np.array_equal(mask, before)


def test_the_defaults_change_nothing():
    mask = blobs(3)
    assert np.array_equal(clean(mask, CleaningSettings()), mask)


def test_the_order():
    mask = blobs(4, sigma=1.0)
    settings = CleaningSettings(smooth="1", fill_holes="5", min_area="12", keep=4)
    expected = keep_largest(drop_islands(fill_holes(smooth(mask, 1), 5), 12), 4)
    assert np.array_equal(clean(mask, settings), expected)
    assert 0 < np.count_nonzero(expected) < np.count_nonzero(mask)


def test_percentages_are_of_the_image():
    mask = blobs(5)  # 60 x 70
    percent = CleaningSettings(smooth="5%", fill_holes="0.5%", min_area="1%")
    pixels = CleaningSettings(smooth="3", fill_holes="21", min_area="42")
    assert np.array_equal(clean(mask, percent), clean(mask, pixels))


def test_an_island_is_measured_with_its_hole_filled():
    ring = cv2.copyMakeBorder(draw("### #.# ###").astype(np.uint8), 2, 2, 2, 2, cv2.BORDER_CONSTANT) > 0
    assert not clean(ring, CleaningSettings(min_area="9")).any()
    assert clean(ring, CleaningSettings(min_area="9", fill_holes="all")).sum() == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"fill_holes": "some"},
        {"fill_holes": "-1"},
        {"min_area": "none"},
        {"smooth": "x"},
        {"keep": 0},
        {"keep": -1},
        {"keep": 1.5},
    ],
)
def test_settings_that_say_nothing(settings):
    with pytest.raises(InputError, match="expected"):
        CleaningSettings(**settings)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1), bool), np.zeros((0, 2), bool)])
def test_no_mask(mask):
    for step in (fill_holes, keep_largest, lambda mask: drop_islands(mask, 1), lambda mask: smooth(mask, 1)):
        with pytest.raises(InputError, match="mask"):
            step(mask)
    with pytest.raises(InputError, match="mask"):
        clean(mask, CleaningSettings())


@pytest.mark.parametrize("radius", [-1, math.nan])
def test_no_radius(radius):
    with pytest.raises(InputError, match="radius"):
        smooth(np.ones((3, 3), bool), radius)
