import math

import numpy as np
import pytest

from camseg.measure.segmentation import SegmentationTally, headline

IGNORED = 255


def test_measures_of_two_images_per_image_and_over_all_pixels():
    tally = SegmentationTally(["object"], multi_label=True)
    # 4 pixels each; the object on 2 of the first, of which 1 is found with 1 false alarm; on 1 of the second, found.
    tally.add(np.array([[[0.9, 0.8, 0.2, 0.1]]], np.float32), np.array([[[1], [0], [1], [0]]], np.uint8), IGNORED)
    tally.add(np.array([[[0.1, 0.1, 0.1, 0.6]]], np.float32), np.array([[[0], [0], [0], [1]]], np.uint8), IGNORED)
    found = tally.scores()
    assert found["mean_dice_per_image"] == pytest.approx((0.5 + 1) / 2)
    assert found["mean_iou_per_image"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["mean_precision_per_image"] == pytest.approx((0.5 + 1) / 2)
    assert found["mean_recall_per_image"] == pytest.approx((0.5 + 1) / 2)
    assert found["mean_accuracy_per_image"] == pytest.approx((0.5 + 1) / 2)
    assert found["dice_over_pixels"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["iou_over_pixels"] == pytest.approx(2 / 4)
    assert found["precision_over_pixels"] == found["recall_over_pixels"] == pytest.approx(2 / 3)
    assert found["accuracy_over_pixels"] == pytest.approx(6 / 8)
    first = -(math.log(0.9) + math.log(0.2) + math.log(0.2) + math.log(0.9)) / 4
    second = -(3 * math.log(0.9) + math.log(0.6)) / 4
    assert found["mean_binary_cross_entropy_per_image"] == pytest.approx((first + second) / 2)
    assert found["binary_cross_entropy_over_pixels"] == pytest.approx((first + second) / 2)
    assert found["empty_kept"] is None
    assert found["classes"]["object"]["images"] == 2
    assert headline(found) == found["mean_dice_per_image"]


def test_images_without_the_object_are_apart():
    tally = SegmentationTally(["object"], multi_label=True)
    for probability in (0.1, 0.9):
        tally.add(np.full((1, 1, 2), probability, np.float32), np.zeros((1, 2, 1), np.uint8), IGNORED)
    found = tally.scores()
    assert found["mean_dice_per_image"] is None
    assert headline(found) == 0
    assert found["empty_kept"] == 0.5
    assert found["mean_accuracy_per_image"] == 0.5
    assert found["classes"]["object"]["empty_images"] == 2


def test_ignored_pixels_count_nowhere():
    tally = SegmentationTally(["object"], multi_label=True)
    tally.add(np.array([[[0.9, 0.9, 0.1]]], np.float32), np.array([[[1], [IGNORED], [IGNORED]]], np.uint8), IGNORED)
    tally.add(np.full((1, 1, 3), 0.9, np.float32), np.full((1, 3, 1), IGNORED, np.uint8), IGNORED)
    found = tally.scores()
    assert found["classes"]["object"]["images"] == 1
    assert found["dice_over_pixels"] == found["accuracy_over_pixels"] == 1
    assert found["binary_cross_entropy_over_pixels"] == pytest.approx(-math.log(0.9))


def test_the_likeliest_of_exclusive_classes_wins():
    tally = SegmentationTally(["a", "b"], multi_label=False)
    probabilities = np.array([[[0.4, 0.5, 0.2, 0.3]], [[0.35, 0.3, 0.7, 0.3]], [[0.25, 0.2, 0.1, 0.4]]], np.float32)
    tally.add(probabilities, np.array([[[0], [1], [1], [IGNORED]]], np.uint8), IGNORED)
    found = tally.scores()
    # The background wins at the first two pixels, a at the third; b has no pixel, and none is said to be it.
    assert found["classes"]["a"]["mean_dice_per_image"] == pytest.approx(2 / 3)
    assert found["classes"]["b"]["images"] == 0
    assert found["classes"]["b"]["empty_kept"] == 1
    assert found["mean_dice_per_image"] == pytest.approx(2 / 3)  # over the classes that are there
    assert found["mean_accuracy_per_image"] == found["accuracy_over_pixels"] == pytest.approx(2 / 3)
    cost = -(math.log(0.4) + math.log(0.3) + math.log(0.7)) / 3
    assert found["categorical_cross_entropy_over_pixels"] == pytest.approx(cost)
    assert "binary_cross_entropy_over_pixels" not in found


def test_a_class_that_is_known_in_no_image_hides_no_other():
    tally = SegmentationTally(["a", "b"], multi_label=True)
    target = np.full((1, 2, 2), IGNORED, np.uint8)
    target[..., 1] = [1, 0]
    tally.add(np.array([[[0.9, 0.9]], [[0.9, 0.1]]], np.float32), target, IGNORED)
    found = tally.scores()
    assert found["dice_over_pixels"] == found["mean_dice_per_image"] == 1
    assert found["classes"]["a"]["dice_over_pixels"] is None
    empty = SegmentationTally(["a"], multi_label=True).scores()
    assert empty["dice_over_pixels"] is None
