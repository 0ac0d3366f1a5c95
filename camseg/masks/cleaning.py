"""Mask -> Mask: the outline smoothed, holes filled, and islands dropped.

Objects are 8-connected pieces of the mask; holes are 4-connected pieces of the background that do not touch
the border. Sizes are pixels, or a percentage of the image's own size.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask, check_mask
from camseg.base.errors import InputError
from camseg.masks.settings import CleaningSettings


def clean(mask: Mask, settings: CleaningSettings) -> Mask:
    """Smooth the mask, fill its holes, drop small islands, and keep the largest objects: what the settings ask for.

    ``mask``: bool (H, W). Returns bool (H, W). Raises InputError.
    """
    check_mask(mask)
    smoothing = settings.smooth.of(min(mask.shape))
    if smoothing > 0:
        mask = smooth(mask, smoothing)
    if settings.fill_holes != "none":
        mask = fill_holes(mask, math.inf if settings.fill_holes == "all" else settings.fill_holes.of(mask.size))
    area = settings.min_area.of(mask.size)
    if area > 1:
        mask = drop_islands(mask, area)
    return mask if settings.keep is None else keep_largest(mask, settings.keep)


def smooth(mask: Mask, radius: float) -> Mask:
    """What the majority of each pixel's disc is: rounds corners, cuts thin spurs and closes thin gaps.

    ``mask``: bool (H, W); ``radius``: in pixels, from 0 (unchanged); more than half the shorter side counts as
    that, for a larger disc sees no outline. Beyond the border the image is mirrored, so objects keep their pixels
    there. Returns bool (H, W). Raises InputError.
    """
    height, width = check_mask(mask).shape
    if not radius >= 0:
        raise InputError(f"expected a radius of 0 pixels or more, got {radius}")
    radius = min(radius, (min(height, width) - 1) / 2)
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = (y * y + x * x <= radius * radius).astype(np.float32)
    votes = cv2.filter2D(mask.astype(np.uint8), cv2.CV_32F, disc, borderType=cv2.BORDER_REFLECT)
    # A disc holds an odd number of pixels, so no vote is a tie.
    majority: Mask = votes > np.count_nonzero(disc) / 2
    return majority


def fill_holes(mask: Mask, max_area: float = math.inf) -> Mask:
    """The mask with its holes of at most ``max_area`` pixels filled.

    ``mask``: bool (H, W). Returns bool (H, W). What touches the border is no hole. Raises InputError.
    """
    labels, areas = _components(~check_mask(mask), connectivity=4)
    filled = areas <= max_area
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        filled[edge] = False
    return mask | filled[labels]


def drop_islands(mask: Mask, min_area: float) -> Mask:
    """The mask without its objects of fewer than ``min_area`` pixels.

    ``mask``: bool (H, W). Returns bool (H, W). Raises InputError.
    """
    labels, areas = _components(check_mask(mask), connectivity=8)
    kept = areas >= min_area
    kept[0] = False
    return kept[labels]


def keep_largest(mask: Mask, count: int = 1) -> Mask:
    """The ``count`` objects of the mask that have the most pixels; of equal ones the first in reading order stays.

    ``mask``: bool (H, W). Returns bool (H, W). The first is the one whose topmost pixel, and of the topmost the
    leftmost, comes first. Raises InputError.
    """
    _check_count(count)
    labels, areas = _components(check_mask(mask), connectivity=8)
    if len(areas) <= count + 1:
        return mask.copy()
    objects = np.flatnonzero(mask)
    first = np.zeros(len(areas), dtype=np.int64)
    first[labels.ravel()[objects[::-1]]] = objects[::-1]  # of equal indices the last assignment stays
    order = np.lexsort((first[1:], -areas[1:])) + 1
    kept = np.zeros(len(areas), dtype=np.bool_)
    kept[order[:count]] = True
    return kept[labels]


def _components(mask: Mask, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Labels (H, W), 0 outside the mask, and the area of each label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    return labels, stats[:, cv2.CC_STAT_AREA]


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"expected to keep at least 1 object, as a whole number; got {count!r}")
