"""Refiners that spread the known pixels over a graph: alpha minimises x^T L x, with the known pixels held fixed.

They differ in the graph alone, hence in its Laplacian L. One solver serves them all; it starts from the nearest
known region, which also decides what no path of the graph joins to a known pixel.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Mask, Trimap
from camseg.base.errors import SolverError
from camseg.refinement.nearest import nearest_known

MAX_UNKNOWN = 2**17
"""How many unknown pixels the random walks and ``learning_based``, at 4 KB of memory each, solve at their own size."""
MAX_KERNEL_CROP = 2**19
"""The largest crop, in pixels, that ``large_kernel`` solves at its own size."""
MAX_KNN_CROP = 2**17
"""The largest crop, in pixels, in which ``knn`` looks for neighbours at its own size."""
KERNEL_RADIUS = 10
"""Of the windows of ``large_kernel``, in pixels."""
DAMPING = 1e-7
"""Of the regressions on the colours of a window: added to their sums of squares."""
WEAKEST = 1e-10
"""What an edge of the grid weighs however different its ends are, so that no pixel is cut off."""
TOLERANCE = 1e-6
"""The residual at which the solver stops, as a share of the first one."""
MAX_STEPS = 10000
"""After so many steps the solver gives up."""

_SIDES = (0, 1), (1, 0)
_CORNERS = (1, 1), (1, -1)

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Matrix: TypeAlias = Any
"""A sparse array of scipy, which has no types."""


def random_walker(image: Image, trimap: Trimap) -> Alpha:
    """The probability that a random walk from a pixel meets the foreground before the background.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    The walk steps to the four neighbours with weights exp(-beta |difference of colour|^2); beta follows from the
    spread of the image's colours as in scikit-image. Raises SolverError.

    Grady, Random Walks for Image Segmentation, PAMI 2006, equation 1 and section III.
    """
    spread = cv2.meanStdDev(image.reshape(-1, 1))[1].item() / 255
    beta = 130 / (10 * math.sqrt(3) * spread) if spread else 0.0
    return _walk(image, trimap, _SIDES, beta)


def random_walk_matting(image: Image, trimap: Trimap) -> Alpha:
    """The same probability for steps to all eight neighbours on a fixed and sharper scale of colours, beta = 900.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    Colours are compared in RGB, as pymatting does, and not in a projection learnt from the image. Raises SolverError.

    Grady, Schiwietz, Aharon, Westermann, Random Walks for Interactive Alpha-Matting, VIIP 2005, equation 4.
    """
    return _walk(image, trimap, _SIDES + _CORNERS, 900.0)


def learning_based(image: Image, trimap: Trimap) -> Alpha:
    """The matte that a linear regression on colour predicts best, in every window of 3 x 3 pixels.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    It is close to closed-form matting, which minimises the whole cost of the same damped regressions where this
    minimises their squared errors. Raises SolverError.

    Zheng and Kambhamettu, Learning Based Digital Matting, ICCV 2009: the local model with a linear kernel.
    """

    def solve(image: Image, trimap: Trimap) -> Floats:
        height, width = trimap.shape
        padding = (0, max(0, 3 - height)), (0, max(0, 3 - width))  # below 3 pixels there is no window at all
        image, trimap = np.pad(image, (*padding, (0, 0)), mode="edge"), np.pad(trimap, padding, mode="edge")
        return _solve(_window_laplacian(image, trimap == UNKNOWN), trimap)[:height, :width]

    return _refine(solve, image, trimap, margin=2, max_unknown=MAX_UNKNOWN)


def large_kernel(image: Image, trimap: Trimap) -> Alpha:
    """Closed-form matting with windows of 21 x 21 pixels, whose Laplacian is applied and never written down.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    A window that reaches beyond the image consists of what lies inside. Raises SolverError.

    He, Sun, Tang, Fast Matting Using Large Kernel Matting Laplacian Matrices, CVPR 2010, section 3.
    """
    return _refine(_solve_large_kernel, image, trimap, margin=2 * KERNEL_RADIUS, max_crop=MAX_KERNEL_CROP)


def knn(image: Image, trimap: Trimap) -> Alpha:
    """The matte that is alike where colours are alike, also far apart.

    ``image``: uint8 (H, W, 3), RGB; ``trimap``: uint8 (H, W) with unknown pixels. Returns float32 (H, W) in [0, 1].
    A pixel is joined to the 20 pixels nearest in colour and position and to the 10 nearest almost by colour alone,
    all with weight one (the numbers are pymatting's). They are looked for in the bounding box of the unknown
    pixels, grown by half its longer side all around. Raises SolverError.

    Chen, Li, Tang, KNN Matting, CVPR 2012, section 3.
    """
    unknown = trimap == UNKNOWN
    margin = max(trimap[_box(unknown)].shape) // 2
    height, width = trimap[_box(unknown, margin)].shape
    extent = height / trimap.shape[0], width / trimap.shape[1]

    def solve(image: Image, trimap: Trimap) -> Floats:
        return _solve(_knn_laplacian(image, extent), trimap)

    return _refine(solve, image, trimap, margin, max_crop=MAX_KNN_CROP)


def _walk(image: Image, trimap: Trimap, steps: Sequence[tuple[int, int]], beta: float) -> Alpha:
    def solve(image: Image, trimap: Trimap) -> Floats:
        return _solve(_grid_laplacian(image, trimap == UNKNOWN, steps, beta), trimap)

    return _refine(solve, image, trimap, margin=1, max_unknown=MAX_UNKNOWN)


def _refine(
    solve: Callable[[Image, Trimap], Floats],
    image: Image,
    trimap: Trimap,
    margin: int,
    max_crop: float = math.inf,
    max_unknown: float = math.inf,
) -> Alpha:
    """``solve`` the bounding box of the unknown pixels with a margin, at a reduced size above one of the limits.

    A margin that holds every edge or window of an unknown pixel gives the same equations as the whole image.
    """
    window = _box(trimap == UNKNOWN, margin)
    crop = trimap[window]
    unknown = crop == UNKNOWN
    height, width = crop.shape
    scale = math.sqrt(min(max_crop / crop.size, max_unknown / np.count_nonzero(unknown)))
    if scale < 1.0:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        small = cv2.resize(crop, size, interpolation=cv2.INTER_NEAREST_EXACT)
        for value, name in ((FOREGROUND, "foreground"), (BACKGROUND, "background")):
            if (crop == value).any() and not (small == value).any():
                raise SolverError(f"the trimap's {name} vanishes at the working size {size}; refine a smaller image")
        solved = solve(cv2.resize(image[window], size, interpolation=cv2.INTER_AREA), small)
        solved = cv2.resize(solved, (width, height), interpolation=cv2.INTER_LINEAR)
    else:
        solved = solve(image[window], crop)
    alpha = (trimap == FOREGROUND).astype(np.float32)
    alpha[window][unknown] = solved[unknown].clip(0.0, 1.0)
    return alpha


def _box(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """The rows and columns of the mask's bounding box, grown by a margin within the image."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (
        slice(max(0, rows[0] - margin), min(mask.shape[0], rows[-1] + 1 + margin)),
        slice(max(0, columns[0] - margin), min(mask.shape[1], columns[-1] + 1 + margin)),
    )


