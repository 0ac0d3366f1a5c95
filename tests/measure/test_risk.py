"""Risk against coverage: what an order of masks by quality is worth."""

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.measure.risk import risk_coverage

DICE = [0.9, 0.2, 0.6, 0.4]


def test_the_best_order_and_the_worst():
    best = risk_coverage(DICE, DICE)
    assert best.area == pytest.approx(best.perfect_area) == pytest.approx(np.mean([0.1, 0.25, 1.1 / 3, 0.475]))
    assert (best.gain, best.spearman) == (pytest.approx(1), pytest.approx(1))
    worst = risk_coverage([-one for one in DICE], DICE)
    assert worst.area > worst.random_area == pytest.approx(0.475)
    assert (worst.spearman, worst.gain < 0) == (pytest.approx(-1), True)


def test_equal_qualities_are_a_random_order():
    found = risk_coverage([0.5] * 4, DICE)
    assert found.risk == pytest.approx([0.475] * 4)
    assert (found.gain, found.spearman) == (pytest.approx(0), None)
    tied = risk_coverage([0.9, 0.1, 0.5, 0.5], DICE)
    assert tied.risk == pytest.approx([0.1, 0.6 / 2, 1.1 / 3, 0.475])
    assert risk_coverage([0.3], [0.7]).gain is None


def test_spearman_is_scipys():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    quality, dice = random.integers(0, 5, 40) / 5, random.random(40)
    assert risk_coverage(quality, dice).spearman == pytest.approx(spearmanr(quality, dice).statistic)


def test_what_cannot_be_ordered():
    for pair in (([], []), ([0.1], [0.1, 0.2])):
        with pytest.raises(InputError):
            risk_coverage(*pair)
