import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.masks.consensus import (
    FUSIONS,
    agreement,
    central_weights,
    centrality,
    pairwise_dice,
    weighted_mean,
    weighted_median,
)


def mask(*rows):
    return np.array([[c == "x" for c in row] for row in rows])


def test_pairs_by_hand():
    masks = [mask("xx.."), mask("x..."), mask("..xx")]
    table = pairwise_dice(masks)
    assert table.tolist() == [[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 1]]
    assert centrality(table).tolist() == pytest.approx([1 / 3, 1 / 3, 0])
    assert agreement(masks) == pytest.approx(2 / 9)


def test_empty_masks_agree_with_none():
    empty, full = mask("...."), mask("xxxx")
    assert pairwise_dice([empty, empty, full])[0].tolist() == [1, 0, 0]
    assert agreement([full]) == 1.0
    assert agreement([empty, full]) == 0.0


def test_masks_of_different_sizes():
    for masks in ([], [mask("x"), mask("xx")]):
        with pytest.raises(InputError, match="masks of one size"):
            pairwise_dice(masks)


def test_weights_fall_off_with_centrality():
    weights = central_weights(np.array([0.8, 0.7, 0.1]), (1 / 3,) * 3, width=0.1)
    assert weights.sum() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(np.exp(-1))
    assert weights[2] < 0.001
    assert central_weights(np.array([0.9, 0.1]), (0.25, 0.75), np.inf).tolist() == [0.25, 0.75]
    # Whoever has no share does not make the others small either.
    assert central_weights(np.array([0.9, 0.1, 0.1]), (0, 0.5, 0.5), 0.001).tolist() == [0, 0.5, 0.5]


def test_mean_and_median_by_hand():
    cams = [np.array([[value]], np.float32) for value in (0.0, 0.2, 1.0)]
    equal, heavy = np.full(3, 1 / 3), np.array([0.1, 0.2, 0.7])
    assert weighted_mean(cams, equal)[0, 0] == pytest.approx(0.4)
    assert weighted_mean(cams, heavy)[0, 0] == pytest.approx(0.74)
    assert weighted_median(cams, equal)[0, 0] == pytest.approx(0.2)
    assert weighted_median(cams, heavy)[0, 0] == pytest.approx(1.0)
    assert weighted_median(cams[1:], np.full(2, 0.5))[0, 0] == pytest.approx(0.6)
    assert weighted_median(cams, np.array([0.5, 0.25, 0.25]))[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_with_equal_weights_they_are_numpy_s(count):
    stack = np.random.default_rng(count).random((count, 6, 7)).astype(np.float32)
    equal = np.full(count, 1 / count)
    assert np.allclose(FUSIONS["mean"](list(stack), equal), stack.mean(axis=0))
    assert np.allclose(FUSIONS["median"](list(stack), equal), np.median(stack, axis=0))
