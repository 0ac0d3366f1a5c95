"""Trimap -> Mask: each unknown pixel joins the nearest known region."""

import numpy as np

from camseg.base.arrays import BACKGROUND, FOREGROUND, Mask, Trimap
from camseg.base.geometry import squared_distance


def nearest_known(trimap: Trimap) -> Mask:
    """True where the nearest known pixel is foreground; a tie is background, and so is all if nothing is known.

    ``trimap``: uint8 (H, W) in {0, 128, 255}. Returns bool (H, W). Exact Euclidean distances.
    """
    foreground, background = trimap == FOREGROUND, trimap == BACKGROUND
    if not foreground.any() or not background.any():
        return np.full(trimap.shape, foreground.any())
    return squared_distance(foreground) < squared_distance(background)
