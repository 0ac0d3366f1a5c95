"""Closed-form matting: alpha is locally an affine function of colour."""

import numpy as np

from camseg.base.arrays import FOREGROUND, UNKNOWN, Alpha, Image, Trimap


def closed_form(image: Image, trimap: Trimap) -> Alpha:
    """The matte that minimises the matting Laplacian's energy, with the known pixels held fixed.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) in {0, 128, 255}. Returns float32 (H, W) in [0, 1];
    unknown pixels that no foreground reaches are zero. Only the windows with an unknown pixel are assembled, which
    gives the solution for the whole image at its full size; time and memory grow with the number of unknown
    pixels. Raises SolverError.

    Levin, Lischinski, Weiss, PAMI 2008, equation 12 (the matting Laplacian).
    """
    alpha = (trimap == FOREGROUND).astype(np.float32)
    unknown = trimap == UNKNOWN
    if not unknown.any():
        return alpha
    from camseg.refinement.solvers.laplacian import find_band, solve  # numba compiles or loads for a second or more

    rows, columns = (np.flatnonzero(unknown.any(axis=axis)) for axis in (1, 0))
    crop = np.s_[max(0, rows[0] - 2) : rows[-1] + 3, max(0, columns[0] - 2) : columns[-1] + 3]
    height, width = unknown[crop].shape
    padding = (0, max(0, 3 - height)), (0, max(0, 3 - width))  # an image below 3 pixels holds no window at all
    known = np.pad(trimap[crop], padding, mode="edge")
    values = np.zeros(known.shape, np.float32)
    values[known == UNKNOWN] = solve(
        find_band(np.pad(image[crop], (*padding, (0, 0)), mode="edge"), known), known.shape
    )
    alpha[unknown] = np.clip(values[:height, :width][unknown[crop]], 0.0, 1.0)
    return alpha
