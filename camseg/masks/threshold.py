"""Cam -> Mask: the rules of thresholds.

Every rule binarises strictly: a pixel is in the mask when it is *above* the threshold, so a map of
zeros gives an empty mask whatever the rule.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from camseg.base.arrays import Cam, Mask, check_cam, quantise
from camseg.masks.settings import AUTOMATIC, MaskSettings, Threshold, parse_threshold


def cam_to_mask(cam: Cam, threshold: str | Path | float | Threshold = MaskSettings.threshold) -> Mask:
    """The pixels of a map that lie above a threshold.

    ``cam``: float (H, W) in [0, 1]. Returns bool (H, W). A file's level and the automatic rules work on the
    8-bit form of the map, so a map in memory and the same map from disk give the same mask; the other
    rules compare the float values. On a map of one value the automatic rules find nothing that stands
    out: the mask is empty. Raises InputError, ThresholdError.
    """
    rule = parse_threshold(threshold)
    return RULES[rule.kind](check_cam(cam), rule.value)


def _above(cam: Cam, value: float) -> Mask:
    return cam > np.float32(value)


def _above_level(cam: Cam, level: float) -> Mask:
    return quantise(cam) > level


def _above_share_of_maximum(cam: Cam, share: float) -> Mask:
    # In double precision until the end: of an 8-bit map a limit that is a level then is exactly that level.
    return cam > np.float32(share * float(cam.max()))


def _hottest(cam: Cam, share: float) -> Mask:
    # Pixels of one value stay together: of the two masks with and without the last value the one whose area is
    # nearer to the share is taken, and the smaller one if both are as near.
    count = round(share * cam.size)
    if count == 0:
        return np.zeros(cam.shape, dtype=np.bool_)
    coolest = np.partition(cam, -count, axis=None)[-count]
    without, including = cam > coolest, (cam >= coolest) & (cam > 0)
    chosen: Mask = including if including.sum() - count < count - without.sum() else without
    return chosen


def _automatic(name: str) -> Callable[[Cam, float], Mask]:
    def rule(cam: Cam, _value: float) -> Mask:
        from skimage import filters  # takes longer to load than all else that masks need

        levels = quantise(cam)
        lowest, highest = levels.min(), levels.max()
        mask: Mask = levels > (highest if lowest == highest else getattr(filters, f"threshold_{name}")(levels))
        return mask

    return rule


RULES: dict[str, Callable[[Cam, float], Mask]] = {
    "absolute": _above,
    "max": _above_share_of_maximum,
    "area": _hottest,
    "level": _above_level,
    **{name: _automatic(name) for name in AUTOMATIC},
}
"""Each kind of threshold: (Cam, value) -> Mask; the automatic ones are scikit-image's."""
