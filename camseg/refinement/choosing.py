"""Which of several masks of one object to trust, judged without the truth."""

from collections.abc import Mapping

import cv2
import numpy as np

from camseg.base.arrays import Image, Mask
from camseg.base.geometry import squared_distance

RING = 0.1
"""Width of the rings on either side of an outline, in diameters of the disc of the object's area."""
WORKING_SIZE = 256
"""Longest side, in pixels, of the crop on which the rings are compared."""


def separation(image: Image, mask: Mask) -> float:
    """How well the colours just inside a mask's outline differ from those just outside; 0 without an outline.

    ``image``: uint8 (H, W, 3); ``mask``: bool (H, W). The distance between the two rings' mean colours over the root
    of their summed variances: Fisher's ratio of two groups, with the distance of means in place of a projection.
    A mask that follows the object scores higher than one that cuts through it or takes in what lies around.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0 or mask.all():
        return 0.0
    reach = RING * np.sqrt(4 * np.count_nonzero(mask) / np.pi)
    margin = int(reach) + 2
    window = np.s_[
        max(0, rows[0] - margin) : rows[-1] + margin + 1, max(0, columns[0] - margin) : columns[-1] + margin + 1
    ]
    pixels, inside = image[window], mask[window]
    scale = min(1.0, WORKING_SIZE / max(inside.shape))
    if scale < 1.0:
        size = max(1, round(inside.shape[1] * scale)), max(1, round(inside.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    width = max(2.0, reach * scale)
    inner, outer = inside & (squared_distance(~inside) <= width**2), ~inside & (squared_distance(inside) <= width**2)
    if not inner.any() or not outer.any():
        return 0.0
    within, around = pixels[inner].astype(np.float64), pixels[outer].astype(np.float64)
    variance = within.var(axis=0).sum() + around.var(axis=0).sum()
    return float(np.linalg.norm(within.mean(axis=0) - around.mean(axis=0)) / np.sqrt(variance + 1.0))


ADVANTAGE = 1.1
"""A refined mask is taken for clearer than the mask it came from down to this fraction of its separation."""


def clearest(image: Image, refined: Mapping[str, Mask], before: Mask | None) -> str | None:
    """The name of the refined mask with the highest separation; None where that of ``before`` is clearly higher."""
    scores = {name: separation(image, mask) for name, mask in refined.items()}
    best = max(scores, key=scores.__getitem__, default=None)
    if before is None or (best is not None and ADVANTAGE * scores[best] >= separation(image, before)):
        return best
    return None


MIN_AREA, MAX_AREA, MIN_IOU = 0.5, 2.0, 0.4
"""A refined mask outside these bounds, relative to the mask it came from, is not trusted."""


def flaw(before: Mask, after: Mask) -> str | None:
    """Why a refined mask is not to be trusted beside the mask it came from; None where nothing speaks against it.

    Both bool (H, W). ``vanished``: less than half of the area is left; ``filled the image``: the area has more than
    doubled; ``drifted off``: intersection over union below 0.4.
    """
    area, refined = np.count_nonzero(before), np.count_nonzero(after)
    if refined < MIN_AREA * area:
        return "vanished"
    if refined > MAX_AREA * area:
        return "filled the image"
    if np.count_nonzero(before & after) < MIN_IOU * np.count_nonzero(before | after):
        return "drifted off"
    return None
