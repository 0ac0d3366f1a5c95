"""Where one stands: what was decided, and what is to be expected of the rest."""

import json

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.data.images import read_mask
from camseg.exchange.corrections import Corrector
from camseg.masks.settings import load_threshold
from camseg.measure.metrics import dice, mask_counts
from camseg.review.items import list_items
from camseg.review.progress import corrected_levels, loop_folder, stand

NAMES = [f"{n:02}" for n in range(16)]


def true_dice(root, name):
    return float(dice(mask_counts(read_mask(root / f"out/masks/{name}.png"), read_mask(root / f"truth/{name}.png"))))


def review(root, names, seconds=4.0):
    taker = Corrector(root / "out")
    for name in names:
        taker.correct(f"{name}.png", mask=read_mask(root / f"truth/{name}.png"), tool="test", seconds=seconds)


def test_nothing_is_estimated_from_little(make_out, tmp_path):
    found = loop_folder(make_out(*NAMES))
    assert (found.judged, found.rest, found.rest_dice, found.judged_dice) == (0, 16, None, None)
    review(tmp_path, NAMES[:3])
    found = loop_folder(tmp_path / "out")
    assert (found.judged, found.rest, found.rest_dice) == (3, 13, None)
    assert found.times["decisions"]["all"] == {"masks": 3, "median_seconds": 4.0, "mean_seconds": 4.0}


def test_the_rest_is_estimated_from_what_was_judged(make_out, tmp_path):
    make_out(*NAMES)
    review(tmp_path, NAMES[::-1][:11])  # the worst ones
    found = loop_folder(tmp_path / "out")
    expected = np.mean([true_dice(tmp_path, name) for name in NAMES[:5]])
    assert found.rest_dice.mean == pytest.approx(expected, abs=0.12)
    assert found.rest_dice.low <= found.rest_dice.mean <= found.rest_dice.high
    assert found.rest_dice.mean > found.judged_dice + 0.2
    assert found.now_dice.mean == pytest.approx((11 + 5 * found.rest_dice.mean) / 16)
    # All that are left are among the next twenty.
    assert found.next_gain.mean == pytest.approx(1 - found.now_dice.mean)


def test_more_reviews_promise_less(make_out, tmp_path):
    make_out(*NAMES)
    gains = []
    for part in (NAMES[:11], NAMES[11:14]):
        review(tmp_path, part)
        gains.append(stand(list_items(tmp_path / "out")).next_gain.mean)
    assert gains[0] > gains[1] > 0


def test_the_best_level_of_corrected_masks(make_out, tmp_path, call):
    out = make_out(*NAMES)
    with pytest.raises(InputError, match="--save cams"):
        corrected_levels(list_items(out))
    taker = Corrector(out)
    for name in NAMES[:4]:
        taker.correct(f"{name}.png", "accepted", tool="test")
    code, told, _ = call("loop", out, "--save-threshold", tmp_path / "level.json", "--json")
    assert code == 0
    assert json.loads(told)["threshold"]["masks"] == 4
    threshold = load_threshold(tmp_path / "level.json")
    assert 75 <= threshold.value <= 153  # between what the fixture's maps are outside and inside
    assert json.loads(told)["threshold"]["dice"] == 1
    assert "4 of 16" in call("loop", out)[1]