def _grid_laplacian(image: Image, unknown: Mask, steps: Sequence[tuple[int, int]], beta: float) -> Matrix:
    """Of the graph that joins each pixel to its neighbours; edges between known pixels decide nothing and are left out.

    ``steps``: (down, right) to one of each two opposite neighbours. Returns a sparse (H W, H W).
    """
    height, width = unknown.shape
    index = np.arange(unknown.size).reshape(unknown.shape)
    weights, firsts, seconds = [], [], []
    for down, right in steps:
        here = np.s_[: height - down, max(0, -right) : width - max(0, right)]
        there = np.s_[down:, max(0, right) : width + min(0, right)]
        used = unknown[here] | unknown[there]
        difference = (image[here][used] - image[there][used].astype(np.float64)) / 255  # (edges, 3)
        weights.append(np.exp(-beta * (difference**2).sum(axis=1)) + WEAKEST)
        firsts.append(index[here][used])
        seconds.append(index[there][used])
    return _graph_laplacian(np.concatenate(weights), (np.concatenate(firsts), np.concatenate(seconds)), unknown.size)


def _knn_laplacian(image: Image, extent: tuple[float, float]) -> Matrix:
    """Of the graph that joins each pixel to its nearest in colour and position; returns a sparse (H W, H W).

    ``extent``: the height and width of ``image`` as shares of the whole image's, the unit of positions.
    """
    from scipy.spatial import KDTree

    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    positions = np.stack([rows / height * extent[0], columns / width * extent[1]], axis=1)  # (H W, 2)
    colors = image.reshape(-1, 3) / 255.0
    firsts, seconds = [], []
    for wanted, position_weight in ((20, 2.0), (10, 0.1)):
        neighbours = min(wanted, len(colors))
        features = np.concatenate([colors, position_weight * positions], axis=1)  # (H W, 5)
        nearest = KDTree(features).query(features, k=neighbours)[1].ravel()
        firsts.append(np.repeat(np.arange(len(colors)), neighbours))
        seconds.append(nearest)
    ends = np.concatenate(firsts), np.concatenate(seconds)
    return _graph_laplacian(np.ones(len(ends[0])), ends, len(colors))


