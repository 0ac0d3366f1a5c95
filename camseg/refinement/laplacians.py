"""Refiners with Laplacians of pymatting's: alpha minimises x^T L x, with the known pixels held fixed.

They differ in L alone. The solver starts from the nearest known region, which also decides what no path joins to a
known pixel.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Trimap
from camseg.base.errors import SolverError, first_line
from camseg.refinement.nearest import nearest_known

MAX_KERNEL_CROP = 2**19
"""The largest crop, in pixels, that ``large_kernel`` solves at its own size."""
MAX_KNN_CROP = 2**17
"""The largest crop, in pixels, in which ``knn`` looks for neighbours at its own size."""
KERNEL_RADIUS = 10
"""Of the windows of ``large_kernel``, in pixels."""
NEIGHBOURS = 20, 10
"""How many pixels ``knn`` joins each to: by colour and position, and almost by colour alone."""
TOLERANCE = 1e-5
"""The residual at which the solver stops, as a share of the first one."""
MAX_STEPS = 1000
"""After so many steps the solver gives up; 10 to 100 are usual."""

Floats: TypeAlias = NDArray[np.float64]
Product: TypeAlias = Callable[[Floats], Floats]
"""x (H W,) -> L x (H W,)."""
Laplacian: TypeAlias = Callable[[Floats], tuple[Product, Floats]]
"""Colours (H, W, 3) in [0, 1] -> L by its products, and its diagonal (H W,)."""


def knn(image: Image, trimap: Trimap) -> Alpha:
    """The matte that is alike where colours are alike, also far apart.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    Neighbours are looked for in the bounding box of the unknown pixels, grown by half its longer side all around;
    positions are shares of that crop. Raises SolverError.

    Chen, Li, Tang, KNN Matting, CVPR 2012, section 3 (by pymatting).
    """
    rows, columns = _places(trimap)
    margin = max(rows[-1] - rows[0], columns[-1] - columns[0]) // 2 + 1
    return _refine(_knn_laplacian, image, trimap, margin, MAX_KNN_CROP)


def large_kernel(image: Image, trimap: Trimap) -> Alpha:
    """Closed-form matting with windows of 21 x 21 pixels, whose Laplacian is applied and never written down.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    Crops below twice a window, which pymatting cannot filter, are mirrored at their ends. Raises SolverError.

    He, Sun, Tang, Fast Matting Using Large Kernel Matting Laplacian Matrices, CVPR 2010, section 3 (by pymatting).
    """
    return _refine(_large_kernel_laplacian, image, trimap, 2 * KERNEL_RADIUS, MAX_KERNEL_CROP, 4 * KERNEL_RADIUS + 1)


def _knn_laplacian(colors: Floats) -> tuple[Product, Floats]:
    from pymatting import knn_laplacian

    pixels = colors.shape[0] * colors.shape[1]
    laplacian = knn_laplacian(colors, n_neighbors=[min(wanted, pixels) for wanted in NEIGHBOURS]).tocsr()
    return laplacian.dot, laplacian.diagonal()


def _large_kernel_laplacian(colors: Floats) -> tuple[Product, Floats]:
    from pymatting import lkm_laplacian

    product, diagonal = lkm_laplacian(colors, radius=KERNEL_RADIUS)
    return product, diagonal


def _refine(laplacian: Laplacian, image: Image, trimap: Trimap, margin: int, max_crop: int, min_side: int = 1) -> Alpha:
    """Solve the bounding box of the unknown pixels with a margin, at a reduced size if it is larger than ``max_crop``.

    A margin that holds every window of an unknown pixel gives the same equations as the whole image.
    """
    alpha = (trimap == FOREGROUND).astype(np.float32)
    window = tuple(slice(max(0, places[0] - margin), places[-1] + 1 + margin) for places in _places(trimap))
    crop = trimap[window]
    unknown = crop == UNKNOWN
    kinds = {value: bool((crop == value).any()) for value in (BACKGROUND, FOREGROUND)}
    if not all(kinds.values()):  # nothing else is near
        alpha[window][unknown] = kinds[FOREGROUND]
        return alpha
    height, width = crop.shape
    scale = min(1.0, math.sqrt(max_crop / crop.size))
    size = max(1, int(width * scale)), max(1, int(height * scale))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_NEAREST_EXACT)
    for value, name in ((FOREGROUND, "foreground"), (BACKGROUND, "background")):
        if not (small == value).any():
            raise SolverError(f"the trimap's {name} vanishes at the working size {size}; refine a smaller image")
    colors = cv2.resize(image[window], size, interpolation=cv2.INTER_AREA)
    padding = tuple((0, max(0, min_side - length)) for length in small.shape)
    solved = _solve(
        laplacian, np.pad(colors, (*padding, (0, 0)), mode="symmetric") / 255, np.pad(small, padding, mode="symmetric")
    )[: size[1], : size[0]]
    alpha[window][unknown] = cv2.resize(solved, (width, height))[unknown].clip(0.0, 1.0)
    return alpha


def _solve(laplacian: Laplacian, colors: Floats, trimap: Trimap) -> Floats:
    """Alpha (H, W) by conjugate gradients, with the diagonal as preconditioner."""
    # numba compiles or loads for a second or more: only when needed
    from camseg.base.compiled import import_pymatting, one_thread

    pymatting = import_pymatting()
    unknown = (trimap == UNKNOWN).ravel()
    alpha, change = nearest_known(trimap).astype(np.float64).ravel(), np.zeros(unknown.size)
    with one_thread():
        try:
            product, diagonal = laplacian(colors)

            def restricted(x: Floats) -> Floats:
                change[unknown] = x
                return product(change)[unknown]

            scale = 1 / diagonal[unknown]
            # Below the absolute tolerance the start is the solution, and a step would divide zero by zero.
            limits = {"rtol": TOLERANCE, "atol": 1e-9, "maxiter": MAX_STEPS}
            alpha[unknown] += pymatting.cg(restricted, -product(alpha)[unknown], M=lambda x: scale * x, **limits)
        except ValueError as error:
            raise SolverError(
                f"pymatting found no solution ({first_line(error)}); try another refiner, or a narrower unknown band "
                "in the trimap"
            ) from error
    return alpha.reshape(trimap.shape)


def _places(trimap: Trimap) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and the columns with an unknown pixel."""
    unknown = trimap == UNKNOWN
    return np.flatnonzero(unknown.any(axis=1)), np.flatnonzero(unknown.any(axis=0))
