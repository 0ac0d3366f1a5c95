"""Closed-form matting: alpha is locally an affine function of colour."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Trimap
from camseg.errors import SolverError
from camseg.refinement.scaling import solve_scaled

MAX_PIXELS = 2**19
"""The largest crop that is solved at its own size; solving takes 0.5 to 1.2 KB of memory per pixel."""


def closed_form(image: Image, trimap: Trimap) -> Alpha:
    """The matte that minimises the matting Laplacian's energy, with the known pixels held fixed.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    Only the bounding box of the unknown pixels is solved: with a margin of two pixels it holds every 3x3 window
    with an unknown pixel, hence the same equations as the whole image. A box of more than ``MAX_PIXELS``
    is solved at a reduced size, and known pixels stay exact. Raises SolverError.

    Levin, Lischinski, Weiss, PAMI 2008, equation 12 (the matting Laplacian); solved by pymatting.
    """
    rows, columns = (np.flatnonzero((trimap == UNKNOWN).any(axis=axis)) for axis in (1, 0))
    window = np.s_[max(0, rows[0] - 2) : rows[-1] + 3, max(0, columns[0] - 2) : columns[-1] + 3]
    alpha = (trimap == FOREGROUND).astype(np.float32)
    scale = math.sqrt(MAX_PIXELS / trimap[window].size)
    alpha[window] = solve_scaled(_solve, image[window], trimap[window], scale)
    return alpha


def _solve(image: Image, trimap: Trimap) -> Alpha:
    # One kind of known pixels only: the constant is the exact solution, and pymatting would refuse.
    if not (trimap == BACKGROUND).any():
        return np.ones(trimap.shape, dtype=np.float32)
    if not (trimap == FOREGROUND).any():
        return np.zeros(trimap.shape, dtype=np.float32)
    if not (trimap == UNKNOWN).any():
        return (trimap == FOREGROUND).astype(np.float32)

    from pymatting import estimate_alpha_cf  # numba compiles or loads for a second or more: only when needed

    height, width = trimap.shape
    padding = (0, max(0, 3 - height)), (0, max(0, 3 - width))  # a crop below 3 pixels holds no window at all
    try:
        # NaN would keep the solver busy to its last iteration: stop at the first one.
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            alpha = estimate_alpha_cf(
                np.pad(image, (*padding, (0, 0)), mode="edge") / 255.0,
                np.pad(trimap, padding, mode="edge") / 255.0,
                preconditioner=_incomplete_cholesky,
                # Where no unknown pixel is near the foreground the residual is 0 at once: atol ends there.
                cg_kwargs={"atol": 1e-30, "maxiter": 2000},
            )
    except (ValueError, FloatingPointError) as error:
        raise SolverError(f"closed-form matting found no solution: {error}") from error
    return alpha[:height, :width].astype(np.float32)


def _incomplete_cholesky(matrix: Any) -> Callable[[NDArray], NDArray]:
    # pymatting's own settings take twice the memory and time to the same solution, and reserve 4 GB beforehand.
    module = importlib.import_module("pymatting.preconditioner.ichol")
    vars(module)["print"] = lambda *_: None  # it reports each shift it has to try on stdout, which is the caller's
    return module.ichol(
        matrix, discard_threshold=1e-3, shifts=[5e-3, 1e-2, 0.1, 0.5, 1.0, 10.0], max_nnz=128 * matrix.shape[0]
    )
