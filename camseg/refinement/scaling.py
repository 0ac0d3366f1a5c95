"""Refining at a bounded working size."""

from collections.abc import Callable

import cv2
import numpy as np

from camseg.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Trimap
from camseg.errors import SolverError


def solve_scaled(solve: Callable[[Image, Trimap], Alpha], image: Image, trimap: Trimap, scale: float) -> Alpha:
    """``solve`` at ``scale`` times the size where that is below 1, resized back; known pixels stay exact.

    Raises SolverError if the foreground or background is too thin to be seen at the smaller size.
    """
    height, width = trimap.shape
    if scale < 1.0:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        small = cv2.resize(trimap, size, interpolation=cv2.INTER_NEAREST_EXACT)
        for value, name in ((FOREGROUND, "foreground"), (BACKGROUND, "background")):
            if (trimap == value).any() and not (small == value).any():
                raise SolverError(f"the trimap's {name} vanishes at the working size {size}; refine a smaller image")
        alpha = solve(cv2.resize(image, size, interpolation=cv2.INTER_AREA), small)
        alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR)
    else:
        alpha = solve(image, trimap)
    return np.where(trimap == UNKNOWN, alpha, trimap == FOREGROUND).clip(0.0, 1.0).astype(np.float32)
