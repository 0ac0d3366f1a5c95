"""How far an alpha matte is from the true one: the four errors that the matting field reports.

All are taken over the unknown pixels of a trimap, from mattes in [0, 1]; smaller is better. The sums are in
thousands, as in the field's tables, so they grow with the image; the mean squared error does not.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import UNKNOWN, Alpha, Mask, Trimap, check_cam, check_same_size, check_trimap
from camseg.base.errors import AllKnownError

GRADIENT_SIGMA = 1.4
"""Of the Gaussian whose derivatives are the gradient, in pixels."""
GRADIENT_RADIUS = 4
"""Where the field's evaluation code cuts the Gaussian off, as it has fallen to 1 percent."""
CONNECTIVITY_STEP = 0.1
"""Between the levels at which connectedness is looked at."""
CONNECTIVITY_THETA = 0.15
"""A pixel this little above the level at which it is connected counts as connected."""


def sum_of_absolute_differences(alpha: Alpha, truth: Alpha, trimap: Trimap) -> float:
    """Sum of |alpha - truth| over the unknown pixels, in thousands.

    ``alpha``, ``truth``: float (H, W) in [0, 1]; ``trimap``: uint8 (H, W) with unknown pixels. Raises InputError,
    and AllKnownError without an unknown pixel.
    """
    unknown = _unknown(alpha, truth, trimap)
    return float(np.abs(alpha[unknown].astype(np.float64) - truth[unknown]).sum() / 1000)


def mean_squared_error(alpha: Alpha, truth: Alpha, trimap: Trimap) -> float:
    """Mean of (alpha - truth)^2 over the unknown pixels, in [0, 1]. Arguments and errors as for the first error."""
    unknown = _unknown(alpha, truth, trimap)
    return float(((alpha[unknown].astype(np.float64) - truth[unknown]) ** 2).mean())


def gradient_error(alpha: Alpha, truth: Alpha, trimap: Trimap) -> float:
    """Sum of (|grad alpha| - |grad truth|)^2 over the unknown pixels, in thousands.

    Arguments and errors as for the first error. The gradient is the matte's convolution with the derivatives of a
    Gaussian of sigma = 1.4, scaled to unit norm as in the field's evaluation code; borders are repeated.
    Rhemann et al., A Perceptually Motivated Online Benchmark for Image Matting, CVPR 2009, section 4, with q = 2.
    """
    unknown = _unknown(alpha, truth, trimap)
    return float(((_gradient(alpha) - _gradient(truth))[unknown] ** 2).sum() / 1000)


def connectivity_error(alpha: Alpha, truth: Alpha, trimap: Trimap) -> float:
    """Sum of |phi(alpha) - phi(truth)| over the unknown pixels, in thousands: parts that float free of the object.

    Arguments and errors as for the first error. phi(a) = 1 - d where d = a - l reaches theta = 0.15, else 1. The
    level l of a pixel is the highest of 0, 0.1, ..., 1 up to which it lies in the largest 4-connected region where
    both mattes reach that level.
    Rhemann et al., A Perceptually Motivated Online Benchmark for Image Matting, CVPR 2009, section 4, with p = 1 and
    lambda = 1, as in the evaluation code of Xu et al., Deep Image Matting, CVPR 2017.
    """
    unknown = _unknown(alpha, truth, trimap)
    level = np.zeros(trimap.shape, dtype=np.float32)
    connected = np.ones(trimap.shape, dtype=bool)
    both = np.minimum(alpha, truth).astype(np.float32)
    for step in range(1, round(1 / CONNECTIVITY_STEP) + 1):
        height = np.float32(step * CONNECTIVITY_STEP)
        connected &= _largest_region(both >= height)
        level[connected] = height

    def phi(matte: Alpha) -> NDArray[np.float64]:
        above = matte[unknown].astype(np.float64) - level[unknown]
        return 1 - above * (above >= CONNECTIVITY_THETA)

    return float(np.abs(phi(alpha) - phi(truth)).sum() / 1000)


def _unknown(alpha: Alpha, truth: Alpha, trimap: Trimap) -> Mask:
    check_same_size(check_cam(alpha), check_cam(truth), "estimated and true matte")
    check_same_size(alpha, check_trimap(trimap), "matte and trimap")
    unknown: Mask = trimap == UNKNOWN
    if not unknown.any():
        raise AllKnownError("the trimap has no unknown pixel (128) over which mattes could be compared")
    return unknown


def _gradient(matte: Alpha) -> NDArray[np.float64]:
    """The gradient's magnitude, (H, W)."""
    offsets = np.arange(-GRADIENT_RADIUS, GRADIENT_RADIUS + 1)
    smooth = np.exp(-(offsets**2) / (2 * GRADIENT_SIGMA**2))
    slope = offsets * smooth
    smooth, slope = smooth / np.linalg.norm(smooth), slope / np.linalg.norm(slope)
    matte = matte.astype(np.float64)
    across, down = (
        cv2.sepFilter2D(matte, -1, horizontal, vertical, borderType=cv2.BORDER_REPLICATE)
        for horizontal, vertical in ((slope, smooth), (smooth, slope))
    )
    magnitude: NDArray[np.float64] = np.hypot(across, down)
    return magnitude


def _largest_region(mask: Mask) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    stats[0, cv2.CC_STAT_AREA] = 0  # the ground
    largest: Mask = mask & (labels == stats[:, cv2.CC_STAT_AREA].argmax())
    return largest
