"""Exact distances between pixels, the same bytes each time."""

import cv2
import numpy as np
from numpy.typing import NDArray


def squared_distance(target: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The squared distance, in pixels, of each pixel's centre to the nearest one of ``target``: float32 (H, W).

    ``target``: bool (H, W). Whole numbers; infinite where ``target`` is empty.
    """
    if not target.any():
        return np.full(target.shape, np.inf, dtype=np.float32)
    away = cv2.distanceTransform((~target).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's last bits change with the memory that it is given.
    squares: NDArray[np.float32] = np.rint(np.square(away, out=away), out=away)
    return squares