def _graph_laplacian(weights: Floats, ends: tuple[Indices, Indices], pixels: int) -> Matrix:
    """D - W of the undirected graph with these edges; one that is named twice counts twice."""
    from scipy import sparse  # a tenth of a second, like every import of scipy here: only when needed

    graph = sparse.coo_array((weights, ends), shape=(pixels, pixels)).tocsr()
    return sparse.csgraph.laplacian(graph + graph.T).tocsr()


def _window_laplacian(image: Image, unknown: Mask) -> Matrix:
    """The sum of (I - F)^T (I - F) over the 3 x 3 windows with an unknown pixel; returns a sparse (H W, H W).

    F = X (X^T X + damping)^-1 X^T predicts a window's alphas from its colours and a constant, X of shape (9, 4).
    """
    from scipy import sparse

    touched = np.lib.stride_tricks.sliding_window_view(unknown, (3, 3)).any(axis=(2, 3))  # (H - 2, W - 2)
    index = np.arange(unknown.size).reshape(unknown.shape)
    windows = np.lib.stride_tricks.sliding_window_view(index, (3, 3))[touched].reshape(-1, 9)
    x = np.ones((*windows.shape, 4))  # (windows, 9, 4)
    x[..., :3] = image.reshape(-1, 3)[windows] / 255.0
    x_t = x.transpose(0, 2, 1)
    errors = np.eye(9) - x @ np.linalg.solve(x_t @ x + DAMPING * np.eye(4), x_t)  # (windows, 9, 9)
    rows, columns = np.broadcast_arrays(windows[:, :, None], windows[:, None, :])
    entries = (errors.transpose(0, 2, 1) @ errors).ravel(), (rows.ravel(), columns.ravel())
    return sparse.coo_array(entries, shape=(unknown.size,) * 2).tocsr()


def _solve_large_kernel(image: Image, trimap: Trimap) -> Floats:
    """L x is what remains of x, summed over the windows, when each predicts it from its own colours."""

    def window_sum(array: Floats) -> Floats:
        size = (2 * KERNEL_RADIUS + 1,) * 2
        return cv2.boxFilter(array, -1, size, normalize=False, borderType=cv2.BORDER_CONSTANT)

    colors = image / 255.0  # (H, W, 3)
    area = window_sum(np.ones(trimap.shape))
    mean = window_sum(colors) / area[..., None]
    products = (colors[..., :, None] * colors[..., None, :]).reshape(*trimap.shape, 9)
    covariance = (window_sum(products) / area[..., None]).reshape(*trimap.shape, 3, 3)
    covariance -= mean[..., :, None] * mean[..., None, :]
    precision = np.linalg.inv(covariance + DAMPING / area[..., None, None] * np.eye(3))

    def laplacian(x: Floats) -> Floats:
        mean_x = window_sum(x) / area
        covariance_x = window_sum(x[..., None] * colors) / area[..., None] - mean_x[..., None] * mean
        slope = (precision @ covariance_x[..., None])[..., 0]
        offset = mean_x - (slope * mean).sum(axis=-1)
        return area * x - (window_sum(slope) * colors).sum(axis=-1) - window_sum(offset)

    unknown = trimap == UNKNOWN
    change, alpha = np.zeros(trimap.shape), nearest_known(trimap).astype(np.float64)

    def product(x: Floats) -> Floats:
        change[unknown] = x
        return laplacian(change)[unknown]

    alpha[unknown] += _conjugate_gradients(product, area[unknown], -laplacian(alpha)[unknown])
    return alpha


def _solve(laplacian: Matrix, trimap: Trimap) -> Floats:
    unknown = np.flatnonzero(trimap == UNKNOWN)
    alpha = nearest_known(trimap).astype(np.float64).ravel()
    rows = laplacian[unknown]
    matrix = rows[:, unknown]
    alpha[unknown] += _conjugate_gradients(matrix.dot, matrix.diagonal(), -rows.dot(alpha))
    return alpha.reshape(trimap.shape)


def _conjugate_gradients(product: Callable[[Floats], Floats], diagonal: Floats, right: Floats) -> Floats:
    """x with A x = ``right``, for a positive semi-definite A that is known by its products and, roughly, its diagonal.

    Sums are NumPy's own: those of BLAS depend on the number of its threads in the last bits. Raises SolverError.
    """
    scale = 1.0 / np.where(diagonal > 0, diagonal, 1.0)
    x, residual = np.zeros_like(right), right
    direction = scale * residual
    norm = first = (residual * direction).sum()
    for _ in range(MAX_STEPS):
        if norm <= TOLERANCE**2 * first:
            return x
        moved = product(direction)
        step = norm / (direction * moved).sum()
        x = x + step * direction
        residual = residual - step * moved
        scaled = scale * residual
        previous, norm = norm, (residual * scaled).sum()
        direction = scaled + norm / previous * direction
    raise SolverError(
        f"no solution was found in {MAX_STEPS} steps; try another refiner, or a narrower unknown band in the trimap"
    )
