"""Masks to polygons and back: nothing is lost at tolerance 0, whichever way a program paints them."""

import cv2
import numpy as np
import pytest

from camseg.exchange.polygons import mask_to_polygons, polygons_to_mask

WAYS = ("corners", "centres")


def drawn(text):
    """A mask from lines of . and #."""
    return np.array([[letter == "#" for letter in line] for line in text.split()])


RING = drawn("""
.....
.###.
.#.#.
.###.
.....
""")


def test_the_outline_and_the_hole_are_one_polygon_joined_by_a_seam():
    (polygon,) = mask_to_polygons(RING, "corners")
    # From the hole's corner (2, 2) straight up to the outline at (2, 1), and back the same way.
    assert polygon.tolist() == [
        [1, 1], [2, 1], [2, 2], [3, 2], [3, 3], [2, 3], [2, 1], [4, 1], [4, 4], [1, 4]
    ]  # fmt: skip


def test_points_at_centres_are_those_of_the_outermost_pixels():
    (polygon,) = mask_to_polygons(drawn("....\n.##.\n.##."), "centres")
    assert sorted(polygon.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]


@pytest.mark.parametrize("at", WAYS)
@pytest.mark.parametrize("mask", [drawn("#"), drawn(".#\n.."), drawn("##"), drawn("#\n#\n#"), np.ones((3, 4), bool)])
def test_the_smallest_masks_have_polygons_of_three_points(mask, at):
    polygons = mask_to_polygons(mask, at)
    assert len(polygons) == 1
    assert len(polygons[0]) >= 3
    assert np.array_equal(polygons_to_mask(polygons, *mask.shape, at), mask)


def test_pixels_that_touch_by_corners_are_apart_or_together():
    touching = drawn("#.\n.#")
    assert len(mask_to_polygons(touching, "corners")) == 2
    assert len(mask_to_polygons(touching, "centres")) == 1


def test_an_empty_mask_has_no_polygon():
    assert mask_to_polygons(np.zeros((3, 4), bool), "corners") == mask_to_polygons(np.zeros((3, 4), bool), "centres")


@pytest.mark.parametrize("at", WAYS)
def test_masks_come_back_bit_for_bit(at):
    random = np.random.default_rng(0)
    for density in np.linspace(0.05, 0.95, 60):
        noise = random.random(random.integers(1, 30, 2))
        smooth = cv2.GaussianBlur(random.random((40, 50)), (0, 0), 1.5)
        for mask in (noise < density, smooth < np.quantile(smooth, density)):
            polygons = mask_to_polygons(mask, at)
            assert np.array_equal(polygons_to_mask(polygons, *mask.shape, at), mask)


def test_opencv_paints_the_polygons_of_centres_as_they_were():
    """One call per polygon, as Ultralytics does; several in one call would be painted as holes of each other."""
    canvas = np.zeros(RING.shape, np.uint8)
    for polygon in mask_to_polygons(RING, "centres"):
        cv2.fillPoly(canvas, [polygon.astype(np.int32)], 1)
    assert np.array_equal(canvas > 0, RING)


@pytest.mark.parametrize("at", WAYS)
def test_a_tolerance_drops_points_and_bounds_what_is_lost(at):
    y, x = np.mgrid[:120, :140]
    mask = (np.hypot(y - 60, x - 70) < 50) & (np.hypot(y - 60, x - 60) > 12)
    exact, near = mask_to_polygons(mask, at), mask_to_polygons(mask, at, 1.5)
    assert len(near[0]) < len(exact[0]) / 3
    back = polygons_to_mask(near, *mask.shape, at)
    overlap = np.count_nonzero(back & mask) / np.count_nonzero(back | mask)
    assert 0.95 < overlap < 1.0
    assert not back[60, 60], "the hole stays"


def test_points_between_pixels_paint_the_centres_inside_and_outside_is_cut_off():
    triangle = [np.array([[-2.0, -2.0], [3.2, -2.0], [3.2, 2.4], [-2.0, 2.4]])]
    expected = np.zeros((4, 5), bool)
    expected[:2, :3] = True  # centres up to 2.5 and 1.5
    assert np.array_equal(polygons_to_mask(triangle, 4, 5, "corners"), expected)
