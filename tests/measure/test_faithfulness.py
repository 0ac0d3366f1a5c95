"""The measures without masks, by hand on images of a few pixels and scores that a head can follow."""

import math

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.measure.faithfulness import (
    Curve,
    confidence_drop,
    confidence_rises,
    confidences,
    deletion_curve,
    filter_image,
    insertion_curve,
    pointing_hit,
)

WHITE = np.full((2, 2, 3), 255, np.uint8)
CAM = np.array([[0.1, 1.0], [0.5, 0.5]], np.float32)  # in order: upper right, lower left, lower right, upper left


def brightness(images):
    """The mean level of each image, in [0, 1]."""
    assert images.dtype == np.uint8
    assert images.ndim == 4
    return images.mean(axis=(1, 2, 3)) / 255


def upper_right(images):
    """1 where that pixel is white, else 0: a classifier that looks at it alone."""
    return (images[:, 0, 1, 0] == 255).astype(float)


def test_the_area_is_that_of_trapezoids():
    curve = Curve(shares=np.array([0.0, 0.5, 0.75, 1.0]), scores=np.array([0.0, 1.0, 1.0, 0.0]))
    assert curve.area == 0.25 + 0.25 + 0.125


def test_deletion_takes_the_highest_pixels_first():
    curve = deletion_curve(brightness, WHITE, CAM, steps=4)
    np.testing.assert_array_equal(curve.shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(curve.scores, [1, 0.75, 0.5, 0.25, 0])
    assert curve.area == 0.5
    # Gone with the first step: (1 + 0) / 2 * 1/4.
    assert deletion_curve(upper_right, WHITE, CAM, steps=4).area == 0.125
    # And with the last one, when the map says the contrary: 1 - (1 + 0) / 2 * 1/4.
    assert deletion_curve(upper_right, WHITE, 1 - CAM, steps=4).area == 0.875


def test_equal_values_go_from_the_upper_left():
    seen = []

    def watch(images):
        seen.append(images[:, :, :, 0].copy())
        return brightness(images)

    deletion_curve(watch, WHITE, CAM, steps=4)
    deleted = np.concatenate(seen) == 0
    expected = [[], [(0, 1)], [(0, 1), (1, 0)], [(0, 1), (1, 0), (1, 1)], [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert [[tuple(map(int, place)) for place in np.argwhere(one)] for one in deleted] == expected


def test_a_baseline_may_be_a_colour():
    seen = []
    deletion_curve(lambda images: seen.append(images) or brightness(images), WHITE, CAM, baseline=(1, 2, 3), steps=1)
    np.testing.assert_array_equal(seen[0][0], WHITE)
    np.testing.assert_array_equal(seen[0][1], np.broadcast_to([1, 2, 3], (2, 2, 3)))


def test_insertion_starts_from_the_blurred_image_and_ends_at_the_image():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    cam = np.zeros((9, 9), np.float32)
    cam[4, 4] = 1.0

    def centre(images):
        return images[:, 4, 4, 0] / 255

    curve = insertion_curve(centre, image, cam, steps=81, sigma=2.0)
    assert 0 < curve.scores[0] < 0.1  # about 1 / (2 pi sigma^2)
    np.testing.assert_array_equal(curve.scores[1:], 1)
    assert insertion_curve(centre, image, 1 - cam, steps=81, sigma=2.0).area < 0.1 < 0.99 < curve.area
    # By default the blur follows the size of the image: hardly any for 9 pixels.
    assert insertion_curve(centre, image, cam).scores[0] > 0.5


@pytest.mark.parametrize(("height", "width"), [(224, 300), (560, 448)])
def test_the_blur_is_a_gaussian_of_5_pixels_where_the_shorter_side_has_224(height, width):
    edge = np.zeros((height, width, 3), np.uint8)
    edge[:, width // 2 :] = 255
    seen = []
    insertion_curve(lambda images: seen.append(images) or brightness(images), edge, np.zeros(edge.shape[:2]), steps=1)
    deviation = 5 * min(height, width) / 224
    places = np.arange(width) - width / 2 + 0.5  # distances from the edge
    wanted = [(1 + math.erf(place / deviation / math.sqrt(2))) / 2 for place in places]
    assert np.abs(seen[0][0, height // 2, :, 0] / 255 - wanted).max() < 0.01


def test_batches_change_nothing():
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    cam = np.random.default_rng(1).random((7, 5)).astype(np.float32)
    sizes = []

    def score(images):
        sizes.append(len(images))
        return brightness(images)

    one, many = (deletion_curve(score, image, cam, steps=10, batch_size=size) for size in (1, 4))
    np.testing.assert_array_equal(one.scores, many.scores)
    assert sizes == [1] * 11 + [4, 4, 3]
    np.testing.assert_array_equal(one.shares * 35, np.rint(np.linspace(0, 35, 11)))


def test_there_are_no_more_steps_than_pixels():
    assert len(deletion_curve(brightness, WHITE, CAM, steps=100).scores) == 5


def test_filtering_multiplies():
    image = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(filter_image(image, CAM)[..., 0], [[10, 100], [50, 50]])
    np.testing.assert_array_equal(filter_image(image, CAM > 0.2)[..., 2], [[0, 100], [100, 100]])


def test_confidence_before_and_after():
    assert confidences(upper_right, WHITE, CAM) == (1.0, 1.0)
    assert confidences(upper_right, WHITE, 1 - CAM) == (1.0, 0.0)
    full, filtered = confidences(brightness, WHITE, CAM)  # levels 26, 255, 128, 128 of 255
    assert full == 1.0
    assert filtered == pytest.approx(537 / 1020, abs=1e-12)


def test_drop_and_increase():
    assert confidence_drop(0.8, 0.6) == pytest.approx(0.25)
    assert confidence_drop(0.6, 0.8) == 0.0
    assert confidence_drop(0.0, 0.0) == 0.0
    assert confidence_rises(0.6, 0.8)
    assert not confidence_rises(0.8, 0.8)


def test_the_pointing_game_has_a_tolerance():
    cam, mask = np.zeros((20, 30), np.float32), np.zeros((20, 30), bool)
    cam[3, 4] = 1.0
    mask[6, 8] = True  # 5 pixels away
    assert pointing_hit(cam, mask, tolerance=5)
    assert not pointing_hit(cam, mask, tolerance=4.99)
    # 15 of 224 pixels of the shorter side: 1.34 here, 15 there.
    assert not pointing_hit(cam, mask)
    assert pointing_hit(np.pad(cam, (0, 204)), np.pad(mask, (0, 204)))
    mask[3, 5] = True
    assert pointing_hit(cam, mask)
    assert not pointing_hit(np.zeros_like(cam), ~mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: insertion_curve(brightness, WHITE, CAM[:1]), "differ in size"),
        (lambda: deletion_curve(brightness, WHITE, CAM, steps=0), "at least 1 step"),
        (lambda: deletion_curve(brightness, WHITE, CAM * 2), r"a map in \[0, 1\]"),
        (lambda: insertion_curve(brightness, WHITE / 255, CAM), "an RGB image"),
        (lambda: filter_image(WHITE, CAM[:1]), "differ in size"),
        (lambda: pointing_hit(CAM, CAM > 2), "an object to point at"),
        (lambda: pointing_hit(CAM, CAM[:1] > 0), "differ in size"),
    ],
)
def test_rubbish_is_refused_in_words(call, message):
    with pytest.raises(InputError, match=message):
        call()
