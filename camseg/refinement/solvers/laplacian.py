"""The matting Laplacian of the unknown pixels alone, and a deflated conjugate gradient solver for it.

Nodes are the pixels of all windows that may touch an unknown pixel, in raster order: the unknown ones dilated by
two. All 24 neighbours of an unknown pixel are then nodes, and the five of one row follow each other, so that the
index of the first names them all. Of the symmetric 5x5 stencil the half from the pixel itself onwards is kept, as
(nodes, 13): the pixel, two on its right, five in each of the two rows below; entries at known pixels are zero.
Importing this module loads numba.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

from camseg.base.arrays import FOREGROUND, UNKNOWN, Image, Trimap
from camseg.base.compiled import njit
from camseg.base.errors import SolverError

EPSILON = 1e-7
"""Regularisation of the colour covariance in a window, as pymatting's."""
TOLERANCE = 1e-3
"""The largest change of alpha in a step, two steps in a row, at which the solver stops."""
MAX_STEPS = 1000
"""Steps of conjugate gradients after which the solver gives up; 15 to 40 are usual."""
SHIFT = 1e-2
"""What the incomplete factor adds to the diagonal, relatively; without it, pivots become negative."""
RIDGE = 1e-8
"""Keeps the coarse equations regular where colours do not vary; below any energy that ``EPSILON`` leaves."""

Float = NDArray[np.floating]
Index = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Band:
    """The nodes of a trimap: what enters the equations of its unknown pixels."""

    position: Index
    """(n,): y * stride + x in the image with a border of two pixels, ascending."""
    stride: int
    """The width of the image with its border."""
    kind: NDArray[np.uint8]
    """(n,): the trimap at each node; 0 in the border."""
    color: Float
    """(n, 3), [0, 1]."""


def find_band(image: Image, trimap: Trimap) -> Band:
    """The nodes of all 3x3 windows with an unknown pixel.

    ``image``: uint8 (H, W, 3); ``trimap``: uint8 (H, W).
    """
    height, width = trimap.shape
    unknown = cv2.copyMakeBorder((trimap == UNKNOWN).view(np.uint8), 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)
    position = np.flatnonzero(cv2.dilate(unknown, np.ones((5, 5), np.uint8)))
    y, x = np.divmod(position, width + 4)
    y -= 2
    x -= 2
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    np.clip(y, 0, height - 1, out=y)
    np.clip(x, 0, width - 1, out=x)
    kind = trimap[y, x]
    kind[outside] = 0
    return Band(position=position, stride=width + 4, kind=kind, color=image[y, x] / np.float32(255))


def solve(band: Band, size: tuple[int, int]) -> NDArray[np.float64]:
    """The values (m,) of the unknown pixels, in raster order, that minimise the matting Laplacian's energy.

    ``size``: height and width of the image, 3 at least. The m x m equations are solved by conjugate gradients. The
    preconditioner is an incomplete Cholesky factor, then a correction that is an affine function of colour in each
    square of pixels (A-DEF2): such functions are what the energy hardly sees, and what the factor hardly moves.
    Raises SolverError.

    Levin, Lischinski, Weiss, PAMI 2008, equation 12; Tang, Nabben, Vuik, Erlangga, J. Sci. Comput. 2009 (A-DEF2).
    """
    unknown = band.kind == UNKNOWN
    below1, below2 = (_first_at(band.position, rows * band.stride - 2) for rows in (1, 2))
    stencil, residual = _assemble(band.position, band.stride, *size, band.kind, band.color, EPSILON)
    square, offset, neighbour = _squares(
        band.position, band.stride, size[0] + 4, band.kind, band.color, _side(int(np.count_nonzero(unknown)))
    )
    coarse = _factorize(_galerkin(stencil, below1, below2, square, offset, neighbour, RIDGE))
    factor = _incomplete_factor(stencil, below1, below2)

    solution, direction, product, step, scratch = np.zeros((5, len(residual)))
    coarse_residual = np.empty((len(neighbour), 4))
    energy = change = np.inf
    for count in range(MAX_STEPS):
        _restrict(stencil, below1, below2, square, offset, residual, step, scratch, coarse_residual)
        correction = coarse(coarse_residual.ravel()).reshape(-1, 4)
        # The first step is the coarse solution; conjugate directions start after it.
        before = energy if count > 1 else np.inf
        energy = _correct(square, offset, residual, correction, step)
        curvature = _turn(stencil, below1, below2, step, energy / before, direction, product)
        if not np.isfinite(energy + curvature):
            break
        length = energy / curvature if energy > 0 and curvature > 0 else 0.0  # not so where the residual is zero
        change_before = change
        change = _advance(factor, below1, below2, length, direction, product, solution, residual, step)
        if max(change, change_before) <= TOLERANCE:
            return solution[unknown]
    raise SolverError(
        f"expected closed-form matting to converge in {MAX_STEPS} steps; the unknown pixels are too ill-conditioned; "
        "use a trimap with a narrower unknown band, or another method"
    )


