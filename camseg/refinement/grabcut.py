"""GrabCut: colour mixtures of object and background, and the cheapest cut between them."""

import cv2
import numpy as np

from camseg.arrays import BACKGROUND, FOREGROUND, Alpha, Image, Trimap
from camseg.errors import SolverError
from camseg.refinement.nearest import nearest_known
from camseg.refinement.scaling import solve_scaled

MAX_SIDE = 1024
"""The longest side, in pixels, that is cut at its own size."""
ITERATIONS = 5
"""How often the colour mixtures are fitted and the cut is made."""


def grabcut(image: Image, trimap: Trimap) -> Alpha:
    """The graph cut of the unknown pixels under two colour mixtures, which the known ones start.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with foreground and background. Returns float32 (H, W)
    of zeros and ones; an image whose longer side exceeds ``MAX_SIDE`` is cut at a reduced size, and its
    outline is soft. Unknown pixels start as probably what their nearest known region is. The same bytes
    each time, in any thread: OpenCV's generator (one per thread) is seeded here. Raises SolverError.

    Rother, Kolmogorov, Blake, SIGGRAPH 2004; solved by OpenCV.
    """
    return solve_scaled(_cut, image, trimap, MAX_SIDE / max(trimap.shape))


def _cut(image: Image, trimap: Trimap) -> Alpha:
    labels = np.where(nearest_known(trimap), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[trimap == FOREGROUND] = cv2.GC_FGD
    labels[trimap == BACKGROUND] = cv2.GC_BGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(np.ascontiguousarray(image), labels, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error as error:
        raise SolverError(f"GrabCut failed: {error}") from error
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
