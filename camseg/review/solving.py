"""What a person painted -> a mask: sure pixels of a trimap, whose unknown rest is decided from the image."""

from typing import Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Image, Mask, Trimap
from camseg.base.errors import SolverError, TrimapError
from camseg.refinement.refine import refine
from camseg.refinement.trimaps import mask_to_trimap

Solver: TypeAlias = Literal["grabcut", "closed-form"]
LARGEST: Final = 256
"""The longest side of the crop that is solved, in pixels; a larger one is shrunk, so that the answer comes at once."""
SEGMENTS: Final = 400
"""Superpixels of an image, about."""
SEGMENTED: Final = 512
"""The longest side at which they are found."""


def solve_strokes(image: Image, mask: Mask, sure: Mask, surely_not: Mask, solver: Solver = "closed-form") -> Mask:
    """The mask with its outline decided anew: strokes hold, and a band around the mask and them is open.

    ``image``: uint8 (H, W, 3); the others bool (H, W): the mask as it is, and what was painted as object and as
    background. Only a crop around the band is looked at. Returns bool (H, W); of a band from which nothing can be
    learnt the mask with the strokes.
    """
    painted: Mask = (mask | sure) & ~surely_not
    trimap = stroke_trimap(painted, sure, surely_not)
    rows, columns = (np.flatnonzero((trimap != BACKGROUND).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return painted
    # Colours of the background come from around the band.
    margin = max(8, (rows[-1] - rows[0] + columns[-1] - columns[0]) // 4)
    crop = np.s_[
        max(0, rows[0] - margin) : rows[-1] + margin + 1, max(0, columns[0] - margin) : columns[-1] + margin + 1
    ]
    height, width = trimap[crop].shape
    shrunk = min(1.0, LARGEST / max(height, width))
    size = max(1, round(width * shrunk)), max(1, round(height * shrunk))
    small: Image = cv2.resize(image[crop], size, interpolation=cv2.INTER_AREA)
    known: Trimap = cv2.resize(trimap[crop], size, interpolation=cv2.INTER_NEAREST)
    try:
        alpha = refine(small, known, solver)
    except (TrimapError, SolverError):
        return painted
    wide = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    result = painted.copy()
    result[crop] = np.where(trimap[crop] == UNKNOWN, wide, trimap[crop] == FOREGROUND)
    return result


def stroke_trimap(painted: Mask, sure: Mask, surely_not: Mask) -> Trimap:
    """A band around the mask, and sure pixels where somebody painted."""
    trimap = mask_to_trimap(painted) if painted.any() else np.full(painted.shape, BACKGROUND, np.uint8)
    trimap[sure] = FOREGROUND
    trimap[surely_not] = BACKGROUND
    return trimap


def superpixels(image: Image) -> NDArray[np.uint16]:
    """A number for each pixel (H, W), equal over small pieces of one colour.

    Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods" (PAMI 2012), by scikit-image.
    """
    from skimage.segmentation import slic  # here: few wait for its import

    height, width = image.shape[:2]
    shrunk = min(1.0, SEGMENTED / max(height, width))
    size = max(1, round(width * shrunk)), max(1, round(height * shrunk))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    labels = slic(small, n_segments=SEGMENTS, compactness=10.0, start_label=0).astype(np.uint16)
    wide: NDArray[np.uint16] = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    return wide