def _side(unknown: int) -> int:
    """Squares of this side: the smaller, the fewer steps; the coarse factor grows faster than the band does."""
    return 7 if unknown < 2**18 else 8 if unknown < 2**20 else 12


def _incomplete_factor(stencil: Float, below1: Index, below2: Index) -> Float:
    shift = SHIFT
    while shift < 100:  # far above what makes the diagonal dominant
        factor, positive = _eliminate(stencil, below1, below2, shift)
        if positive:
            return factor.astype(np.float32)
        shift *= 4
    raise SolverError("expected a positive matting Laplacian; its numbers are not finite; use another method")


def _factorize(matrix: tuple[Index, Index, Float]) -> Callable[[Float], Float]:
    pointer, row, value = matrix
    count = len(pointer) - 1
    symmetric = {"SymmetricMode": True}
    system = csc_matrix((value, row, pointer), (count, count))
    try:
        return splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=symmetric).solve
    except RuntimeError as error:
        raise SolverError(
            f"closed-form matting's coarse equations are singular ({error}); use another method"
        ) from error


@njit
def _first_at(position, shift):
    """For each node the first node at or after its position plus ``shift``, in range for the next four also."""
    first = np.empty(len(position), np.int32)
    k = 0
    for i in range(len(position)):
        while k < len(position) - 5 and position[k] < position[i] + shift:
            k += 1
        first[i] = k
    return first


