import math

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.measure.calibration import classifier_temperature, fit_temperature
from camseg.measure.figures import plot_reliability


def drawn(count=4000, classes=3, seed=0):
    """Logits, and labels drawn from the very probabilities that they state."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(count, classes))
    odds = np.exp(logits)
    truth = (random.random((count, 1)) > (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(axis=1)
    return logits, truth


def test_what_is_calibrated_stays_and_what_is_too_sure_is_cooled():
    logits, truth = drawn()
    own = fit_temperature(logits, truth, False)
    assert own == pytest.approx(1, abs=0.05)
    for factor in (0.3, 4.0):
        assert fit_temperature(logits * factor, truth, False) == pytest.approx(own * factor, rel=1e-4)


def test_two_classes_and_one_sigmoid_agree():
    logits, truth = drawn(300, 2)
    margin = (logits[:, 1] - logits[:, 0])[:, None]
    assert fit_temperature(margin, truth[:, None].astype(np.float32), True) == pytest.approx(
        fit_temperature(logits, truth, False), rel=1e-4
    )


def test_the_minimum_of_a_case_worked_by_hand():
    # Three of four right at a margin of 2: the probability 3 / 4 wants a logit of log 3.
    logits = np.array([[0.0, 2.0]] * 4)
    assert fit_temperature(logits, np.array([1, 1, 1, 0]), False, least=4) == pytest.approx(2 / math.log(3), rel=1e-4)
    assert fit_temperature(np.full((4, 1), 2.0), np.array([[1], [1], [1], [0]]), True, least=4) == pytest.approx(
        2 / math.log(3), rel=1e-4
    )


def test_what_the_classes_have_in_common_does_not_matter():
    logits, truth = drawn(500)
    offsets = 30 * np.random.default_rng(1).normal(size=(500, 1))
    own = fit_temperature(3 * logits, truth, False)
    assert own == pytest.approx(3, rel=0.2)
    assert fit_temperature(3 * logits + offsets, truth, False) == pytest.approx(own, rel=1e-4)


def test_images_that_cannot_say_how_sure_to_be():
    assert fit_temperature(np.array([[0.0, 0.1], [3.0, 0.0]]), np.array([1, 0]), False, least=1) == 1.0
    assert fit_temperature(np.array([[0.1, -4.0]]), np.array([[1, 0]]), True, least=1) == 1.0
    assert fit_temperature(np.array([[0.0, 5.0]]), np.array([0]), False, least=1) == 1.0
    # Right but for one image with next to no margin: sharper by far than the logits differ.
    for scale in (0.01, 1.0, 100.0):
        logits = scale * np.array([[0.0, 0.4], [0.0, 6.0], [0.0001, 0.0]])
        assert fit_temperature(logits, np.ones(3, int), False, least=1) == 1.0
        assert fit_temperature(10 * logits, np.array([1, 0, 1]), False, least=1) == 1.0
        logits[2, 0] = scale
        assert fit_temperature(logits, np.ones(3, int), False, least=1) == pytest.approx(2.3264 * scale, rel=1e-3)
    with pytest.raises(InputError, match="expected finite logits"):
        fit_temperature(np.array([[0.0, np.nan]]), np.array([0]), False, least=1)


def test_few_images_and_logits_gone_astray():
    logits, truth = drawn(40)
    assert (
        fit_temperature(logits[:9], truth[:9], False) == 1.0 != fit_temperature(logits[:9], truth[:9], False, least=9)
    )
    own = fit_temperature(logits, truth, False)
    assert classifier_temperature(logits, truth, False) == (own, None)
    for factor, bound in ((1e6, 20.0), (1e-6, 0.05)):
        temperature, line = classifier_temperature(logits * factor, truth, False)
        assert temperature == bound
        assert line == (
            f"40 validation images want a temperature of {fit_temperature(logits * factor, truth, False):g}, as logits "
            f"that went astray do; it is held at {bound:g}"
        )
    temperature, line = classifier_temperature(1e6 * logits[:3], truth[:3], False)
    assert temperature == 1.0
    assert line == "3 validation images do not tell how sure to be (all right, or too few): the temperature stays 1"


def test_the_reliability_diagram():
    table = np.zeros((15, 3))
    table[10] = (4, 2.9, 3)
    before = plot_reliability({"uncalibrated": table})
    assert before.std() > 0
    assert not np.array_equal(before, plot_reliability({"uncalibrated": table * [1, 1, 0]}))
    for tables in ({}, {"x": np.zeros((15, 3))}, {"x": np.ones((15, 2))}):
        with pytest.raises(InputError, match="with a decision in each"):
            plot_reliability(tables)