@njit
def _assemble(position, stride, height, width, kind, color, epsilon):
    """The half stencils (n, 13) of the unknown pixels and their right-hand side (n,), window by window."""
    count = len(position)
    stencil, right = np.zeros((count, 13)), np.zeros(count)
    window, c = np.empty(9, np.int64), np.empty((9, 3))
    above = below = 0
    for i in range(count):
        while position[above] < position[i] - stride - 1:
            above += 1
        while below < count and position[below] < position[i] + stride - 1:
            below += 1
        y = position[i] // stride
        x = position[i] - y * stride
        # The image is [2, height + 2) by [2, width + 2); a window lies within it.
        if not (3 <= y <= height and 3 <= x <= width) or below + 2 >= count:
            continue
        for k in range(3):
            window[k], window[3 + k], window[6 + k] = above + k, i - 1 + k, below + k
        # Windows around an outer node may lack pixels; they hold no unknown one.
        complete = (
            position[window[0]] == position[i] - stride - 1
            and position[window[2]] == position[i] - stride + 1
            and position[window[3]] == position[i] - 1
            and position[window[5]] == position[i] + 1
            and position[window[6]] == position[i] + stride - 1
            and position[window[8]] == position[i] + stride + 1
        )
        if not complete:
            continue
        touched = False
        for k in range(9):
            touched |= kind[window[k]] == UNKNOWN
        if not touched:
            continue

        mean0 = mean1 = mean2 = 0.0
        for k in range(9):
            for channel in range(3):
                c[k, channel] = color[window[k], channel]
            mean0 += c[k, 0] / 9
            mean1 += c[k, 1] / 9
            mean2 += c[k, 2] / 9
        # Nine times the covariance plus epsilon, and its inverse by cofactors.
        a00 = a11 = a22 = epsilon
        a01 = a02 = a12 = 0.0
        for k in range(9):
            c[k, 0] -= mean0
            c[k, 1] -= mean1
            c[k, 2] -= mean2
            a00 += c[k, 0] * c[k, 0]
            a01 += c[k, 0] * c[k, 1]
            a02 += c[k, 0] * c[k, 2]
            a11 += c[k, 1] * c[k, 1]
            a12 += c[k, 1] * c[k, 2]
            a22 += c[k, 2] * c[k, 2]
        m00, m01, m02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
        m11, m12, m22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
        scale = 1 / (a00 * m00 + a01 * m01 + a02 * m02)

        for p in range(9):
            i1 = window[p]
            unknown1 = kind[i1] == UNKNOWN
            if not unknown1 and kind[i1] != FOREGROUND:
                continue
            u, v, w = c[p, 0] * scale, c[p, 1] * scale, c[p, 2] * scale
            g0, g1, g2 = m00 * u + m01 * v + m02 * w, m01 * u + m11 * v + m12 * w, m02 * u + m12 * v + m22 * w
            if unknown1:
                stencil[i1, 0] += 8 / 9 - (g0 * c[p, 0] + g1 * c[p, 1] + g2 * c[p, 2])
            for q in range(p + 1, 9):
                i2 = window[q]
                if kind[i2] != UNKNOWN and (kind[i2] != FOREGROUND or not unknown1):
                    continue
                entry = -1 / 9 - (g0 * c[q, 0] + g1 * c[q, 1] + g2 * c[q, 2])
                if kind[i2] == FOREGROUND:
                    right[i1] -= entry
                elif unknown1:
                    stencil[i1, 5 * (q // 3 - p // 3) + q % 3 - p % 3] += entry
                else:
                    right[i2] -= entry
    return stencil, right


@njit
def _squares(position, stride, height, kind, color, side):
    """The square (n,) of each unknown pixel, its colour's offset from the mean there (n, 3), and the 9 neighbours.

    Squares are numbered in raster order, those without unknown pixels left out (-1).
    """
    rows, columns = (height - 1) // side + 1, (stride - 1) // side + 1
    table = np.full((rows, columns), -1, np.int32)
    for i in range(len(position)):
        if kind[i] == UNKNOWN:
            y = position[i] // stride
            table[y // side, (position[i] - y * stride) // side] = 0
    count = 0
    for y in range(rows):
        for x in range(columns):
            if table[y, x] == 0:
                table[y, x] = count
                count += 1
    neighbour = np.full((count, 9), -1, np.int32)
    for y in range(rows):
        for x in range(columns):
            for k in range(9):
                other_y, other_x = y + k // 3 - 1, x + k % 3 - 1
                if table[y, x] >= 0 and 0 <= other_y < rows and 0 <= other_x < columns:
                    neighbour[table[y, x], k] = table[other_y, other_x]
    square = np.full(len(position), -1, np.int32)
    total = np.zeros((count, 4))
    for i in range(len(position)):
        if kind[i] == UNKNOWN:
            y = position[i] // stride
            square[i] = table[y // side, (position[i] - y * stride) // side]
            total[square[i], 3] += 1
            for channel in range(3):
                total[square[i], channel] += color[i, channel]
    offset = np.zeros((len(position), 3), np.float32)
    for i in range(len(position)):
        if square[i] >= 0:
            for channel in range(3):
                offset[i, channel] = color[i, channel] - total[square[i], channel] / total[square[i], 3]
    return square, offset, neighbour


@njit
def _galerkin(stencil, below1, below2, square, offset, neighbour, ridge):
    """P^T A P + ridge in compressed columns, for the columns (1, R, G, B) of P in each square."""
    count = len(neighbour)
    blocks = np.zeros((count, 9, 4, 4))  # of the half that is kept, with half the diagonal
    basis, row = np.ones(4), np.zeros((9, 4))
    for i in range(len(square) - 2):
        if square[i] < 0:
            continue
        basis[1:] = offset[i]
        row[4] = 0.5 * stencil[i, 0] * basis
        met = 1 << 4
        for k in range(1, 13):
            j = i + k if k < 3 else below1[i] + k - 3 if k < 8 else below2[i] + k - 8
            if square[j] < 0:
                continue
            at = 4
            if square[j] != square[i]:
                at = 0
                while neighbour[square[i], at] != square[j]:
                    at += 1
            met |= 1 << at
            row[at, 0] += stencil[i, k]
            for channel in range(3):
                row[at, channel + 1] += stencil[i, k] * offset[j, channel]
        for at in range(9):
            if met >> at & 1:
                for e in range(4):
                    for f in range(4):
                        blocks[square[i], at, e, f] += basis[e] * row[at, f]
                row[at] = 0.0

    pointer = np.zeros(4 * count + 1, np.int32)
    size = 16 * np.count_nonzero(neighbour >= 0)
    index, value = np.empty(size, np.int32), np.empty(size)
    filled = 0
    for i in range(count):
        for e in range(4):
            for at in range(9):
                j = neighbour[i, at]
                if j < 0:
                    continue
                for f in range(4):
                    index[filled] = 4 * j + f
                    value[filled] = blocks[i, at, e, f] + blocks[j, 8 - at, f, e]
                    if i == j and e == f:
                        value[filled] += ridge
                    filled += 1
            pointer[4 * i + e + 1] = filled
    return pointer, index, value


@njit
def _gather(s, below1, below2, i, x):
    """The sum over the later neighbours of node i."""
    a, b = below1[i], below2[i]
    total = s[i, 1] * x[i + 1] + s[i, 2] * x[i + 2]
    total += s[i, 3] * x[a] + s[i, 4] * x[a + 1] + s[i, 5] * x[a + 2] + s[i, 6] * x[a + 3] + s[i, 7] * x[a + 4]
    total += s[i, 8] * x[b] + s[i, 9] * x[b + 1] + s[i, 10] * x[b + 2] + s[i, 11] * x[b + 3] + s[i, 12] * x[b + 4]
    return total


@njit
def _scatter(s, below1, below2, i, value, x):
    """Add node i's value times the stencil to its later neighbours."""
    a, b = below1[i], below2[i]
    x[i + 1] += s[i, 1] * value
    x[i + 2] += s[i, 2] * value
    for k in range(5):
        x[a + k] += s[i, 3 + k] * value
    for k in range(5):
        x[b + k] += s[i, 8 + k] * value


@njit
def _eliminate(stencil, below1, below2, shift):
    """The incomplete L D L^T of the stencil: D^-1 in column 0, L D in the others; and whether D is positive.

    Meijerink, van der Vorst, Math. Comp. 1977; Manteuffel, Math. Comp. 1980 (the shift).
    """
    factor = stencil.copy()
    factor[:, 0] *= 1 + shift
    for i in range(len(stencil) - 2):
        if stencil[i, 0] == 0:
            continue
        if not factor[i, 0] > 1e-6 * stencil[i, 0]:
            return factor, False
        factor[i, 0] = 1 / factor[i, 0]
        for k in range(1, 13):
            value = factor[i, 0] * factor[i, k]
            if value == 0:
                continue
            row, column = divmod(k + 2, 5)
            j = i + k if k < 3 else below1[i] + k - 3 if k < 8 else below2[i] + k - 8
            for m in range(k, 13):
                other_row, other_column = divmod(m + 2, 5)
                if abs(other_column - column) <= 2:
                    factor[j, 5 * (other_row - row) + other_column - column] -= value * factor[i, m]
    return factor, True


@njit
def _restrict(s, below1, below2, square, offset, residual, x, scratch, coarse):
    """P^T (r - A x)."""
    coarse[:] = 0.0
    scratch[:] = residual
    for i in range(len(x) - 2):
        k = square[i]
        if k >= 0:
            rest = scratch[i] - s[i, 0] * x[i] - _gather(s, below1, below2, i, x)
            _scatter(s, below1, below2, i, -x[i], scratch)
            coarse[k, 0] += rest
            for channel in range(3):
                coarse[k, channel + 1] += rest * offset[i, channel]


@njit
def _correct(square, offset, residual, correction, x):
    """x + P c; returns r^T x."""
    product = 0.0
    for i in range(len(x)):
        k = square[i]
        if k >= 0:
            x[i] += correction[k, 0]
            for channel in range(3):
                x[i] += correction[k, channel + 1] * offset[i, channel]
            product += residual[i] * x[i]
    return product


@njit
def _turn(s, below1, below2, x, weight, direction, product):
    """d = x + weight d, and A d; returns d^T A d."""
    for i in range(len(x)):
        direction[i] = x[i] + weight * direction[i]
        product[i] = 0.0
    curvature = 0.0
    for i in range(len(x) - 2):
        if s[i, 0] != 0:
            product[i] += s[i, 0] * direction[i] + _gather(s, below1, below2, i, direction)
            _scatter(s, below1, below2, i, direction[i], product)
            curvature += direction[i] * product[i]
    return curvature


@njit
def _advance(factor, below1, below2, length, direction, product, solution, residual, x):
    """Step along d, then x = (L D L^T)^-1 r; returns the largest change of the solution."""
    change = 0.0
    for i in range(len(x)):
        step = length * direction[i]
        change = max(change, abs(step))
        solution[i] += step
        residual[i] -= length * product[i]
        x[i] = residual[i]
    for i in range(len(x) - 2):
        if factor[i, 0] != 0:
            x[i] *= factor[i, 0]
            _scatter(factor, below1, below2, i, -x[i], x)
    for i in range(len(x) - 3, -1, -1):
        if factor[i, 0] != 0:
            x[i] -= factor[i, 0] * _gather(factor, below1, below2, i, x)
    return change
